"""What a trunk expects of the photographs it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..exceptions import ConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZE_RATIO = 256 / 227
"""Short side after resizing, as a multiple of the crop: the reality check's sizes."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
SMALLEST_CROP = 0.5
"""No trunk wants less. A model's file is a stranger's, and a tiny share would mean a gigantic image."""

LARGEST_NUMBER = 1e6
"""Beyond which a mean or a deviation of pixels in [0, 1] is damaged; it keeps NaN out, too."""


@dataclass(frozen=True)
class TrunkInput:
    """How photographs are brought to a trunk: its normalisation, and how they are resized.

    Args:
        mean: per-channel mean of pixels in [0, 1], which is subtracted.
        std: per-channel standard deviation, by which they are then divided.
        interpolation: of resizing: `"bilinear"`, `"bicubic"`, `"nearest"` or `"lanczos"`.
        crop: share of the resized side that evaluation's centre crop keeps, timm's `crop_pct`; None is the
            reality check's 227/256.
        squash: whether evaluation resizes both sides alike, timm's `crop_mode="squash"`, and not by the
            short side.
        size: side in pixels of the images that its weights were trained on, where that is known. It is there
            to be read: `data.image_size` decides.

    Raises:
        ConfigError: a value is out of range, or mean and std have different lengths.

    Examples:
        >>> TrunkInput.usual("L")
        TrunkInput(mean=(0.5,), std=(0.5,), interpolation='bilinear', crop=None, squash=False, size=None)
        >>> TrunkInput(crop=0.875).resized(112)
        128
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop: float | None = None
    squash: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ConfigError(f"mean and std must be as many, and std above 0, got {self.mean}, {self.std}")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f"interpolation must be one of {INTERPOLATIONS}, got {self.interpolation!r}")
        if self.crop is not None and not (_is_number(self.crop) and SMALLEST_CROP <= self.crop <= 1):
            raise ConfigError(f"crop must be in [{SMALLEST_CROP}, 1], got {self.crop!r}")
        if self.size is not None and not isinstance(self.size, int):
            raise ConfigError(f"size must be a number of pixels or None, got {self.size!r}")

    @classmethod
    def usual(cls, mode: str = "RGB") -> TrunkInput:
        """What is assumed where nothing is known: ImageNet's for `"RGB"`, 0.5 and 0.5 for `"L"`."""
        return cls() if mode == "RGB" else cls(mean=(0.5,), std=(0.5,))

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> TrunkInput:
        """What the description in a model's file says; where it says nothing, the usual was meant.

        Args:
            meta: with `"input"`, as `as_meta` gives it, and `"mode"`.

        Raises:
            ConfigError: it is something else.

        Examples:
            >>> TrunkInput.from_meta({"mode": "RGB"}) == TrunkInput.usual("RGB")
            True
        """
        stored = meta.get("input")
        if stored is None:
            return cls.usual(meta.get("mode", "RGB"))
        if not isinstance(stored, Mapping) or stored.keys() - {field.name for field in fields(cls)}:
            raise ConfigError(f"input must have {', '.join(f.name for f in fields(cls))}, got {stored!r}")
        return cls(**stored)

    def as_meta(self) -> dict[str, Any]:
        """The same as JSON can hold it, for a model's file."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def of_mode(self, mode: str) -> TrunkInput:
        """The same for images in `mode`: grey ones are normalised by the average over the three channels.

        Kernels for RGB are summed for grey images (see `load_trunk_weights`), so they then see nearly what
        they would see of the grey picture in three channels.

        Examples:
            >>> TrunkInput().of_mode("L").mean
            (0.449,)
        """
        if mode == "RGB":
            return self
        mean, std = (round(sum(values) / len(values), 6) for values in (self.mean, self.std))
        return TrunkInput((mean,), (std,), self.interpolation, self.crop, self.squash, self.size)

    def resized(self, image_size: int) -> int:
        """Side after resizing, of which evaluation crops `image_size` pixels; rounded down as timm does."""
        return round(image_size * RESIZE_RATIO) if self.crop is None else math.floor(image_size / self.crop)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or not all(map(_is_number, values)):
        raise ConfigError(f"{name} must be one finite number a channel, got {values!r}")
    return tuple(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER
