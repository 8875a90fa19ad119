"""Datasets in the form in which powerful-benchmarker takes them: dicts of data and label, with `labels`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..datasets import CATALOGUE, ImageDataset, Splits, glyphs_splits, omniglot_splits, open_images
from ..exceptions import ConfigError, DataError


class LabeledImages(Dataset[dict[str, Any]]):
    """Training classes, then test classes, as one dataset of ``{"data": image, "label": class}``.

    Args:
        train: labeled images of the classes that the folds are made of.
        test: labeled images of other classes, the test set of every fold.
        transform: applied to each PIL image.

    Attributes:
        labels: (N,) classes; those of `test` follow those of `train`.
        test_labels: the classes of the test set, which `GivenTestSplitManager` reads.

    Examples:
        >>> images = ImageDataset(np.zeros((4, 8, 8), np.uint8), [0, 0, 1, 1], mode="L")
        >>> data = LabeledImages(images, images)
        >>> len(data), data[7]["label"], data.test_labels.tolist()
        (8, 3, [2, 3])
    """

    def __init__(
        self, train: ImageDataset, test: ImageDataset, transform: Callable[[Any], Any] | None = None
    ) -> None:
        self.parts = (train.relabel(), test.relabel())
        offset = self.parts[0].num_classes
        self.labels = np.concatenate([self.parts[0].known_labels(), self.parts[1].known_labels() + offset])
        self.test_labels = np.unique(self.labels[len(train) :])
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, second = self.parts
        image = first.image(index) if index < len(first) else second.image(index - len(first))
        return {
            "data": image if self.transform is None else self.transform(image),
            "label": int(self.labels[index]),
        }


class WithPool(LabeledImages):
    """Labeled images that bring a pool of their own; `pool: null` in YAML takes it."""

    def __init__(self, splits: Splits, transform: Callable[[Any], Any] | None) -> None:
        assert splits.test is not None
        super().__init__(splits.labeled, splits.test, transform)
        self.pool = splits.unlabeled.without_labels()


class Omniglot(WithPool):
    """Omniglot: a few background alphabets labeled, the others the pool, tested on the evaluation ones.

    Args:
        root: folder that holds images_background and images_evaluation.
        labeled_alphabets: how many, or which.
        seed: chooses them.
        image_size: side in pixels.
        transform: applied to each PIL image, mode "L".
        download: fetch the images if they are not there.
    """

    def __init__(
        self,
        root: str,
        transform: Callable[[Any], Any] | None = None,
        labeled_alphabets: int | Sequence[str] = 5,
        seed: int = 0,
        image_size: int = 28,
        download: bool = False,
    ) -> None:
        named = labeled_alphabets if isinstance(labeled_alphabets, int) else tuple(labeled_alphabets)
        super().__init__(_omniglot(root, named, seed, image_size, download), transform)


class Glyphs(WithPool):
    """Letters drawn from the fonts that matplotlib installs: Latin ones labeled, other scripts the test.

    Args:
        root: not used; powerful-benchmarker gives it to every dataset.
        labeled_letters: how many Latin letters are labeled.
        seed: chooses them.
        image_size: side in pixels.
        transform: applied to each PIL image, mode "L".
        download: not used; there is nothing to fetch.
    """

    def __init__(
        self,
        root: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        labeled_letters: int = 60,
        seed: int = 0,
        image_size: int = 28,
        download: bool = False,
    ) -> None:
        super().__init__(_glyphs(labeled_letters, seed, image_size), transform)


class Images(LabeledImages):
    """Your own labeled images: folders root/class/image, or CSV lists of path,label.

    Args:
        root: folder that relative paths start from.
        train: labeled images of the classes that the folds are made of.
        test: labeled images of other classes.
        mode: "RGB" or "L".
        transform: applied to each PIL image.
        download: not used; there is nothing to fetch.
    """

    def __init__(
        self,
        root: str,
        train: str,
        test: str,
        transform: Callable[[Any], Any] | None = None,
        mode: str = "RGB",
        download: bool = False,
    ) -> None:
        try:
            first, second = (
                open_images(_below(root, path), mode=mode, labeled=True) for path in (train, test)
            )
        except DataError as error:
            raise DataError(f"dataset Images: {error}") from error
        super().__init__(first, second, transform)


class ImagePool:
    """A pool of unlabeled images: a folder of images at any depth, or a CSV with a column path.

    Args:
        root: folder that a relative `path` starts from.
        path: the folder or the CSV.
        mode: "RGB" or "L".
    """

    def __init__(self, root: str, path: str, mode: str = "RGB") -> None:
        self.pool = open_images(_below(root, path), mode=mode, labeled=False)


class CataloguePool:
    """A pool of unlabeled images: a whole data set of the catalogue.

    Args:
        root: folder that holds the data sets.
        name: the data set.
        exclude: another one, of whose test classes no image is wanted.
        complete: whether all of both must be there.
        options: what else the loader of `name` takes, as `part` of CompCars.
    """

    def __init__(
        self, root: str, name: str, exclude: str | None = None, complete: bool = True, **options: Any
    ) -> None:
        for key, given in (("name", name), ("exclude", exclude)):
            if given is not None and given not in CATALOGUE:
                raise ConfigError(f"pool: {key} must be one of {', '.join(CATALOGUE)}, got {given!r}")
        unknown = sorted(options.keys() - _own_options(name))
        if unknown:
            known = sorted({"exclude", "complete", *_own_options(name)})
            raise ConfigError(f"pool: CataloguePool of {name} does not take {unknown}; it takes {known}")
        test = None if exclude is None else _catalogue(exclude, root, "test", complete=complete)
        names = tuple(test.classes or ()) if test is not None else ()
        data = _catalogue(name, root, "all", complete=complete, exclude=names, **options)
        self.pool = data.without_labels()


class AsDicts(Dataset[dict[str, Any]]):
    """Any dataset of (data, label), with the dicts that powerful-benchmarker's data getter reads."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, Any]:
        data, label = self.dataset[index]
        return {"data": data, "label": label}


