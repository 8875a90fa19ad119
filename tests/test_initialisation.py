"""The benchmark of starts writes its table, chooses by validation, and trains nothing twice."""

import pytest
from images import SMALL, write_images
from scripts import run_script_here

pytestmark = pytest.mark.once
TINY = (
    *(setting for setting in SMALL if not setting.startswith(("teacher.lr", "student.lr"))),
    *("data.kind=images", "pretraining.batch_size=8", "pretraining.hidden_size=8"),
)


def test_it_writes_a_table_and_goes_on(tmp_path):
    pytest.importorskip("lightly")
    options = ["--seeds", "0", "--lrs", "0.001", "--steps", "4", "--jobs", "2"]
    files = ["--runs", tmp_path / "runs", "--results", tmp_path / "results.md"]
    data = [f"data.{part}={folder}" for part, folder in write_images(tmp_path / "images").items()]
    arguments = ["glyphs", *TINY, *data, *options, *files]
    first = run_script_here("initialisation", *arguments)
    text = (tmp_path / "results.md").read_text()
    for start in ("random", "SwAV"):
        for row in ("Teacher", "Control (labels only)", "SLADE"):
            assert f"| {start} | {row} |" in text
    assert "(the edge of what was tried)" in text
    assert "SwAV start over random start, SLADE:" in text
    models = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    again = run_script_here("initialisation", *arguments)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}.keys() == models.keys()
    assert first[first.index("## ") :] == again[again.index("## ") :]
