"""Signals that ask a process to end: they are obeyed at once, or where nothing gets lost by it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REMIND_AFTER = 3.0
"""Seconds."""


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end, such as a scheduler sends.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Stop:
    """What has come, and whether it has to wait."""

    waits = False
    received: int | None = None
    since = grace = 0.0


_stop = _Stop()


@contextmanager
def obeyed() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the block by `Stopped`.

    Signals that the caller handles, or ignores as nohup does SIGHUP, stay his.
    """
    with _handled(_handle, "SIGINT", "SIGTERM", "SIGHUP"):
        try:
            yield
        finally:
            _remind(None)


@contextmanager
def calling(action: Callable[[], object]) -> Iterator[None]:
    """Let Ctrl-C in the block call `action`, in a thread of its own, where an exception could come amiss."""
    with _handled(lambda *_: threading.Thread(target=action).start(), "SIGINT"):
        yield


@contextmanager
def held(grace: float = 0.0) -> Iterator[None]:
    """Let the first signal in the block wait for `leave`; the second one ends it at once.

    Args:
        grace: seconds in which a second signal counts as the first: a launcher passes on the Ctrl-C that the
            terminal sends to all.

    Examples:
        >>> with held():
        ...     signal.raise_signal(signal.SIGINT)
        ...     print("the step is finished")
        ...     try:
        ...         leave()
        ...     except Stopped as stop:
        ...         print("stopped by", signal.Signals(stop.number).name)
        the step is finished
        stopped by SIGINT
    """
    with _handled(_handle, "SIGINT"):
        _stop.waits, _stop.received, _stop.grace = True, None, grace
        try:
            yield
        finally:
            _stop.waits, _stop.received, _stop.grace = False, None, 0.0
            _remind(None)


@contextmanager
def released() -> Iterator[None]:
    """Within `held`: let a signal end the block at once, for it may last."""
    leave()
    _stop.waits = False
    try:
        yield
    finally:
        _stop.waits = True


def waiting() -> int:
    """Number of the signal that waits; 0: none."""
    return _stop.received or 0


def take(number: int) -> None:
    """Let a signal wait that came to another process of the run; 0: none did."""
    _stop.received = _stop.received or number or None


def leave() -> None:
    """Obey the signal that waits, if there is one.

    Raises:
        Stopped: there is.
    """
    if _stop.received is not None:
        number, _stop.received = _stop.received, None
        raise Stopped(number)


def _ours(*names: str) -> list[signal.Signals]:
    """Signals that nobody handles yet, as far as this system has them and this thread may."""
    if threading.current_thread() is not threading.main_thread():
        return []
    known = [getattr(signal, name, None) for name in names]
    untouched = (signal.SIG_DFL, signal.default_int_handler)
    return [number for number in known if number is not None and signal.getsignal(number) in untouched]


@contextmanager
def _handled(handler: Callable[[int, Any], object], *names: str) -> Iterator[None]:
    """Let signals that are ours call a handler in the block, and give them back after it."""
    before = {number: signal.signal(number, handler) for number in _ours(*names)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _handle(number: int, frame: Any) -> None:
    if _stop.waits and _stop.received is None:
        _stop.received, _stop.since = number, time.monotonic()
    elif not _stop.waits or time.monotonic() - _stop.since >= _stop.grace:
        _end(number)


def _end(number: int) -> None:
    _remind(number)
    raise Stopped(number)


def _remind(number: int | None) -> None:
    """Raise once more after a while: what was raised in a destructor, say, nobody has seen. None: not."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL if number is None else lambda *_: _end(number))
        signal.setitimer(signal.ITIMER_REAL, 0 if number is None else REMIND_AFTER)
