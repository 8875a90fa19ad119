"""Omniglot as a self-training task: a few labeled alphabets, a pool of others, new ones to test."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..exceptions import ConfigError, DataError
from .decoding import read_image
from .images import ImageDataset
from .splits import Splits, split_validation

BACKGROUND, EVALUATION = "images_background", "images_evaluation"
TORCHVISION_FOLDER = "omniglot-py"
SOURCE = "https://github.com/brendenlake/omniglot/tree/master/python"


def omniglot_splits(
    root: str | os.PathLike[str],
    labeled_alphabets: int | Sequence[str] = 5,
    seed: int = 0,
    validation_fraction: float = 0.2,
    image_size: int = 28,
    transform: Callable[[Image.Image], Any] | None = None,
    download: bool = False,
) -> Splits:
    """Loads Omniglot: labeled, pool and test are different alphabets.

    Of the background alphabets some are labeled (a share of their characters is held out for
    validation), the others are the pool, whose true labels only an oracle may use; the evaluation
    alphabets are the test. Strokes are white on black, and all images are kept in memory.

    Args:
        root: Folder that holds `images_background` and `images_evaluation`, each with
            `<alphabet>/<character>/<drawing>.png`; torchvision's `omniglot-py` in between is fine.
        labeled_alphabets: How many background alphabets are labeled, or their names.
        seed: Chooses the labeled alphabets, where not named, and the validation classes.
        validation_fraction: Share of the labeled characters held out; 0 for none.
        image_size: Side of the images in pixels (the originals have 105).
        transform: See `ImageDataset`.
        download: Whether to fetch the images into `root` with torchvision if they are not there.

    Returns:
        The splits; classes are named `"alphabet/character"`.

    Raises:
        DataError: The images are missing or damaged.
        ConfigError: `labeled_alphabets` does not fit what is there.

    Examples:
        >>> omniglot_splits("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: root 'no/such/folder' holds no ...
    """
    background, evaluation = find_alphabets(root, download)
    labeled_names = _choose([folder.name for folder in background], labeled_alphabets, seed)

    def load(alphabets: list[Path]) -> ImageDataset:
        return load_alphabets(alphabets, image_size, transform)

    annotated = load([folder for folder in background if folder.name in labeled_names])
    labeled, validation = split_validation(annotated, validation_fraction, seed)
    return Splits(
        labeled=labeled,
        unlabeled=load([folder for folder in background if folder.name not in labeled_names]),
        validation=validation,
        test=load(evaluation),
        name="omniglot",
    )


def find_alphabets(root: str | os.PathLike[str], download: bool = False) -> tuple[list[Path], list[Path]]:
    """Folders of the background alphabets and of the evaluation alphabets; see `omniglot_splits`."""
    base = _locate(Path(root), download)
    return _folders(base / BACKGROUND), _folders(base / EVALUATION)


def load_alphabets(alphabets: Sequence[Path], image_size: int, transform: Any = None) -> ImageDataset:
    """All drawings of some alphabets, by character; see `omniglot_splits`."""
    characters = [folder for alphabet in alphabets for folder in _folders(alphabet)]
    drawings = [sorted(folder.glob("*.png")) for folder in characters]
    paths = [path for paths in drawings for path in paths]
    if not paths:
        where = [str(folder) for folder in alphabets[:3]]
        raise DataError(f"no drawings in {where}; unpack the whole of Omniglot from {SOURCE}")
    images = np.stack([_read(path, image_size) for path in paths])
    labels = np.repeat(np.arange(len(characters)), [len(paths) for paths in drawings])
    classes = [f"{folder.parent.name}/{folder.name}" for folder in characters]
    return ImageDataset(images, labels, classes, transform, mode="L").relabel()


def _locate(root: Path, download: bool) -> Path:
    def found() -> Path | None:
        for base in (root, root / TORCHVISION_FOLDER):
            if (base / BACKGROUND).is_dir() and (base / EVALUATION).is_dir():
                return base
        return None

    base = found()
    if base is None and download:
        _download(root)
        base = found()
    if base is None:
        raise DataError(
            f"root {str(root)!r} holds no {BACKGROUND!r} and {EVALUATION!r}; pass download=True, "
            f"or unpack {BACKGROUND}.zip and {EVALUATION}.zip from {SOURCE} there"
        )
    return base


def _download(root: Path) -> None:
    from torchvision.datasets import Omniglot

    try:
        for background in (True, False):
            Omniglot(str(root), background=background, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Omniglot cannot be downloaded ({error}); unpack {BACKGROUND}.zip and "
            f"{EVALUATION}.zip from {SOURCE} in {str(root)!r}"
        ) from error


def _choose(present: list[str], wanted: int | Sequence[str], seed: int) -> set[str]:
    if isinstance(wanted, int):
        if not 1 <= wanted < len(present):
            raise ConfigError(
                f"labeled_alphabets must leave some of the {len(present)} background alphabets to "
                f"the pool: give 1 to {len(present) - 1}, got {wanted}"
            )
        order = np.random.default_rng(seed).permutation(len(present))
        return {present[i] for i in order[:wanted]}
    names = {wanted} if isinstance(wanted, str) else set(wanted)
    unknown = sorted(names - set(present))
    if unknown or not names or len(names) == len(present):
        raise ConfigError(
            f"labeled_alphabets: unknown {unknown}; give some, not all, of {', '.join(present)}"
        )
    return names


def _read(path: Path, image_size: int) -> np.ndarray:
    # LANCZOS keeps thin strokes that plain bilinear would let fade.
    small = read_image(path, "L").resize((image_size, image_size), Image.Resampling.LANCZOS)
    return 255 - np.asarray(small)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and path.name[0] != ".")
