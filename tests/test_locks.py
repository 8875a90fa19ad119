"""One run at a time in a folder, and a dead one stands in nobody's way."""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from pml_slade.exceptions import ConfigError
from pml_slade.locks import NAME, check_free, locked

pytestmark = pytest.mark.once

HOLDER = """
import os, sys, time
from pml_slade.locks import locked
with locked(sys.argv[1]):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the folder; it is killed at the end, and its child with it."""
    started = []

    def start(*options):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path, holder):
    process = holder()
    with (
        pytest.raises(
            ConfigError, match=f"{tmp_path} is in use by process {process.pid} on .*another output"
        ),
        locked(tmp_path),
    ):
        pass


def test_it_can_be_seen_that_a_folder_is_held_without_taking_it(tmp_path, holder):
    check_free(tmp_path / "nowhere")
    check_free(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        for _ in range(2):  # the look does not free it
            with pytest.raises(ConfigError, match="is in use"):
                check_free(tmp_path)
    process = holder()
    with pytest.raises(ConfigError, match=f"process {process.pid} on "):
        check_free(tmp_path)
    process.kill()
    process.wait()
    check_free(tmp_path)


def test_a_dead_holder_is_replaced_at_once_although_its_child_lives(tmp_path, holder, caplog):
    process = holder("with a child")
    process.kill()
    process.wait()
    assert (tmp_path / NAME).exists()
    with caplog.at_level(logging.INFO, logger="pml_slade"), locked(tmp_path):
        pass
    assert f"took over from process {process.pid}" in caplog.text


def test_a_holder_of_another_machine_is_warned_of(tmp_path, caplog):
    (tmp_path / NAME).write_text(json.dumps({"process": "7", "host": "elsewhere", "since": "noon"}))
    with caplog.at_level(logging.WARNING, logger="pml_slade"), locked(tmp_path):
        pass
    assert "process 7 on elsewhere, since noon" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"process": {"a": 1}}'])
def test_whatever_the_file_holds_the_folder_can_be_taken(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with locked(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == str(os.getpid())


def test_nothing_is_left_behind_after_an_error_either(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "new"):
        raise KeyboardInterrupt
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "new"):
        pass


def test_the_same_process_cannot_hold_it_twice_under_another_name(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with locked(tmp_path):
        with pytest.raises(ConfigError, match="is in use"), locked(tmp_path / "link"):
            pass
        with locked(tmp_path / "other"):
            pass


def count_up(folder, begin):
    """Add one to a number in a file, slowly, under the lock; try until it is free."""
    begin.wait()
    number = folder / "number"
    while True:
        try:
            with locked(folder):
                value = int(number.read_text())
                time.sleep(0.002)
                number.write_text(str(value + 1))
                return
        except ConfigError:
            time.sleep(0.001)


def test_of_many_processes_one_holds_it_at_a_time(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    begin = context.Event()
    processes = [context.Process(target=count_up, args=(tmp_path, begin)) for _ in range(20)]
    for process in processes:
        process.start()
    begin.set()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "20"


def test_what_a_link_in_place_of_the_lock_leads_to_is_left_as_it_is(tmp_path):
    theirs, folder = tmp_path / "notes", tmp_path / "run"
    theirs.write_text("mine")
    folder.mkdir()
    (folder / "run.lock").symlink_to(theirs)
    with pytest.raises(OSError, match=r"run\.lock"), locked(folder):
        pass
    assert theirs.read_text() == "mine"
