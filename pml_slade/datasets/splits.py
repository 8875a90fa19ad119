"""Who sees what: labeled, unlabeled, validation and test images, disjoint by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..exceptions import ConfigError, DataError
from .catalogue import CatalogueDataset
from .images import ImageDataset

PARTS = ("labeled", "unlabeled", "validation", "test", "gallery")
MIN_CLASSES = 2
"""Fewer classes than this in a part leave nothing to tell apart."""


@dataclass(frozen=True)
class Splits:
    """The parts of one experiment.

    Attributes:
        labeled: Annotated images; labels are 0..C-1.
        unlabeled: The pool. Its labels, where known, are for an oracle only; training calls
            `unlabeled.without_labels()`.
        validation: Held-out classes that choose the best epoch, or None.
        test: Classes never seen before, or None.
        name: What tables call it.
        gallery: What the test images are searched in; None searches them among themselves.

    Raises:
        DataError: Labels are missing or not consecutive, or two of labeled, validation and test
            share a class name.

    Examples:
        >>> import numpy as np
        >>> data = ImageDataset(np.zeros((8, 4, 4), np.uint8), [0, 0, 1, 1, 2, 2, 3, 3], mode="L")
        >>> train, test = split_classes(data, 0.5, seed=0)
        >>> splits = Splits(train, data.without_labels(), None, test, "toy")
        >>> describe(splits)["test"]
        {'images': 4, 'classes': 2}
    """

    labeled: ImageDataset
    unlabeled: ImageDataset
    validation: ImageDataset | None
    test: ImageDataset | None
    name: str
    gallery: ImageDataset | None = None

    def __post_init__(self) -> None:
        check_splits(self)


def parts(splits: Splits) -> dict[str, ImageDataset]:
    """The parts that exist, by name."""
    every = {key: getattr(splits, key) for key in PARTS}
    return {key: part for key, part in every.items() if part is not None}


def check_splits(splits: Splits) -> None:
    """Checks that labels are usable and that evaluation classes are not trained on.

    Classes are compared by name; parts without names cannot be compared.

    Args:
        splits: The parts to check.

    Raises:
        DataError: Names the part, and up to three shared classes.
    """
    annotated = {key: part for key, part in parts(splits).items() if key != "unlabeled"}
    for key, part in annotated.items():
        if part.labels is None:
            raise DataError(f"{key} images have no labels; give a dataset with labels")
    present = np.unique(splits.labeled.known_labels())
    if len(present) < MIN_CLASSES or not np.array_equal(present, np.arange(len(present))):
        raise DataError(
            f"labeled labels must be 0..C-1 with C >= {MIN_CLASSES}, got {len(present)} different "
            "ones; call labeled.relabel()"
        )
    keys = list(annotated)
    for i, first in enumerate(keys):
        for second in keys[i + 1 :]:
            shared = sorted(class_names(annotated[first]) & class_names(annotated[second]))
            if shared and (first, second) != ("test", "gallery"):
                raise DataError(
                    f"{first} and {second} share {len(shared)} classes, e.g. {shared[:3]}; "
                    "evaluation needs classes that training never sees. Where the names only happen to "
                    "be alike, rename the folders of one, or list its images in a CSV"
                )


def class_names(dataset: ImageDataset) -> set[str]:
    """Names of the classes that occur; empty where names or labels are unknown."""
    if dataset.labels is None or dataset.classes is None:
        return set()
    return {dataset.classes[label] for label in np.unique(dataset.labels)}


def describe(splits: Splits) -> dict[str, Any]:
    """Counts what each part holds.

    Args:
        splits: The parts.

    Returns:
        `{"name", part: {"images", "classes"}, ...}`; classes is None for an unlabeled part, and a
        missing part is None. `"pool_classes_in_test"` counts classes of the pool that the test has, by name;
            None where one of them has no names.
    """
    counts: dict[str, Any] = {"name": splits.name}
    for key in PARTS:
        part = getattr(splits, key)
        counts[key] = None
        if part is not None:
            classes = None if part.labels is None else part.num_classes
            counts[key] = {"images": len(part), "classes": classes}
    counts["pool_classes_in_test"] = _shared_classes(splits.unlabeled, splits.test)
    return counts


def _shared_classes(pool: ImageDataset, test: ImageDataset | None) -> int | None:
    ours, theirs = class_names(pool), set() if test is None else class_names(test)
    if not ours or not theirs:
        return None
    if isinstance(pool, CatalogueDataset):
        return sum(pool.same_classes(sorted(ours), theirs))
    return len(ours & theirs)


def shared_labels(queries: ImageDataset, gallery: ImageDataset) -> tuple[np.ndarray, np.ndarray]:
    """Number the classes of queries and gallery alike, by their names.

    Returns:
        int64 arrays, a label for each query and for each image of the gallery.

    Raises:
        DataError: one of them has no labels.

    Examples:
        >>> images = np.zeros((2, 4, 4), np.uint8)
        >>> first, second = (ImageDataset(images, [0, 1], names, mode="L") for names in ("ab", "bc"))
        >>> shared_labels(first, second)
        (array([0, 1]), array([1, 2]))
    """
    names = [
        np.array([str(n) for n in part.classes])[labels] if part.classes is not None else labels.astype(str)
        for part, labels in ((queries, queries.known_labels()), (gallery, gallery.known_labels()))
    ]
    numbers = np.unique(np.concatenate(names), return_inverse=True)[1].reshape(-1)
    return numbers[: len(queries)], numbers[len(queries) :]


def check_gallery(queries: ImageDataset, gallery: ImageDataset) -> None:
    """Refuse a gallery in which nothing can be found, or every query itself.

    Raises:
        DataError: no class in common, or an image file in both.
    """
    labels, others = shared_labels(queries, gallery)
    if not np.isin(labels, others).any():
        raise DataError("gallery: none of its classes is one of the queries'; give one that has some")
    files, found = (
        {part.name(i) for i in range(len(part))} - {f"#{i}" for i in range(len(part))}  # files alone
        for part in (queries, gallery)
    )
    if files & found:
        raise DataError(
            f"gallery: {len(files & found)} of its images are queries, too, e.g. {min(files & found)}, and "
            "would find themselves; leave the gallery out to search queries among each other"
        )


def split_classes(dataset: ImageDataset, fraction: float, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
    """Holds out a share of the classes, all images of each.

    Only classes with at least two images are held out, because retrieval needs a query and
    something to find. Each side keeps at least two classes.

    Args:
        dataset: Labeled images.
        fraction: Share of the classes to hold out, in (0, 1).
        seed: Chooses the classes.

    Returns:
        `(rest, held_out)`, each labeled 0..C-1.

    Raises:
        DataError: No labels, or too few classes.
        ConfigError: `fraction` lies outside (0, 1).

    Examples:
        >>> import numpy as np
        >>> data = ImageDataset(np.zeros((10, 4, 4), np.uint8), np.repeat(range(5), 2), mode="L")
        >>> rest, held_out = split_classes(data, 0.4)
        >>> rest.num_classes, held_out.num_classes
        (3, 2)
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"fraction must lie between 0 and 1, got {fraction}")
    labels = dataset.known_labels()
    present, sizes = np.unique(labels, return_counts=True)
    eligible = present[sizes >= 2]
    if len(present) < 2 * MIN_CLASSES or len(eligible) < MIN_CLASSES:
        raise DataError(
            f"split_classes needs at least {2 * MIN_CLASSES} classes, {MIN_CLASSES} of them with "
            f"two images or more; got {len(present)} and {len(eligible)}; add classes or do "
            "without a held-out part"
        )
    wanted = min(max(round(fraction * len(present)), MIN_CLASSES), len(present) - MIN_CLASSES)
    chosen = np.random.default_rng(seed).permutation(eligible)[:wanted]
    held_out = np.isin(labels, chosen)
    return dataset.subset(~held_out).relabel(), dataset.subset(held_out).relabel()


def split_validation(
    dataset: ImageDataset, fraction: float, seed: int = 0
) -> tuple[ImageDataset, ImageDataset | None]:
    """`split_classes`, or the whole dataset and None where `fraction` is 0."""
    return (dataset.relabel(), None) if fraction == 0 else split_classes(dataset, fraction, seed)
