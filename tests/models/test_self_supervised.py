"""Weights of DINO, MoCo and their kin, in the layouts in which their authors publish them."""

import argparse

import numpy as np
import pytest
import torch
import torchvision
from timm.models import get_pretrained_cfg
from torch import nn

from pml_slade.exceptions import CheckpointError
from pml_slade.models import build_trunk, load_state, load_trunk_weights, resolve_trunk_name
from pml_slade.models.trunks import shapes_alone

pytestmark = pytest.mark.once

VIT = "timm/vit_tiny_patch16_224"
BY_A_SCRIPT = pytest.mark.skipif(torch.__version__ < "2.6", reason="torch reads no arguments, no numpy")


def network(name):
    torch.manual_seed(1)
    return build_trunk(name)


@pytest.fixture(scope="module")
def vit():
    return network(VIT).state_dict()


@pytest.fixture(scope="module")
def resnet18():
    return network("resnet18").state_dict()


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def others(state):
    """Another network of the same kind: reading it instead would be noticed."""
    return {key: torch.zeros_like(value) - 1 for key, value in state.items()}


def mlp(prefix, *layers):
    return {f"{prefix}.{layer}.weight": torch.zeros(2, 2) for layer in layers}


def dino_checkpoint(state):
    """What main_dino.py writes, the published "full ckpt": with its arguments and a numpy learning rate."""
    head = {**mlp("head.mlp", 0, 2, 4), "head.last_layer.weight_g": torch.zeros(2, 1)}
    return {
        "student": prefixed("module.", {**prefixed("backbone.", others(state)), **head}),
        "teacher": {**prefixed("backbone.", state), **head},
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-3)}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_tiny", lr=5e-4),
        "dino_loss": {"center": torch.zeros(1, 2)},
    }


def dino_backbone(state):
    return dict(state)


def moco_v2(state):
    heads = {half: mlp(f"encoder_{half}.fc", 0, 2) for half in "qk"}
    content = {
        **prefixed("encoder_q.", state),
        **heads["q"],
        **prefixed("encoder_k.", others(state)),
        **heads["k"],
        "queue": torch.zeros(2, 8),
        "queue_ptr": torch.zeros(1),
    }
    return {"epoch": 800, "arch": "resnet50", "state_dict": prefixed("module.", content), "optimizer": {}}


def moco_v2_released(state):
    content = {**prefixed("encoder_q.", state), **mlp("encoder_q.fc", 0, 2)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": prefixed("module.", content)}


def moco_v3(head):
    def layout(state):
        content = {
            **prefixed("base_encoder.", state),
            **mlp(f"base_encoder.{head}", 0, 1, 3, 4),
            **prefixed("momentum_encoder.", others(state)),
            **mlp(f"momentum_encoder.{head}", 0, 1, 3, 4),
            **mlp("predictor", 0, 1, 3, 4),
        }
        return {"epoch": 300, "arch": "any", "state_dict": prefixed("module.", content), "scaler": {}}

    return layout


def barlow_or_vicreg_backbone(state):
    return dict(state)


def vicreg_checkpoint(state):
    content = {**prefixed("backbone.", state), **mlp("projector", 0, 1, 3)}
    return {"epoch": 1000, "model": prefixed("module.", content), "optimizer": {}}


def mae_finetuned(state):
    return {"model": {**state, **mlp("head", 0)}, "args": argparse.Namespace(lr=1e-3)}


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        pytest.param(dino_checkpoint, VIT, marks=BY_A_SCRIPT),
        pytest.param(dino_checkpoint, "resnet18", marks=BY_A_SCRIPT),
        (dino_backbone, VIT),
        (dino_backbone, "resnet18"),
        (moco_v2, "resnet18"),
        (moco_v2_released, "resnet18"),
        (moco_v3("fc"), "resnet18"),
        (moco_v3("head"), VIT),
        (barlow_or_vicreg_backbone, "resnet18"),
        (vicreg_checkpoint, "resnet18"),
        pytest.param(mae_finetuned, VIT, marks=BY_A_SCRIPT),
    ],
)
def test_a_published_layout_gives_the_trunk_all_its_weights(tmp_path, request, layout, name):
    state = request.getfixturevalue("vit" if name == VIT else name)
    torch.save(layout(state), tmp_path / "checkpoint.pth.tar")
    trunk = build_trunk(name)
    report = load_trunk_weights(trunk, tmp_path / "checkpoint.pth.tar")
    assert sorted(report.loaded) == sorted(state)
    assert all(key.startswith(("fc.", "head.", "projector.")) for key in report.unexpected)
    assert all(torch.equal(value, state[key]) for key, value in trunk.state_dict().items())


def test_load_state_reads_the_trained_one_of_mocos_encoders(tmp_path, resnet18):
    torch.save(moco_v2(resnet18), tmp_path / "moco.pth.tar")
    assert load_state(tmp_path / "moco.pth.tar").keys() == {*resnet18, "fc.0.weight", "fc.2.weight"}


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (
            "timm/vit_small_patch16_224",  # dino_deitsmall16_pretrain.pth
            [
                *("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"),
                *(f"blocks.11.{layer}.weight" for layer in ("norm1", "attn.qkv", "attn.proj", "norm2")),
                *("blocks.11.mlp.fc1.weight", "blocks.11.mlp.fc2.bias", "norm.weight", "norm.bias"),
            ],
        ),
        (
            "resnet50",  # dino_resnet50_pretrain.pth, Barlow Twins' and VICReg's resnet50.pth
            ["conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer4.2.conv3.weight"],
        ),
    ],
)
def test_keys_that_published_files_are_known_to_have_are_those_of_the_trunk(name, known):
    with shapes_alone():
        assert set(known) <= build_trunk(name).state_dict().keys()


def test_a_numbered_backbone_as_lightlys_examples_save_it_is_refused_with_the_keys(tmp_path):
    backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
    state = {**prefixed("backbone.", backbone.state_dict()), **mlp("projection_head.layers", 0, 2)}
    torch.save({"state_dict": state}, tmp_path / "simclr.ckpt")
    trunk = build_trunk("resnet18")
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"Nothing in .* backbone\.0\.weight.*trunk has conv1\.weight"):
        load_trunk_weights(trunk, tmp_path / "simclr.ckpt")
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())


def test_a_vit_of_another_size_is_refused_with_the_shapes(tmp_path, vit):
    torch.save(dino_backbone(vit), tmp_path / "dino.pth")
    small = build_trunk("timm/vit_small_patch16_224", depth=1)
    with pytest.raises(
        CheckpointError, match=r"(?s)pos_embed \(\(1, 197, 192\) in the file, \(1, 197, 384\)"
    ):
        load_trunk_weights(small, tmp_path / "dino.pth")


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch16_224.dino", "vit_small_patch14_dinov2.lvd142m", "resnet50.fb_swsl_ig1b_ft_in1k"],
)
@pytest.mark.parametrize("library", ["", "timm/"])
def test_a_name_with_its_tag_goes_to_timms_own_loading(name, library, monkeypatch):
    if get_pretrained_cfg(name.split(".")[0]) is None:
        pytest.skip("this timm does not know it")
    asked = []

    def create(model, pretrained=False, **arguments):
        asked.append((model, pretrained))
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setattr("pml_slade.models.trunks.timm.create_model", create)
    assert resolve_trunk_name(library + name) == f"timm/{name}"
    build_trunk(library + name, weights="default")
    assert asked == [(name, True)]
