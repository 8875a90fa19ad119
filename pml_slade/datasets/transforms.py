"""The image transforms of training and evaluation: mild for glyphs, crops for photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from ..exceptions import ConfigError
from .redrawing import CollateViews, Redraw, check_strength
from .trunk_input import TrunkInput

LARGEST_SIDE = 4096
"""Of an image in pixels. A model's file is a stranger's, and a larger side could fill the memory."""

BLUR = 0.1
"""Side of the blur's kernel as a share of the crop's, as in SimCLR."""


class ToFloatTensor:
    """PIL image -> float32 tensor (C, H, W) in [0, 1], normalised if asked.

    Does what `ToImage` + `ToDtype` + `Normalize` of torchvision do in a third of their time, which
    on small images is what a data loader spends most on.

    Args:
        mean: Per-channel mean that is taken off, or None.
        std: Per-channel standard deviation that is divided by, or None.
    """

    def __init__(self, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> None:
        self.mean = None if mean is None else torch.tensor(mean).view(-1, 1, 1)
        self.std = None if std is None else torch.tensor(std).view(-1, 1, 1)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """The image as a tensor (C, H, W)."""
        tensor = v2.functional.pil_to_tensor(image).to(torch.float32).div_(255)
        if self.mean is not None:
            tensor.sub_(self.mean)
        if self.std is not None:
            tensor.div_(self.std)
        return tensor

    def __repr__(self) -> str:
        flat = [None if v is None else v.flatten().tolist() for v in (self.mean, self.std)]
        return f"ToFloatTensor(mean={flat[0]}, std={flat[1]})"


class SquareResize:
    """Resizes to (size, size) when the image has another size; else hands it through.

    Args:
        size: Side in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image in (size, size), squeezed if it was no square."""
        if image.size == (self.size, self.size):
            return image
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def __repr__(self) -> str:
        return f"SquareResize({self.size})"


class TwoViews:
    """Applies a random transform twice.

    Args:
        transform: Called twice with the image.
    """

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        """Both views of one image."""
        return [self.transform(image) for _ in range(2)]

    def __repr__(self) -> str:
        return f"TwoViews({self.transform!r})"


def transforms(
    kind: str,
    image_size: int,
    mode: str = "RGB",
    train: bool = False,
    strength: str = "mild",
    trunk_input: TrunkInput | None = None,
) -> Callable[[Image.Image], torch.Tensor]:
    """Builds the transform of PIL images for one kind of data.

    `"small"` is for glyphs and characters: the image is squeezed to a square; in training it is drawn anew
    by `Redraw(strength)`, the uncovered border black. Values stay in [0, 1].

    `"photo"` resizes the short side to more than `image_size`; in training a random crop (16 to 100 % of the
    area, ratio 0.75 to 1.33), a flip and, if strong, SwAV's changes of colour, else a centre crop; values are
    normalised. By how much, and by what, `trunk_input` says: evaluation is then the pipeline of the trunk's
    own library at this size. Without it, all is the reality check's, which is also the paper's: 256/227 of
    `image_size` (256 for 227), ImageNet's mean and deviation (`"RGB"`) or 0.5 (`"L"`).

    Args:
        kind: `"small"` or `"photo"`.
        image_size: Side of the square output in pixels.
        mode: The dataset's mode, `"RGB"` or `"L"`.
        train: Whether to augment at random.
        strength: `"mild"` or `"strong"`: how much training augments.
        trunk_input: what the trunk expects of photographs (see `models.trunk_input`); None for the reality
            check's.

    Returns:
        A picklable function: PIL image in `mode` -> float32 tensor (C, image_size, image_size).

    Raises:
        ConfigError: `kind`, `mode` or `strength` is unknown, `image_size` is out of range, or `trunk_input`
            is for other channels.

    Examples:
        >>> from PIL import Image
        >>> transforms("small", 28, "L", train=True)(Image.new("L", (28, 28))).shape
        torch.Size([1, 28, 28])
        >>> transforms("photo", 32)(Image.new("RGB", (64, 48))).shape
        torch.Size([3, 32, 32])
    """
    expected = check_kind(kind, image_size, mode, trunk_input)
    check_strength(strength)
    if kind == "small":
        redraw = [Redraw(strength)] if train else []
        return v2.Compose([SquareResize(image_size), ToFloatTensor(), *redraw])
    how, side = interpolation(expected), expected.resized(image_size)
    both_sides = [side, side] if expected.squash and not train else side
    steps: list[Any] = [v2.Resize(both_sides, how, antialias=True)]
    if train:
        area, ratio = (0.16, 1.0), (0.75, 1.33)
        steps += [
            v2.RandomResizedCrop(image_size, area, ratio, how, antialias=True),
            v2.RandomHorizontalFlip(),
            *(photo_colours(image_size, mode) if strength == "strong" else []),
        ]
    else:
        steps.append(v2.CenterCrop(image_size))
    return v2.Compose([*steps, ToFloatTensor(expected.mean, expected.std)])


def batch_transforms(
    kind: str,
    image_size: int,
    mode: str = "RGB",
    strength: str = "mild",
    views: int = 1,
    trunk_input: TrunkInput | None = None,
) -> tuple[Callable[[Image.Image], Any], CollateViews | None]:
    """Builds training's transform as two parts: one for each image, one for each batch.

    Together they augment as `transforms(..., train=True)` does. Drawings are drawn anew a batch at a time,
    which takes a fraction of the time; photographs one by one. With two views, batches are twice as long:
    the first view of all images, then the second of all, and the labels likewise.

    Args:
        kind: `"small"` or `"photo"`.
        image_size: Side of the square output in pixels.
        mode: The dataset's mode, `"RGB"` or `"L"`.
        strength: `"mild"` or `"strong"`.
        views: Views of each image, 1 or 2.
        trunk_input: See `transforms`.

    Returns:
        The transform of a dataset's PIL images, and its loader's `collate_fn`, or None for torch's. Both are
        picklable.

    Raises:
        ConfigError: `views` is neither, and see `transforms`.

    Examples:
        >>> import numpy as np
        >>> from pml_slade.datasets import ImageDataset
        >>> transform, collate_fn = batch_transforms("small", 28, "L", "strong", views=2)
        >>> letters = ImageDataset(np.zeros((3, 28, 28), np.uint8), [0, 1, 2], transform=transform, mode="L")
        >>> images, labels = next(iter(torch.utils.data.DataLoader(letters, 3, collate_fn=collate_fn)))
        >>> images.shape, labels.tolist()
        (torch.Size([6, 1, 28, 28]), [0, 1, 2, 0, 1, 2])
    """
    check_strength(strength)
    if views not in (1, 2):
        raise ConfigError(f"views must be 1 or 2, got {views!r}")
    if kind == "small":
        return transforms(kind, image_size, mode), CollateViews(Redraw(strength), views)
    transform = transforms(kind, image_size, mode, True, strength, trunk_input)
    return (transform, None) if views == 1 else (TwoViews(transform), CollateViews(None, views))


def check_kind(kind: str, image_size: int, mode: str, trunk_input: TrunkInput | None = None) -> TrunkInput:
    """Refuse what `transforms` cannot make; return what the trunk expects, or what is assumed without it."""
    if kind not in ("small", "photo"):
        raise ConfigError(f"kind must be 'small' or 'photo', got {kind!r}")
    if not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1:
        raise ConfigError(f"image_size must be at least 1 pixel, got {image_size!r}")
    if image_size > LARGEST_SIDE:
        raise ConfigError(f"image_size must be at most {LARGEST_SIDE} pixels, got {image_size}")
    if mode not in ("RGB", "L"):
        raise ConfigError(f"mode must be 'RGB' or 'L', got {mode!r}")
    expected = trunk_input or TrunkInput.usual(mode)
    if len(expected.mean) != len(mode):
        raise ConfigError(f"trunk_input is for {len(expected.mean)} channels, and mode is {mode!r}")
    return expected


def interpolation(trunk_input: TrunkInput) -> v2.InterpolationMode:
    """How torchvision is told to resize."""
    return v2.InterpolationMode(trunk_input.interpolation)


def photo_colours(size: int, mode: str) -> list[Any]:
    """SwAV's colour jitter, grey and blur of crops of `size` pixels; grey images only change in light."""
    colours = mode == "RGB"
    jitter = v2.ColorJitter(0.8, 0.8, *((0.8, 0.2) if colours else ()))
    return [
        v2.RandomApply([jitter], p=0.8),
        *([v2.RandomGrayscale(0.2)] if colours else []),
        v2.RandomApply([v2.GaussianBlur(max(round(size * BLUR) // 2 * 2 + 1, 3), (0.1, 2.0))], p=0.5),
    ]
