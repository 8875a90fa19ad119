"""Images in tar shards as webdataset writes them: read at random, so that nothing differs from files."""

from __future__ import annotations

import copy
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..exceptions import DataError
from .decoding import IMAGE_SUFFIXES
from .images import ImageDataset
from .paths import Paths

CLASS = ".cls"
"""Suffix of a sample's class, a number, in webdataset's format."""


class Shards:
    """The image files in tar files, by where their bytes lie.

    Attributes:
        names: of the images, `shard.tar/key.jpg`.
        labels: (N,) the classes that stand beside them, -1 where none does.
    """

    def __init__(self, files: Iterable[str | os.PathLike[str]]) -> None:
        self._files = [os.fspath(file) for file in files]
        names, places, labels = [], [], []
        for shard, file in enumerate(self._files):
            for image, offset, size, label in _samples(file):
                names.append(os.path.join(file, image))
                places.append((shard, offset, size))
                labels.append(label)
        self.names = Paths(names)
        self._places = np.array(places, dtype=np.int64).reshape(-1, 3)
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> bytes:
        """The bytes of an image's file."""
        shard, offset, size = self._places[index].tolist()
        with open(self._files[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)

    def chosen(self, indices: np.ndarray) -> Shards:
        """Those at some positions."""
        part = copy.copy(self)
        part.names, part._places = self.names.chosen(indices), self._places[indices]
        part.labels = self.labels[indices]
        return part


def image_shards(
    files: Iterable[str | os.PathLike[str]],
    transform: Callable[[Image.Image], Any] | None = None,
    mode: str = "RGB",
    labeled: bool = True,
) -> ImageDataset:
    """Reads tar files in webdataset's format: files of one key, `key.jpg` and `key.cls`, are a sample.

    Args:
        files: Tar files, which are not compressed. The order is theirs, and that of the images in them.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        labeled: Whether to read the class of each sample, a number in `key.cls`.

    Returns:
        The dataset; nothing is decoded yet. Images are read at random, from where they lie in the shards.

    Raises:
        DataError: A file is no tar file, there is no image, a key stands twice, or, labeled, a class is
            missing or no number.

    Examples:
        >>> import io, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with tarfile.open(f"{folder}/0.tar", "w") as tar:
        ...         for name, content in (("a.ppm", b"P6 1 1 255 abc"), ("a.cls", b"7")):
        ...             member = tarfile.TarInfo(name)
        ...             member.size = len(content)
        ...             tar.addfile(member, io.BytesIO(content))
        ...     data = image_shards([f"{folder}/0.tar"])
        ...     data[0][0].getpixel((0, 0)), data[0][1]
        ((97, 98, 99), 7)
    """
    shards = Shards(files)
    if not len(shards):
        raise DataError(f"{', '.join(map(str, files))}: no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in it")
    if not labeled:
        return ImageDataset(shards, transform=transform, mode=mode)
    if (missing := np.flatnonzero(shards.labels < 0)).size:
        raise DataError(
            f"{shards.names[missing[0]]} has no class: {len(missing)} of {len(shards)} samples lack a "
            f"{CLASS} file with a number; add it, or read them as unlabeled with labeled=False"
        )
    return ImageDataset(shards, shards.labels, transform=transform, mode=mode)


def shards_in(folder: Path) -> list[Path]:
    """The tar files in a folder, by name; none where images or folders lie beside them."""
    try:
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []  # whoever reads the folder says so
    if any(e.is_dir() or os.path.splitext(e.name)[1].lower() in IMAGE_SUFFIXES for e in seen):
        return []
    return sorted(folder / e.name for e in seen if e.name.endswith(".tar"))


def _samples(file: str) -> Iterator[tuple[str, int, int, int]]:
    """Name, offset and size of each image of a tar file, and its class or -1."""
    images: dict[str, tuple[str, int, int]] = {}
    classes: dict[str, int] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                folder, name = os.path.split(member.name)
                stem, dot, suffix = name.partition(".")
                key, suffix = os.path.join(folder, stem), dot + suffix.lower()
                if not member.isreg():
                    continue
                if suffix == CLASS:
                    classes[key] = _number(file, member.name, tar.extractfile(member))
                elif os.path.splitext(suffix)[1] in IMAGE_SUFFIXES or suffix in IMAGE_SUFFIXES:
                    if key in images:
                        raise DataError(f"{file}: the key {key!r} has two images; give each a key of its own")
                    images[key] = (member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{file} cannot be read as a tar file that is not compressed: {error}") from None
    for key, (name, offset, size) in images.items():
        yield name, offset, size, classes.get(key, -1)


def _number(file: str, name: str, content: Any) -> int:
    text = content.read(32)
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise DataError(f"{file}: {name} must hold the number of a class, 0 or more, got {text!r}")
    return number
