"""Annotation files: lines, MATLAB variables, and what they say about the images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat

from ...exceptions import DataError


class Listing(NamedTuple):
    """What the annotation files say.

    Attributes:
        paths: Image files.
        ids: The class id of each.
        names: Class names by class id, in official order; classes without images may be among them.
        statuses: The official part that each image is of, where there is one.
        lines: How many images the files list, where some are listed twice; 0: as many as `paths`.
    """

    paths: list[str]
    ids: Sequence[Any]
    names: dict[Any, str]
    statuses: Sequence[str] | None = None
    lines: int = 0

    def at(self, rows: Iterable[int]) -> Listing:
        """The images at `rows`."""
        chosen = list(rows)
        statuses = None if self.statuses is None else [self.statuses[row] for row in chosen]
        return Listing([self.paths[i] for i in chosen], [self.ids[i] for i in chosen], self.names, statuses)

    def present(self) -> dict[Any, str]:
        """Names of the classes that have images, in official order; one used twice is followed by its id."""
        used = set(self.ids)
        names = {key: name for key, name in self.names.items() if key in used}
        counts = Counter(names.values())
        return {key: name if counts[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def check_listing(listing: Listing) -> None:
    """Checks that every class id has a name, and that no image is listed twice.

    Args:
        listing: What was read.

    Raises:
        DataError: Tells how many, and names up to three.
    """
    nameless = sorted({key for key in listing.ids if key not in listing.names})
    if nameless:
        raise DataError(f"{len(nameless)} class ids have no name, e.g. {nameless[:3]}; unpack it again")
    twice = [path for path, count in Counter(listing.paths).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} images are listed twice, e.g. {twice[:3]}; unpack it again")


def read_text(file: Path) -> str:
    """The text of an annotation file.

    Args:
        file: The file.

    Returns:
        Its text.

    Raises:
        DataError: It is missing or no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"annotation file {str(file)!r} is missing; unpack it again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(file)!r} cannot be read ({error}); unpack it again") from error


def read_rows(file: Path, columns: str, separator: str | None = None, skip: int = 0) -> dict[int, list[str]]:
    """The lines of an annotation file.

    Args:
        file: A text file.
        columns: Names of its columns, separated by spaces; the last one takes the rest of a line.
        separator: What separates the columns; None: any white space.
        skip: Number of header lines.

    Returns:
        The fields of each line that is not blank, by line number.

    Raises:
        DataError: The file is missing, unreadable or empty, or a line has too few fields.
    """
    count = len(columns.split())
    rows = {}
    for number, line in enumerate(read_text(file).split("\n")[skip:], start=skip + 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.strip().split(separator, count - 1)]
        if len(fields) != count or not all(fields):
            raise DataError(f"{str(file)!r}, line {number}: expected '{columns}', got {line.strip()!r}")
        rows[number] = fields
    if not rows:
        raise DataError(f"{str(file)!r} lists nothing; unpack it again")
    return rows


def read_lists(base: Path) -> Listing:
    """Reads images.txt, image_class_labels.txt and classes.txt, as CUB-200-2011 and NABirds have them.

    Args:
        base: The folder with these files and `images`.

    Returns:
        The images in the order of images.txt, the classes in that of classes.txt.

    Raises:
        DataError: A file is missing or malformed, or their ids do not fit each other.
    """
    images = _by_id(base / "images.txt", "image_id path")
    labels = _by_id(base / "image_class_labels.txt", "image_id class_id")
    missing = {"image_class_labels.txt": images.keys() - labels, "images.txt": labels.keys() - images}
    for file, ids in missing.items():
        if ids:
            raise DataError(
                f"{len(ids)} image ids are not in {str(base / file)!r}, e.g. {sorted(ids)[:3]}; images.txt "
                "and image_class_labels.txt do not belong together, or one is cut off: unpack both again"
            )
    names = _by_id(base / "classes.txt", "class_id name")
    paths = [os.path.join(base, "images", path) for path in images.values()]
    return Listing(paths, [labels[key] for key in images], names)


def _by_id(file: Path, columns: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, (key, value) in read_rows(file, columns).items():
        if key in found:
            raise DataError(f"{str(file)!r}, line {number}: id {key!r} is listed twice; unpack it again")
        found[key] = value
    return found


def read_mat(file: Path, *fields: str) -> list[np.ndarray]:
    """Variables of a MATLAB file.

    Args:
        file: The .mat file.
        fields: Names of variables, or `"variable.field"` for a field of a struct array.

    Returns:
        One flat array for each.

    Raises:
        DataError: The file is missing, damaged, or has no such field.
    """
    if not file.is_file():
        raise DataError(f"annotation file {str(file)!r} is missing; download it again")
    try:
        content = loadmat(file, squeeze_me=True)
    except Exception as error:  # on damaged files scipy raises nearly anything
        raise DataError(
            f"{str(file)!r} cannot be read as a MATLAB file ({error}); download it again"
        ) from error
    found = []
    for field in fields:
        value: Any = content
        for name in field.split("."):
            try:
                value = value[name]
            except (KeyError, ValueError, IndexError) as error:
                there = [key for key in content if not key.startswith("__")]
                raise DataError(f"{str(file)!r} has no field {field!r}; it holds {there}") from error
        found.append(np.atleast_1d(value))
    return found


def missing_files(paths: Iterable[str]) -> list[str]:
    """Those of `paths` that do not exist; a folder is listed once, however many files it holds."""
    listed: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = frozenset(os.listdir(folder) if os.path.isdir(folder) else ())
        if name not in listed[folder]:
            missing.append(path)
    return missing
