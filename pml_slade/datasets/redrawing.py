"""Redrawing: what changes from one drawing of a character to the next, on whole batches of images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from ..exceptions import ConfigError, DataError


class Hand(NamedTuple):
    """How far one drawing may be from the next: bounds to both sides, and whether strokes bend."""

    turn: float
    """Degrees."""
    shear: float
    """Degrees, along the rows."""
    scale: float
    """Share of the size."""
    shift: float
    """Share of each side."""
    elastic: bool


STRENGTHS = {"mild": Hand(10, 5, 0.1, 0.1, False), "strong": Hand(15, 15, 0.2, 0.1, True)}

BEND, SMOOTHNESS, SIDE = 20.0, 3.0, 28
"""alpha and sigma of the elastic distortion in pixels, at the side for which they were chosen."""


class Redraw(torch.nn.Module):
    """Draws every image anew: turned, sheared, scaled, shifted and, if strong, bent, each by its own measure.

    `"mild"` turns by up to 10 degrees, shears by 5, scales by 0.9 to 1.1 and shifts by up to a tenth of each
    side. `"strong"`, another hand's: 15 degrees, 15, 0.8 to 1.2, a tenth, and an elastic distortion. Both are
    distributed as `RandomAffine` and `ElasticTransform` of torchvision are, but shifts are not whole pixels,
    and pixels are interpolated once. What comes in from outside is 0: made for white strokes on black.

    Randomness comes from torch's global generator of the images' device.

    Args:
        strength: `"mild"` or `"strong"`.

    Raises:
        ConfigError: `strength` is unknown.

    Examples:
        >>> letters = torch.zeros(64, 1, 28, 28)
        >>> letters[:, :, 4:24, 12:16] = 1
        >>> drawn = Redraw("strong")(letters)
        >>> drawn.shape, torch.equal(drawn[0], drawn[1])
        (torch.Size([64, 1, 28, 28]), False)
    """

    def __init__(self, strength: str = "mild") -> None:
        super().__init__()
        check_strength(strength)
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        """Redraw a batch or one image.

        Args:
            images: Float tensor (N, C, H, W) or (C, H, W); it stays as it is.

        Returns:
            A new tensor of the same shape, dtype and device.

        Raises:
            DataError: `images` is no float tensor of that shape.
        """
        _check_images(images)
        batch = images if images.ndim == 4 else images[None]
        inverse, shift, displacement = draw_hands(STRENGTHS[self.strength], batch)
        return resample(batch, inverse, shift, displacement).view_as(images)

    def extra_repr(self) -> str:
        """The strength."""
        return repr(self.strength)


class CollateViews:
    """Collates items as `default_collate` does, and makes the views of their images: all first ones first.

    Items are tuples `(image, ...)`; whatever follows the image, such as its label, comes once per view.

    Args:
        redraw: Makes the views of a batch of images; None if the items bring lists of views as images.
        views: Views per item.

    Examples:
        >>> collate = CollateViews(Redraw("mild"), views=2)
        >>> images, labels = collate([(torch.zeros(1, 28, 28), 5), (torch.ones(1, 28, 28), 7)])
        >>> images.shape, labels.tolist()
        (torch.Size([4, 1, 28, 28]), [5, 7, 5, 7])
    """

    def __init__(self, redraw: Redraw | None, views: int = 1) -> None:
        self.redraw = redraw
        self.views = views

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        """The batch, `views` times as long as `items`.

        Raises:
            DataError: The items are no tuples.
        """
        if not isinstance(items[0], (tuple, list)):
            raise DataError(f"items must be tuples (image, ...), got {type(items[0]).__name__}")
        if self.redraw is None:
            return default_collate([(item[0][i], *item[1:]) for i in range(self.views) for item in items])
        images, *others = default_collate([*items] * self.views)
        return [self.redraw(images), *others]

    @property
    def by_item(self) -> bool:
        """Whether an item comes out the same, whatever the others are: nothing is drawn for all at once."""
        return self.redraw is None

    @property
    def plain(self) -> Callable[[list[Any]], Any]:
        """Collates images that are embedded: one view, unchanged."""
        return default_collate

    def __repr__(self) -> str:
        return f"CollateViews({self.redraw!r}, views={self.views})"


def draw_hands(hand: Hand, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw what `resample` needs for each image, uniformly within the bounds.

    Args:
        hand: The bounds.
        images: (N, C, H, W); their size and device count.

    Returns:
        (N, 2, 2) from `inverse_affine`, (N, 2) shifts in pixels, x first, and the displacements or None.
    """
    (n, _, height, width), device = images.shape, images.device
    angles = (math.radians(hand.turn), math.radians(hand.shear))
    bounds = torch.tensor([*angles, hand.scale, hand.shift * width, hand.shift * height], device=device)
    drawn = torch.empty(n, 5, device=device).uniform_(-1, 1) * bounds
    turn, shear, scale = drawn[:, :3].unbind(1)
    displacement = elastic_displacement(n, height, width, device) if hand.elastic else None
    return inverse_affine(turn, shear, 1 + scale), drawn[:, 3:], displacement


