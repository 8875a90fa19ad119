import logging
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pml_slade.exceptions import CheckpointError
from pml_slade.models import ConvNet, LoadReport, build_trunk, load_state, load_trunk_weights, save_model
from pml_slade.models.embedder import Embedder

META = {"trunk": "convnet", "trunk_options": {"width": 4}, "embedding_size": 3, "in_channels": 1}


@pytest.fixture
def trunk():
    return ConvNet(width=4)


@pytest.fixture
def source():
    return ConvNet(width=4)


def same(trunk, state):
    return all(torch.equal(value, state[key]) for key, value in trunk.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".safetensors"])
def test_every_format_loads_whole(tmp_path, trunk, source, suffix):
    path = tmp_path / f"weights{suffix}"
    state = {key: value.contiguous() for key, value in source.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    report = load_trunk_weights(trunk, path)
    assert same(trunk, state)
    assert sorted(report.loaded) == sorted(state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "teacher"])
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "_orig_mod.module.encoder.", "trunk."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, source, wrapper, prefix):
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save({wrapper: {**state, "fc.bias": torch.zeros(2)}, "epoch": 3}, tmp_path / "w.pth")
    assert load_state(tmp_path / "w.pth").keys() == {*source.state_dict(), "fc.bias"}


def test_a_teacher_is_preferred_to_its_student(tmp_path):
    content = {"student": {"w": torch.zeros(1)}, "teacher": {"w": torch.ones(1)}}
    torch.save(content, tmp_path / "w.pth")
    assert load_state(tmp_path / "w.pth")["w"] == 1


def test_a_prefix_that_few_keys_carry_stays(tmp_path):
    torch.save({"a": torch.ones(1), "b": torch.ones(1), "module.c": torch.ones(1)}, tmp_path / "w.pt")
    assert set(load_state(tmp_path / "w.pt")) == {"a", "b", "module.c"}


def test_a_trunk_with_an_encoder_of_its_own_keeps_the_prefix(tmp_path):
    trunk = nn.ModuleDict({"encoder": nn.Linear(2, 2), "stem": nn.Linear(2, 2, bias=False)})
    torch.save(trunk.state_dict(), tmp_path / "w.pth")
    assert len(load_trunk_weights(trunk, tmp_path / "w.pth").loaded) == 3


def test_the_heads_of_self_supervised_files_are_left_out_and_reported(tmp_path, trunk, source):
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    heads = ["projection_head.0.weight", "prototypes.weight", "fc.bias", "classifier.1.weight"]
    torch.save(state | {f"module.{key}": torch.zeros(2) for key in heads}, tmp_path / "w.pth")
    assert load_trunk_weights(trunk, tmp_path / "w.pth").unexpected == heads


def test_a_model_that_save_model_wrote_starts_a_trunk(tmp_path, trunk, source):
    models = {"trunk": source, "embedder": Embedder(source.output_size, 3)}
    path = save_model(tmp_path, models, META)
    report = load_trunk_weights(trunk, path)
    assert same(trunk, source.state_dict())
    assert {name.split(".")[0] for name in report.unexpected} == {"embedder"}


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.backbone."])
def test_a_checkpoint_of_lightning_starts_a_trunk(tmp_path, trunk, source, prefix):
    state = {prefix + key: value for key, value in source.state_dict().items()}
    content = {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**state, f"{prefix}fc.weight": torch.zeros(2, 2), "criterion.W": torch.zeros(2)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_path": "x.ckpt", "best_model_score": torch.ones(1)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3}]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "name": "resnet"},
    }
    torch.save(content, tmp_path / "last.ckpt")
    report = load_trunk_weights(trunk, tmp_path / "last.ckpt")
    assert same(trunk, source.state_dict())
    assert report.unexpected == ["fc.weight"]


def test_old_files_without_batch_counters_load(tmp_path, trunk, source):
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "w.pth")
    assert load_trunk_weights(trunk, tmp_path / "w.pth").missing == []


def missing(state):
    del state["blocks.1.0.weight"]


def mismatched(state):
    state["blocks.1.0.weight"] = torch.zeros(4, 4, 5, 5)


def unexpected(state):
    state["blocks.9.0.weight"] = torch.zeros(4)


