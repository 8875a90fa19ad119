"""The script that measures how time and memory grow, at sizes that take seconds."""

import dataclasses
import os
import sys
import time

import pytest
from scripts import load_script

from pml_slade.compat import LEGACY

pytestmark = pytest.mark.once
beside_pml = pytest.mark.skipif(LEGACY, reason="measures beside the PML of today")


@pytest.fixture(scope="module")
def speed():
    return load_script("speed")


@pytest.fixture
def measure(speed, tmp_path, monkeypatch):
    """Run the script at these sizes; the text of the page."""
    for name, part in speed.PARTS.items():
        monkeypatch.setitem(speed.PARTS, name, dataclasses.replace(part, sizes=()))
    monkeypatch.setattr(speed, "REACH", speed.FAR)
    # In this process: one that is forked where faiss has threads waits for them for ever.
    monkeypatch.setattr(speed, "apart", lambda *given: speed.measure(*given[:-1]))

    def measure(*arguments, sizes=("100", "200", "400")):
        page = tmp_path / "performance.md"
        paths = ("--page", str(page), "--kept", str(tmp_path / "kept.json"))
        command = ["speed.py", "--sizes", *sizes, "--dimension", "16", "--no-step", *paths, *arguments]
        monkeypatch.setattr(sys, "argv", command)
        speed.main()
        return page.read_text()

    return measure


@beside_pml
def test_all_parts_are_measured_side_by_side_and_written_to_a_page(speed, measure):
    text = measure()
    for part in speed.PARTS.values():
        table = text.split(f"### {part.title}\n\n")[1].split("\n\n")[0].splitlines()
        assert len(table) == 5
        assert table[2].startswith("| 100 | ")
        assert all(f"{way}, GiB" in table[0] for way in part.ways)
    assert "On paper: 100,000,000 images" in text
    assert "nan" not in text


@beside_pml
def test_what_was_measured_is_kept_and_what_takes_too_long_is_left_out(speed, measure, monkeypatch):
    parts = ("--parts", "evaluation", "two-classes")
    assert "| 200 |" not in measure(*parts, "--within", "0")
    whole = measure("--parts", "two-classes")
    monkeypatch.setattr(speed, "REACH", 1000)
    again = measure(*parts, "--within", "0")
    assert again.count("\n| 400 |") == whole.count("\n| 400 |") == 1
    assert "Not yet: exponents fitted below 100,000 images" in again


def test_a_process_of_its_own_measures(speed, monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda *asked: {"asked": asked, "process": os.getpid()})
    found = speed.apart("evaluation", "ours", 200, 16, "cpu", 60)
    assert found["asked"] == ("evaluation", "ours", 200, 16, "cpu")
    assert found["process"] != os.getpid()


def test_a_measurement_is_stopped_when_its_time_is_over(speed, monkeypatch):
    monkeypatch.setattr(speed, "measure", lambda *asked: time.sleep(60))
    with pytest.raises(TimeoutError):
        speed.apart("evaluation", "ours", 200, 16, "cpu", 0.1)


def test_the_exponent_is_that_of_the_growth(speed):
    rows = {n: {"ours": {"seconds": 3 * n**1.5, "memory": 7 * n}} for n in (10, 100, 1000, 10_000)}
    assert speed.exponent(rows, "seconds") == pytest.approx(1.5)
    assert speed.exponent(rows, "memory") == pytest.approx(1)


def test_images_are_linked_and_read(speed, tmp_path):
    speed.link_images(tmp_path, 1500)
    assert len(speed.image_folder(tmp_path, labeled=False)) == 1500
    listed = speed.Listed(speed.image_folder(tmp_path, speed.to_tensor, labeled=False))
    assert listed[1499][0].tolist() == [0, 0, 0]
