"""Trunks of pml_slade as powerful-benchmarker takes them."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ..models.trunks import build_trunk


class Trunk(nn.Module):
    """Any trunk of `pml_slade.models`, by name, for powerful-benchmarker's `models: trunk:`.

    Args:
        name: convnet, or a name of torchvision or timm.
        in_channels: 3, or 1 for grey images.
        weights: "default" for the library's, a file, or null.
        options: further arguments of the trunk itself, `width: 16` for convnet say.

    Attributes:
        mean, std, input_space, input_range: how images are normalised for it: ImageNet's for colour, not
            at all for grey.

    Examples:
        >>> import torch
        >>> trunk = Trunk("convnet", in_channels=1, width=8)
        >>> trunk(torch.zeros(2, 1, 28, 28)).shape, trunk.last_linear.in_features
        (torch.Size([2, 128]), 128)
    """

    def __init__(
        self, name: str = "resnet50", in_channels: int = 3, weights: str | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.trunk = build_trunk(name, in_channels, weights, **options)
        # powerful-benchmarker reads the size of the features here, then puts an identity in its place.
        self.last_linear = _Features(self.trunk.output_size)  # type: ignore[arg-type]
        colour = in_channels == 3
        self.mean = list(IMAGENET_DEFAULT_MEAN) if colour else None
        self.std = list(IMAGENET_DEFAULT_STD) if colour else None
        self.input_space = "RGB" if colour else "L"
        self.input_range = [0, 1]

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, height, width) to features (N, in_features)."""
        features: Tensor = self.last_linear(self.trunk(images))
        return features


class _Features(nn.Identity):
    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = in_features
