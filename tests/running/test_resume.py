"""A run that is killed and started again ends exactly as one that was left alone."""

import csv
import json
import os
import signal
import time

import numpy as np
import pytest
from images import BEST, small_config, write_shards
from processes import forking

from pml_slade.running import stages
from pml_slade.running.run import Run
from pml_slade.stopping import Stopped, obeyed

SEED = 0
KILLS = 3
ROWS = ("teacher", "control", "memory", "self_taught", "pseudo", "slade")
SETTINGS = (
    f"rows=[{', '.join(ROWS)}]",
    "student.average=0.9",
    "student.schedule=cosine",
    "student.iterations=2",
    "student.mining=eq7",
    "epoch_steps=2",
    "teacher.steps=6",
    "student.steps=6",
)
SHORT = (
    *BEST,
    "rows=[teacher, slade]",
    "epoch_steps=2",
    "teacher.steps=4",
    "student.steps=4",
)


ROWS_WITH_A_STATE = (
    *BEST,
    "rows=[teacher, memory, self_taught, neighbours, slade]",
    "epoch_steps=3",
    "teacher.steps=3",
    "student.steps=6",
    "student.schedule=cosine",
    "pretraining.steps=6",
    "pretraining.batch_size=8",
    "pretraining.num_local=0",
    "pretraining.hidden_size=8",
    "pretraining.embedding_size=8",
    "pretraining.num_prototypes=8",
)
STEPS_BETWEEN = 4
"""Each epoch has 3, so that runs are stopped at each of them."""


def child(config, started=None, kill_at=None, before=True):
    """Run in a process of its own; kill itself before or after it renames the n-th file."""
    import torch

    torch.set_num_threads(1)
    replace, calls = os.replace, 0

    def killing(*args, **kwargs):
        nonlocal calls
        calls += 1
        if before and calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args, **kwargs)
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        os.replace = killing
    if started is not None:
        started.set()
    Run(config, progress=False).run()


@pytest.fixture(scope="module")
def context():
    return forking()


def run(context, config, **kwargs):
    """Run to the end, or to its own death; return the exit code."""
    process = context.Process(target=child, args=(config,), kwargs=kwargs)
    process.start()
    process.join()
    return process.exitcode


def outcome(folder):
    """All that a run came to, file by file, in a form that can be compared exactly."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.parent.name == "checkpoints":  # a kill may leave one more of them
            continue
        if file.suffix == ".safetensors":
            found[name] = file.read_bytes()
        elif file.suffix == ".npy":
            found[name] = np.load(file).tolist()
        elif file.suffix == ".json":
            found[name] = json.loads(file.read_text())
        elif file.suffix == ".csv":
            with file.open() as table:
                found[name] = list(csv.reader(table))
        elif "tfevents" not in name:
            found[name] = file.is_file()
    return found


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.fixture(scope="module")
def unbroken(context, folders, tmp_path_factory):
    """Outcome and duration of the run that nobody kills."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    config = small_config(folders, folder, *SETTINGS)
    run(context, small_config(folders, folder.parent / "warm", *SHORT))  # starts the fork server
    begun = time.monotonic()
    assert run(context, config) == 0
    return outcome(folder), time.monotonic() - begun


@pytest.mark.once
def test_kills_at_random_moments_change_nothing(context, folders, unbroken, tmp_path):
    expected, duration = unbroken
    rng = np.random.default_rng(SEED)
    config = small_config(folders, tmp_path / "run", *SETTINGS)
    killed = 0
    for _ in range(KILLS):
        started = context.Event()
        process = context.Process(target=child, args=(config, started))
        process.start()
        assert started.wait(60)
        time.sleep(rng.uniform(0, 0.5 * duration))
        killed += process.is_alive()
        process.kill()
        process.join()
    assert killed >= 2
    assert run(context, config) == 0
    assert_same(without_leftovers(outcome(tmp_path / "run")), expected)


def without_leftovers(found):
    """A kill between writing a file and giving it its name leaves it under a hidden one."""
    return {name: content for name, content in found.items() if not name.endswith(".tmp")}