def inverse_affine(turn: Tensor, shear: Tensor, scale: Tensor) -> Tensor:
    """The inverse of shearing along the rows, then scaling, then turning, as torchvision's `affine` does it.

    Args:
        turn: (N,) angles in radians, clockwise.
        shear: (N,) angles in radians.
        scale: (N,) factors.

    Returns:
        (N, 2, 2): where in the image what is seen at (x, y) comes from, about its centre.
    """
    cos, sin, tan = turn.cos(), turn.sin(), shear.tan()
    rows = torch.stack([cos - sin * tan, sin + cos * tan, -sin, cos], 1)
    return (rows / scale[:, None]).view(-1, 2, 2)


def elastic_displacement(n: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Draw smooth random displacements: those of `ElasticTransform(alpha, sigma)` in pixels.

    At a side of 28 pixels, sigma is 3 and alpha 20. sigma grows with the side; alpha with its square, since
    blurring takes 1 / sigma of the noise away. Of images that are not square, the shorter side counts.

    Args:
        n: Images.
        height: Pixels.
        width: Pixels.
        device: Of the result.

    Returns:
        (N, 2, H, W), x first.
    """
    ratio = min(height, width) / SIDE
    noise = torch.empty(n, 2, height, width, device=device).uniform_(-1, 1)
    rows, columns = (_blur(size, SMOOTHNESS * ratio, noise.device, noise.dtype) for size in (height, width))
    # torchvision takes alpha / side in coordinates from -1 to 1, which is alpha / 2 pixels.
    return (rows @ noise @ columns.mT) * (BEND * ratio**2 / 2)


def resample(images: Tensor, inverse: Tensor, shift: Tensor, displacement: Tensor | None = None) -> Tensor:
    """Show each image through an affine map about its centre, a shift, then a displacement.

    Args:
        images: (N, C, H, W), float.
        inverse: (N, 2, 2) from `inverse_affine`.
        shift: (N, 2) in pixels, to the right and down.
        displacement: (N, 2, H, W) in pixels: how far from each pixel to look; or None.

    Returns:
        (N, C, H, W), interpolated linearly, 0 outside of the image.
    """
    height, width = images.shape[2:]
    x, y = (torch.arange(size, device=images.device) - (size - 1) / 2 for size in (width, height))
    right, down = shift[:, :, None, None].unbind(1)
    x, y = x - right, y[:, None] - down
    if displacement is not None:
        x, y = x + displacement[:, 0], y + displacement[:, 1]
    # Two sums: matrix products of this shape, tiny matrices by the thousand, are slow.
    (xx, xy), (yx, yy) = (row.unbind(1) for row in inverse[..., None, None].unbind(1))
    grid = torch.stack([(xx * x + xy * y) * (2 / width), (yx * x + yy * y) * (2 / height)], -1)
    # Half precision has too few digits for the coordinates, and no kernel on some devices.
    exact = images if images.dtype == torch.float64 else images.float()
    return F.grid_sample(exact, grid.to(exact.dtype), align_corners=False).to(images.dtype)


def check_strength(strength: str) -> None:
    """Refuse a strength that `Redraw` does not know."""
    if strength not in list(STRENGTHS):
        raise ConfigError(f"strength must be {' or '.join(map(repr, STRENGTHS))}, got {strength!r}")


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise DataError(f"images must be a tensor, got {type(images).__name__}; use ToFloatTensor first")
    if images.ndim not in (3, 4) or not images.is_floating_point():
        raise DataError(
            "images must be a float tensor of shape (N, C, H, W) or (C, H, W), "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )


@lru_cache(maxsize=8)
def _blur(size: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(size, size): the Gaussian blur of a line of pixels as a matrix, borders reflected."""
    half = int(8 * sigma + 1) // 2
    kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma) ** 2)
    lines = F.pad(torch.eye(size)[:, None], (half, half), mode="reflect")
    return F.conv1d(lines, (kernel / kernel.sum()).view(1, 1, -1))[:, 0].T.to(device, dtype)