@pytest.mark.parametrize("change", [missing, mismatched, unexpected])
def test_a_difference_is_an_error_that_leaves_the_trunk_alone(tmp_path, trunk, source, change):
    state, before = source.state_dict(), {k: v.clone() for k, v in trunk.state_dict().items()}
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"(?s)does not fit.* loaded: .*1 {change.__name__}"):
        load_trunk_weights(trunk, tmp_path / "w.pth")
    assert same(trunk, before)


@pytest.mark.parametrize("change", [missing, mismatched, unexpected])
def test_without_strict_what_fits_is_loaded_with_a_warning(tmp_path, trunk, source, change, caplog):
    state = source.state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        report = load_trunk_weights(trunk, tmp_path / "w.pth", strict=False)
    assert len(getattr(report, change.__name__)) == 1
    assert f"1 {change.__name__}" in caplog.text
    assert torch.equal(trunk.blocks[0][0].weight, source.blocks[0][0].weight)


@pytest.mark.parametrize("strict", [True, False])
def test_a_file_of_which_nothing_fits_is_an_error(tmp_path, trunk, strict):
    torch.save({"layer1.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"Nothing in .*layer1\.weight.*blocks\.0\.0\.weight"):
        load_trunk_weights(trunk, tmp_path / "w.pth", strict=strict)


def test_rgb_kernels_are_summed_for_gray_images_and_reported(tmp_path, trunk):
    source = ConvNet(in_channels=3, width=4)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    report = load_trunk_weights(trunk, tmp_path / "w.pth")
    assert report.adapted == ["blocks.0.0.weight"]
    expected = source.blocks[0][0].weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(trunk.blocks[0][0].weight, expected)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"could run code.*save its state dict alone"):
        load_state(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("size", [0, 1, 7, 200, 0.5, -1])
def test_a_truncated_file_is_an_error_that_says_so(tmp_path, source, suffix, size):
    path = tmp_path / f"w{suffix}"
    state = {key: value.contiguous() for key, value in source.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * size) if isinstance(size, float) else size])
    with pytest.raises(CheckpointError, match=r"damaged.*Fetch it again"):
        load_state(path)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_rgb_kernels_answer_a_grey_picture_alike_in_any_number_of_channels(tmp_path, channels):
    grey = torch.randn(2, 1, 8, 8)
    source = ConvNet(in_channels=3, width=4)
    with torch.no_grad():
        source.blocks[0][0].weight[:] = source.blocks[0][0].weight[:, :1]
    torch.save(source.state_dict(), tmp_path / "w.pth")
    trunk = ConvNet(in_channels=channels, width=4)
    assert load_trunk_weights(trunk, tmp_path / "w.pth").adapted == ["blocks.0.0.weight"]
    answers = [m.blocks[0][0](grey.expand(-1, n, -1, -1)) for m, n in ((source, 3), (trunk, channels))]
    torch.testing.assert_close(*answers)


def test_a_resampled_key_is_reported(tmp_path, caplog):
    options = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    native, trunk = (build_trunk("timm/vit_tiny_patch16_224", img_size=s, **options) for s in (64, 32))
    torch.save({"state_dict": {f"model.{k}": v for k, v in native.state_dict().items()}}, tmp_path / "w.ckpt")
    with caplog.at_level(logging.INFO, logger="pml_slade"):
        report = load_trunk_weights(trunk, tmp_path / "w.ckpt")
    assert report.adapted == ["pos_embed"]
    assert sorted(report.loaded) == sorted(trunk.state_dict())
    assert "resampled to the trunk's size: pos_embed" in caplog.text


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"version https://git-lfs", b"PK"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_format_is_an_error(tmp_path, content, suffix):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match="Fetch it again"):
        load_state(tmp_path / f"w{suffix}")


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.zeros(1)], torch.zeros(1), {"model": 3}])
def test_a_file_without_a_state_dict_is_an_error(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no state dict.*Save the state dict alone"):
        load_state(tmp_path / "w.pth")


def test_a_missing_file_and_an_unknown_suffix_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match="no weights file"):
        load_state(tmp_path / "w.pth")
    (tmp_path / "w.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"suffix '\.onnx'.*\.safetensors"):
        load_state(tmp_path / "w.onnx")


def test_a_long_report_is_cut_with_counts():
    report = LoadReport(loaded=[f"k{i}" for i in range(20)])
    assert str(report) == "20 loaded: k0, k1, k2, k3, k4, and 15 more"
    assert str(LoadReport()) == "nothing"
