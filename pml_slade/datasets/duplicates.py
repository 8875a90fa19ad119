"""Images of one dataset that another one has too, be it resized, recompressed, brightened or cropped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..exceptions import ConfigError
from .images import ImageDataset

SIDE, FINE, COARSE = 40, 32, 8
"""Sides of the thumbnails that are kept, of those that are compared, and of those that find candidates."""
VIEWS = (1.0, 0.9, 0.8)
"""Sides of an image's middle part that are compared with a whole image, for crops."""
MIN_SIMILARITY = 0.98
"""Correlation of the fine thumbnails from which two images are near-duplicates."""
MIN_CONTRAST = 4.0
"""Standard deviation of the grey values (0 to 255) below which an image is blank: never near."""
ROUNDING = 1e-5
BLOCK = 1024
CHUNK = 64
"""Images that a thread decodes at a time."""
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


@dataclass(frozen=True)
class Thumbnails:
    """What is kept of images to look for them elsewhere, about 2.5 kB of each.

    Attributes:
        images: the dataset.
        digests: of each image's pixels.
        grey: uint8 (N, SIDE, SIDE).
    """

    images: ImageDataset
    digests: list[bytes]
    grey: np.ndarray

    @cached_property
    def coarse(self) -> dict[float, np.ndarray]:
        """By share of `VIEWS`, what finds candidates, see `_coarse`."""
        blocks = [self.grey[i : i + BLOCK] for i in range(0, max(len(self.grey), 1), BLOCK)]
        return {share: np.concatenate([_coarse(block, share) for block in blocks]) for share in VIEWS}

    @classmethod
    def of(cls, images: ImageDataset, mode: str, threads: int = 4) -> Thumbnails:
        """Decode each image once.

        Args:
            images: whose thumbnails are made.
            mode: in which pixels are compared; that of what they are compared with.
            threads: how many images are decoded at a time.

        Raises:
            DataError: An image cannot be read.
        """

        def read(start: int) -> list[tuple[bytes, np.ndarray]]:
            chunk = range(start, min(start + CHUNK, len(images)))
            return [_thumbnail(images.image(i).convert(mode)) for i in chunk]

        digests, grey = [], np.empty((len(images), SIDE, SIDE), dtype=np.uint8)
        with ThreadPoolExecutor(threads) as pool:
            found = chain.from_iterable(pool.map(read, range(0, len(images), CHUNK)))
            for index, (digest, thumbnail) in enumerate(found):
                digests.append(digest)
                grey[index] = thumbnail
        return cls(images, digests, grey)


