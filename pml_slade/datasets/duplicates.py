"""Images of one dataset that another one has too, be it resized, recompressed or brightened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..exceptions import ConfigError
from .images import ImageDataset

COARSE, FINE = 16, 32
"""Sides of the thumbnails that find candidates, and that verify them."""
MIN_SIMILARITY = 0.98
"""Correlation of the fine thumbnails from which two images are near-duplicates."""
COARSE_SLACK = 0.03
"""How much lower the coarse correlation of a candidate may be."""
MIN_CONTRAST = 4.0
"""Standard deviation of the grey values (0 to 255) below which an image is blank: never near."""
BLOCK = 1024
EXAMPLES = 3


class DuplicatePair(NamedTuple):
    """One image of `a` and its counterpart in `b`: `kind` is `"exact"` or `"near"`."""

    a: int
    b: int
    kind: str
    similarity: float


@dataclass(frozen=True)
class DuplicateReport:
    """What `find_duplicates` found.

    Attributes:
        pairs: At most one pair for each image of `a`, in the order of `a`.
        checked: Number of images of `a` and of `b`.
        examples: Readable names of the first pairs.
    """

    pairs: tuple[DuplicatePair, ...]
    checked: tuple[int, int]
    examples: tuple[str, ...] = ()

    @property
    def indices(self) -> np.ndarray:
        """Positions in `a` that have a duplicate in `b`; what to leave out of the pool."""
        return np.array([pair.a for pair in self.pairs], dtype=np.int64)

    def count(self, kind: str) -> int:
        """How many pairs are `"exact"` or `"near"`."""
        return sum(pair.kind == kind for pair in self.pairs)

    def __str__(self) -> str:
        first, second = self.checked
        text = (
            f"{self.count('exact')} exact and {self.count('near')} near-duplicates "
            f"among {first:,} x {second:,} images"
        )
        return text + (f", e.g. {', '.join(self.examples)}" if self.examples else "")


def find_duplicates(
    a: ImageDataset, b: ImageDataset, min_similarity: float = MIN_SIMILARITY, threads: int = 4
) -> DuplicateReport:
    """Finds the images of `a`, such as the pool, that `b`, such as the test set, holds too.

    Exact: the same decoded pixels. Near: thumbnails of 32 x 32 grey values correlate by at least
    `min_similarity`, which outlives another size, format, brightness or contrast, but not a crop
    or a flip. Blank images can be exact duplicates, never near ones. Each image is decoded once,
    and about 1 kB of it is kept.

    Args:
        a: Images to look up.
        b: Images to look in.
        min_similarity: Correlation in (0, 1] that counts as near.
        threads: How many images are decoded at a time.

    Returns:
        For each image of `a` its exact duplicate, or else its most similar near one.

    Raises:
        DataError: An image cannot be read.
        ConfigError: `min_similarity` lies outside (0, 1].

    Examples:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).integers(0, 256, (4, 16, 16)).astype(np.uint8)
        >>> pool, test = ImageDataset(noise[:3], mode="L"), ImageDataset(noise[2:], mode="L")
        >>> print(find_duplicates(pool, test))
        1 exact and 0 near-duplicates among 3 x 2 images, e.g. #2 = #0
    """
    if not 0 < min_similarity <= 1:
        raise ConfigError(f"min_similarity must lie in (0, 1], got {min_similarity}")
    mode = "RGB" if a.mode == b.mode == "RGB" else "L"
    digests_a, thumbnails_a = _fingerprints(a, mode, threads)
    digests_b, thumbnails_b = _fingerprints(b, mode, threads)
    where_b = {digest: i for i, digest in reversed(list(enumerate(digests_b)))}
    found = {
        i: DuplicatePair(i, where_b[digest], "exact", 1.0)
        for i, digest in enumerate(digests_a)
        if digest in where_b
    }
    for pair in _near(thumbnails_a, thumbnails_b, min_similarity):
        found.setdefault(pair.a, pair)
    pairs = tuple(found[i] for i in sorted(found))
    examples = tuple(
        f"{a.name(pair.a)} {'=' if pair.kind == 'exact' else '~'} {b.name(pair.b)}"
        for pair in pairs[:EXAMPLES]
    )
    return DuplicateReport(pairs, (len(a), len(b)), examples)


def _fingerprints(dataset: ImageDataset, mode: str, threads: int) -> tuple[list[bytes], np.ndarray]:
    """A digest of each image's pixels, and thumbnails, uint8 (N, FINE * FINE)."""

    def one(index: int) -> tuple[bytes, np.ndarray]:
        image = dataset.image(index).convert(mode)
        digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
        digest.update(image.tobytes())
        small = image.convert("L").resize((FINE, FINE), Image.Resampling.BILINEAR)
        return digest.digest(), np.asarray(small).ravel()

    digests, thumbnails = [], np.empty((len(dataset), FINE * FINE), dtype=np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(dataset), BLOCK):  # map alone would queue every image at once
            chunk = range(start, min(start + BLOCK, len(dataset)))
            for index, (digest, thumbnail) in zip(chunk, pool.map(one, chunk)):
                digests.append(digest)
                thumbnails[index] = thumbnail
    return digests, thumbnails


def _near(a: np.ndarray, b: np.ndarray, min_similarity: float) -> Iterator[DuplicatePair]:
    """The most similar image of `b` for each one of `a` that has any, by blocks of `a`."""
    if not len(b):
        return
    coarse_b = _normalised(_coarse(b))
    for start in range(0, len(a), BLOCK):
        block = a[start : start + BLOCK]
        coarse = _normalised(_coarse(block)) @ coarse_b.T
        for row in np.flatnonzero(coarse.max(axis=1) >= min_similarity - COARSE_SLACK):
            candidates = np.flatnonzero(coarse[row] >= min_similarity - COARSE_SLACK)
            # The likeliest BLOCK are enough: one has to be found, not all.
            candidates = candidates[np.argsort(-coarse[row, candidates], kind="stable")][:BLOCK]
            fine = _normalised(b[candidates]) @ _normalised(block[row : row + 1])[0]
            best = int(fine.argmax())
            if fine[best] >= min_similarity:
                similarity = min(float(fine[best]), 1.0)
                yield DuplicatePair(start + int(row), int(candidates[best]), "near", similarity)


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    side = FINE // COARSE
    blocks = thumbnails.reshape(-1, COARSE, side, COARSE, side)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(thumbnails), -1)


def _normalised(values: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and norm 1, so that products are correlations; blank rows become 0."""
    centred = values - values.mean(axis=1, keepdims=True, dtype=np.float32)
    spread = np.linalg.norm(centred, axis=1, keepdims=True)
    blank = spread < MIN_CONTRAST * np.sqrt(values.shape[1])
    return np.where(blank, 0, centred / np.maximum(spread, 1e-6)).astype(np.float32)
