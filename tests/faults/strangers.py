"""Third table: files of strangers decide nothing. `fuzz.py` forges the rest."""

import json
from functools import partial

import torch
from faults.bench import SHORT, case

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
