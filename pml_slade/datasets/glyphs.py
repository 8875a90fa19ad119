"""Glyphs: a self-training task drawn on the spot from the fonts that matplotlib installs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from ..exceptions import ConfigError
from .glyph_letters import TEST_SCRIPTS, candidates, distinct
from .glyph_rendering import FACES, Face, distort, fit
from .images import ImageDataset
from .splits import Splits, split_validation

MIN_FACES = 8
"""A letter that fewer faces have is left out."""
COMPARED_PIXELS = 16
"""Side of the thumbnails by which look-alikes are found."""


def glyphs_splits(
    image_size: int = 28,
    labeled_letters: int = 60,
    seed: int = 0,
    validation_fraction: float = 0.2,
    transform: Callable[[Image.Image], Any] | None = None,
) -> Splits:
    """Draws letters in up to 16 faces each: some Latin ones labeled, new scripts as the test.

    Labeled and validation are Latin letters chosen by `seed`; the pool is all other Latin and all
    Greek letters; the test is Cyrillic, Armenian and Georgian. Of letters that look alike the
    first stays, in that order of scripts: a test letter that resembles a labeled or pool letter is
    not there, so no class of the test is seen in training under another name.

    Each image is white on black, centred, and turned (12 degrees at most), sheared (0.15), shrunk
    (to 0.82), moved (4 %) and made bolder or thinner at random, but always in the same way for
    the same letter and face. Nothing is downloaded; the same Pillow and matplotlib fonts give the
    same pixels.

    Args:
        image_size: Side of the images in pixels.
        labeled_letters: How many Latin letters are annotated, validation included.
        seed: Chooses the labeled and the validation letters; the images do not depend on it.
        validation_fraction: Share of the labeled letters held out; 0 for none.
        transform: See `ImageDataset`.

    Returns:
        The splits, mode `"L"`; classes are named like `"latin/a (U+0061)"`.

    Raises:
        ConfigError: `labeled_letters` leaves no Latin letter to the pool, or is below 4.

    Examples:
        >>> glyphs_splits(labeled_letters=3)
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: labeled_letters must be ...
    """
    if labeled_letters < 4:
        raise ConfigError(f"labeled_letters must be at least 4, got {labeled_letters}")
    every = glyphs(image_size).with_transform(transform)
    scripts = _scripts(every)
    latin = np.flatnonzero(scripts == "latin")
    if labeled_letters >= len(latin):
        raise ConfigError(
            f"labeled_letters must be below {len(latin)}, the number of Latin letters, so that "
            f"some are left to the pool; got {labeled_letters}"
        )
    chosen = np.random.default_rng(seed).permutation(latin)[:labeled_letters]
    is_labeled = np.isin(every.known_labels(), chosen)
    is_test = np.isin(scripts, TEST_SCRIPTS)[every.known_labels()]
    labeled, validation = split_validation(every.subset(is_labeled).relabel(), validation_fraction, seed)
    return Splits(
        labeled=labeled,
        unlabeled=every.subset(~is_labeled & ~is_test).relabel(),
        validation=validation,
        test=every.subset(is_test).relabel(),
        name="glyphs",
    )


@lru_cache(maxsize=2)
def glyphs(image_size: int = 28) -> ImageDataset:
    """All letters that tell themselves apart by shape, of five scripts, one image per face.

    The result is kept, and shared by all who ask for the same size.

    Args:
        image_size: Side of the images in pixels.

    Returns:
        A dataset without transform, mode `"L"`, sorted by class.

    Raises:
        ConfigError: `image_size` is below 8.

    Examples:
        >>> glyphs(4)
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: image_size must be at least 8 pixels, got 4
    """
    if image_size < 8:
        raise ConfigError(f"image_size must be at least 8 pixels, got {image_size}")
    faces = [Face(name) for name in FACES]
    letters = candidates()
    drawings = [[face.draw(letter.character) for letter in letters] for face in faces]
    drawn = np.array([[glyph is not None for glyph in row] for row in drawings])
    drawn &= drawn.sum(axis=0) >= MIN_FACES
    thumbnails = np.array([[_thumbnail(glyph) for glyph in row] for row in drawings])
    kept = distinct(thumbnails, drawn, [letter.script for letter in letters])
    images, labels = [], []
    for label, index in enumerate(kept):
        for face, row in zip(faces, drawings):
            glyph = row[index]
            if glyph is not None:
                images.append(distort(glyph, image_size, face.name, letters[index].character))
                labels.append(label)
    pixels = np.stack(images)
    pixels.setflags(write=False)  # shared by every caller
    classes = [letters[index].class_name for index in kept]
    return ImageDataset(pixels, labels, classes, mode="L")


def _thumbnail(glyph: Image.Image | None) -> np.ndarray:
    if glyph is None:
        return np.zeros(COMPARED_PIXELS**2, dtype=np.uint8)
    return fit(glyph, COMPARED_PIXELS).ravel()


def _scripts(dataset: ImageDataset) -> np.ndarray:
    """Script of each class."""
    return np.array([name.split("/")[0] for name in dataset.classes or []])
