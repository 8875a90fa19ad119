"""A look at every image before any is trained on: what cannot be read, and what is odd."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from .decoding import open_image, read_image
from .images import ImageDataset

TINY = 16
"""Pixels of the shorter side below which an image shows hardly anything."""
TINY_SHARE = 8
"""A shorter side this many times shorter than usual is tiny, too."""
LONG = 5.0
"""Ratio of the sides from which a centre crop loses most of an image."""
BLANK = 2.0
"""Standard deviation of the grey values (0 to 255) below which an image shows nothing."""
BLOCK = 1024
NEAR_END = 1 << 15
"""Bytes, in which some cameras put more than the image."""
_ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PN": b"IEND"}
COMMON_MODES = frozenset(["RGB", "L", "P", "RGBA", "1", "LA", "PA"])
ENCODED = (str, os.PathLike, bytes)
"""What an image file is held as: its path, or its bytes."""
T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What one image looks like.

    Attributes:
        size: width and height in pixels as stored, (0, 0) where it cannot be read.
        error: why it cannot be read, or None.
        odd: what is unusual about it, for people.
        pixels: digest of its decoded pixels, where it was decoded.
    """

    size: tuple[int, int] = (0, 0)
    error: str | None = None
    odd: tuple[str, ...] = ()
    pixels: bytes | None = None


@dataclass
class Findings:
    """What is wrong with a list of images; each by position, with words for people.

    Attributes:
        unreadable: and why.
        tiny: and their sizes.
        odd: and what is.
        alone: classes that have a single image, and that image.
    """

    unreadable: dict[int, str] = field(default_factory=dict)
    tiny: dict[int, str] = field(default_factory=dict)
    odd: dict[int, str] = field(default_factory=dict)
    alone: dict[str, int] = field(default_factory=dict)


def look_at(images: ImageDataset, decode: bool = False, threads: int | None = None) -> Iterator[Look]:
    """Look at each image of a data set, in order; those in memory can be read.

    Args:
        images: to look at.
        decode: read them whole; else their headers, which a damaged file may have kept, and whether a JPEG
            or PNG file has its end.
        threads: how many are read at a time; None: four a CPU, for disks that answer late.

    Examples:
        >>> import numpy as np
        >>> [look.error for look in look_at(ImageDataset(np.zeros((2, 8, 8), np.uint8)))]
        [None, None]
    """
    look = _decoded if decode else _both_ends
    return in_threads(look, images.raw_images(), threads)


def unreadable(images: ImageDataset, decode: bool = False) -> dict[int, str]:
    """Positions of the image files that cannot be read, and why; from headers alone, or decoded."""
    if not isinstance(next(iter(images.raw_images()), None), ENCODED):
        return {}
    looks = in_threads(_decoded if decode else _header, images.raw_images())
    return {i: look.error for i, look in enumerate(looks) if look.error is not None}


def examine(images: ImageDataset, looks: Sequence[Look]) -> Findings:
    """Find what is wrong with images from a look at each, but for duplicates.

    Args:
        images: a data set, whose labels are its classes, if it has any.
        looks: see `look_at`.
    """
    bad = {i: look.error for i, look in enumerate(looks) if look.error is not None}
    shorter = np.array([min(look.size) for look in looks])
    good = np.array([i not in bad for i in range(len(looks))], dtype=bool)
    usual = float(np.median(shorter[good])) if good.any() else 0.0
    tiny = np.flatnonzero(good & (shorter < max(TINY, usual / TINY_SHARE))).tolist()
    return Findings(
        unreadable=bad,
        tiny={i: f"{looks[i].size[0]} x {looks[i].size[1]} pixels" for i in tiny},
        odd={i: ", ".join(look.odd) for i, look in enumerate(looks) if look.odd},
        alone=_alone(images, set(bad)),
    )


def in_threads(what: Callable[[Any], T], items: Iterable[Any], threads: int | None = None) -> Iterator[T]:
    """Apply a function to each item, in order, a block at a time: `map` alone would queue all of them."""
    block: list[Any] = []
    with ThreadPoolExecutor(threads or min(32, 4 * (os.cpu_count() or 1))) as pool:
        for item in items:
            block.append(item)
            if len(block) == BLOCK:
                yield from pool.map(what, block)
                block = []
        yield from pool.map(what, block)


def _header(item: Any) -> Look:
    if not isinstance(item, ENCODED):
        return _of_memory(item)
    name = Path() if isinstance(item, bytes) else Path(item)
    try:
        with open_image(item) as image:
            return Look(image.size, _refused(image), _oddities(image, name))
    except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
        return Look(error=_said(error))


