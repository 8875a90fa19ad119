"""The small trunk for small images."""

import torch
from torch import Tensor, nn

from pml_slade.exceptions import ConfigError, DataError

_GRID = 2


class ConvNet(nn.Module):
    """The ConvNet of the few-shot literature: blocks of 3x3 convolution, BN, ReLU and max-pooling.

    Blocks grow wider as the image shrinks: block i has `i * width` channels.
    The last block pools to a fixed 2x2 grid, so that images of any size give the same features.
    The weights lie in channels-last order, which is the faster one on a CPU as on a GPU.

    Args:
        in_channels: channels of the images.
        width: channels of the first block.
        depth: number of blocks; images need a side of at least `2 ** depth` pixels.

    Attributes:
        output_size: number of features, `4 * depth * width`.

    Raises:
        ConfigError: an argument is below 1.

    Examples:
        >>> trunk = ConvNet(in_channels=1, width=8)
        >>> trunk.output_size
        128
        >>> trunk(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 128])
    """

    def __init__(self, in_channels: int = 1, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        for name, value in {"in_channels": in_channels, "width": width, "depth": depth}.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; pass 1 or more.")
        self.min_image_size = 2**depth
        self.output_size = depth * width * _GRID**2
        last = depth - 1
        self.blocks = nn.Sequential(
            *(_block(i * width if i else in_channels, (i + 1) * width, pool=i < last) for i in range(depth))
        )
        self.pool = nn.AdaptiveAvgPool2d(_GRID)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features.

        Args:
            images: float, shape (N, in_channels, height, width).

        Returns:
            Features of shape (N, output_size).

        Raises:
            DataError: the images have another rank, or are too small for the depth.
        """
        images = _checked(images, self.min_image_size)
        features = self.blocks(images.contiguous(memory_format=torch.channels_last))
        return self.pool(features).flatten(1)


@torch.fx.wrap  # one step, where the code is followed
def _checked(images: Tensor, least: int) -> Tensor:
    if images.ndim != 4 or min(images.shape[-2:]) < least:
        raise DataError(
            f"images have the shape {tuple(images.shape)}; pass (N, channels, height, width) "
            f"with sides of at least {least} pixels, or lower the depth."
        )
    return images


def _block(in_channels: int, width: int, pool: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),  # BN brings the bias
        nn.BatchNorm2d(width),
    ]
    if pool:  # pooling before ReLU gives the same values as after it, on a quarter of the pixels
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
