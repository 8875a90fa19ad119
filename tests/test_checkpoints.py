import json
import logging
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pml_slade.checkpoints import Checkpoints, write_atomic, write_json_atomic
from pml_slade.exceptions import CheckpointError, ConfigError


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_without_checkpoints_gives_none(tmp_path):
    assert Checkpoints(tmp_path).load_latest() is None
    assert Checkpoints(tmp_path / "not made yet").load_latest() is None


def test_a_state_comes_back_as_it_went(checkpoints):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict(),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "history": [{"loss": 0.5, "name": "sd", "done": False}, None, ("a", 1)],
        "dtype": torch.float16,
        1: float("inf"),
    }
    checkpoints.save(state, 7)

    step, loaded = checkpoints.load_latest()

    assert step == 7
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    assert set(loaded) == set(state)
    torch.testing.assert_close(loaded["half"], state["half"])
    for key in ("history", "dtype", 1, "scheduler"):
        assert loaded[key] == state[key]


def test_numpy_and_python_rng_states_come_back_usable(checkpoints):
    legacy, generator, python = np.random.RandomState(0), np.random.default_rng(0), random.Random(0)
    state = {
        "legacy": legacy.get_state(),
        "generator": generator.bit_generator.state,
        "python": python.getstate(),
        "torch": torch.get_rng_state(),
        "arrays": [np.array([], dtype=np.int64), np.array(3.5), np.array(["ab", "c"])],
        "scalar": np.float32(0.5),
    }
    checkpoints.save(state, 0)
    expected = legacy.rand(), generator.random(), python.random()

    _, loaded = checkpoints.load_latest()

    legacy.set_state(loaded["legacy"])
    generator.bit_generator.state = loaded["generator"]
    python.setstate(loaded["python"])
    assert (legacy.rand(), generator.random(), python.random()) == expected
    assert torch.equal(loaded["torch"], state["torch"])
    assert loaded["scalar"] == 0.5
    for before, after in zip(state["arrays"], loaded["arrays"]):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def test_a_view_does_not_drag_its_whole_storage_into_the_file(checkpoints):
    path = checkpoints.save({"row": torch.zeros(1000, 1000)[0]}, 1)
    assert path.stat().st_size < 20_000


def test_tensors_that_share_memory_are_stored_once(checkpoints):
    weight = torch.zeros(100_000)
    path = checkpoints.save({"student": weight, "teacher": weight}, 1)
    assert path.stat().st_size < 500_000


@pytest.mark.parametrize("value", [Path("x"), {1, 2}, np.array([object()]), np.longdouble(1), len])
def test_an_object_that_would_be_pickled_as_code_is_refused_by_its_place(checkpoints, value):
    with pytest.raises(ConfigError, match=r"state\['a'\]\[1\] is a .*pass tensors"):
        checkpoints.save({"a": [0, value]}, 1)
    assert not list(checkpoints.folder.glob("*"))


@pytest.mark.parametrize("step", [-1, 1.0, True, "1"])
def test_a_step_that_is_no_whole_number_is_refused(checkpoints, step):
    with pytest.raises(ConfigError, match="whole number"):
        checkpoints.save({}, step)


def test_keep_below_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_the_newest_two_are_kept_by_number_not_by_name(checkpoints):
    for step in (8, 9, 10, 11):
        checkpoints.save({"step": step}, step)
    assert names(checkpoints.folder) == ["checkpoint-10.pt", "checkpoint-11.pt"]
    assert checkpoints.load_latest() == (11, {"step": 11})


def test_the_same_step_can_be_saved_again(checkpoints):
    checkpoints.save({"try": 1}, 3)
    checkpoints.save({"try": 2}, 3)
    assert checkpoints.load_latest() == (3, {"try": 2})


def test_temporary_files_are_ignored_by_load_and_deleted_by_the_next_save(checkpoints):
    checkpoints.save({"step": 1}, 1)
    (checkpoints.folder / ".checkpoint-2.pt.0123.tmp").write_bytes(b"half")
    (checkpoints.folder / "notes.txt").write_text("mine")
    assert checkpoints.load_latest() == (1, {"step": 1})
    checkpoints.save({"step": 2}, 2)
    assert names(checkpoints.folder) == ["checkpoint-1.pt", "checkpoint-2.pt", "notes.txt"]


def truncate(data):
    return data[: len(data) // 2]


def cut_one_byte(data):
    return data[:-1]


def flip_a_byte(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def flip_the_last_byte(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def empty(data):
    return b""


def foreign(data):
    return b"something else " * 100


DAMAGES = [truncate, cut_one_byte, flip_a_byte, flip_the_last_byte, empty, foreign]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_falls_back_to_the_previous_with_a_warning(checkpoints, damage, caplog):
    checkpoints.save({"step": 1, "w": torch.ones(500)}, 1)
    newest = checkpoints.save({"step": 2, "w": torch.ones(500)}, 2)
    newest.write_bytes(damage(newest.read_bytes()))

    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        step, state = checkpoints.load_latest()

    assert (step, state["step"]) == (1, 1)
    assert "checkpoint-2.pt" in caplog.text


def test_all_damaged_is_an_error_that_names_the_files(checkpoints):
    for step in (1, 2):
        path = checkpoints.save({}, step)
        path.write_bytes(truncate(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoint-2\.pt.*checkpoint-1\.pt.*Restore"):
        checkpoints.load_latest()


def test_a_save_after_a_fall_back_replaces_the_damaged_later_one(checkpoints):
    for step in (1, 2):
        path = checkpoints.save({"step": step}, step)
    path.write_bytes(b"")
    (checkpoints.folder / "checkpoint-9.pt").write_bytes(b"damaged")
    checkpoints.save({"step": 2}, 2)
    assert names(checkpoints.folder) == ["checkpoint-1.pt", "checkpoint-2.pt"]


def test_a_save_before_a_sound_later_checkpoint_is_refused(checkpoints):
    checkpoints.save({}, 5)
    with pytest.raises(ConfigError, match=r"step is 4.*checkpoint-5\.pt.*load_latest"):
        checkpoints.save({}, 4)
    assert names(checkpoints.folder) == ["checkpoint-5.pt"]


def test_a_checkpoint_with_pickled_code_is_not_run(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr("pml_slade.checkpoints._encode", lambda value, where: value)
    checkpoints.save({"path": Path("x")}, 1)
    with pytest.raises(CheckpointError, match="cannot be read by torch"):
        checkpoints.load_latest()


def save_in_a_loop(folder, ready):
    torch.set_num_threads(1)  # as in any forked worker
    checkpoints = Checkpoints(folder)
    latest = checkpoints.load_latest()
    step = latest[0] if latest else 0
    ready.set()
    while True:
        step += 1
        checkpoints.save({"step": step, "w": torch.full((300_000,), float(step))}, step)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    context = multiprocessing.get_context("fork")
    chance = random.Random(0)
    reached = 0
    for _ in range(12):
        ready = context.Event()
        child = context.Process(target=save_in_a_loop, args=(tmp_path, ready))
        child.start()
        assert ready.wait(timeout=10)
        time.sleep(chance.uniform(0, 0.1))
        child.kill()  # SIGKILL: nothing in the child can tidy up
        child.join()

        latest = Checkpoints(tmp_path).load_latest()

        if latest is not None:
            step, state = latest
            assert state["step"] == step >= reached
            assert torch.equal(state["w"], torch.full((300_000,), float(step)))
            reached = step
    assert reached > 0


def test_write_atomic_makes_the_folder_and_replaces_the_file(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["b.bin"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def full_disk(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_write_json_atomic_writes_json_or_nothing(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": [1, 2.5, None]})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