def _both_ends(item: Any) -> Look:
    look = _header(item)
    if look.error is not None or not isinstance(item, (str, os.PathLike)) or _has_end(item):
        return look
    return replace(look, odd=(*look.odd, "its end is missing: look with --decode"))


def _has_end(path: str | os.PathLike[str]) -> bool:
    """Whether the mark that ends a JPEG or PNG file is near the end; pixels cannot hold that of JPEG."""
    with open(path, "rb") as file:
        end = _ENDS.get(file.read(3))
        file.seek(max(0, os.fstat(file.fileno()).st_size - NEAR_END))
        return end is None or end in file.read()


def _decoded(item: Any) -> Look:
    look = _header(item)
    if look.error is not None or not isinstance(item, ENCODED):
        return look
    try:
        image = read_image(item)
    except Exception as error:
        return Look(look.size, error=_said(error.__cause__ or error))
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR))
    odd = (*look.odd, "shows nothing, all of one colour") if grey.std() < BLANK else look.odd
    content = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16)
    return Look(look.size, None, odd, content.digest())


def _of_memory(item: Any) -> Look:
    if isinstance(item, Image.Image):
        return Look(item.size)
    height, width = item.shape[:2]
    return Look((width, height))


def _refused(image: Image.Image) -> str | None:
    if min(image.size) < 1:
        return "it has no pixels"
    return "it holds floats of unknown scale" if image.mode == "F" else None


def _oddities(image: Image.Image, path: Path) -> tuple[str, ...]:
    found = []
    shorter, longer = sorted(image.size)
    if longer > LONG * shorter:
        found.append(f"{longer / max(shorter, 1):.0f} times as long as wide")
    if image.mode not in COMMON_MODES:
        found.append(f"mode {image.mode}")
    if getattr(image, "is_animated", False) and image.format in ("GIF", "PNG", "WEBP", "TIFF"):
        found.append("several frames, of which the first is used")
    named = Image.registered_extensions().get(path.suffix.lower())
    if named is not None and {named, image.format} - {"JPEG", "MPO"} and named != image.format:
        found.append(f"a {image.format} file named {path.suffix}")
    return tuple(found)


def _said(error: BaseException) -> str:
    """An error of Pillow or the system in one line, without the path, which is said already."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or ""
    if type(error).__name__ == "UnidentifiedImageError":
        text = "no image that can be read"
    return " ".join(text.split()) or type(error).__name__


def _alone(images: ImageDataset, bad: set[int]) -> dict[str, int]:
    """Classes with one readable image, and its position."""
    if images.labels is None:
        return {}
    labels = [int(label) for i, label in enumerate(images.labels) if i not in bad]
    single = {label for label, count in Counter(labels).items() if count == 1}
    names = images.classes or [str(label) for label in range(max(labels, default=-1) + 1)]
    where = {int(label): i for i, label in enumerate(images.labels) if i not in bad}
    return {names[label]: where[label] for label in sorted(single)}


def duplicates(images: ImageDataset, looks: Sequence[Look]) -> dict[int, int]:
    """Find images that an earlier one repeats: in their pixels, or, not decoded, in their files.

    Returns:
        Position of each, and of the first image with the same content.
    """
    first: dict[Any, int] = {}
    found = {}
    for i, key in _keys(images, looks):
        if first.setdefault(key, i) != i:
            found[i] = first[key]
    return found


def _keys(images: ImageDataset, looks: Sequence[Look]) -> Iterator[tuple[int, Any]]:
    """A key of the content of each image that may have a duplicate."""
    items = [None if look.error else item for item, look in zip(images.raw_images(), looks)]
    sizes = [_bytes_of(item) for item in items]
    often = Counter(sizes)
    alike = [  # only files of one length can have one content
        i
        for i, (item, look) in enumerate(zip(items, looks))
        if look.pixels is None and item is not None and often[sizes[i]] > 1
    ]
    contents = dict(zip(alike, in_threads(_content, (items[i] for i in alike))))
    for i, look in enumerate(looks):
        if look.pixels is not None or i in contents:
            yield i, look.pixels or contents[i]


def _bytes_of(item: Any) -> int | None:
    if isinstance(item, bytes):
        return len(item)
    return os.path.getsize(item) if isinstance(item, str) else None


def _content(item: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(item, str):
        with open(item, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    else:
        digest.update(item if isinstance(item, bytes) else item.tobytes())
    return digest.digest()