def find_duplicates(
    a: ImageDataset, b: ImageDataset, min_similarity: float = MIN_SIMILARITY, threads: int = 4
) -> DuplicateReport:
    """Finds the images of `a`, such as the pool, that `b`, such as the test set, holds too.

    Exact: the same decoded pixels. Near: thumbnails of 32 x 32 grey values correlate by at least
    `min_similarity`, which outlives another size, format, brightness or contrast, and a crop to the middle
    nine or eight tenths of each side, but not a flip. Blank images can be exact duplicates, never near ones.
    Each image is decoded once.

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
    mode = common_mode([a, b])
    return match(Thumbnails.of(a, mode, threads), Thumbnails.of(b, mode, threads), min_similarity)


def common_mode(parts: Sequence[ImageDataset]) -> str:
    """The mode in which images of several datasets can be compared: `"RGB"`, or `"L"` if one is grey."""
    return "RGB" if all(part.mode == "RGB" for part in parts) else "L"


def match(a: Thumbnails, b: Thumbnails, min_similarity: float = MIN_SIMILARITY) -> DuplicateReport:
    """Finds the images of `a` that `b` holds too, by their thumbnails; see `find_duplicates`."""
    where_b = {digest: i for i, digest in reversed(list(enumerate(b.digests)))}
    found = {
        i: DuplicatePair(i, where_b[digest], "exact", 1.0)
        for i, digest in enumerate(a.digests)
        if digest in where_b
    }
    for pair in _near(a, b, min_similarity):
        found.setdefault(pair.a, pair)
    pairs = tuple(found[i] for i in sorted(found))
    examples = tuple(
        f"{a.images.name(pair.a)} {'=' if pair.kind == 'exact' else '~'} {b.images.name(pair.b)}"
        for pair in pairs[:EXAMPLES]
    )
    return DuplicateReport(pairs, (len(a.images), len(b.images)), examples)


def _thumbnail(image: Image.Image) -> tuple[bytes, np.ndarray]:
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return digest.digest(), np.asarray(small)


def _near(a: Thumbnails, b: Thumbnails, min_similarity: float) -> Iterator[DuplicatePair]:
    """The most similar image of `b` for each one of `a` that has any, by blocks of `a`."""
    if not len(b.grey):
        return
    for start in range(0, len(a.grey), BLOCK):
        block = slice(start, start + BLOCK)
        best: dict[int, tuple[float, int]] = {}
        for ours, theirs in [(1.0, share) for share in VIEWS] + [(share, 1.0) for share in VIEWS[1:]]:
            bound = a.coarse[ours][block] @ b.coarse[theirs].T + ROUNDING
            for row in np.flatnonzero(bound.max(axis=1) >= min_similarity).tolist():
                candidates = np.flatnonzero(bound[row] >= min_similarity)
                # The likeliest BLOCK are enough: one has to be found, not all.
                candidates = candidates[np.argsort(-bound[row, candidates], kind="stable")][:BLOCK]
                fine = _view(b.grey[candidates], theirs) @ _view(a.grey[[start + row]], ours)[0]
                likeliest = int(fine.argmax())
                found = (min(float(fine[likeliest]), 1.0), int(candidates[likeliest]))
                if found[0] >= min_similarity and found[0] > best.get(row, (0.0, 0))[0]:
                    best[row] = found
        for row, (similarity, other) in sorted(best.items()):
            yield DuplicatePair(start + row, other, "near", similarity)


def _view(thumbnails: np.ndarray, share: float) -> np.ndarray:
    """The middle of thumbnails, resized to (N, FINE * FINE), of mean 0 and norm 1, so that products are
    correlations; blank ones become 0."""
    resize = _resizing(share)
    values = (resize @ thumbnails.astype(np.float32) @ resize.T).reshape(len(thumbnails), -1)
    values -= values.mean(axis=1, keepdims=True, dtype=np.float32)
    spread = np.linalg.norm(values, axis=1, keepdims=True)
    return values * np.where(spread < MIN_CONTRAST * FINE, 0, 1 / np.maximum(spread, 1e-6))


def _coarse(thumbnails: np.ndarray, share: float) -> np.ndarray:
    """Views averaged to COARSE x COARSE, and the norm of what this leaves out, (N, COARSE * COARSE + 1):
    by Cauchy-Schwarz, products of these are no less than those of the views, but for rounding."""
    view = _view(thumbnails, share)
    averages = view @ _averaging()
    left_out = (view**2).sum(axis=1) - (averages**2).sum(axis=1)
    return np.column_stack([averages, np.sqrt(np.maximum(left_out, 0))])


@cache
def _averaging() -> np.ndarray:
    """Orthonormal columns (FINE * FINE, COARSE * COARSE), each over a square of pixels."""
    step = FINE // COARSE
    line = np.kron(np.eye(COARSE), np.ones((step, 1)))
    return (np.kron(line, line) / step).astype(np.float32)


@cache
def _resizing(share: float) -> np.ndarray:
    """A matrix that averages the middle `share` of SIDE values to FINE of them."""
    edges = SIDE * (0.5 + share * (np.arange(FINE + 1) / FINE - 0.5))
    pixels = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.maximum(overlap, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
