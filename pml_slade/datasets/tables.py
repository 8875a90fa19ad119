"""Images listed in a CSV file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ..checkpoints import unescaped
from ..exceptions import DataError
from ..strangers import check_file
from .images import ImageDataset

TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
PATH_COLUMNS = ("path", "image", "file", "filename")
LABEL_COLUMNS = ("label", "class")
HEADER_LINES = 1


def image_csv(
    path: str | os.PathLike[str],
    transform: Callable[[Image.Image], Any] | None = None,
    mode: str = "RGB",
    labeled: bool = True,
    root: str | os.PathLike[str] | None = None,
) -> ImageDataset:
    """Reads the images that a CSV file with a header lists.

    The column `path` (or `image`, `file`, `filename`) holds paths, the column `label` (or `class`)
    class names; case does not matter, and other columns are ignored. Names that are all whole
    numbers are ordered as numbers, others as text.

    Args:
        path: The file; commas separate the columns, tabs in a .tsv file.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        labeled: False ignores the labels, which then need not be there.
        root: Folder that relative paths start from; by default the one of the CSV file.

    Returns:
        The dataset in the order of the lines; nothing is decoded yet.

    Raises:
        DataError: The file is missing, empty or no table; a column, a label or an image file is
            missing; a file is listed twice; fewer than two classes. Messages give line numbers.

    Examples:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("a.png", "b.png"):
        ...         pathlib.Path(root, name).touch()
        ...     table = pathlib.Path(root, "list.csv")
        ...     _ = table.write_text("path,label\\na.png,cat\\nb.png,dog\\n")
        ...     image_csv(table).labels
        array([0, 1])
    """
    source = Path(path)
    table = _read_table(source)
    path_column = _column(source, table, PATH_COLUMNS)
    label_column = _column(source, table, LABEL_COLUMNS) if labeled else None
    table = table[(table != "").any(axis=1)]  # blank lines
    if table.empty:
        raise DataError(f"{str(source)!r} lists no images below its header")
    _refuse(source, table.index[table[path_column] == ""], "no path", "fill it in")
    with source.open("rb") as file:  # older pandas reads a name up to its NUL, without a word
        nul = [number - 1 for number, line in enumerate(file) if b"\0" in line]
    _refuse(source, nul, "a NUL", "write the list again")
    base = source.parent if root is None else Path(root)
    paths = [_found(base / name) for name in table[path_column]]
    _refuse_repeated(source, paths, table.index)
    missing = [i for i, name in enumerate(paths) if not os.path.isfile(name)]
    if missing:
        examples = [f"{paths[i]} (line {_line(table.index[i])})" for i in missing[:3]]
        raise DataError(
            f"{str(source)!r}: {len(missing)} of {len(paths)} files are missing: "
            f"{', '.join(examples)}; relative paths start from {str(base)!r}, see `root`"
        )
    if label_column is None:
        return ImageDataset(paths, transform=transform, mode=mode)
    names = table[label_column]
    _refuse(source, table.index[names == ""], "no label", "fill it in, or use labeled=False")
    classes = _ordered(set(names))
    if len(classes) < 2:
        raise DataError(
            f"{str(source)!r} holds the single class {classes[0]!r}; labeled images need two or more"
        )
    index = {name: label for label, name in enumerate(classes)}
    return ImageDataset(paths, [index[name] for name in names], classes, transform, mode)


def _read_table(source: Path) -> pd.DataFrame:
    separator = "\t" if source.suffix.lower() == ".tsv" else ","
    try:
        check_file(source)
        # As text throughout: a class named "NA" or "007" stays what it is. Blank lines stay until
        # the line numbers of messages no longer need them.
        table = pd.read_csv(
            source,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{str(source)!r} cannot be read as a table: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(f"{str(source)!r}: lines have more fields than the header; quote commas")
    table.columns = [str(name).strip().lower() for name in table.columns]
    return table.fillna("").apply(lambda column: column.str.strip())


def _column(source: Path, table: pd.DataFrame, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.columns:
            return name
    raise DataError(
        f"{str(source)!r} has no column {names[0]!r} (nor {', '.join(names[1:])}); line 1 names "
        f"{list(table.columns)}"
    )


def _refuse(source: Path, rows: Iterable[int], what: str, remedy: str) -> None:
    """Raises when there are `rows` that have `what`."""
    lines = [_line(row) for row in rows]
    if lines:
        shown = ", ".join(map(str, lines[:3]))
        raise DataError(f"{str(source)!r}: {len(lines)} lines have {what} (line {shown}); {remedy}")


def _found(path: Path) -> str:
    """The path as it stands there; if that is no file, with the bytes that `cluster` escapes."""
    with suppress(UnicodeEncodeError):  # a locale without these letters
        if path.is_file():
            return str(path)
    return unescaped(str(path))


def _refuse_repeated(source: Path, paths: list[str], rows: Iterable[int]) -> None:
    """Raises when two lines lead to one file, be it by other names or links."""
    first: dict[str, int] = {}
    repeated = []
    for path, row in zip(paths, rows):
        earlier = first.setdefault(os.path.realpath(path), row)
        if earlier != row:
            repeated.append(f"line {_line(row)} has the file of line {_line(earlier)}, {path}")
    if repeated:
        raise DataError(
            f"{str(source)!r}: {len(repeated)} lines have a file that an earlier line has "
            f"({'; '.join(repeated[:3])}); list each image once"
        )


def _line(row: int) -> int:
    return int(row) + HEADER_LINES + 1


def _ordered(names: set[str]) -> list[str]:
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
