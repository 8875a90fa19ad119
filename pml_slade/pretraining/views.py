"""The views of an image that SwAV compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from ..checks import check_int
from ..datasets.redrawing import Redraw
from ..datasets.transforms import SquareResize, ToFloatTensor, check_kind, interpolation, photo_colours
from ..datasets.trunk_input import TrunkInput
from ..exceptions import ConfigError

GLOBAL_AREA, LOCAL_AREA = (0.14, 1.0), (0.05, 0.14)
"""Shares of a photograph that crops show, as in the authors' scripts."""

LOCAL_SIZE = 96 / 224
"""Side of a local crop as a share of a global one's."""

SMALL_LOCAL_AREA, SMALL_LOCAL_SIZE = (0.2, 0.5), 5 / 7
"""Likewise for drawings."""


class MultiCrop:
    """Makes the views of an image: two global crops, then any number of local ones (Caron et al., Sec. 3.3).

    Args:
        global_transform: random; called twice with the image.
        local_transform: random, to a smaller size; called `num_local` times.
        num_local: local views of an image.

    Raises:
        ConfigError: `num_local` is negative, or does not fit to `local_transform`.

    Examples:
        >>> from PIL import Image
        >>> from pml_slade.datasets import transforms
        >>> large, small = (transforms("photo", size, train=True) for size in (32, 16))
        >>> views = MultiCrop(large, small, num_local=3)(Image.new("RGB", (48, 48)))
        >>> [view.shape[-1] for view in views]
        [32, 32, 16, 16, 16]
    """

    def __init__(
        self,
        global_transform: Callable[[Any], Tensor],
        local_transform: Callable[[Any], Tensor] | None = None,
        num_local: int = 0,
    ) -> None:
        check_int("num_local", num_local, at_least=0)
        if (num_local > 0) != (local_transform is not None):
            raise ConfigError(
                f"num_local is {num_local} and local_transform is {local_transform!r}: give both, for local "
                "views, or neither."
            )
        self.global_transform = global_transform
        self.local_transform = local_transform
        self.num_local = num_local

    def __call__(self, image: Any) -> list[Tensor]:
        """The views of one image, global ones first."""
        views = [self.global_transform(image) for _ in range(2)]
        if self.local_transform is not None:
            views += [self.local_transform(image) for _ in range(self.num_local)]
        return views

    def __repr__(self) -> str:
        return f"MultiCrop({self.global_transform!r}, {self.local_transform!r}, num_local={self.num_local})"


def swav_views(
    kind: str, image_size: int, mode: str = "RGB", num_local: int = 0, trunk_input: TrunkInput | None = None
) -> MultiCrop:
    """Build the views of one kind of data.

    `"photo"`: the authors' crops (14 to 100 % of the area, local ones 5 to 14 %), flips, colour jitter, grey
    and blur; of grey images, only brightness and contrast change. `"small"`, for glyphs and characters, is
    ours: what changes from hand to hand, which is turning and shearing by up to 15 degrees, moving by up to
    a tenth, scaling by 0.8 to 1.2 and an elastic distortion; local views are crops of 20 to 50 % of that.

    Args:
        kind: `"photo"` or `"small"`.
        image_size: side of the global views in pixels; local ones have 96/224 of it, those of `"small"` 5/7.
        mode: the dataset's mode, `"RGB"` or `"L"`.
        num_local: local views of an image.
        trunk_input: what the trunk expects of photographs, see `datasets.transforms`.

    Returns:
        A picklable function: PIL image in `mode` -> list of float32 tensors (C, side, side), global views
        first.

    Raises:
        ConfigError: `kind` or `mode` is unknown, `image_size` is out of range, `num_local` is negative, or
            `trunk_input` is for other channels.

    Examples:
        >>> from PIL import Image
        >>> views = swav_views("photo", 64, num_local=2)(Image.new("RGB", (80, 60)))
        >>> [tuple(view.shape) for view in views]
        [(3, 64, 64), (3, 64, 64), (3, 27, 27), (3, 27, 27)]
    """
    expected = check_kind(kind, image_size, mode, trunk_input)
    if kind == "small":
        whole = [SquareResize(image_size), ToFloatTensor(), Redraw("strong")]
        crop = v2.RandomResizedCrop(local_size(image_size, kind), SMALL_LOCAL_AREA, antialias=True)
        steps = {"global": whole, "local": [*whole, crop]}
    else:
        steps = {
            "global": _photo(image_size, GLOBAL_AREA, mode, expected),
            "local": _photo(local_size(image_size, kind), LOCAL_AREA, mode, expected),
        }
    large, small = (v2.Compose(steps[use]) for use in ("global", "local"))
    return MultiCrop(large, small if num_local else None, num_local)


def local_size(image_size: int, kind: str) -> int:
    """Side of the local views in pixels, where the global ones have `image_size`."""
    return round(image_size * (LOCAL_SIZE if kind == "photo" else SMALL_LOCAL_SIZE))


def _photo(size: int, area: tuple[float, float], mode: str, expected: TrunkInput) -> list[Any]:
    return [
        v2.RandomResizedCrop(size, area, interpolation=interpolation(expected), antialias=True),
        v2.RandomHorizontalFlip(),
        *photo_colours(size, mode),
        ToFloatTensor(expected.mean, expected.std),
    ]
