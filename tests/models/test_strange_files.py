"""A model's file is a stranger's: what its header may ask for, and what it may not."""

import hashlib
import json
import os
import time

import pytest
import torch
from safetensors.torch import save_file

from pml_slade.datasets import TrunkInput
from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models import build_model, build_trunk, load_model, load_state, save_model
from pml_slade.models.model_file import write_model_file

META = {"trunk": "convnet", "trunk_options": {"width": 4}, "embedding_size": 3, "in_channels": 1}
VIT = {
    "trunk": "timm/vit_tiny_patch16_224",
    "trunk_options": {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2},
    "embedding_size": 3,
    "in_channels": 3,
}
SWIN = {
    "trunk": "timm/swin_tiny_patch4_window7_224",
    "trunk_options": {"embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
    "embedding_size": 3,
    "in_channels": 3,
}


def tensors_of(meta):
    models = build_model(
        meta["trunk"], meta["embedding_size"], meta["in_channels"], trunk_options=meta["trunk_options"]
    )
    return {
        f"{part}.{key}": v.contiguous() for part in models for key, v in models[part].state_dict().items()
    }


def hostile(tmp_path, meta, **changes):
    """A file whose digest is right, and whose header asks for something else than its tensors are."""
    path = tmp_path / "model.safetensors"
    write_model_file(path, json.dumps(meta | changes), tensors_of(meta))
    return path


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


OPTIONS = {
    "checkpoint_path": "evil.pth",
    "pretrained": True,
    "pretrained_cfg": {"file": "evil.pth"},
    "pretrained_cfg_overlay": {"file": "evil.pth"},
    "pretrained_strict": False,
    "cache_dir": "cache",
    "scriptable": True,
    "exportable": True,
    "no_jit": True,
    "features_only": True,
    "out_indices": [1],
    "norm_layer": "layernorm",
    "act_layer": "gelu",
    "weight_init": "jax",
    "num_classes": 10,
    "in_chans": 1,
    "device": "cuda",
    "weights": "DEFAULT",
    "progress": True,
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_names_files_classes_or_configs_is_not_let_through(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil(tmp_path / "ran")}, "evil.pth")
    options = {**VIT["trunk_options"], name: OPTIONS[name]}
    with pytest.raises(ConfigError, match=f"trunk_options: '{name}' is not let through"):
        build_model(VIT["trunk"], 3, trunk_options=options)
    path = hostile(tmp_path, VIT, trunk_options=options)
    with pytest.raises(CheckpointError, match=f"trunk_options: '{name}' is not let through"):
        load_model(path)
    assert sorted(os.listdir()) == ["evil.pth", "model.safetensors"]


VALUES = {
    "img_size": [10**6, 10**400, -32, [32] * 65, {"a": 1}, [[32, 32]], float("nan")],
    "depth": [10**5, 1e300],
    "global_pool": ["../../evil", "a" * 17, "https://x"],
    "drop_rate": [float("inf"), -1],
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in VALUES.items() for v in values])
def test_a_value_that_is_not_plain_or_out_of_range_is_refused(tmp_path, name, value):
    with pytest.raises(ConfigError, match=rf"trunk_options: {name} is .*; pass a number from 0 to"):
        build_trunk(VIT["trunk"], **{**VIT["trunk_options"], name: value})
    options = {**VIT["trunk_options"], name: value}
    with pytest.raises(CheckpointError, match=f"trunk_options: {name} is "):
        load_model(hostile(tmp_path, VIT, trunk_options=options))


