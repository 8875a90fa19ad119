"""Files that a stranger may have written: read as data, and only where their sizes are known beforehand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 24
"""Of a file of text in a run's folder."""


def read_bytes(file: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file that may have grown beyond what it should be.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than `most` bytes.

    Examples:
        >>> read_bytes(Path(__file__), most=10)
        Traceback (most recent call last):
        ValueError: it has more than 10 bytes
    """
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
