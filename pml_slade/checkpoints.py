"""Files that are whole or not there: atomic writes, and checkpoints that prove themselves on load.

A checkpoint is one file: what `torch.save` writes, then a magic word and the SHA-256 of it. The
digest comes last, so a file that was cut anywhere cannot pass for a complete one.
"""

import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import numpy as np
import torch
from torch import Tensor

from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.strangers import check_file, check_zip

logger = logging.getLogger("pml_slade")

_MAGIC = b"pml_slade.ckpt.1"
_DIGEST_SIZE = hashlib.sha256().digest_size
_FOOTER_SIZE = len(_MAGIC) + _DIGEST_SIZE
_CHUNK = 1 << 22
_NAME = re.compile(r"checkpoint-(\d+)\.pt")
_NDARRAY = "__ndarray__"
_ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: the file; its folder is made where it is missing.
        data: the whole content.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> write_atomic(path, b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    with _atomic_file(Path(path)) as file:
        file.write(data)


def write_array_atomic(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an array as `numpy.load` reads it, atomically (see `write_atomic`).

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.npy"
        >>> write_array_atomic(path, np.arange(3))
        >>> np.load(path)
        array([0, 1, 2])
    """
    with _atomic_file(Path(path)) as file:
        np.save(file, array)


def write_arrays_atomic(path: str | os.PathLike[str], **arrays: Any) -> None:
    """Write arrays by name as `numpy.savez` does, atomically (see `write_atomic`)."""
    # On a full disk, `savez` of older numpy leaves the archive open, and Python tells of it once more.
    with _atomic_file(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


@contextmanager
def text_file_atomic(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a new UTF-8 file for csv, which takes its name when the block ends without an error.

    File names that are not UTF-8 are escaped, see `escaped`.
    """
    with _atomic_file(Path(path)) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        yield text
        text.flush()
        text.detach()


def write_json_atomic(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented JSON, atomically (see `write_atomic`).

    Args:
        path: the file; its folder is made where it is missing.
        obj: anything `json.dumps` takes.

    Raises:
        TypeError: `obj` holds what JSON cannot; the file is left as it was.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.json"
        >>> write_json_atomic(path, {"stage": "teacher"})
        >>> json.loads(path.read_text())
        {'stage': 'teacher'}
    """
    write_atomic(path, (json.dumps(obj, indent=2) + "\n").encode())


def escaped(name: str) -> str:
    """Return a file's name as valid UTF-8: bytes that are none become, for example, ``\\udcff``.

    Examples:
        >>> print(escaped("caf\\udce9.png"))
        caf\\udce9.png
    """
    if name.isascii():
        return name
    with suppress(UnicodeEncodeError):  # it is no file's name here
        name = os.fsencode(name).decode("utf-8", "surrogateescape")  # whatever the locale makes of the bytes
    return name.encode("utf-8", "backslashreplace").decode()


def unescaped(name: str) -> str:
    """Return the file name that `escaped` gave this text for, as this locale has it.

    Examples:
        >>> unescaped(escaped("caf\\udce9.png")) == "caf\\udce9.png"
        True
    """
    text = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "empty"
        >>> write_atomic(path, b"")
        >>> file_digest(path)[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def free_space(folder: str | os.PathLike[str]) -> tuple[Path, int]:
    """Return where a folder would be made, and the bytes that are free there.

    Examples:
        >>> there, free = free_space("/a/folder/to/come")
        >>> there.is_dir(), free > 0
        (True, True)
    """
    path = Path(folder).absolute()
    there = next(parent for parent in (path, *path.parents) if parent.is_dir())
    return there, shutil.disk_usage(there).free


def as_size(number: int) -> str:
    """Bytes in words.

    Examples:
        >>> as_size(100), as_size(3 << 20), as_size(1 << 41)
        ('0.1 KiB', '3.0 MiB', '2048.0 GiB')
    """
    unit = min(max(number.bit_length() - 1, 10) // 10, 3)
    return f"{number / (1 << 10 * unit):.1f} {'KMG'[unit - 1]}iB"


class Checkpoints:
    """The newest few states of one run, in one folder, written by one process.

    Args:
        folder: where `checkpoint-<step>.pt` files go; made at the first save.
        keep: how many of the newest checkpoints stay.

    Raises:
        ConfigError: `keep` is below 1.

    Examples:
        >>> import tempfile
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> checkpoints.load_latest() is None
        True
        >>> path = checkpoints.save({"epoch": 3, "weight": torch.ones(2)}, step=3)
        >>> checkpoints.load_latest()
        (3, {'epoch': 3, 'weight': tensor([1., 1.])})
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ConfigError(f"keep is {keep}; keep at least 1 checkpoint.")
        self.folder = Path(folder)
        self.keep = keep

    def save(self, state: Mapping[Any, Any], step: int) -> Path:
        """Write the state of `step`; then delete what is older than the `keep` newest.

        Args:
            state: nested dicts, lists and tuples of tensors, numpy arrays, numbers, strings
                and None. Dicts come back as plain dicts, arrays as arrays, tensors on CPU.
            step: a number that grows from save to save; saving the same step again replaces it.

        Returns:
            The path of the checkpoint.

        Raises:
            ConfigError: `step` is no whole number >= 0, `state` holds an object of another type,
                or the folder has a sound checkpoint of a later step.
        """
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ConfigError(f"step is {step!r}; pass a whole number, 0 or more.")
        encoded = _encode(state, "state")
        self._drop_damaged_after(step)
        path = self.folder / f"checkpoint-{step}.pt"
        with _atomic_file(path) as file:
            hashing = _HashingFile(file)
            hashing.save(encoded)
            file.write(_MAGIC + hashing.digest())
        self._clean()
        return path

    def load_latest(self) -> tuple[int, dict[Any, Any]] | None:
        """Read the newest checkpoint that is whole; a damaged one is skipped with a warning.

        Returns:
            (step, state), or None where the folder has no checkpoint yet.

        Raises:
            CheckpointError: there are checkpoints, and every one of them is damaged.
        """
        damaged: list[str] = []
        for step, path in self._found():
            try:
                state = _read(path)
            except CheckpointError as error:
                logger.warning("Skipped a damaged checkpoint: %s", error)
                damaged.append(str(error))
            else:
                return step, state
        if damaged:
            raise CheckpointError(
                f"Every checkpoint in {self.folder} is damaged: {'; '.join(damaged)}. "
                "Restore one from a copy, or delete them to start from the beginning."
            )
        return None

    @property
    def newest(self) -> int:
        """The step of the newest checkpoint, 0 before there is one."""
        return next((step for step, _ in self._found()), 0)

    def _found(self) -> list[tuple[int, Path]]:
        """Checkpoints by step, newest first."""
        if not self.folder.is_dir():
            return []
        matches = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)

    def _drop_damaged_after(self, step: int) -> None:
        # After a fall-back the damaged later file is still there: it would count as the newest.
        for later, path in self._found():
            if later <= step:
                return
            try:
                _verify(path)
            except CheckpointError:
                path.unlink(missing_ok=True)
            else:
                raise ConfigError(
                    f"step is {step}, and {path} is of a later step. Go on from load_latest(), "
                    "or use another folder."
                )

    def _clean(self) -> None:
        old = [path for _, path in self._found()[self.keep :]]
        # Only a killed writer leaves one of these: this process has just renamed its own.
        stale = self.folder.glob(".checkpoint-*.tmp")
        for path in [*old, *stale]:
            path.unlink(missing_ok=True)


@contextmanager
def _atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its name when the block ends without an error."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # a device would be replaced, too
        raise FileExistsError(errno.EEXIST, "It is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)  # a full disk does not say where it is
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is journaled
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _HashingFile:
    """What `torch.save` needs of a file, hashing as it passes: the state is never held twice."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._error: OSError | None = None

    def save(self, obj: Any) -> None:
        try:
            torch.save(obj, cast(BinaryIO, self))
        except RuntimeError:
            if self._error is None:
                raise
            raise self._error from None  # torch does not say that the disk is full

    def write(self, data: Any) -> int:
        self._hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> bytes:
        return self._hash.digest()


def _verify(path: Path) -> None:
    try:
        check_file(path)
        with path.open("rb") as file:
            remaining = path.stat().st_size - _FOOTER_SIZE
            if remaining <= 0:
                raise CheckpointError(f"{path} is empty or cut short")
            content = hashlib.sha256()
            while remaining and (chunk := file.read(min(_CHUNK, remaining))):
                content.update(chunk)
                remaining -= len(chunk)
            footer = file.read()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    if not footer.startswith(_MAGIC):
        raise CheckpointError(f"{path} is cut short, or not a checkpoint of this package")
    if footer != _MAGIC + content.digest():
        raise CheckpointError(f"{path} does not match its SHA-256")


def _read(path: Path) -> dict[Any, Any]:
    _verify(path)
    try:
        check_zip(path)
        state = _decode(torch.load(path, map_location="cpu", weights_only=True))
        if not isinstance(state, dict):
            raise TypeError("it holds no state")
        return state
    except MemoryError:
        raise
    except Exception as error:  # whatever the parts of a forged file make torch do
        raise CheckpointError(f"{path} cannot be read by torch {torch.__version__}") from error


def _encode(value: Any, where: str) -> Any:
    """Turn a state into what `torch.load(weights_only=True)` accepts; `where` names the place."""
    if isinstance(value, Tensor):
        value = value.detach()
        # A view would drag its whole storage into the file.
        is_view = value.layout == torch.strided and (
            value.untyped_storage().nbytes() > value.numel() * value.element_size()
        )
        return value.clone() if is_view else value
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        raw: Any = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8) if value.size else []
        return {_NDARRAY: value.dtype.str, "shape": list(value.shape), "raw": raw}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        items = value.items()
        return {_encode_key(k, where): _encode(v, f"{where}[{k!r}]") for k, v in items}
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        encoded = [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return encoded if isinstance(value, list) else tuple(encoded)
    plain = (bool, int, float, str, torch.Size, torch.dtype, torch.device)
    # Exact types: a subclass, an enum for one, would be pickled as code.
    if value is None or type(value) in plain:
        return value
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold; pass tensors, "
        "arrays, numbers, strings, None, and dicts, lists and tuples of these."
    )


def _encode_key(key: Any, where: str) -> Any:
    if type(key) in (str, int, float, bool) and key != _NDARRAY:
        return key
    raise ConfigError(f"{where} has the key {key!r}; use strings or numbers.")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if _NDARRAY in value:
            raw = value["raw"].numpy().tobytes() if len(value["raw"]) else b""
            array = np.frombuffer(bytearray(raw), dtype=np.dtype(value[_NDARRAY]))
            return array.reshape(value["shape"])
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        decoded = [_decode(item) for item in value]
        return decoded if isinstance(value, list) else tuple(decoded)
    return value
