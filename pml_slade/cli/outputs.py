"""Files that commands write: refused before anything is computed, whole or not there at the end."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..exceptions import ConfigError


def check_output(path: Path, suffixes: Iterable[str]) -> None:
    """Refuse a file that could not be written, or whose suffix names a format that is not written.

    Args:
        path: to write; without a suffix, it gets the first format.
        suffixes: in lower case, with their dot.

    Raises:
        ConfigError: says what to give.

    Examples:
        >>> check_output(Path("vectors.txt"), [".npz", ".csv"])
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: output: vectors.txt ends in .txt; give a name in .npz or .csv.
    """
    known = list(suffixes)
    suffix = path.suffix.lower()
    if suffix and suffix not in known:
        raise ConfigError(f"output: {path} ends in {suffix}; give a name in {' or '.join(known)}.")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError(
            f"output: {path}: a .parquet file needs pyarrow: pip install pyarrow, or give .npz."
        )
    check_place(path)


def check_place(path: Path, folder: bool = False) -> None:
    """Refuse a file, or a folder, that could not be written.

    Args:
        path: to write.
        folder: it is a folder, which may be there already.

    Raises:
        ConfigError: says what to give.

    Examples:
        >>> check_place(Path(__file__), folder=True)
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: output: ... is a file; give the name of a folder.
    """
    if folder and path.exists() and not path.is_dir():
        raise ConfigError(f"output: {path} is a file; give the name of a folder.")
    if path.is_dir() and not folder:
        raise ConfigError(f"output: {path} is a folder; give the name of a file.")
    if path.exists() and not path.is_file() and not folder:
        raise ConfigError(f"output: {path} is no regular file; give another name.")
    _check_folder(path if path.is_dir() else path.absolute().parent, path)


def _check_folder(folder: Path, path: Path) -> None:
    folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not folder.is_dir():
        raise ConfigError(f"output: {folder} is no folder, so that {path} cannot lie in it.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"output: no permission to write to {folder}; give another place for {path.name}.")


def write_embeddings(path: Path, vectors: Any, names: Sequence[str]) -> None:
    """Write embeddings and the names of their images, in the format of the suffix.

    Args:
        path: .npz has arrays `embeddings` and `names`; .csv a column `path`, then `e0`, `e1`, ...; .parquet
            columns `path` and `embedding`.
        vectors: float32 (N, d).
        names: N.
    """
    EMBEDDING_WRITERS[path.suffix.lower() or ".npz"](path, vectors, names)


def _write_npz(path: Path, vectors: Any, names: Sequence[str]) -> None:
    from ..checkpoints import write_arrays_atomic

    write_arrays_atomic(path, embeddings=vectors, names=names)


def _write_csv(path: Path, vectors: Any, names: Sequence[str]) -> None:
    rows = ([name, *(f"{value:.9g}" for value in row)] for name, row in zip(names, vectors.tolist()))
    write_table(path, ["path", *(f"e{i}" for i in range(vectors.shape[1]))], rows)


def _write_parquet(path: Path, vectors: Any, names: Sequence[str]) -> None:
    import io

    import pandas as pd

    from ..checkpoints import escaped, write_atomic

    content = io.BytesIO()
    pd.DataFrame({"path": [escaped(name) for name in names], "embedding": list(vectors)}).to_parquet(content)
    write_atomic(path, content.getvalue())


EMBEDDING_WRITERS: dict[str, Callable[[Path, Any, Sequence[str]], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file in UTF-8; of a file name that is none, the bytes are escaped, see `checkpoints`."""
    from ..checkpoints import escaped, text_file_atomic

    with text_file_atomic(path) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([escaped(str(cell)) for cell in row] for row in rows)
