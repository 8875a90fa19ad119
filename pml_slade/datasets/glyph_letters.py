"""Which letters tell themselves apart by shape alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TEST_SCRIPTS = ("cyrillic", "armenian", "georgian")
BLOCKS = {
    "latin": (
        (0x41, 0x24F),
        (0x250, 0x2AF),
        (0x1D00, 0x1D2B),
        (0x1E00, 0x1EFF),
        (0x2C60, 0x2C7F),
        (0xA720, 0xA7FF),
    ),
    "greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "cyrillic": ((0x400, 0x52F), (0xA640, 0xA69F)),
    "armenian": ((0x531, 0x587),),
    "georgian": ((0x10A0, 0x10FF), (0x2D00, 0x2D2F)),
}
"""Unicode blocks of each script, in the order in which look-alikes are resolved."""

SAME_LETTER = 0.94
"""Mean cosine over the shared faces from which two letters count as one."""
SAME_ACROSS = 0.90
"""The same between a test letter and a training letter, where a mistake would cost more."""
SAME_IN_ONE_FACE = 0.96
"""Cosine in any one face from which a test letter counts as a training letter."""


class Letter(NamedTuple):
    """A character and its script."""

    script: str
    character: str

    @property
    def class_name(self) -> str:
        """Such as `latin/a (U+0061)`."""
        return f"{self.script}/{self.character} (U+{ord(self.character):04X})"


def candidates() -> list[Letter]:
    """All letters of the five scripts, training scripts first, in Unicode order.

    Returns:
        Letters; which of them a font has is another matter.

    Examples:
        >>> candidates()[0].class_name
        'latin/A (U+0041)'
    """
    return [
        Letter(script, chr(code))
        for script, blocks in BLOCKS.items()
        for first, last in blocks
        for code in range(first, last + 1)
        if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt", "Lo")
        and unicodedata.name(chr(code), "").startswith(script.upper())
    ]


def distinct(thumbnails: np.ndarray, drawn: np.ndarray, scripts: Sequence[str]) -> np.ndarray:
    """Chooses letters that look like none chosen before.

    Two letters look the same when their thumbnails, which know neither size nor place, have
    a mean cosine of `SAME_LETTER` over the faces that have both. A letter of a test script must
    differ more (`SAME_ACROSS`, and `SAME_IN_ONE_FACE` in each single face) from all chosen letters
    of the training scripts.

    Args:
        thumbnails: uint8 array (faces, letters, pixels), at most 256 pixels each.
        drawn: bool array (faces, letters): whether the face has the letter. One that no face has
            is not chosen.
        scripts: Script of each letter; the earlier of two look-alikes stays.

    Returns:
        Sorted indices of the chosen letters.

    Examples:
        >>> thumbnails = np.array([[[9, 0], [9, 1], [0, 9]]], dtype=np.uint8)
        >>> distinct(thumbnails, np.ones((1, 3), dtype=bool), ["latin"] * 3)
        array([0, 2])
    """
    mean, highest = _similarities(thumbnails, drawn)
    is_test = np.isin(np.asarray(scripts), TEST_SCRIPTS)
    chosen = np.zeros(len(scripts), dtype=bool)
    for letter in np.flatnonzero(drawn.any(axis=0)):
        looks_same = mean[letter] >= SAME_LETTER
        if is_test[letter]:
            near = (mean[letter] >= SAME_ACROSS) | (highest[letter] >= SAME_IN_ONE_FACE)
            looks_same = looks_same | (near & ~is_test)
        chosen[letter] = not (looks_same & chosen).any()
    return np.flatnonzero(chosen)


def _similarities(thumbnails: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and highest cosine over the shared faces, both (letters, letters)."""
    letters = drawn.shape[1]
    total, count = np.zeros((letters, letters)), np.zeros((letters, letters))
    highest = np.zeros((letters, letters))
    for pixels, present in zip(thumbnails, drawn):
        # Sums of 256 products of bytes stay below 2**24: float32 is exact, whatever the BLAS, and
        # all machines choose the same letters.
        values = pixels.astype(np.float32)
        products = (values @ values.T).astype(np.float64)
        norms = np.sqrt(np.maximum(np.diag(products), 1))
        shared = np.outer(present, present)
        cosines = np.where(shared, products / np.outer(norms, norms), 0)
        total += cosines
        count += shared
        np.maximum(highest, cosines, out=highest)
    return total / np.maximum(count, 1), highest
