"""Third table: files of strangers decide nothing. `fuzz.py` forges the rest."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import torch
from faults.bench import SHORT, case, weights

from pml_slade.models.model_file import read_model_file, write_model_file

case = partial(case, 2)
OPTIONS = {
    "checkpoint_path": "{marker}",
    "pretrained": True,
    "pretrained_cfg": {"file": "{marker}"},
    "cache_dir": "{marker}",
    "url": "http://127.0.0.1/evil",
    "depth": 10**9,
}


class Evil:
    """Something whose unpickling makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


@case("trunk_options in a model's header", ", ".join(OPTIONS))
def _(bench):
    meta, tensors = read_model_file(bench.teacher / "model.safetensors")
    marker, said = bench.new("marker"), []
    for name, value in OPTIONS.items():
        file = bench.new() / "model.safetensors"
        text = json.dumps(meta | {"trunk_options": {name: value}}).replace("{marker}", str(marker))
        write_model_file(file, text, tensors)
        running = bench.command("embed", file, bench.images["test"], "-o", bench.new("e").with_suffix(".npz"))
        said.append(bench.refused(running, str(file), name))
        assert not marker.exists()
    return said[0]


@case("trunk_options in a model's header", "a pickle that makes a folder, given as model.weights")
def _(bench):
    file, marker = bench.new("weights").with_suffix(".pth"), bench.new("marker")
    torch.save({"state_dict": Evil(marker)}, file)
    running = bench.train(bench.images, bench.new(), *SHORT, f"model.weights={file}")
    said = bench.refused(running, str(file), "could run code")
    assert not marker.exists()
    return said


@case("a run's folder", "links out of it, in place of a lock, a row and a file; pipes in place of files")
def _(bench):
    outside, said = bench.new("theirs"), []
    outside.mkdir()
    (outside / "checkpoint-1.pt").write_text("mine")
    for name in ("run.lock", "teacher/checkpoints", "teacher", "environment.json"):
        run = bench.copy(bench.teacher)
        file = run / name
        there = shutil.rmtree if file.is_dir() else partial(Path.unlink, missing_ok=True)
        there(file)
        file.symlink_to(outside if file.suffix == "" else outside / "checkpoint-1.pt")
        said.append(bench.refused(bench.train(bench.images, run, *SHORT), str(file), "link that leads out"))
        bench.refused(bench.command("report", run, "-q"), str(file), "link that leads out")
    for name in ("environment.json", "teacher/inputs.json", "teacher/records/training.csv"):
        run = bench.copy(bench.teacher)
        (run / name).unlink()
        os.mkfifo(run / name)
        bench.refused(bench.train(bench.images, run, *SHORT), str(run / name), "no regular file")
        bench.refused(bench.command("report", run, "-q"), str(run / name), "no regular file")
    assert [file.read_text() for file in outside.iterdir()] == ["mine"]
    return said[0]


@case("a run's folder", "numbers that no run comes to, and files of zeros as a power cut leaves them")
def _(bench):
    said = []
    for name in ("teacher/result.json", "results.json"):
        run = bench.copy(bench.teacher)
        text = (run / name).read_text()
        (run / name).write_text(text.replace('"RP": ', '"RP": 1' + "0" * 400))
        reader = (
            bench.command("report", run, "-q")
            if name == "results.json"
            else bench.train(bench.images, run, *SHORT)
        )
        said.append(bench.refused(reader, str(run / name), "its figures are none"))
    for name in ("teacher/result.json", "teacher/inputs.json", "environment.json", "model.safetensors"):
        run = bench.copy(bench.teacher)
        (run / name).write_bytes(bytes((run / name).stat().st_size))
        if name == "model.safetensors":  # it is a copy
            bench.refused(
                bench.command("embed", run, bench.images["test"], "-o", run / "e.npz"), str(run / name)
            )
            bench.done(bench.train(bench.images, run, *SHORT))
            assert weights(run) == weights(bench.teacher)
        else:
            bench.refused(bench.train(bench.images, run, *SHORT), str(run / name), "is damaged")
    return said[0]
