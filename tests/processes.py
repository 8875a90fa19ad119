"""Commands and scripts in processes of their own, forked from one that has read torch."""

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

import pml_slade

HERE = (Path(pml_slade.__file__).parents[1], Path(__file__).parent)
PRELOADED = ("pml_slade.cli", "pml_slade.api", "pml_slade.running.run", "pml_slade.exporting", "images")
LINES = {"COLUMNS": "500", "OMP_NUM_THREADS": "1"}
"""Environment in which a message is a line."""
OF_PML = re.compile(r'(WARNING:root:)?(models|optimizers) is missing "\w+"')
"""What PML's own trainers say of a frozen trunk and of a single model, which is no fault."""


def forking():
    """Multiprocessing whose processes are forked from one that has imported the package."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["processes", "pytest", *PRELOADED, "frozen"])
    with pytest.MonkeyPatch.context() as patch:  # some Pythons do not tell it where modules are
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, HERE)))
        forkserver.ensure_running()
    return context


class Running:
    """What runs beside the test, and what it printed once it has ended.

    Attributes:
        out: standard output, after `end`.
        seconds: of processor time, its own and its children's, after `end`.
    """

    out = ""
    seconds = 0.0

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))

    def end(self, timeout=300):
        """Wait; exit code, and the lines on standard error."""
        code = self._wait(timeout)
        self.out, err = (
            file.read_text(encoding="utf-8", errors="surrogateescape") for file in (self._out, self._err)
        )
        self._folder.cleanup()
        return code, [line for line in err.splitlines() if not OF_PML.fullmatch(line)]

    def wait_for(self, folder, pattern="checkpoint-*.pt", timeout=120):
        """Until such a file is there, or the process has ended."""
        deadline = time.monotonic() + timeout
        while not any(folder.glob(pattern)) and self.runs() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self

    def says(self, pattern, timeout=120):
        """Match in what it prints, once it is there."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self._out.read_text() if self._out.exists() else "")):
            assert self.runs(), self.end()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return found

    def signal(self, number):
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return self

    def children(self):
        """Numbers of the processes that it started."""
        return [int(p) for p in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


class Forked(Running):
    """A function in a forked process.

    Args:
        target: a function of an importable module.
        arguments: its arguments.
        before: called in the process before anything else, such as to set limits.
        environment: variables that are set there.
    """

    def __init__(self, target, *arguments, before=None, **environment):
        super().__init__()
        files = (str(self._out), str(self._err))
        self._process = forking().Process(
            target=_in_child, args=(target, arguments, files, LINES | environment, before)
        )
        self._process.start()
        self.pid = self._process.pid

    def runs(self):
        return self._process.is_alive()

    def _wait(self, timeout):
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            raise TimeoutError(f"it ran for more than {timeout} s")
        return self._process.exitcode


class Fresh(Running):
    """A new Python, for what is settled when Python starts, such as the locale.

    Args:
        arguments: of Python.
        environment: variables that are set there.
    """

    def __init__(self, *arguments, **environment):
        super().__init__()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdout=out,
                stderr=err,
                env=os.environ | LINES | {"PYTHONPATH": os.pathsep.join(map(str, HERE))} | environment,
            )
        self.pid = self._process.pid

    def runs(self):
        return self._process.poll() is None

    def _wait(self, timeout):
        return self._process.wait(timeout)


def together(target, *arguments, count=2):
    """A function in so many forked processes that share the work, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        Forked(target, *arguments, **{k: str(v) for k, v in {**shared, "RANK": n, "LOCAL_RANK": n}.items()})
        for n in range(count)
    ]


def end_all(running):
    """Exit codes by process, and the lines of all on standard error."""
    ended = [each.end() for each in running]
    return [code for code, _ in ended], [line for _, lines in ended for line in lines]


def pml_slade_command(*arguments, ended=True):
    """What `pml-slade ARGUMENTS` does; `ended=False`: something else follows if it ends well."""
    from pml_slade.cli import main

    sys.argv = ["pml-slade", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        if ended or end.code:
            raise


def script(code):
    """Run Python code; an error made for people is a line, as a test would catch it."""
    from pml_slade.exceptions import SladeError

    try:
        exec(compile(code, "script", "exec"), {"__name__": "__main__"})
    except SladeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _in_child(target, arguments, files, environment, before):
    for descriptor, name in zip((1, 2), files):
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, descriptor)
        os.close(handle)
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # loader processes start as they do in a command
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if before is not None:
        before()
    import torch

    torch.set_num_threads(1)
    target(*arguments)


class Limit:
    """A limit of the system on a process, as `before` of `Forked`."""

    def __init__(self, kind, number):
        self.kind, self.number = kind, number

    def __call__(self):
        resource.setrlimit(self.kind, (self.number, resource.getrlimit(self.kind)[1]))