def _labeled(name: str) -> type[LabeledImages]:
    """A data set of the catalogue, its train and test classes, in the form that YAML can name."""

    def read(self: LabeledImages, root: str, transform: Any = None, **options: Any) -> None:
        try:
            train, test = (_catalogue(name, root, split, **options) for split in ("train", "test"))
        except DataError as error:
            raise DataError(f"dataset {error}") from error
        LabeledImages.__init__(self, train, test, transform)

    # What check_settings reads.
    taken = ["self", "root", "transform", "download", "complete", *sorted(_own_options(name))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    read.__signature__ = inspect.Signature([inspect.Parameter(key, kind) for key in taken])  # type: ignore[attr-defined]
    doc = f"Train and test classes of `pml_slade.datasets.{name}`, which takes {', '.join(taken[1:])}."
    return type(name, (LabeledImages,), {"__init__": read, "__doc__": doc, "__module__": __name__})


def _own_options(name: str) -> set[str]:
    """Arguments that not every loader of the catalogue takes."""
    shared = inspect.signature(CATALOGUE["CUB200"]).parameters
    return set(inspect.signature(CATALOGUE[name]).parameters) - set(shared)


def _below(root: str, path: str) -> Path:
    return Path(root) / Path(path).expanduser()


# A run makes the dataset anew for each transform and split; the images are the same.
@lru_cache(maxsize=2)
def _omniglot(root: str, labeled: int | tuple[str, ...], seed: int, size: int, download: bool) -> Splits:
    return omniglot_splits(root, labeled, seed, validation_fraction=0, image_size=size, download=download)


@lru_cache(maxsize=2)
def _glyphs(labeled: int, seed: int, size: int) -> Splits:
    return glyphs_splits(size, labeled, seed, validation_fraction=0)


@lru_cache(maxsize=8)
def _catalogue(name: str, root: str, split: str, **options: Any) -> ImageDataset:
    return CATALOGUE[name](root, split, **options)


FROM_CATALOGUE = {name: _labeled(name) for name in CATALOGUE}
"""Data sets of the catalogue by name."""
