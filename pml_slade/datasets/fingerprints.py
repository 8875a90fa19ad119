"""What tells whether images are the same as before: a line an image, and what differs between two lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from zlib import crc32

from ..checkpoints import escaped
from .images import NO_LABEL, ImageDataset
from .looking import in_threads

PREFIX = 1 << 14
"""Bytes at the beginning of a file that are looked at, beside its size."""
SHOWN = 3


def list_images(images: ImageDataset) -> list[str]:
    """Describe each image by its name, the size and the beginning of its file, and its label.

    Names are relative to the folder that holds all images, so that it may be moved.

    Returns:
        Lines of label, size, checksum and name, separated by tabs.

    Examples:
        >>> import numpy as np
        >>> list_images(ImageDataset(np.zeros((1, 2, 2), np.uint8), [3], mode="L"))
        ['3\\t4\\t558161692\\t#0']
    """
    names = [images.name(i) for i in range(len(images))]
    contents = list(in_threads(_content, images.raw_images()))
    common = len(os.path.commonpath([PurePath(n).parent for n in names])) if _are_files(names) else 0
    labels = [NO_LABEL] * len(images) if images.labels is None else images.labels.tolist()
    return [
        f"{label}\t{content}\t{_escaped(name[common:].lstrip(os.sep))}"
        for label, content, name in zip(labels, contents, names)
    ]


def content_keys(images: ImageDataset) -> list[str]:
    """A key for each image that is the same wherever the image lies, and whatever its label.

    Examples:
        >>> import numpy as np
        >>> content_keys(ImageDataset(np.zeros((1, 2, 2), np.uint8), mode="L"))
        ['4-558161692-']
    """
    contents = list(in_threads(_content, images.raw_images()))
    names = [PurePath(name).name if _are_files([name]) else "" for name in images.names()]
    return [f"{content.replace(chr(9), '-')}-{_escaped(name)}" for content, name in zip(contents, names)]


def readable_names(images: ImageDataset) -> list[str]:
    """The absolute path of each image, or "#position" for one in memory, as a text file can hold it.

    Examples:
        >>> import numpy as np
        >>> readable_names(ImageDataset(np.zeros((2, 2, 2), np.uint8), mode="L"))
        ['#0', '#1']
    """
    names = images.names()
    return [_escaped(os.path.abspath(name)) for name in names] if _are_files(names) else names


def digest(lines: Sequence[str]) -> str:
    """One number for all lines: SHA-256, in hexadecimal."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def difference(before: Sequence[str], now: Sequence[str]) -> str:
    """Say how two lists of images differ, with the names of the first few.

    Examples:
        >>> difference(["0\\t1\\t2\\ta", "0\\t1\\t2\\tb"], ["0\\t1\\t9\\ta", "1\\t1\\t2\\tc"])
        '1 gone (b), 1 new (c), 1 changed (a)'
        >>> difference(["0\\t1\\t2\\ta", "0\\t1\\t2\\tb"], ["0\\t1\\t2\\tb", "0\\t1\\t2\\ta"])
        'their order'
    """
    old, new = ({_name(line): line for line in lines} for lines in (before, now))
    kinds = {
        "gone": [name for name in old if name not in new],
        "new": [name for name in new if name not in old],
        "changed": [name for name in old if name in new and old[name] != new[name]],
    }
    found = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for kind, names in kinds.items()
        if names
    ]
    return ", ".join(found) or "their order"


def _are_files(names: list[str]) -> bool:
    return bool(names) and not names[0].startswith("#")


def _content(item: Any) -> str:
    if isinstance(item, bytes):  # of a file
        return f"{len(item)}\t{crc32(item[:PREFIX])}"
    if not isinstance(item, str):  # an array or a PIL image
        raw = item.tobytes()
        return f"{len(raw)}\t{crc32(raw)}"
    with open(item, "rb") as file:
        beginning = file.read(PREFIX)
        return f"{os.fstat(file.fileno()).st_size}\t{crc32(beginning)}"


def _name(line: str) -> str:
    return line.split("\t", 3)[3]


def _escaped(name: str) -> str:
    """A name in one line of valid UTF-8, whatever the file system allows."""
    return escaped(name).replace("\n", "\\n")
