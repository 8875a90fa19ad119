"""CompCars: models of cars, the pool of Cars-196 in the paper."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from ...exceptions import ConfigError, DataError
from ..decoding import IMAGE_SUFFIXES
from .base import CatalogueDataset, Counts, Source, words
from .reading import Listing, read_mat, read_rows

NAMES = "misc/make_model_name.mat"
LAYOUT = "make_id/model_id/year/image"
MAKES = {
    "benz": "mercedes benz",
    "buck": "buick",
    "bwm": "bmw",
    "lamorghini": "lamborghini",
    "vw": "volkswagen",
}
"""Makes that CompCars writes in its own way (the spelling mistakes are its own), as Cars-196 writes them."""


class CompCars(CatalogueDataset):
    """CompCars, web images (Yang et al., CVPR 2015): models of cars, named `"make/model"`.

    Classes are ordered by make id, then model id. There is no retrieval protocol: the halves are our
    convention. The images of parts of cars and of surveillance cameras are not read.

    Args:
        root: The folder that holds compcars (what data.zip unpacks to), or that folder.
        split: `"train"`, `"test"` or `"all"`.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        complete: Whether all of it must be there.
        exclude: Names of Cars-196 classes of which no image is wanted; see `same_classes`.
        download: Not possible: its owners ask for an agreement.
        part: `"classification"`, the 30,955 images of 431 models that train_test_split/classification lists,
            or `"all"`, every image below `image`: about 136,700 of 1,716 models.

    Raises:
        DataError: The data set is missing, incomplete or damaged.
        ConfigError: `split`, `part`, `exclude` or `mode` cannot be used.

    Examples:
        >>> CompCars("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: CompCars: root 'no/such/folder' holds no 'compcars'; download ...
    """

    source = Source(
        address="http://mmlab.ie.cuhk.edu.hk/datasets/comp_cars/index.html",
        files="all files named data.*",
        folders=("compcars", "CompCars"),
        markers=(NAMES, f"data/{NAMES}"),
        archives={"data.zip": None},
        unpack="cd '{folder}' && zip -F data.zip --out all.zip && unzip all.zip  # asks for a password",
    )
    counts_of: ClassVar[dict[str, Counts]] = {
        "classification": Counts(images=(30_955,), classes=431),
        # The paper and the project's page say 136,726, papers that use it also 136,727.
        "all": Counts(images=(136_726, 136_727), classes=1_716),
    }

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "all",
        transform: Callable[[Image.Image], Any] | None = None,
        mode: str = "RGB",
        complete: bool = True,
        exclude: Iterable[str] = (),
        download: bool = False,
        part: str = "classification",
    ) -> None:
        if part not in self.counts_of:
            raise ConfigError(f"part must be one of {tuple(self.counts_of)}, got {part!r}")
        self.part = part
        super().__init__(root, split, transform, mode, complete, exclude, download)

    @classmethod
    def same_classes(cls, classes: Sequence[str], others: Iterable[str]) -> list[bool]:
        """Which of `classes` are the same car as one of `others`, by their names.

        A class is the same where the words of its make and model stand one after another in the other
        name without its year. Five makes are spelled as Cars-196 does first (`MAKES`), and the words
        "abroad version" do not count. The paper does not publish its filter; this one is ours.

        Args:
            classes: Names `"make/model"`.
            others: Names of Cars-196.

        Returns:
            One truth value for each of `classes`.

        Examples:
            >>> cars = ["BMW X5 SUV 2007", "Audi A5 Coupe 2012"]
            >>> CompCars.same_classes(["BWM/BWM X5", "Audi/A5 coupe", "Audi/Audi A5 hatchback"], cars)
            [True, True, False]
        """
        known = [f" {words(re.sub(r'[0-9]{4}$', '', other.strip()))} " for other in others]
        cars = [f" {_car(name)} " for name in classes]
        return [any(car in other for other in known) for car in cars]

    def _published(self) -> Counts:
        return self.counts_of[self.part]

    def _read(self, base: Path) -> Listing:
        if not (base / NAMES).exists() and (base / "data").is_dir():
            base /= "data"  # as data.zip has it
        makes, models = map(_texts, read_mat(base / NAMES, "make_names", "model_names"))
        cars = dict(_listed(base) if self.part == "classification" else _found(base / "image"))
        names = {
            (make, model): f"{makes[make - 1]}/{models[model - 1]}"
            for make, model in sorted(set(cars.values()))
            if 1 <= make <= len(makes) and 1 <= model <= len(models) and makes[make - 1] and models[model - 1]
        }
        return Listing([os.path.join(base, "image", file) for file in cars], list(cars.values()), names)


def _listed(base: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The images of the classification lists, with make and model id."""
    seen = set()
    for half in ("train", "test"):
        file = base / "train_test_split" / "classification" / f"{half}.txt"
        for number, (path,) in read_rows(file, LAYOUT).items():
            car = _car_ids(path)
            if car is None:
                raise DataError(f"{str(file)!r}, line {number}: expected '{LAYOUT}', got {path!r}")
            if path in seen:
                raise DataError(f"{str(file)!r}, line {number}: {path} is listed twice; unpack it again")
            seen.add(path)
            yield path, car


def _found(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every image below `folder`, with make and model id."""
    files = []
    for here, _, names in os.walk(folder):
        relative = Path(here).relative_to(folder).as_posix()
        files += [f"{relative}/{name}" for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise DataError(f"{str(folder)!r} holds no images; unpack data.zip again")
    for path in sorted(files):
        car = _car_ids(path)
        if car is None:
            raise DataError(f"{str(folder / path)!r} is not '{LAYOUT}'; unpack data.zip again")
        yield path, car


def _car_ids(path: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)/(\d+)/[^/]+/[^/]+", path)
    return (int(match[1]), int(match[2])) if match else None


def _texts(column: Any) -> list[str]:
    """Names, "" for ids that are not used: MATLAB has empty arrays there."""
    return [str(cell).strip() if isinstance(cell, str) else "" for cell in column]


def _car(name: str) -> str:
    """Make and model as Cars-196 writes them; models often repeat the make."""
    make, _, model = name.partition("/")
    make, model = words(make), words(model)
    model = model.removesuffix(" abroad version")
    model = f"{model} ".removeprefix(f"{make} ").strip()
    return f"{MAKES.get(make, make)} {model}".strip()
