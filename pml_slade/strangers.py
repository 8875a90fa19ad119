"""Files that a stranger may have written: read as data, and only where their sizes are known beforehand."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 24
"""Of a file of text in a run's folder."""


def check_file(file: Path) -> None:
    """Refuse a pipe or a device, which would be waited for, or never ends.

    Raises:
        ValueError: it is there, and no file.

    Examples:
        >>> check_file(Path("/dev/zero"))
        Traceback (most recent call last):
        ValueError: it is no regular file
    """
    if file.exists() and not file.is_file():
        raise ValueError("it is no regular file")


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Make sure that what lies in a folder are files and folders, and that no link leads out of it.

    Args:
        folder: may be a link itself.
        names: of what is looked at in it, with all that is below.

    Raises:
        ValueError: says what there is.
    """
    root = os.path.realpath(folder)
    for path in (path for name in names for path in _all_of(folder / name)):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            raise ValueError(f"{path} is a link that leads out of {folder}")
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is no regular file")


def _all_of(path: Path) -> Iterator[Path]:
    """A path and all below it; links are not followed."""
    yield path
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in [*folders, *files])


def read_bytes(file: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file that may have grown beyond what it should be.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or has more than `most` bytes.

    Examples:
        >>> read_bytes(Path(__file__), most=10)
        Traceback (most recent call last):
        ValueError: it has more than 10 bytes
    """
    check_file(file)
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most} bytes")
    return content


def read_json(file: Path, most: int = MOST_BYTES) -> Any:
    """Read a JSON file, see `read_bytes`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no JSON.
    """
    try:
        return json.loads(read_bytes(file, most))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_zip(file: Path) -> None:
    """Make sure that what a file of `torch.save` unpacks to is no larger than the file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no zip file, or packed: `torch.save` does not pack.
    """
    try:
        with zipfile.ZipFile(file) as opened:
            entries = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from None
    total = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or total > file.stat().st_size:
        raise ValueError("it would unpack to more than it holds")
