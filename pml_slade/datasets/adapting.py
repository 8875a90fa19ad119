"""Data sets and images from elsewhere as an ImageDataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..exceptions import DataError
from .images import ImageDataset


class Items:
    """The images of a map-style data set, read when they are asked for.

    Args:
        dataset: its items are PIL images, or tuples that begin with one.
        indices: which of them.
    """

    def __init__(self, dataset: Any, indices: np.ndarray | None = None) -> None:
        self.dataset = dataset
        self.indices = np.arange(len(dataset)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Image.Image:
        item = self.dataset[int(self.indices[index])]
        image = item[0] if isinstance(item, (tuple, list)) else item
        if not isinstance(image, Image.Image):
            raise DataError(
                f"dataset items must be PIL images or (PIL image, label), got {type(image).__name__}: make "
                "the data set without a transform, since training brings its own."
            )
        return image

    def chosen(self, indices: np.ndarray) -> Items:
        """Those at some positions."""
        return Items(self.dataset, self.indices[indices])


def as_images(images: Any, mode: str = "RGB") -> ImageDataset:
    """Return images as an ImageDataset.

    Args:
        images: an ImageDataset; a list of paths or PIL images; a uint8 array; a map-style data set of
            (PIL image, label), such as torchvision's without a transform.
        mode: "RGB" or "L".

    Raises:
        DataError: something else.

    Examples:
        >>> pictures = [Image.new("L", (4, 4)), Image.new("L", (4, 4))]
        >>> as_images(list(zip(pictures, [0, 1])), mode="L")
        ImageDataset(2 images, 2 classes, L)
    """
    if isinstance(images, ImageDataset):
        return images
    if isinstance(images, np.ndarray) or _are_paths(images):
        return ImageDataset(images, mode=mode)
    if not hasattr(images, "__getitem__") or not hasattr(images, "__len__") or len(images) == 0:
        raise DataError(
            "images must be a folder, a list of paths or PIL images, a uint8 array or a map-style data set "
            f"that is not empty, got {type(images).__name__}."
        )
    samples = getattr(images, "samples", None)  # torchvision's folders
    if isinstance(samples, list) and samples and _are_paths([samples[0][0]]):
        paths, labels = zip(*samples)
        return ImageDataset(paths, labels, getattr(images, "classes", None), mode=mode)
    return ImageDataset(Items(images), _labels(images), mode=mode)


def _are_paths(images: Any) -> bool:
    return isinstance(images, Sequence) and len(images) > 0 and isinstance(images[0], (str, os.PathLike))


def _labels(dataset: Any) -> Any:
    for name in ("labels", "targets"):
        if getattr(dataset, name, None) is not None:
            return np.asarray(getattr(dataset, name))
    first = dataset[0]
    if not isinstance(first, (tuple, list)) or len(first) < 2:
        return None
    return [dataset[i][1] for i in range(len(dataset))]
