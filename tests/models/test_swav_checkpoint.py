"""Files as SwAV's authors publish them, with a real ResNet-50."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models import (
    ConvNet,
    SwAVCheckpoint,
    build_trunk,
    load_swav_checkpoint,
    load_trunk_weights,
    save_swav_checkpoint,
    swav_head,
)

pytestmark = pytest.mark.once

HEAD = [
    *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"),
    *("1.num_batches_tracked", "3.weight", "3.bias"),
]


@pytest.fixture(scope="module")
def published():
    """The authors' state dict: their ResNet has torchvision's keys, and no classifier."""
    torch.manual_seed(0)
    state = dict(build_trunk("resnet50").state_dict())
    state |= {
        f"projection_head.{key}": value for key, value in swav_head(2048, 2048, 128).state_dict().items()
    }
    state["prototypes.weight"] = torch.randn(3000, 128)
    return {f"module.{key}": value for key, value in state.items()}


@pytest.fixture(scope="module")
def published_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("swav") / "swav_800ep_pretrain.pth.tar"
    torch.save(published, path)
    return path


@pytest.fixture(scope="module")
def resnet50():
    return build_trunk("resnet50")


@pytest.fixture(scope="module")
def untouched(resnet50):
    return {key: value.clone() for key, value in resnet50.state_dict().items()}


@pytest.fixture
def small():
    return ConvNet(width=4)


def same(state, expected):
    return state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)


def trunk_of(published):
    state = {key.removeprefix("module."): value for key, value in published.items()}
    return {k: v for k, v in state.items() if not k.startswith(("projection_head.", "prototypes."))}


def of_a_training(published):
    """What main_swav.py writes: its schedule is an array, so that the learning rate is a numpy float."""
    group = {"lr": np.float64(0.6), "momentum": 0.9, "params": [0]}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [group]}
    amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 10}}
    return {"epoch": 25, "state_dict": published, "optimizer": optimizer, "amp": amp}


@pytest.mark.parametrize("name", ["torchvision/resnet50", "timm/resnet50"])
def test_the_published_file_gives_a_resnet50_all_its_weights_and_only_heads_are_left(
    published, published_file, name
):
    trunk = build_trunk(name)
    report = load_trunk_weights(trunk, published_file)
    assert sorted(report.loaded) == sorted(trunk.state_dict())
    assert report.unexpected == [*(f"projection_head.{key}" for key in HEAD), "prototypes.weight"]
    assert report.missing == report.mismatched == report.adapted == []
    assert same(trunk.state_dict(), trunk_of(published))


@pytest.mark.skipif(torch.__version__ < "2.6", reason="torch reads no numpy numbers")
def test_a_checkpoint_of_a_training_is_as_good(published, tmp_path):
    torch.save(of_a_training(published), tmp_path / "checkpoint.pth.tar")
    trunk = build_trunk("resnet50", weights=tmp_path / "checkpoint.pth.tar")
    assert same(trunk.state_dict(), trunk_of(published))
    assert load_swav_checkpoint(tmp_path / "checkpoint.pth.tar").head_sizes == (2048, 2048, 128)


def test_the_parts_of_the_published_file(published, published_file):
    checkpoint = load_swav_checkpoint(published_file)
    assert same(checkpoint.trunk, trunk_of(published))
    assert list(checkpoint.head) == HEAD
    assert checkpoint.head_sizes == (2048, 2048, 128)
    swav_head(*checkpoint.head_sizes).load_state_dict(checkpoint.head)
    nn.Linear(128, 3000, bias=False).load_state_dict(checkpoint.prototypes)


@pytest.mark.parametrize("name", ["swav_800ep_pretrain.jpg", "swav_800ep_pretrain"])
def test_a_renamed_file_is_refused(published_file, resnet50, untouched, name):
    renamed = published_file.with_name(name)
    os.link(published_file, renamed)
    with pytest.raises(CheckpointError, match=r"suffix '(\.jpg)?'.*\.pth.*\.tar"):
        load_trunk_weights(resnet50, renamed)
    assert same(resnet50.state_dict(), untouched)


@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.9999])
def test_a_truncated_file_is_refused(published_file, tmp_path, resnet50, untouched, part):
    with published_file.open("rb") as file:
        content = file.read(int(part * published_file.stat().st_size))
    (tmp_path / "swav.pth.tar").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged.*Fetch it again"):
        load_trunk_weights(resnet50, tmp_path / "swav.pth.tar")
    assert same(resnet50.state_dict(), untouched)


def test_a_file_with_code_is_refused_and_the_code_not_run(tmp_path, resnet50, untouched):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    state = {f"module.{key}": value for key, value in list(untouched.items())[:3]}
    torch.save({"state_dict": state, "optimizer": Evil()}, tmp_path / "swav.pth.tar")
    for load in (load_swav_checkpoint, lambda path: load_trunk_weights(resnet50, path)):
        with pytest.raises(CheckpointError, match="could run code"):
            load(tmp_path / "swav.pth.tar")
    assert not (tmp_path / "ran").exists()
    assert same(resnet50.state_dict(), untouched)


def resnet18(published):
    return {f"module.{key}": value for key, value in build_trunk("resnet18").state_dict().items()}


def resnet50w2(published):
    """The authors' twice as wide one; a zero that is repeated takes no room in the file."""

    def widened(key, value):
        doubled = [2 * size for size in value.shape]
        if value.ndim == 4:
            doubled[1:] = [3 if value.shape[1] == 3 else doubled[1], *value.shape[2:]]
        return torch.zeros(1).expand(doubled) if doubled else value

    return {key: widened(key, value) for key, value in published.items()}


