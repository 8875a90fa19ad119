"""The benchmark on photographs splits as its protocol says, writes its tables, and trains nothing twice."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import load_script, run_script_here

from pml_slade.models import build_trunk

pytestmark = pytest.mark.once
CLASSES, PER_CLASS = 32, 6
TINY = (
    "epoch_steps=2",
    "model.embedding_size=8",
    "model.feature_views=1",
    *(f"{stage}.{s}" for stage in ("teacher", "student") for s in ("steps=2", "batch_size=4")),
    "student.unlabeled_batch_size=4",
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in ("birds", "flowers", "cars"):
        for c in range(CLASSES):
            (root / name / f"{c:02d}").mkdir(parents=True)
            for i in range(PER_CLASS):
                pixels = rng.integers(0, 256, (40, 44, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / name / f"{c:02d}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    save_file(build_trunk("timm/resnet10t").state_dict(), path)
    return path


def files(part):
    return set(part.names())


@pytest.mark.parametrize(("development", "sizes"), [(False, (4, 10, 2, 16)), (True, (2, 7, 2, 5))])
def test_parts_share_no_class(photographs, development, sizes):
    script = load_script("photographs")
    splits = script.split(photographs, "birds", "whole", seed=0, development=development)
    parts = [splits.labeled, splits.unlabeled, splits.validation, splits.test]
    classes = [{name.split("/")[-2] for name in files(part)} for part in parts]
    assert sum(len(part) for part in classes) == len(set.union(*classes))
    scored = {int(name) for name in classes[3]}
    assert scored == set(range(16, 32)) or (development and max(scored) < 16)
    assert tuple(map(len, classes)) == sizes


def test_an_open_pool_has_half_of_each_labeled_class(photographs):
    script = load_script("photographs")
    whole, halved = (script.split(photographs, "cars", pool, seed=1) for pool in ("whole", "open"))
    assert files(halved.labeled) < files(whole.labeled)
    assert files(halved.unlabeled) == files(whole.unlabeled) | (files(whole.labeled) - files(halved.labeled))
    assert len(halved.labeled) == len(whole.labeled) // 2
    assert halved.unlabeled.num_classes == whole.unlabeled.num_classes + whole.labeled.num_classes


def test_two_thirds_of_a_mixed_pool_are_of_other_sets(photographs):
    splits = load_script("photographs").split(photographs, "flowers", "mixed", seed=0)
    sets = [name.split("/")[-3] for name in splits.unlabeled.names()]
    assert 3 * sets.count("flowers") == len(sets)
    assert sets.count("birds") == sets.count("cars")
    others = splits.unlabeled.labels[[name != "flowers" for name in sets]]
    assert len(np.unique(others)) == len(others)


@pytest.fixture(scope="module")
def trained(photographs, weights, tmp_path_factory):
    """Arguments of the script, with which all rows were trained, and the folder of the runs."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = [
        photographs, *TINY, "--weights", weights, "--sets", "birds", "--seeds", 0, "--size", 32, "--jobs", 1,
        "--pools", "mixed", "--rows", "start", "teacher", "control", "slade", "oracle", "--runs", runs,
    ]  # fmt: skip
    run_script_here("photographs", *arguments, "--results", runs / "page.md")
    return arguments, runs


def test_it_writes_a_table_and_goes_on(trained, tmp_path):
    arguments, runs = trained
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("result.json")}
    run_script_here("photographs", *arguments, "--results", tmp_path / "page.md")
    assert {file: file.stat().st_mtime_ns for file in runs.rglob("result.json")} == before
    text = (tmp_path / "page.md").read_text()
    shown = ("## Birds (CUB-200): two thirds", "| SLADE |", "| Start (before training) |", "of 1 |")
    for part in (
        *shown,
        "before the mean |",
        "nearest neighbours in the pool",
        "Left out as unlike the labeled images: ",
    ):
        assert part in text


def test_means_of_weights_are_measured_on_development_classes(photographs, weights, tmp_path):
    page = tmp_path / "page.md"
    arguments = [
        photographs, *TINY, "--weights", weights, "--sets", "birds", "--seeds", 0, "--size", 32, "--jobs", 1,
        "--runs", tmp_path / "runs", "--results", page,
    ]  # fmt: skip
    run_script_here("soups", *arguments)
    text = page.read_text()
    assert "| weights of | birds, 0 | mean |" in text
    assert "| ⅓ control, ⅔ SLADE's |" in text


def test_students_are_measured_as_they_were_before_the_mean(trained, tmp_path):
    """Their figures are those of a run that takes no mean."""
    (folder, *arguments), mean = trained
    arguments = [folder, "student.soup=false", *arguments[:-2], "--runs", tmp_path]
    run_script_here("photographs", *arguments, "--results", tmp_path / "page.md")
    place = Path("test", "birds", "mixed", "0")
    for row in ("control", "slade"):
        before, alone = (
            json.loads((runs / place / name / "result.json").read_text())
            for runs, name in ((mean, f"{row}_before"), (tmp_path, row))
        )
        assert before["test"] == pytest.approx(alone["test"], abs=0.2)
