import copy

import pytest
import torch

from pml_slade.exceptions import ConfigError, DataError
from pml_slade.models import ConvNet


@pytest.mark.parametrize("size", [16, 28, 33, 84])
def test_any_image_size_gives_output_size_features(size):
    trunk = ConvNet(in_channels=3, width=4)
    assert trunk(torch.randn(2, 3, size, size + 1)).shape == (2, trunk.output_size)


def test_pooling_before_relu_equals_the_order_of_the_literature():
    trunk = ConvNet(width=4)
    images = torch.randn(3, 1, 28, 28)
    expected = images
    for block in trunk.blocks:
        layers = sorted(block, key=lambda layer: isinstance(layer, torch.nn.MaxPool2d))
        for layer in layers:
            expected = copy.deepcopy(layer)(expected)
    expected = trunk.pool(expected).flatten(1)
    torch.testing.assert_close(trunk(images), expected)


def test_every_parameter_gets_a_gradient():
    trunk = ConvNet(width=4)
    trunk(torch.randn(2, 1, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in trunk.parameters())


@pytest.mark.parametrize("shape", [(2, 1, 15, 28), (1, 28, 28)])
def test_images_of_an_unusable_shape_are_refused(shape):
    with pytest.raises(DataError, match="at least 16 pixels"):
        ConvNet(width=4)(torch.zeros(shape))


@pytest.mark.parametrize("argument", ["in_channels", "width", "depth"])
def test_an_argument_below_one_is_refused(argument):
    with pytest.raises(ConfigError, match=f"{argument} is 0"):
        ConvNet(**{argument: 0})
