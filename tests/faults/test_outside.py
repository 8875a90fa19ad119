"""Faults of machines and users from the outside: what processes print, write and exit with."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from images import SMALL, write_images

import pml_slade

pytestmark = pytest.mark.once("processes, which take seconds to start")

ROOT = Path(pml_slade.__file__).parents[1]
LONG = ("rows=[teacher]", "teacher.steps=4000", "epoch_steps=20")
SHORT = ("rows=[teacher]", "teacher.steps=8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


class Command:
    """A `pml-slade` that runs beside the test."""

    def __init__(self, *arguments, limit=None, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pml_slade", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
            | environment,
            preexec_fn=None if limit is None else lambda: resource.setrlimit(*limit),
        )

    def wait_for(self, folder):
        """Until a checkpoint is there, or the process has ended."""
        deadline = time.monotonic() + 120
        while (
            not any(folder.glob("checkpoint-*.pt"))
            and self.process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        return self

    def children(self):
        pid = self.process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self):
        """Exit code, and the lines on standard error."""
        self.out, err = self.process.communicate(timeout=300)
        return self.process.returncode, err.splitlines()


def train(folders, run, *options, **kwargs):
    paths = [word for part, folder in folders.items() for word in (f"--{part}", folder)]
    return Command("train", *paths, "-o", run, *SMALL, *options, "-q", **kwargs)


def weights(run):
    return (run / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory):
    """The folder of a run that nothing happens to."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(folders, run, *SHORT).end() == (0, [])
    return run


def test_of_two_runs_at_once_in_one_folder_one_wins_and_the_other_says_so(folders, tmp_path):
    run = tmp_path / "run"
    both = [train(folders, run, *SHORT, f"seed={seed}") for seed in (0, 1)]
    ends = [command.end() for command in both]
    assert sorted(code for code, _ in ends) == [0, 2]
    winner = [code for code, _ in ends].index(0)
    [said] = ends[1 - winner][1][:1]
    assert "is in use by process" in said or "was begun with other settings" in said
    assert f"seed: {winner}" in (run / "config.yaml").read_text()
    assert train(folders, run, *SHORT, f"seed={winner}").end() == (0, [])


def test_sigterm_says_where_the_run_goes_on_and_frees_the_folder(folders, tmp_path):
    command = train(folders, tmp_path / "run", *LONG, "data.workers=1")
    command.wait_for(tmp_path / "run/teacher/checkpoints").process.send_signal(signal.SIGTERM)
    code, [*_, line] = command.end()
    assert code == 128 + signal.SIGTERM
    assert line.startswith("stopped; repeat the command to resume from the last checkpoint (Teacher, step ")
    assert not (tmp_path / "run/run.lock").exists()


def test_a_loader_process_that_is_killed_is_one_line(folders, tmp_path):
    command = train(folders, tmp_path / "run", *LONG, "data.workers=2")
    command.wait_for(tmp_path / "run/teacher/checkpoints")
    deadline = time.monotonic() + 60
    while command.process.poll() is None and time.monotonic() < deadline:
        for child in command.children():
            os.kill(child, signal.SIGKILL)
        time.sleep(0.1)
    code, [line] = command.end()
    assert code == 2
    assert "process that reads images" in line
    assert "(Teacher, step " in line


def test_a_full_disk_is_one_line_and_what_is_resumed_comes_out_the_same(folders, undisturbed, tmp_path):
    run = tmp_path / "run"
    limit = (resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    code, [line] = train(folders, run, *SHORT, limit=limit).end()
    assert code == 2
    assert f"{run}/teacher/checkpoints/checkpoint-4.pt: File too large." in line
    assert "(Teacher, step 0 of 8)" in line
    assert train(folders, run, *SHORT).end() == (0, [])
    assert weights(run) == weights(undisturbed)


def test_images_that_cannot_be_read_are_one_line_and_nothing_is_written(tmp_path):
    folders = write_images(tmp_path / "images")
    bad = sorted(folders["labeled"].rglob("*.jpg"))[:3]
    for file in bad:
        file.write_bytes(b"")
    code, [line] = train(folders, tmp_path / "run", *SHORT).end()
    assert code == 2
    assert [str(file) for file in bad if str(file) not in line] == []
    assert not (tmp_path / "run").exists()
    looked = Command("check", folders["labeled"], "-q")
    assert looked.end() == (1, [])
    assert looked.out.count("unreadable: ") == 3


def test_lists_are_utf8_under_any_locale(undisturbed, folders, tmp_path):
    names = ["größe.png", "画像.png", b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    (tmp_path / "pool").mkdir()
    for i, file in enumerate(sorted(folders["unlabeled"].iterdir())):
        (tmp_path / "pool" / (names[i] if i < len(names) else file.name)).write_bytes(file.read_bytes())
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "cp1252"}
    for there, back in ((plain, {}), ({}, plain)):
        pool, made = tmp_path / "pool", tmp_path / "c.csv"
        command = Command("cluster", undisturbed, pool, "-k", 8, "-o", made, "-q", **there)
        assert command.end() == (0, [])
        made.read_text(encoding="utf-8")
        again = Command("embed", undisturbed, made, "-o", tmp_path / "e.csv", "-q", **back)
        assert again.end() == (0, [])
        assert "64 embeddings" in again.out
    (tmp_path / "pool" / names[1]).write_text("no image")
    looked = Command("check", tmp_path / "pool", "-q", **plain)
    assert looked.end() == (1, [])


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_output_that_cannot_be_a_folder_is_one_line(folders, tmp_path, place):
    (tmp_path / "file").touch()
    code, [line] = train(folders, tmp_path / place, *SHORT).end()
    assert (code, str(tmp_path / "file") in line) == (2, True)


def test_a_damaged_record_of_a_run_is_one_line(undisturbed, folders, tmp_path):
    train(folders, tmp_path / "run", *SHORT).end()
    for name in ("teacher/result.json", "teacher/inputs.json"):
        (tmp_path / "run" / name).write_text("{")
        code, [line] = train(folders, tmp_path / "run", *SHORT).end()
        assert (code, name in line) == (2, True)
        (tmp_path / "run" / name).write_text((undisturbed / name).read_text())
    assert json.loads((tmp_path / "run/results.json").read_text())[0]["row"] == "teacher"
