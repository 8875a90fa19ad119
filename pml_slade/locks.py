"""One process at a time in a folder: a lock that the system takes back when its process dies."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .exceptions import ConfigError

logger = logging.getLogger("pml_slade")

NAME = "run.lock"
FAR = 1 << 20
"""Byte that is locked where there is no fcntl; those before it can be read by others."""
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # what a stranger's link leads to would be emptied
_held: set[Path] = set()
"""Files of this process: its own locks would not stop it."""


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder for the length of the block; it is made where it is missing, and goes if it stays empty.

    The lock belongs to the process. The file `run.lock` only says which process that is. When the process
    dies, the system frees the lock, and the next one takes over.

    Args:
        folder: of a run.

    Raises:
        ConfigError: another run holds the folder; the message says which.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with locked(folder), locked(folder):
        ...     pass
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: output: ... is in use by process ...
    """
    file = Path(os.path.realpath(folder), NAME)
    if file in _held:
        raise _in_use(file, _owner())
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(file)
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)
        if os.name == "posix":  # while it is held: a process that waits for it opens a new one
            file.unlink(missing_ok=True)
        os.ftruncate(handle, 0)
        os.close(handle)
        with suppress(OSError):  # one that is empty, where nothing was written
            file.parent.rmdir()


def check_free(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that a run holds now; what it is about to write may be changing.

    Raises:
        ConfigError: says which run holds it.
    """
    file = Path(os.path.realpath(folder), NAME)
    if file in _held:  # to open and close it once more would free it
        raise _in_use(file, _owner())
    try:
        handle = os.open(file, os.O_RDWR)
    except OSError:  # none there, or none that this process may take
        return
    try:
        _lock(handle, file)
    finally:
        os.close(handle)


def _acquire(file: Path) -> int:
    """Open and lock a file, and write into it who holds it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | NO_LINK, 0o644)
        try:
            _lock(handle, file)
            if _is_still(file, handle):
                _tell_of_the_last(_read(handle), file.parent)
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, json.dumps(_owner()).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, file: Path) -> None:
    try:
        _take(handle)
    except (BlockingIOError, PermissionError):
        raise _in_use(file, _read(handle)) from None
    except OSError as error:
        logger.warning(
            "output: the file system of %s has no locks (%s): start no second run there.", file.parent, error
        )


def _take(handle: int) -> None:
    """Take the system's lock, or raise.

    It is the record lock of POSIX, which forked loader processes do not inherit: they outlive a killed run
    by seconds.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        os.lseek(handle, FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(file: Path, handle: int) -> bool:
    """Whether the name still leads to what was opened: who held it before may have removed it."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False


def _owner() -> dict[str, str]:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"process": str(os.getpid()), "host": socket.gethostname(), "since": since}


def _read(handle: int) -> dict[str, str]:
    """Who is written there; nobody, where it cannot be read."""
    os.lseek(handle, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(handle, 4096) or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _who(owner: dict[str, str]) -> str:
    known = {key: str(value)[:100] for key, value in owner.items()}
    return f"process {known.get('process', '?')} on {known.get('host', '?')}, since {known.get('since', '?')}"


def _in_use(file: Path, owner: dict[str, str]) -> ConfigError:
    return ConfigError(
        f"output: {file.parent} is in use by {_who(owner)}: wait until that run has ended, or give another "
        "output folder."
    )


def _tell_of_the_last(owner: dict[str, str], folder: Path) -> None:
    """Say that the last run here was killed; one of another machine may live where locks are not shared."""
    if not owner:
        return
    elsewhere = owner.get("host") != socket.gethostname()
    level = logging.WARNING if elsewhere else logging.INFO
    text = " If it still runs there, stop this one." if elsewhere else ""
    logger.log(level, "%s: took over from %s, which ended early.%s", folder, _who(owner), text)