@pytest.mark.parametrize(
    ("meta", "changes", "match"),
    [
        (META, {"embedding_size": 10**12}, r"does not fit .*\(1000000000000, 64\)"),
        (META, {"hidden_sizes": [10**10]}, r"does not fit .*\(10000000000, 64\)"),
        (META, {"hidden_sizes": [8] * 10**5}, "asks for 100000 layers and has 2. tensors"),
        (META, {"in_channels": 10**10}, r"does not fit .*\(4, 10000000000, 3, 3\)"),
        (META, {"trunk": "torchvision/vit_h_14", "trunk_options": {}, "in_channels": 3}, "does not fit"),
        (META, {"trunk_options": {"width": 16384}}, "does not fit"),
        (META, {"trunk_options": {"depth": 1000}}, "asks for 1000 layers"),
        (VIT, {"trunk_options": {"depth": 1000}}, "asks for 1000 layers"),
        (VIT, {"trunk_options": {**VIT["trunk_options"], "embed_dim": 16384}}, "does not fit"),
        (SWIN, {"trunk_options": {**SWIN["trunk_options"], "depths": [1000, 1000, 1, 1]}}, "asks for 2002"),
        (SWIN, {"trunk_options": {**SWIN["trunk_options"], "img_size": 4096}}, "far larger than its weights"),
    ],
)
def test_nothing_is_allocated_that_the_file_does_not_have(tmp_path, meta, changes, match):
    path = hostile(tmp_path, meta, **changes)
    began = time.process_time()
    with pytest.raises(CheckpointError, match=match):
        load_model(path)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_size": -1},
        {"embedding_size": "3"},
        {"embedding_size": True},
        {"embedding_size": None},
        {"embedding_size": 3.0},
        {"in_channels": 0},
        {"in_channels": [1]},
        {"hidden_sizes": "ab"},
        {"hidden_sizes": {"5": 5}},
        {"hidden_sizes": 5},
        {"hidden_sizes": [-5]},
        {"trunk": 5},
        {"trunk": None},
        {"trunk": "x" * 10**6},
        {"trunk": "timm/hf-hub:someone/model"},
        {"trunk": "local-dir:/tmp"},
        {"trunk": "timm/resnet10t.c3/../../x"},
        {"trunk": "timm/../convnet"},
        {"trunk_options": [1]},
        {"trunk_options": "depth"},
        {"trunk_options": {"depth": "one"}},
        {"input": {"crop": 1e-9}},
        {"input": {"std": [0, 0, 0]}},
        {"input": "ImageNet"},
    ],
)
def test_a_header_of_other_types_is_one_clear_error(tmp_path, changes):
    with pytest.raises(CheckpointError, match=r"needs a model that cannot be built here: .{1,600}$"):
        load_model(hostile(tmp_path, META, **changes))


@pytest.mark.parametrize("header", ["{", "[]", "5", '{"format_version": 1}', "[" * 10**5, '{"meta": 3}'])
@pytest.mark.parametrize("read", [load_model, load_state])
def test_a_header_that_cannot_be_read_is_an_error(tmp_path, header, read):
    save_file(tensors_of(META), tmp_path / "m.safetensors", {"pml_slade": header})
    with pytest.raises(CheckpointError, match="header that save_model did not write"):
        read(tmp_path / "m.safetensors")


@pytest.mark.parametrize("described", ["3", "[]", "[" * 10**5, "{"])
def test_a_description_that_is_none_is_an_error(tmp_path, described):
    write_model_file(tmp_path / "m.safetensors", described, tensors_of(META))
    with pytest.raises(CheckpointError, match="header that save_model did not write"):
        load_model(tmp_path / "m.safetensors")


def test_real_models_of_every_kind_of_options_come_back(tmp_path):
    for meta in (META, VIT, SWIN, {**META, "trunk_options": {}}):
        path = hostile(tmp_path, meta)
        assert load_model(path).state_dict().keys() == tensors_of(meta).keys()


def old_file(path, meta, tensors):
    """As it was written before files said what their trunk expects: byte for byte the same layout."""
    text = json.dumps(meta)
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    envelope = {"format_version": 1, "sha256": digest.hexdigest(), "meta": text}
    save_file(tensors, path, {"pml_slade": json.dumps(envelope)})


@pytest.mark.parametrize(("mode", "mean"), [("RGB", (0.485, 0.456, 0.406)), ("L", (0.5,))])
def test_an_old_file_goes_on_working_with_the_normalisation_it_was_trained_with(tmp_path, mode, mean):
    meta = {**VIT, "in_channels": len(mode), "image_size": 32, "mode": mode, "transform": "photo"}
    tensors = tensors_of(meta)
    old_file(tmp_path / "model.safetensors", meta, tensors)
    model = load_model(tmp_path)
    assert model.trunk_input == TrunkInput.usual(mode)
    assert model.trunk_input.mean == mean
    assert all(torch.equal(value, tensors[key]) for key, value in model.state_dict().items())


def test_every_flipped_bit_of_a_model_of_ours_is_noticed_when_a_trunk_starts_from_it(tmp_path):
    models = build_model("convnet", 3, in_channels=1, trunk_options={"width": 4})
    path = save_model(tmp_path, models, META)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in (start, (start + len(whole)) // 2, len(whole) - 1):
        for bit in (0, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match="does not match its SHA-256"):
                build_trunk("convnet", 1, weights=path, width=4)
    path.write_bytes(whole)
    build_trunk("convnet", 1, weights=path, width=4)
