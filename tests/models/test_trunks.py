import pytest
import timm
import torch
import torchvision
from torch import nn

from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models import ConvNet, build_model, build_trunk, resolve_trunk_name

# One for each way in which torchvision writes its head.
TRUNKS = [
    ("convnet", 512),
    ("resnet18", 512),
    ("torchvision/mobilenet_v3_small", 1024),
    ("squeezenet1_1", 512),
    ("shufflenet_v2_x0_5", 1024),
    ("timm/resnet10t", 512),
    ("timm/mobilenetv3_small_050.lamb_in1k", 1024),
]


@pytest.mark.parametrize(("name", "output_size"), TRUNKS)
@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_a_trunk_gives_flat_features_of_its_output_size(name, output_size, in_channels):
    trunk = build_trunk(name, in_channels)
    assert trunk.training
    assert trunk.output_size == output_size
    assert trunk(torch.randn(2, in_channels, 64, 64)).shape == (2, output_size)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_inceptions_give_features_alone_in_train_mode(name, in_channels):
    with torch.device("meta"):  # built without its slow initial weights
        trunk = build_trunk(name, in_channels)
        features = trunk(torch.randn(2, in_channels, 80, 80))
    assert features.shape == (2, trunk.output_size)


@pytest.mark.parametrize(
    ("name", "output_size"),
    [
        ("vgg11", 4096),
        ("alexnet", 4096),
        ("vit_b_16", 768),
        ("swin_t", 768),
        ("convnext_tiny", 768),
        ("maxvit_t", 512),
        ("densenet121", 1024),
        ("efficientnet_b0", 1280),
    ],
)
def test_the_head_of_a_large_torchvision_trunk_is_removed(name, output_size):
    with torch.device("meta"):
        assert build_trunk(name).output_size == output_size


def test_the_dropout_of_the_head_goes_with_it():
    trunk = build_trunk("mobilenet_v2")
    assert not any(isinstance(module, nn.Dropout) for module in trunk.modules())


@pytest.mark.parametrize(
    ("name", "full_name"),
    [
        ("convnet", "convnet"),
        ("resnet18", "torchvision/resnet18"),
        ("resnet10t", "timm/resnet10t"),
        ("timm/resnet18", "timm/resnet18"),
        ("resnet10t.c3_in1k", "timm/resnet10t.c3_in1k"),
        ("bninception", "pretrainedmodels/bninception"),
    ],
)
def test_bare_names_resolve_to_ours_then_torchvision_then_timm(name, full_name):
    assert resolve_trunk_name(name) == full_name


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet51", "resnet50"),
        ("torchvision/resnet51", "resnet50"),
        ("keras/resnet50", "resnet50"),
        ("convnett", "convnet"),
        ("", "none"),
    ],
)
def test_an_unknown_name_lists_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"no trunk '{name}'\. Nearest: .*\b{nearest}\b.* Pass"):
        build_trunk(name)


def test_an_unknown_timm_tag_is_refused():
    with pytest.raises(ConfigError, match="Invalid pretrained tag"):
        build_trunk("timm/resnet10t.nobody")


def test_options_reach_the_constructor():
    assert build_trunk("convnet", 1, width=8).output_size == 128
    vit = build_trunk("timm/vit_tiny_patch16_224", img_size=32, depth=1)
    assert vit(torch.zeros(2, 3, 32, 32)).shape == (2, 192)


@pytest.mark.parametrize("name", ["convnet", "resnet18", "timm/resnet10t"])
def test_an_unknown_option_is_refused(name):
    with pytest.raises(ConfigError, match=r"'widht' is not let through.*did you mean width\?"):
        build_trunk(name, widht=3)


def test_in_channels_below_one_is_refused():
    with pytest.raises(ConfigError, match="in_channels is 0"):
        build_trunk("resnet18", in_channels=0)


@pytest.mark.parametrize("name", ["convnet", "timm/nf_resnet101"])
def test_default_weights_of_a_trunk_without_any_are_refused(name):
    with pytest.raises(ConfigError, match="weights is 'default'"):
        build_trunk(name, weights="default")


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet10t"])
def test_a_failed_download_says_how_to_place_a_file_instead(name, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("pml_slade.models.trunks.get_model", fail)
    monkeypatch.setattr("pml_slade.models.trunks.timm.create_model", fail)
    with pytest.raises(CheckpointError, match=r"https://.*not known.*pass its path as weights"):
        build_trunk(name, weights="default")


def test_default_weights_on_gray_images_see_what_they_saw_in_the_repeated_image(monkeypatch):
    pretrained = torchvision.models.resnet18()
    state = pretrained.state_dict()
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda self, **kwargs: state)
    trunk = build_trunk("resnet18", in_channels=1, weights="default").eval()
    gray = torch.randn(2, 1, 32, 32)
    pretrained.fc = nn.Identity()
    expected = pretrained.eval()(gray.expand(-1, 3, -1, -1))
    torch.testing.assert_close(trunk(gray), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_weights_from_a_file_give_the_original_features(tmp_path, in_channels):
    original = timm.create_model("resnet10t", num_classes=7)
    torch.save(original.state_dict(), tmp_path / "resnet10t.pth")
    trunk = build_trunk("timm/resnet10t", in_channels, tmp_path / "resnet10t.pth").eval()
    images = torch.randn(2, in_channels, 32, 32)
    original.reset_classifier(0)
    expected = original.eval()(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(trunk(images), expected, rtol=1e-3, atol=1e-4)


def test_build_model_gives_what_a_pml_trainer_takes():
    models = build_model("convnet", 16, in_channels=1, hidden_sizes=(8,), trunk_options={"width": 4})
    assert isinstance(models["trunk"], ConvNet)
    assert models["embedder"](models["trunk"](torch.zeros(2, 1, 28, 28))).shape == (2, 16)
