"""Very many paths in a few arrays, which loader processes share."""

from __future__ import annotations

import copy
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Paths(Sequence[str]):
    """A sequence of paths that holds no Python object for each.

    A Python object is written to whenever it is looked at, since its references are counted, so that a forked
    process copies the memory it lies in. An array is not.

    Args:
        paths: any that the file system takes.

    Examples:
        >>> paths = Paths(["a/1.png", "a/2.png", "b/1.png"])
        >>> paths[-1], list(paths.chosen(np.array([2, 0])))
        ('b/1.png', ['b/1.png', 'a/1.png'])
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        text, ends = bytearray(), array("q")
        for path in paths:
            text += os.fsencode(path)
            ends.append(len(text))
        self._text = np.frombuffer(text, dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)
        self._starts = np.concatenate([[0], self._ends[:-1]]).astype(np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return os.fsdecode(self._text[self._starts[index] : self._ends[index]].tobytes())

    def chosen(self, indices: np.ndarray) -> Paths:
        """Those at some positions; the text is shared."""
        part = copy.copy(self)
        part._starts, part._ends = self._starts[indices], self._ends[indices]
        return part
