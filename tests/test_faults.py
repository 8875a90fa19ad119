"""What the machine does is told in one line; what the program does wrong keeps its traceback."""

import errno
import os
import signal
import sqlite3

import pytest
import torch
import typer
from torch.utils.data import DataLoader

from pml_slade.checkpoints import Checkpoints, write_atomic
from pml_slade.cli.options import stoppable
from pml_slade.exceptions import DataError, MachineError
from pml_slade.faults import REMEDIES, explain, told


class Broken(Exception):
    """Raised by nobody else."""


@pytest.mark.parametrize("number", REMEDIES)
def test_an_error_of_the_system_says_what_where_and_what_to_do(number):
    said = explain(OSError(number, os.strerror(number), "some/file"))
    assert said.startswith(f"some/file: {os.strerror(number)}. ")
    assert REMEDIES[number] in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("3 GiB"), ("Out of memory (3 GiB)", "batch_size")),
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"),
            ("CUDA out of memory", "batch_size"),
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes\nmore"),
            ("9 bytes", "batch_size"),
        ),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), ("by signal", "workers")),
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), ("exited", "workers")),
        (RuntimeError("unable to write to file </torch_7_8>: No space left"), ("Shared memory", "workers")),
        (ImportError("lib.so: failed to map segment from shared object"), ("Out of memory", "lib.so")),
        (sqlite3.OperationalError("disk I/O error"), ("disk I/O error", "records")),
        (OSError(errno.ENOTTY, "Strange", "f"), ("f: Strange", "another place")),
    ],
)
def test_each_kind_is_known_by_its_words(error, words):
    said = explain(error)
    assert [word for word in words if word not in said] == []
    assert "\n" not in said


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), KeyError("a"), OSError("no number"), Broken()]
)
def test_errors_of_the_program_are_left_as_they_are(error):
    assert explain(error) is None
    with pytest.raises(type(error)), told(str):
        raise error


def test_where_a_run_goes_on_is_said_with_the_step():
    words = r"Repeat the command to resume from the last checkpoint \(SLADE, step 20 of 40\)\.$"
    with pytest.raises(MachineError, match=words), told(str), told(lambda: "SLADE, step 20 of 40"):
        raise MemoryError
    with pytest.raises(MachineError, match=r"or close other programs\.$"), told():
        raise MemoryError


class Items:
    def __len__(self):
        return 2

    def __getitem__(self, index):
        try:
            raise OSError("below")
        except OSError as error:
            raise DataError("image 'a.png' cannot be read (x: y); replace it") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_loader_process_is_the_line_that_it_was_there(workers):
    with pytest.raises(DataError) as caught, told():
        list(DataLoader(Items(), num_workers=workers))
    assert str(caught.value) == "image 'a.png' cannot be read (x: y); replace it"


@pytest.mark.parametrize(
    "write", [write_atomic, lambda path, data: Checkpoints(path.parent).save({"a": data.decode()}, 1)]
)
def test_a_full_disk_is_named_with_the_file_that_did_not_fit(tmp_path, write, monkeypatch):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(MachineError, match=rf"^{tmp_path}/.*File too large.*ulimit"), told():
            write(tmp_path / "file", b"0" * 9999)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_with_its_code_and_the_place_where_the_run_goes_on(number, capsys):
    with pytest.raises(typer.Exit) as stopped, stoppable(), told(lambda: "SLADE, step 20 of 40"):
        signal.raise_signal(number)
    assert stopped.value.exit_code == 128 + number
    assert "resume from the last checkpoint (SLADE, step 20 of 40)" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored(capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
