"""Cars-196: 196 models of cars by year."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from .base import CatalogueDataset, Counts, Source
from .compcars import CompCars
from .reading import Listing, read_mat

ANNOTATIONS = "cars_annos.mat"
META = "devkit/cars_meta.mat"
TEST_ANNOTATIONS = "cars_test_annos_withlabels.mat"


class Cars196(CatalogueDataset):
    """Stanford Cars (Krause et al., 2013): 196 makes, models and years, 16,185 images.

    Train and test are the first and the last 98 classes, as is usual in retrieval, not the official parts
    of each class. Two layouts are read: cars_annos.mat with car_ims; and the one of torchvision's
    StanfordCars, cars_train, cars_test and devkit with cars_test_annos_withlabels.mat beside or in it.

    Args:
        root: The folder that holds cars196 or stanford_cars, or that folder.
        split: `"train"`, `"test"` or `"all"`.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        complete: Whether all of it must be there.
        exclude: Names of classes of which no image is wanted.
        download: Not possible: the official address is gone.

    Raises:
        DataError: The data set is missing, incomplete or damaged.
        ConfigError: `split`, `exclude` or `mode` cannot be used.

    Examples:
        >>> Cars196("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: Cars196: root 'no/such/folder' holds no 'cars196'; download ...
    """

    source = Source(
        address="https://ai.stanford.edu/~jkrause/cars/car_dataset.html (gone; see its copies)",
        files="car_ims.tgz and cars_annos.mat",
        folders=("cars196", "stanford_cars"),
        markers=(ANNOTATIONS, META),
        archives={
            "car_ims.tgz": "d5c8f0aa497503f355e17dc7886c3f14",
            "cars_train.tgz": "065e5b463ae28d29e77c1b4b166cfe61",
            "cars_test.tgz": "4ce7ebf6a94d07f1952d94dd34c4d501",
            "car_devkit.tgz": "c3b158d763b6e2245038c8ad08e45376",
        },
    )
    counts = Counts(images=(16_185,), classes=196)

    @classmethod
    def same_classes(cls, classes: Sequence[str], others: Iterable[str]) -> list[bool]:
        """As `CompCars.same_classes`, the other way round, where `others` are names of CompCars."""
        names = list(others)
        if not all("/" in name for name in names):  # as all of CompCars have, and few of these
            return super().same_classes(classes, names)
        return [any(CompCars.same_classes(names, [name])) for name in classes]

    def _read(self, base: Path) -> Listing:
        if (base / ANNOTATIONS).exists() or not (base / META).exists():
            fields = ("annotations.relative_im_path", "annotations.class", "class_names")
            files, ids, names = read_mat(base / ANNOTATIONS, *fields)
        else:
            files, ids, names = self._read_devkit(base)
        paths = [os.path.join(base, str(file)) for file in files]
        classes = {number: str(name) for number, name in enumerate(names, start=1)}
        return Listing(paths, ids.astype(int).tolist(), classes)

    def _read_devkit(self, base: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (names,) = read_mat(base / META, "class_names")
        within = base / "devkit" / TEST_ANNOTATIONS
        test = within if within.exists() else base / TEST_ANNOTATIONS
        files, ids = [], []
        for folder, mat in (("cars_train", base / "devkit" / "cars_train_annos.mat"), ("cars_test", test)):
            found, classes = read_mat(mat, "annotations.fname", "annotations.class")
            files += [f"{folder}/{name}" for name in found]
            ids.append(classes)
        return np.array(files), np.concatenate(ids), names