def unrelated(published):
    return {"module.layers.0.weight": torch.zeros(3, 3), "module.layers.0.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    ("other", "strict", "match"),
    [
        (
            resnet18,
            True,
            r"does not fit.*\d+ loaded: conv1\.weight.*\d+ missing: layer1\.0\.conv3\.weight.*"
            r"\d+ mismatched: layer1\.0\.conv1\.weight \(\(64, 64, 3, 3\) in the file, \(64, 64, 1, 1\)",
        ),
        (
            resnet50w2,
            True,
            r"does not fit.*53 loaded: bn1\.num_batches_tracked.*\d+ unexpected: projection_head\.0.*"
            r"265 mismatched: conv1\.weight \(\(128, 3, 7, 7\) in the file, \(64, 3, 7, 7\) in the trunk",
        ),
        # Batch counters fit any network: they alone are not worth loading.
        (resnet50w2, False, r"does not fit.*265 mismatched: conv1\.weight"),
        (unrelated, True, r"Nothing in .* keys such as .*layers\.0\.weight.*the trunk has conv1\.weight"),
        (unrelated, False, r"Nothing in"),
    ],
)
def test_another_network_is_refused_with_what_fits_and_what_does_not(
    published, tmp_path, resnet50, untouched, other, strict, match
):
    torch.save(other(published), tmp_path / "other.pth.tar")
    with pytest.raises(CheckpointError, match=f"(?s){match}.*Choose the trunk"):
        load_trunk_weights(resnet50, tmp_path / "other.pth.tar", strict)
    assert same(resnet50.state_dict(), untouched)


@pytest.mark.parametrize("hidden", [6, 0, None])
@pytest.mark.parametrize("wrap", [lambda module: module, nn.DataParallel])
def test_what_is_saved_comes_back(tmp_path, small, hidden, wrap):
    head, prototypes = swav_head(128, hidden, 5), nn.Linear(5, 9, bias=False)
    path = save_swav_checkpoint(
        tmp_path / "new" / "swav.pth.tar", *(wrap(part) for part in (small, head, prototypes))
    )
    trunk_state, head_state, prototype_state = checkpoint = load_swav_checkpoint(path)
    assert same(trunk_state, small.state_dict())
    assert same(head_state, head.state_dict())
    assert same(prototype_state, prototypes.state_dict())
    assert checkpoint.head_sizes == (128, hidden or 0, 5)
    assert [file.name for file in path.parent.iterdir()] == ["swav.pth.tar"]


def test_a_trunk_alone_comes_back_without_the_rest(tmp_path, small):
    checkpoint = load_swav_checkpoint(save_swav_checkpoint(tmp_path / "swav.pth", small))
    assert checkpoint[1:] == (None, None)
    assert checkpoint.head_sizes is None


