"""ImageDataset: files or an array in memory -> (image, label), the one dataset of this package."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..exceptions import ConfigError, DataError
from .decoding import read_image, to_mode
from .paths import Paths

MODES = ("RGB", "L")
NO_LABEL = -1


class LazyImages(Protocol):
    """Images that are read when they are asked for, see `adapting.Items` and `shards.Shards`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image | bytes: ...

    def chosen(self, indices: np.ndarray) -> LazyImages:
        """Those at some positions."""


class ImageDataset(Dataset[tuple[Any, int]]):
    """Images with or without class labels, as a map-style dataset of `(image, label)`.

    Args:
        images: Paths of image files, or a uint8 array of shape (N, H, W) or (N, H, W, 3).
        labels: N class indices >= 0, or None for unlabeled images, which then come with label -1.
        classes: Class names, `classes[label]`; or None.
        transform: Called with the PIL image; None yields the PIL image itself.
        mode: `"RGB"` or `"L"`: what every image is converted to before `transform`.

    Attributes:
        labels: int64 array of length N, or None.
        classes: List of names, or None.

    Raises:
        DataError: Images, labels and classes do not fit each other.
        ConfigError: `mode` is neither `"RGB"` nor `"L"`.

    Examples:
        >>> import numpy as np
        >>> squares = np.zeros((4, 8, 8), dtype=np.uint8)
        >>> data = ImageDataset(squares, [0, 0, 1, 1], classes=["cat", "dog"], mode="L")
        >>> data[3][0].size, data[3][1], len(data.subset([0, 2]))
        ((8, 8), 1, 2)
        >>> data.without_labels()[3][1]
        -1
    """

    def __init__(
        self,
        images: Sequence[str | os.PathLike[str]] | np.ndarray | LazyImages,
        labels: Iterable[int] | np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        transform: Callable[[Image.Image], Any] | None = None,
        mode: str = "RGB",
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"mode must be one of {MODES}, got {mode!r}")
        self._images = _checked_images(images)
        self.classes = None if classes is None else [str(name) for name in classes]
        self.labels = None if labels is None else _checked_labels(labels, len(self._images), self.classes)
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.image(index)
        label = NO_LABEL if self.labels is None else int(self.labels[index])
        return (image if self.transform is None else self.transform(image)), label

    def __repr__(self) -> str:
        if self.labels is None:
            return f"ImageDataset({len(self)} images, unlabeled, {self.mode})"
        return f"ImageDataset({len(self)} images, {self.num_classes} classes, {self.mode})"

    @property
    def num_classes(self) -> int:
        """How many different labels occur; 0 without labels."""
        return 0 if self.labels is None else len(np.unique(self.labels))

    def known_labels(self) -> np.ndarray:
        """The labels, where something cannot do without them.

        Returns:
            int64 array of length N.

        Raises:
            DataError: The dataset is unlabeled.
        """
        if self.labels is None:
            raise DataError("this needs labels, and the dataset has none; give labeled images")
        return self.labels

    def image(self, index: int) -> Image.Image:
        """The image in `mode`, before the transform.

        Args:
            index: Position in the dataset; negative ones count from the end.

        Returns:
            A PIL image.

        Raises:
            DataError: The file cannot be read; the message names the file and the index.
        """
        position = operator.index(index)
        item = self._images[position]
        if isinstance(item, (np.ndarray, Image.Image)):
            return to_mode(Image.fromarray(item) if isinstance(item, np.ndarray) else item, self.mode)
        try:
            return read_image(item, self.mode)
        except DataError as error:
            where = f"{position} ({self.name(position)})" if isinstance(item, bytes) else position
            raise DataError(f"index {where}: {error}") from error

    @property
    def are_files(self) -> bool:
        """Whether the images are files, read when they are asked for."""
        return isinstance(self._images, Paths)

    def name(self, index: int) -> str:
        """The image's path, in a shard that of the shard and its name there, or `"#index"` in memory."""
        names = self._images if self.are_files else getattr(self._images, "names", None)
        return f"#{index}" if names is None else str(names[index])

    def names(self) -> list[str]:
        """The name of each image, see `name`."""
        return [self.name(i) for i in range(len(self))]

    def raw_images(self) -> Iterable[Any]:
        """Each image as it is held: the path of a file or its bytes, an array in memory, or a PIL image."""
        return (self._images[i] for i in range(len(self)))

    def subset(self, indices: Iterable[int] | np.ndarray) -> ImageDataset:
        """The images at `indices`, in that order; labels keep their meaning.

        Args:
            indices: Positions in this dataset, or a boolean mask of length N.

        Returns:
            A new dataset with the same classes, transform and mode.

        Raises:
            DataError: An index lies outside the dataset, or a mask has the wrong length.
        """
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise DataError(f"indices: a mask of shape {chosen.shape} for {len(self)} images")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64) if chosen.size == 0 else chosen
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise DataError(f"indices must be a flat list of integers, got {chosen.dtype}")
        if chosen.size and not (-len(self) <= chosen.min() and chosen.max() < len(self)):
            raise DataError(
                f"indices run from {chosen.min()} to {chosen.max()}, but the dataset holds {len(self)} images"
            )
        part = copy.copy(self)
        is_array = isinstance(self._images, np.ndarray)
        part._images = self._images[chosen] if is_array else self._images.chosen(chosen)
        part.labels = None if self.labels is None else self.labels[chosen]
        return part

    def with_transform(self, transform: Callable[[Image.Image], Any] | None) -> ImageDataset:
        """A shallow copy that applies `transform`; the images are shared."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def without_labels(self) -> ImageDataset:
        """A shallow copy that knows neither labels nor classes; the images are shared."""
        other = copy.copy(self)
        other.labels, other.classes = None, None
        return other

    def relabel(self) -> ImageDataset:
        """A shallow copy whose labels are 0..C-1 in the old order; classes that are gone go.

        Returns:
            A dataset with consecutive labels; an unlabeled one comes back as it is.
        """
        other = copy.copy(self)
        if self.labels is not None:
            present, other.labels = np.unique(self.labels, return_inverse=True)
            if self.classes is not None:
                other.classes = [self.classes[label] for label in present]
        return other


def _checked_images(
    images: Sequence[str | os.PathLike[str]] | np.ndarray | LazyImages,
) -> Any:
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OU":
        fits = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
        if images.dtype != np.uint8 or not fits:
            raise DataError(
                "images must be a uint8 array (N, H, W) or (N, H, W, 3) or a list of paths, "
                f"got {images.dtype} of shape {images.shape}"
            )
        return images
    if isinstance(images, (str, bytes, os.PathLike)):
        raise DataError(
            f"images must be a list of paths, got the single path {images!r}; "
            "to read a folder use image_folder"
        )
    if hasattr(images, "chosen"):  # see `LazyImages`
        return images
    try:
        return Paths(images)
    except TypeError as error:
        raise DataError(f"images must be paths or a uint8 array: {error}") from error


def _checked_labels(labels: Iterable[int] | np.ndarray, length: int, classes: list[str] | None) -> np.ndarray:
    array = np.asarray(labels if hasattr(labels, "__array__") else list(labels))
    array = array.astype(np.int64) if array.size == 0 else array
    if array.shape != (length,):
        raise DataError(f"labels have shape {array.shape} for {length} images; give one per image")
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"labels must be integers, got {array.dtype}; put the names into `classes`")
    array = array.astype(np.int64)
    if array.size and array.min() < 0:
        raise DataError(f"labels must be >= 0, got {array.min()}; use labels=None for unlabeled")
    if array.size and classes is not None and array.max() >= len(classes):
        raise DataError(f"label {array.max()} has no name: classes holds {len(classes)}")
    return array
