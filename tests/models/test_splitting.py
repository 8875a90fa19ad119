"""A trunk in two parts does what the trunk does, and the parts share its weights."""

import pytest
import timm
import torch
from torch import nn

from pml_slade.exceptions import ConfigError
from pml_slade.models import build_trunk, split_trunk
from pml_slade.models.splitting import LEAST, MOST


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("convnet", 28),
        ("torchvision/resnet18", 64),
        ("timm/tf_efficientnet_lite0", 96),
        ("timm/vit_tiny_patch16_224", 224),
        ("timm/vit_small_patch16_dinov3", 64),
        ("torchvision/swin_t", 64),
        ("torchvision/mobilenet_v3_small", 64),
        ("torchvision/densenet121", 64),
    ],
)
def test_the_parts_do_what_the_trunk_does(name, size):
    if name.startswith("timm/") and not timm.is_model(name.removeprefix("timm/")):
        pytest.skip("needs a newer timm")
    options = {"img_size": size} if "dinov3" in name else {}
    trunk = build_trunk(name, **({"in_channels": 3} | options)).eval()
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    split = split_trunk(trunk, (3, size, size))
    images = torch.rand(3, 3, size, size)
    with torch.no_grad():
        flat = split.first(images)
        assert flat.shape == (3, split.size)
        assert torch.allclose(split.last(flat), trunk(images), atol=1e-5)
    most = 0.7 if name == "convnet" else MOST  # its last layer is that large
    assert LEAST <= parameters(split.last) / parameters(trunk) <= most
    ours = {id(p) for p in trunk.parameters()}
    assert {id(p) for p in split.last.parameters()} <= ours
    assert all(torch.equal(value, trunk.state_dict()[key]) for key, value in before.items())
    assert not trunk.training


def test_the_cut_may_be_named():
    trunk = build_trunk("resnet18")
    split = split_trunk(trunk, (3, 64, 64), at="layer4.1")
    assert trunk.training
    assert parameters(split.last) == parameters(trunk.layer4[1])
    with pytest.raises(ConfigError, match=r"ResNet has no module 'layer5' .*layer4"):
        split_trunk(trunk, (3, 64, 64), at="layer5")


def test_gradients_reach_the_last_part_alone():
    trunk = build_trunk("resnet18").eval()
    split = split_trunk(trunk, (3, 64, 64))
    split.last(split.first(torch.rand(2, 3, 64, 64)).detach()).sum().backward()
    moved = {name for name, p in trunk.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in split.last.named_parameters()}


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, images):
        return self.layer(images.flatten(1)) if images.sum() > 0 else images


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, images):
        flat = images.flatten(1)
        return self.layer(flat) + flat.sum()


@pytest.mark.parametrize(
    ("trunk", "message"), [(Asking(), "cannot be split.*cannot be followed"), (Whole(), "no place")]
)
def test_what_cannot_be_cut_is_said(trunk, message):
    with pytest.raises(ConfigError, match=message):
        split_trunk(trunk, (3, 2, 2))
