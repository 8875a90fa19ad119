import json

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models import build_model, load_model, save_model
from pml_slade.models.model_file import read_model_file, write_model_file

META = {
    "trunk": "convnet",
    "trunk_options": {"width": 4},
    "embedding_size": 3,
    "hidden_sizes": [5],
    "in_channels": 1,
    "image_size": 28,
    "mode": "L",
    "transform": "plain",
}


def build(meta):
    return build_model(
        meta["trunk"],
        meta["embedding_size"],
        meta["in_channels"],
        hidden_sizes=meta.get("hidden_sizes", ()),
        trunk_options=meta.get("trunk_options"),
    )


@pytest.fixture
def models():
    return build(META)


@pytest.fixture
def path(tmp_path, models):
    return save_model(tmp_path / "model.safetensors", models, META)


@pytest.mark.parametrize(
    "meta",
    [
        META,
        {"trunk": "mobilenet_v3_small", "embedding_size": 3, "in_channels": 1},
        {"trunk": "timm/resnet10t", "embedding_size": 3, "in_channels": 3},
    ],
)
def test_a_model_comes_back_the_same_in_eval_mode(tmp_path, meta):
    models = build(meta)
    images = torch.randn(4, meta["in_channels"], 32, 32)
    models["trunk"](images)  # moves the running statistics
    expected = models["embedder"].eval()(models["trunk"].eval()(images))

    model = load_model(save_model(tmp_path, models, meta))

    assert not model.training
    torch.testing.assert_close(model(images), expected)
    assert model.trunk.output_size == models["trunk"].output_size


def test_meta_comes_back_with_the_full_trunk_name_and_versions(tmp_path):
    meta = {"trunk": "resnet10t", "embedding_size": 3, "in_channels": 1, "image_size": 28}
    loaded = load_model(save_model(tmp_path, build(meta), meta)).meta
    assert loaded.items() >= (meta | {"trunk": "timm/resnet10t"}).items()
    assert loaded["versions"]["torch"] == torch.__version__


def test_a_folder_is_as_good_as_the_file_in_it(path):
    assert load_model(path.parent).meta == load_model(path).meta
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_saving_and_loading_leave_the_random_state_alone(tmp_path, models):
    before = torch.get_rng_state()
    load_model(save_model(tmp_path, models, META))
    assert torch.equal(torch.get_rng_state(), before)


def test_wrapped_modules_are_saved_without_their_wrapper(tmp_path, models):
    compiled = torch.nn.Module()  # as torch.compile wraps it, without the time that takes
    compiled._orig_mod = models["embedder"]
    wrapped = {"trunk": torch.nn.DataParallel(models["trunk"]), "embedder": compiled}
    model = load_model(save_model(tmp_path, wrapped, META))
    assert torch.equal(model.embedder.layers[0].weight, models["embedder"].layers[0].weight)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"embedding_size": 4}, r"embedder\.layers\.2\.weight is \(3, 5\), not \(4, 5\)"),
        ({"trunk_options": {}}, "another model"),
        ({"trunk": "convnett"}, "no trunk"),
        ({"transform": object()}, "not JSON"),
    ],
)
def test_meta_that_could_not_be_loaded_is_refused_before_writing(tmp_path, models, change, match):
    with pytest.raises(ConfigError, match=match):
        save_model(tmp_path, models, META | change)
    assert not list(tmp_path.iterdir())


def test_lacking_models_or_meta_are_named(tmp_path, models):
    with pytest.raises(ConfigError, match="models lacks embedder"):
        save_model(tmp_path, {"trunk": models["trunk"]}, META)
    with pytest.raises(ConfigError, match="meta lacks embedding_size, in_channels"):
        save_model(tmp_path, models, {"trunk": "convnet"})


def rewrite(path, **changes):
    """The same tensors with another header."""
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["pml_slade"])
    save_file(load_file(path), path, {"pml_slade": json.dumps(header | changes)})


def test_a_newer_format_asks_for_an_upgrade(path):
    rewrite(path, format_version=2)
    with pytest.raises(CheckpointError, match=r"format 2.*Upgrade"):
        load_model(path)


def test_changed_meta_is_noticed(path):
    rewrite(path, meta=json.dumps(META | {"image_size": 32}))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(path)


def test_a_flipped_byte_in_the_tensors_is_noticed(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(path)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file_is_an_error(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"damaged.*restore"):
        load_model(path)


def test_a_foreign_safetensors_file_is_an_error(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a model that save_model wrote"):
        load_model(tmp_path)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="no model file"):
        load_model(tmp_path)


def test_a_trunk_that_the_libraries_lack_is_an_error_with_the_versions(path, monkeypatch):
    def fail(*args, **kwargs):
        raise TypeError("no argument 'width'")

    monkeypatch.setattr("pml_slade.models.trunks.ConvNet", fail)
    with pytest.raises(CheckpointError, match=r"cannot be built here.*torch.*install these"):
        load_model(path)


def test_a_file_of_before_has_features_taken_as_they_come(path, models):
    meta, tensors = read_model_file(path)
    for name in ("center", "scale"):
        del tensors[f"embedder.{name}"]
    write_model_file(path, json.dumps(meta), tensors)
    embedder = load_model(path).embedder
    assert (embedder.center == 0).all()
    assert embedder.scale == 1
    features = torch.rand(2, models["trunk"].output_size)
    assert torch.equal(embedder(features), models["embedder"](features))
