import copy
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pml_slade.datasets import transforms
from pml_slade.exceptions import CheckpointError, ConfigError, DataError
from pml_slade.models import build_model, build_trunk, load_model, load_trunk_weights, save_model
from pml_slade.models.bninception import BGRInput, import_bninception

MEAN = (104, 117, 128)


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("pretrainedmodels")
    return import_bninception()


@pytest.fixture(scope="module")
def original(library):
    """The library's network, with statistics that keep its features apart, without its classifier."""
    torch.manual_seed(0)
    network = library.bninception(pretrained=None)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    network(255 * torch.rand(4, 3, 224, 224) - 120)
    network.last_linear = nn.Identity()
    return network.eval()


@pytest.fixture
def trunk(original):
    def build(in_channels=3):
        trunk = build_trunk("bninception", in_channels)
        trunk.load_state_dict(original.state_dict())  # all keys, none else
        return trunk.eval()

    return build


def as_its_authors_feed_it(image):
    """BGR in 0..255 less the mean, from the pixels."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)[:, :, ::-1] - np.float32(MEAN)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("size", [224, 227])
@pytest.mark.parametrize(("mode", "in_channels"), [("RGB", 3), ("L", 1)])
def test_our_transforms_give_the_features_that_the_library_gives_for_bgr_pixels(
    original, trunk, mode, in_channels, size
):
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    normalise = transforms("photo", size, mode).transforms[-1]
    with torch.no_grad():
        expected = original(as_its_authors_feed_it(image))
        features = trunk(in_channels)(normalise(image)[None])
    assert expected.std() > 0.01
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [64, 224, 256])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_images_of_any_size_give_1024_features(library, size, in_channels):
    trunk = build_trunk("pretrainedmodels/bninception", in_channels)
    assert trunk.training
    assert trunk.output_size == 1024
    assert trunk(torch.randn(2, in_channels, size, size)).shape == (2, 1024)


def test_a_copy_converts_with_its_own_step(library):
    trunk = build_trunk("bninception").eval()
    double = copy.deepcopy(trunk).double()
    images = torch.randn(2, 3, 64, 64)
    assert trunk.input_step.scale.dtype == torch.float32
    torch.testing.assert_close(double(images.double()).float(), trunk(images), rtol=1e-3, atol=1e-4)


def test_the_input_step_leaves_no_key_in_the_state(original):
    assert build_trunk("bninception").state_dict().keys() == original.state_dict().keys()


@pytest.mark.parametrize("in_channels", [1, 3])
def test_the_published_file_loads_whole_but_for_its_classifier(library, tmp_path, in_channels):
    state = library.bninception(pretrained=None).state_dict()
    published = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    path = tmp_path / "bn_inception-52deb4733.pth"
    torch.save(published, path, _use_new_zipfile_serialization=False)  # it is from 2017
    trunk = build_trunk("bninception", in_channels)
    report = load_trunk_weights(trunk, path)
    assert report.unexpected == ["last_linear.weight", "last_linear.bias"]
    assert report.missing == report.mismatched == report.adapted == []
    assert all(torch.equal(trunk.state_dict()[key], published[key]) for key in report.loaded)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_saved_model_comes_back_with_its_input_step(library, tmp_path, in_channels):
    models = build_model("bninception", 8, in_channels)
    images = torch.randn(2, in_channels, 64, 64)
    expected = models["embedder"].eval()(models["trunk"].eval()(images))
    meta = {"trunk": "bninception", "embedding_size": 8, "in_channels": in_channels}
    model = load_model(save_model(tmp_path, models, meta))
    assert model.meta["trunk"] == "pretrainedmodels/bninception"
    torch.testing.assert_close(model(images), expected)


def test_default_weights_are_those_that_the_library_loads(library, monkeypatch):
    state = library.bninception(pretrained=None).state_dict()
    asked = []
    monkeypatch.setattr(library.model_zoo, "load_url", lambda url: asked.append(url) or state)
    trunk = build_trunk("bninception", weights="default")
    assert asked == [library.pretrained_settings["bninception"]["imagenet"]["url"]]
    assert all(torch.equal(value, state[key]) for key, value in trunk.state_dict().items())


def test_a_failed_download_says_where_the_file_is_and_what_to_do(library, monkeypatch):
    def fail(url):
        raise OSError("Name or service not known")

    monkeypatch.setattr(library.model_zoo, "load_url", fail)
    with pytest.raises(
        CheckpointError, match=r"http://.*bn_inception-52deb4733\.pth.*not known.*pass its path"
    ):
        build_trunk("bninception", weights="default")


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pretrainedmodels.models.bninception", None)
    with pytest.raises(ConfigError, match=r'pip install "pml-slade\[bninception\]"'):
        build_trunk("bninception")


def test_an_unknown_option_is_refused(library):
    with pytest.raises(ConfigError, match=r"width.*do not fit pretrainedmodels/bninception"):
        build_trunk("bninception", width=3)


@pytest.mark.parametrize("in_channels", [2, 4])
def test_other_channels_are_refused(library, in_channels):
    with pytest.raises(ConfigError, match=f"in_channels is {in_channels}; bninception takes 3"):
        build_trunk("bninception", in_channels)


@pytest.mark.parametrize(("in_channels", "given"), [(1, 3), (3, 1)])
def test_images_with_other_channels_than_the_trunk_are_refused(in_channels, given):
    with pytest.raises(DataError, match=rf"\(2, {given}, 8, 8\); pass \(N, {in_channels}"):
        BGRInput(in_channels, MEAN)(torch.zeros(2, given, 8, 8))
