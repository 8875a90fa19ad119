"""The scripts behind docs/results.md and docs/findings.md write their tables, and train nothing twice."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pml_slade.compat import LEGACY

pytestmark = pytest.mark.skipif(LEGACY, reason="these scripts run under today's PML")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = (
    "epoch_steps=2",
    "data.image_size=16",
    "model.embedding_size=8",
    *(f"{stage}.{s}" for stage in ("teacher", "student") for s in ("steps=4", "batch_size=8")),
    "student.unlabeled_batch_size=4",
    "student.basis.warmup=1",
    "peers.self_taught_neighbours=2",
)


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """17 background alphabets of 3 characters, and 2 to test on; a character is a pattern with noise."""
    root, rng = tmp_path_factory.mktemp("omniglot"), np.random.default_rng(0)
    for part, alphabets in (("background", 17), ("evaluation", 2)):
        for alphabet in range(alphabets):
            for character in range(3):
                folder = root / f"images_{part}" / f"{part}{alphabet}" / f"character{character}"
                folder.mkdir(parents=True)
                pattern = rng.random((7, 7)) > 0.2
                for drawing in range(6):
                    noisy = pattern ^ (rng.random((7, 7)) > 0.95)
                    Image.fromarray(noisy.repeat(4, 0).repeat(4, 1)).save(folder / f"{drawing}.png")
    return root


def run(script, omniglot, folder, *options):
    files = ["--runs", str(folder / "runs"), "--results", str(folder / "page.md"), "--jobs", "2"]
    command = [sys.executable, str(BENCHMARKS / script), str(omniglot), *TINY, *map(str, options), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "page.md").read_text()


def times(folder):
    return {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")}


def test_the_evidence_is_a_table_per_data_set_and_goes_on(omniglot, tmp_path):
    tasks = ("--seeds", 0, "--tasks", "omniglot-5")
    run(
        "evidence.py",
        omniglot,
        tmp_path,
        *tasks,
        "useless",
        "--rows",
        "control",
        "slade",
        "--presets",
        "best",
    )
    before = times(tmp_path)
    text = run("evidence.py", omniglot, tmp_path, *tasks)
    assert {file: time for file, time in times(tmp_path).items() if file in before} == before
    whole = "## Omniglot, 5 labeled alphabets"
    for title in (f"{whole}\n", f"{whole}, 80 % of the pool useless"):
        assert title in text
    for preset in ("best", "paper"):
        assert f"Preset `{preset}`, seeds: 1." in text
    for row in ("Mean teacher", "Self-taught (STML)", "With a feature basis", "Oracle (true pool labels)"):
        assert f"| {row} |" in text
    assert text.count("| SLADE |") == 3


def test_the_share_is_that_of_the_oracles_gain(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import evidence

    from pml_slade.pipeline import Result

    def result(row, score):
        metrics = dict.fromkeys(("MAP@R", "RP", "P@1"), score)
        return Result(row, row, 1, 64, metrics, metrics, "")

    runs = [
        {row: result(row, score) for row, score in zip(("teacher", "control", "slade", "oracle"), scores)}
        for scores in ((10, 20, 28, 30), (10, 30, 34, 40))
    ]
    assert evidence.against_control("slade", runs) == ["+6.0 ± 25.4", "60 % ± 254"]
    assert evidence.against_control("oracle", runs) == ["+10.0 ± 0.0", ""]
    assert evidence.against_control("control", runs) == ["", ""]


def test_tuning_chooses_among_as_many_settings_for_each(omniglot, tmp_path):
    text = run("tuning.py", omniglot, tmp_path, "--rows", "mean_teacher", "slade", "--seeds", 0)
    assert text.count("**chosen**") == 2
    assert text.count("| Mean teacher |") == text.count("| SLADE |") == 4
    before = times(tmp_path)
    assert run("tuning.py", omniglot, tmp_path, "--rows", "mean_teacher", "slade", "--seeds", 0) == text
    assert times(tmp_path) == before


def test_the_ablation_compares_each_variant_with_the_whole(omniglot, tmp_path):
    text = run("ablation.py", omniglot, tmp_path, "--of", "useless", "--seeds", 0)
    assert "## A pool of which 80 % are useless" in text
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][2:] == [
        f"| {title}" for title in ("the whole preset", "control", "oracle", "plain pseudo-labels")
    ]


def test_every_variant_of_the_ablation_can_be_built(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ablation

    from pml_slade.config import load_config

    for variants in ablation.VARIANTS.values():
        assert len({(v.preset, v.row, v.settings, v.useless) for v in variants}) == len(variants)
        for v in variants:
            load_config(["omniglot", v.preset], [*v.settings, f"rows=[{v.row}]"])