@pytest.fixture(scope="module")
def short(context, folders, tmp_path_factory):
    """Outcome of a shorter run."""
    folder = tmp_path_factory.mktemp("short") / "run"
    assert run(context, small_config(folders, folder, *SHORT)) == 0
    return outcome(folder)


# environment, config, lists of images, trust in the pool; per row inputs, 2 checkpoints, model, result and
# results; twice clusters and labels, these as an array and as a CSV; the last model and its card
WRITES = 7 + 2 * 6 + 2 * 3 + 2


@pytest.mark.once
def test_the_number_of_writes_is_known(context, folders, tmp_path):
    config = small_config(folders, tmp_path / "run", *SHORT)
    assert run(context, config, kill_at=WRITES, before=False) == -signal.SIGKILL
    assert run(context, small_config(folders, tmp_path / "other", *SHORT), kill_at=WRITES + 1) == 0


@pytest.mark.parametrize(
    ("write", "before"),
    [
        (9, True),
        *(pytest.param(n, True, marks=pytest.mark.once) for n in range(1, WRITES + 1, 2) if n != 9),
        *(pytest.param(n, False, marks=pytest.mark.once) for n in (4, WRITES)),
    ],
)
def test_a_kill_around_any_write_changes_nothing(context, folders, short, tmp_path, write, before):
    config = small_config(folders, tmp_path / "run", *SHORT)
    assert run(context, config, kill_at=write, before=before) == -signal.SIGKILL
    assert run(context, config) == 0
    assert_same(without_leftovers(outcome(tmp_path / "run")), short)


@pytest.mark.once
def test_a_killed_write_leaves_no_hidden_file_once_the_run_is_done(context, folders, tmp_path):
    config = small_config(folders, tmp_path / "run", *SHORT)
    for write in (1, 4, 9):
        assert run(context, config, kill_at=write, before=True) == -signal.SIGKILL
    assert run(context, config) == 0
    assert [p.name for p in (tmp_path / "run").rglob(".*")] == []


def terminate_in(step, patch):
    """Let SIGTERM come in the n-th step from now on; return a count of steps."""
    taken, real = [0], stages._train_step

    def train_step(stage):
        taken[0] += 1
        if taken[0] == step:
            signal.raise_signal(signal.SIGTERM)
        real(stage)

    patch.setattr(stages, "_train_step", train_step)
    return taken


@pytest.mark.once("long trainings")
def test_sigterm_in_any_step_of_any_row_changes_nothing(folders, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        steps = terminate_in(None, patch)
        Run(small_config(folders, tmp_path / "whole", *ROWS_WITH_A_STATE), progress=False).run()
    broken = small_config(folders, tmp_path / "broken", *ROWS_WITH_A_STATE)
    for _ in range(steps[0] // STEPS_BETWEEN):
        with monkeypatch.context() as patch, obeyed():
            terminate_in(STEPS_BETWEEN, patch)
            with pytest.raises(Stopped):
                Run(broken, progress=False).run()
    with monkeypatch.context() as patch:
        left = terminate_in(None, patch)
        Run(broken, progress=False).run()
    assert left == [steps[0] % STEPS_BETWEEN]
    assert_same(outcome(tmp_path / "broken"), outcome(tmp_path / "whole"))


@pytest.mark.once
def test_a_pool_of_tar_shards_is_trained_on_as_its_files_are_and_resumes_to_the_byte(
    context, folders, short, tmp_path
):
    write_shards(sorted(folders["unlabeled"].iterdir()), tmp_path / "shards")
    sharded = {**folders, "unlabeled": tmp_path / "shards"}
    config = small_config(sharded, tmp_path / "run", *SHORT)
    assert run(context, config, kill_at=14) == -signal.SIGKILL
    assert run(context, config) == 0
    found = outcome(tmp_path / "run")
    same = [name for name in short if name.endswith((".safetensors", ".npy", "clusters.json", "results.csv"))]
    assert len(same) >= 4
    assert [name for name in same if found[name] != short[name]] == []
    rows = found["slade/pseudo_labels.csv"][1:]
    assert rows[0][0] == str(tmp_path / "shards/0.tar/000.png")
    assert [row[1:] for row in rows] == [row[1:] for row in short["slade/pseudo_labels.csv"][1:]]
