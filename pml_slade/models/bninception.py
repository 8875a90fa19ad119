"""BN-Inception, the trunk of the reality check and of many papers before it, as our transforms feed it."""

import importlib
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from pml_slade.exceptions import ConfigError, DataError

_GRAY = ((0.5,), (0.5,))  # mean and standard deviation


class BGRInput(nn.Module):
    """Turns normalised images into what BN-Inception's weights expect: BGR in 0..255, less a mean.

    It undoes the normalisation of `transforms("photo", ...)`: ImageNet's for RGB, 0.5 for gray. A gray
    image goes into all three channels, so that the network sees the same picture as in RGB.
    The buffers are no part of the state dict.

    Args:
        in_channels: 3 for RGB, 1 for gray.
        mean: of the three channels in BGR, in 0..255; the published weights have 104, 117, 128.

    Raises:
        ConfigError: `in_channels` is neither 1 nor 3.

    Examples:
        >>> white = torch.ones(1, 1, 1, 1)  # (1 - 0.5) / 0.5
        >>> BGRInput(1, mean=(104, 117, 128))(white).flatten()
        tensor([151., 138., 127.])
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, in_channels: int, mean: tuple[float, ...]) -> None:
        super().__init__()
        if in_channels not in (1, 3):
            raise ConfigError(
                f"in_channels is {in_channels}; bninception takes 3, for RGB, or 1, for gray images."
            )
        self.in_channels = in_channels
        means, stds = _GRAY if in_channels == 1 else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        scale, offset = (255 * torch.tensor(values[::-1]).view(-1, 1, 1) for values in (stds, means))
        shift = offset - torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Convert the images.

        Args:
            images: normalised, shape (N, in_channels, height, width).

        Returns:
            Images of shape (N, 3, height, width).

        Raises:
            DataError: the images have another shape.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise DataError(
                f"images have the shape {tuple(images.shape)}; pass (N, {self.in_channels}, height, width)."
            )
        return images.flip(1) * self.scale + self.shift  # the shift has three channels, for gray too


def import_bninception() -> Any:
    """Import the module of `pretrainedmodels` that has the network and where its weights are.

    Returns:
        The module `pretrainedmodels.models.bninception`.

    Raises:
        ConfigError: the library is not installed.
    """
    try:  # optional, and slow to import; by its name, because the package hides it behind its function
        return importlib.import_module("pretrainedmodels.models.bninception")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'bninception needs pretrainedmodels ({error}): pip install "pml-slade[bninception]".'
        ) from error


def as_trunk(network: nn.Module, in_channels: int, mean: tuple[float, ...]) -> nn.Module:
    """Give the library's network our input and flat features; keys of the state dict stay as they are.

    Args:
        network: `BNInception` of `pretrainedmodels`.
        in_channels: see `BGRInput`.
        mean: see `BGRInput`.

    Returns:
        The same network, which now takes normalised images of any size and gives 1024 features.

    Raises:
        ConfigError: see `BGRInput`.
    """
    network.input_step = BGRInput(in_channels, mean)
    network.register_forward_pre_hook(_convert)
    network.global_pool = nn.AdaptiveAvgPool2d(1)  # the library's is 7x7, right for 224 pixels alone
    network.last_linear = nn.Identity()
    return network


def _convert(network: Any, images: tuple[Tensor]) -> tuple[Tensor]:
    return (network.input_step(*images),)
