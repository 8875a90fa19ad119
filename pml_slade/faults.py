"""Faults of the machine, each told in one line: a full disk, memory that is out, a process that died."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .exceptions import MachineError, SladeError

REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space, or delete files if it has no room for more (df -i)",
    errno.EDQUOT: "Your disk quota is used up: free some space",
    errno.EFBIG: "The file may not grow that large: raise the limit (ulimit -f), or free some space",
    errno.EACCES: "Give yourself permission, or choose another place",
    errno.EPERM: "Give yourself permission, or choose another place",
    errno.EROFS: "Mount the disk for writing, or choose another place",
    errno.EMFILE: "Allow more open files (ulimit -n), or lower data.workers",
    errno.ENFILE: "Close some programs, or lower data.workers",
    errno.ENOMEM: "Close some programs, or lower batch_size, data.image_size or data.workers",
    errno.EIO: "Look after the disk",
    errno.ESTALE: "Mount the disk again",
    errno.ELOOP: "Take the link that leads to itself away, or choose another place",
    errno.ENOTDIR: "Choose another place, or move the file that stands where a folder should",
    errno.EISDIR: "Choose another name, or move the folder that stands where a file should",
    errno.EEXIST: "Choose another place, or move what stands there",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOENT: "Bring it back, or choose another place",
}
LESS_MEMORY = "Lower batch_size, data.image_size or data.workers, or close other programs"
FEWER_WORKERS = "Lower data.workers or data.image_size"
LOST_PROCESS = re.compile(r"connection (closed|reset) by peer|remote process exited|NCCL error", re.I)
OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|map segment", re.I
)
DEAD_WORKER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (is killed by signal: [^.]*|exited unexpectedly)"
)
SHARED_MEMORY = re.compile(r"shared memory|/dev/shm|/torch_\d+|ancdata", re.I)
FROM_WORKER = re.compile(r"Caught \w+ in (DataLoader worker process|pin memory thread)")
OF_ERROR = re.compile(r"^[\w.]+: ", re.M)
"""The beginning of the line with which a traceback ends."""
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor, colours or turns around text."""


def in_one_line(text: str) -> str:
    """Escape what a file's name can hold that would break a line, or speak to the terminal.

    Examples:
        >>> print(in_one_line("a\\nb.png cannot be read"))
        a\\nb.png cannot be read
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def told(resumes_at: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn errors of the machine, and of processes that read images, into one line each.

    Args:
        resumes_at: for what can be resumed: gives the stage and the step, or nothing. An interruption carries
            it, too, as the attribute `resumes_at`.

    Raises:
        MachineError: what happened, where, and what to do.
        SladeError: of a process that reads images, as it was raised there.

    Examples:
        >>> with told(lambda: "SLADE, step 20 of 40"):
        ...     raise OSError(28, "No space left on device", "model.safetensors")
        Traceback (most recent call last):
        pml_slade.exceptions.MachineError: model.safetensors: No space left on device. The disk is full: free
        some space, or delete files if it has no room for more (df -i). Repeat the command to resume from the
        last checkpoint (SLADE, step 20 of 40).
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if resumes_at is not None and not getattr(stop, "resumes_at", ""):
            stop.resumes_at = resumes_at()  # type: ignore[attr-defined]
        raise
    except SladeError as error:
        if FROM_WORKER.match(str(error)):
            raise type(error)(_of_worker(str(error))) from None
        raise
    except Exception as error:
        said = explain(error)
        if said is None:
            raise
        raise MachineError(said + _way_on(resumes_at)) from error


def _way_on(resumes_at: Callable[[], str] | None) -> str:
    if resumes_at is None:
        return ""
    place = resumes_at()
    return f" Repeat the command to resume from the last checkpoint{f' ({place})' if place else ''}."


def explain(error: BaseException) -> str | None:
    """Say in one line what the machine did and what to do; None if the error is of another kind.

    Examples:
        >>> explain(MemoryError())
        'Out of memory. Lower batch_size, data.image_size or data.workers, or close other programs.'
        >>> explain(KeyError("a")) is None
        True
    """
    text = str(error)
    if FROM_WORKER.match(text):
        text = _of_worker(text)
    first = " ".join(text.split("\n", 1)[0].split())
    if isinstance(error, (EOFError, ConnectionError)) and _in_loader(error):
        return f"A process that reads images ended early, most likely as memory ran out. {FEWER_WORKERS}."
    if isinstance(error, MemoryError) or "OutOfMemoryError" in _kinds(error):
        return f"Out of memory{f' ({first})' if first else ''}. {LESS_MEMORY}."
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, (RuntimeError, ImportError)):
        return _of_torch(first)
    if "sqlite3.Error" in _kinds(error):
        return f"The run's records cannot be written ({first}). Is the disk full, or not for writing?"
    return None


def _of_system(error: OSError) -> str:
    place = error.filename2 or error.filename
    remedy = REMEDIES.get(error.errno or 0, "Mend this, or choose another place")
    return f"{f'{place!s:.300}: ' if place is not None else ''}{error.strerror}. {remedy}."


def _of_torch(text: str) -> str | None:
    if dead := DEAD_WORKER.search(text):
        return f"A process that reads images {dead[1]}, most likely because memory ran out. {FEWER_WORKERS}."
    if LOST_PROCESS.search(text):
        return "Another process of the run ended early. What it printed says why."
    if SHARED_MEMORY.search(text):
        return f"Shared memory is used up ({text}). Lower data.workers (0 needs none), or allow more of it."
    if OUT_OF_MEMORY.search(text):
        return f"Out of memory ({text}). {LESS_MEMORY}."
    return None


def _of_worker(text: str) -> str:
    """The message of the error itself, from the traceback that torch makes of it."""
    found = list(OF_ERROR.finditer(text))
    return " ".join(text[found[-1].end() :].split()) if found else text


def _in_loader(error: BaseException) -> bool:
    """Whether it was raised while something came from a process that reads images."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "torch.utils.data.dataloader" for frame, _ in frames)


def _kinds(error: BaseException) -> set[str]:
    names = {kind.__name__ for kind in type(error).__mro__}
    return names | {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
