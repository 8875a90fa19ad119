"""Data to choose settings on: a mostly useless pool, and Omniglot without its evaluation alphabets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from clutter import Draw, composites, noise, scribbles, textures

from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.omniglot import find_alphabets, load_alphabets
from pml_slade.datasets.splits import MIN_CLASSES, Splits, split_validation
from pml_slade.exceptions import ConfigError, DataError

VALIDATION_FRACTION = 0.2
MAX_ROUNDS = 50


def clutter(splits: Splits, share: float, seed: int) -> Splits:
    """Replaces whole classes of the pool by useless images; the pool stays as large as it was.

    Scribbles, noise, textures and composites of the pool's drawings come in equal parts. Each image is
    there once, and is a class of its own: an oracle knows that it belongs to nothing.

    Args:
        splits: Experiment whose pool holds square grayscale images, white on black, with their labels.
        share: How much of the pool is useless, in [0, 1), to the nearest class.
        seed: Chooses the classes that stay, and draws.

    Returns:
        The same but for the pool, whose labels are 0..C-1: the classes that stay, then
        `"clutter/scribble-00000"` and so on; and for the name, `"omniglot, 80 % clutter"`.

    Raises:
        ConfigError: `share` lies outside [0, 1).
        DataError: The pool has no labels or a single class, or its images are of another kind.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"share must be at least 0 and below 1, got {share}")
    pool = splits.unlabeled
    if pool.labels is None or pool.num_classes < MIN_CLASSES:
        raise DataError(
            f"splits: clutter keeps whole classes of the pool, and {pool!r} does not tell {MIN_CLASSES}; "
            "give one with its true labels"
        )
    pixels = _pixels(pool)
    stay = _whole_classes(pool.labels, 1 - share, np.random.default_rng([seed, 0]))
    real = pool.subset(stay).relabel()
    draws = {
        "scribble": scribbles,
        "noise": noise,
        "texture": textures,
        "composite": composites(pixels, pool.labels),
    }
    seen = {image.tobytes() for image in (*pixels, np.zeros_like(pixels[0]))}  # a blank one is no image
    images, names = [pixels[stay]], real.classes or [str(label) for label in np.unique(pool.labels[stay])]
    parts = np.array_split(np.arange(np.sum(~stay)), len(draws))
    for number, ((kind, draw), part) in enumerate(zip(draws.items(), parts), 1):
        images.append(_unique(draw, len(part), seen, pixels.shape[1], np.random.default_rng([seed, number])))
        names = [*names, *(f"clutter/{kind}-{i:05d}" for i in range(len(part)))]
    labels = np.concatenate([real.known_labels(), np.arange(real.num_classes, len(names))])
    cluttered = ImageDataset(np.concatenate(images), labels, names, pool.transform, mode="L")
    return replace(splits, unlabeled=cluttered, name=f"{splits.name}, {100 * share:.3g} % clutter")


def _pixels(pool: ImageDataset) -> np.ndarray:
    images = [pool.image(i) for i in range(len(pool))]
    sizes = {image.size for image in images}
    width, height = min(sizes)
    if pool.mode != "L" or len(sizes) > 1 or width != height:
        raise DataError(
            f"splits: clutter is square, gray and of one size, and the pool's images are {pool.mode} of "
            f"sizes {sorted(sizes)[:3]}; give drawings like those of glyphs_splits or omniglot_splits"
        )
    return np.stack([np.asarray(image) for image in images])


def _whole_classes(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mask of random classes, at least one, that hold about that share of the images."""
    present, sizes = np.unique(labels, return_counts=True)
    order = rng.permutation(len(present))
    distance = np.abs(np.cumsum(sizes[order]) - share * len(labels))
    return np.isin(labels, present[order[: 1 + distance.argmin()]])


def _unique(draw: Draw, count: int, seen: set[bytes], side: int, rng: np.random.Generator) -> np.ndarray:
    """As many images, none of them seen, and adds them to those."""
    found: list[np.ndarray] = []
    for _ in range(MAX_ROUNDS):
        found.extend(_unseen(draw(count - len(found), side, rng), seen))
        if len(found) == count:
            return np.array(found, dtype=np.uint8).reshape(count, side, side)
    raise DataError(
        f"splits: only {len(found)} different useless images of {count} could be made from this pool; "
        "its drawings are too few, too small or empty"
    )


def _unseen(images: np.ndarray, seen: set[bytes]) -> Iterator[np.ndarray]:
    for image in images:
        if (key := image.tobytes()) not in seen:
            seen.add(key)
            yield image


def development(
    root: str | os.PathLike[str],
    seed: int,
    labeled_alphabets: int = 5,
    test_alphabets: int = 10,
    image_size: int = 28,
) -> Splits:
    """Omniglot's background alphabets alone, so that no setting is chosen on the evaluation alphabets.

    The labeled alphabets are those that `omniglot_splits` takes with the same seed.

    Args:
        root: See `omniglot_splits`.
        seed: Chooses the alphabets and the validation classes.
        labeled_alphabets: How many are labeled, a fifth of their characters held out for validation.
        test_alphabets: How many are the test; the pool is the others.
        image_size: Side of the images in pixels.

    Returns:
        The splits; classes are named `"alphabet/character"`.

    Raises:
        DataError: The images are missing or damaged.
        ConfigError: The numbers leave no alphabet to the pool.
    """
    background = find_alphabets(root)[0]
    most = len(background) - 1
    if min(labeled_alphabets, test_alphabets) < 1 or labeled_alphabets + test_alphabets > most:
        raise ConfigError(
            f"labeled_alphabets and test_alphabets must be at least 1 and together at most {most}, so that "
            f"the pool has some of the {len(background)}; got {labeled_alphabets} and {test_alphabets}"
        )
    order = np.random.default_rng(seed).permutation(len(background))
    labeled, test, pool = (
        load_alphabets([background[i] for i in sorted(part)], image_size)
        for part in np.split(order, np.cumsum([labeled_alphabets, test_alphabets]))
    )
    annotated, validation = split_validation(labeled, VALIDATION_FRACTION, seed)
    return Splits(annotated, pool, validation, test, "omniglot development")