def test_what_is_saved_has_the_authors_keys_and_starts_any_trunk_of_that_kind(tmp_path, published, resnet50):
    path = save_swav_checkpoint(
        tmp_path / "swav.pth.tar", resnet50, swav_head(2048, 2048, 128), torch.zeros(3000, 128)
    )
    written = torch.load(path, weights_only=True)
    assert {k: v.shape for k, v in written.items()} == {k: v.shape for k, v in published.items()}
    assert same(build_trunk("resnet50", weights=path).state_dict(), resnet50.state_dict())


def test_prototypes_of_lightly_are_written_as_the_authors_write_theirs(tmp_path, small):
    pytest.importorskip("lightly")
    from pml_slade.pretraining import SwAVLoss

    prototypes = SwAVLoss(num_prototypes=9, embedding_size=5).prototypes
    path = save_swav_checkpoint(tmp_path / "swav.pth", small, swav_head(128, 6, 5), prototypes)
    weight = load_swav_checkpoint(path).prototypes["weight"]
    assert torch.equal(weight, prototypes.heads[0].weight)


def test_a_slice_of_prototypes_does_not_take_the_rest_into_the_file(tmp_path):
    weight = torch.zeros(100_000, 5)
    path = save_swav_checkpoint(tmp_path / "swav.pth", nn.Linear(2, 2), prototypes=weight[:9])
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"head": nn.Sequential(nn.Linear(2, 2), nn.ReLU())}, r"projection head has 0\.weight, 0\.bias;"),
        ({"prototypes": nn.Linear(5, 9)}, "prototypes must be one weight"),
        ({"prototypes": torch.zeros(3)}, r"prototypes must be .*\(3,\)"),
        ({"head": swav_head(8, 6, 4), "prototypes": torch.zeros(9, 5)}, "gives 4 values .* take 5"),
    ],
)
def test_parts_that_are_not_swavs_are_refused_when_they_are_written_and_when_they_are_read(
    tmp_path, small, parts, match
):
    with pytest.raises(ConfigError, match=match):
        save_swav_checkpoint(tmp_path / "swav.pth", small, **parts)
    assert not list(tmp_path.iterdir())

    state = {f"module.{key}": value for key, value in small.state_dict().items()}
    names = {"head": "projection_head", "prototypes": "prototypes"}
    for part, content in parts.items():
        values = {"weight": content} if isinstance(content, torch.Tensor) else content.state_dict()
        state |= {f"module.{names[part]}.{key}": value for key, value in values.items()}
    torch.save(state, tmp_path / "swav.pth")
    with pytest.raises(CheckpointError, match=match):
        load_swav_checkpoint(tmp_path / "swav.pth")


def test_a_file_without_a_trunk_is_refused(tmp_path):
    torch.save({"module.prototypes.weight": torch.zeros(9, 5)}, tmp_path / "swav.pth")
    with pytest.raises(CheckpointError, match="has no trunk"):
        load_swav_checkpoint(tmp_path / "swav.pth")


def test_a_suffix_that_could_not_be_read_again_is_refused(tmp_path, small):
    with pytest.raises(ConfigError, match=r"suffix '\.swav'; pass one of"):
        save_swav_checkpoint(tmp_path / "model.swav", small)


def test_a_trunk_with_an_encoder_of_its_own_keeps_its_keys(tmp_path):
    trunk = nn.ModuleDict({"encoder": nn.Linear(2, 2), "stem": nn.Linear(2, 2, bias=False)})
    path = save_swav_checkpoint(tmp_path / "swav.pth", trunk)
    assert load_swav_checkpoint(path).trunk.keys() == trunk.state_dict().keys()


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (1, 1, 0)])
def test_a_head_size_that_is_too_small_is_refused(sizes):
    with pytest.raises(ConfigError, match="hidden_size"):
        swav_head(*sizes)


def test_a_head_says_its_embedding_size():
    assert swav_head(8, 6, 4).embedding_size == swav_head(8, 0, 4).embedding_size == 4
    assert SwAVCheckpoint({}, swav_head(8, 0, 4).state_dict(), None).head_sizes == (8, 0, 4)
