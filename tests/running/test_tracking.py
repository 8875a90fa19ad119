"""Records in Weights & Biases and MLflow: what is sent, and what a failure does."""

import json
import os
from importlib.util import find_spec

import pytest
from images import small_config, splits

from pml_slade.exceptions import CheckpointError, ConfigError, DivergedError, MachineError
from pml_slade.running import services, tracking
from pml_slade.running.run import Run
from pml_slade.running.tracking import FILE, Tracking

CONTROL = "Control (labels only)"


class Memory:
    """A service that keeps its runs in a dictionary, and fails if told to."""

    runs, failing = {}, set()

    def __init__(self, about, known):
        if about.row in self.failing:
            raise ConnectionError("nobody\nanswers")
        self.id = known or f"{len(self.runs):032x}"
        self.about = about
        self.epochs = self.runs.setdefault(self.id, {})
        self.epochs.pop("complete", None)
        self.last = max(self.epochs, default=0)

    def log(self, figures, epoch):
        if epoch in self.failing:
            raise TimeoutError("no answer")
        assert epoch not in self.epochs
        self.epochs[epoch] = figures

    def close(self, complete):
        self.epochs["complete"] = complete


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setitem(services.SERVICES, "wandb", Memory)
    monkeypatch.setattr(Memory, "runs", {})
    monkeypatch.setattr(Memory, "failing", set())
    monkeypatch.setattr(Tracking, "check", lambda self: None)
    return Memory


def run(folder, *overrides, log_to="[wandb]"):
    settings = ("data.kind=given", "rows=[control]", "teacher.steps=4", f"log_to={log_to}", *overrides)
    Run(small_config({}, folder, *settings), progress=False, splits=splits()).run()


def test_each_row_is_a_run_there_with_what_its_records_hold(tmp_path, memory):
    run(tmp_path)
    teacher, control = memory.runs.values()
    assert teacher.keys() == {1, "complete"}
    assert control.keys() == {1, 2, "complete"}
    assert {"epoch", "total_loss", "MAP@R", "RP", "P@1"} <= control[2].keys()
    assert [control[n]["epoch"] for n in (1, 2)] == [1, 2]
    assert teacher["complete"] is control["complete"] is True
    assert not list(tmp_path.glob("*/records/tensorboard"))
    assert len(list(tmp_path.glob("*/records/training.csv"))) == 2


def test_a_row_that_is_trained_further_continues_its_run_there(tmp_path, memory):
    run(tmp_path, "student.schedule=constant")
    run(tmp_path, "student.schedule=constant", "student.steps=12")
    assert len(memory.runs) == 2
    _, control = memory.runs.values()
    assert control.keys() == {1, 2, 3, "complete"}


def test_a_row_that_is_stopped_is_not_complete(tmp_path, memory):
    with pytest.raises(DivergedError):
        run(tmp_path, "student.optimizer=SGD", "student.lr=1e30")
    teacher, control = memory.runs.values()
    assert (teacher["complete"], control["complete"]) == (True, False)


def test_a_service_that_fails_stops_no_training(tmp_path, memory, caplog):
    memory.failing.add(1)
    run(tmp_path)
    assert [message for message in caplog.messages if "log_to" in message] == [
        f"{row}: log_to=wandb fails (TimeoutError: no answer). Training continues without it. The records in "
        "the run's folder are complete."
        for row in ("Teacher", CONTROL)
    ]
    assert all(found == {} for found in memory.runs.values())
    assert (tmp_path / "model.safetensors").exists()


def test_a_service_that_cannot_be_reached_is_an_error_at_first_and_a_warning_later(tmp_path, memory, caplog):
    memory.failing.add("Teacher")
    with pytest.raises(
        MachineError,
        match=r"log_to=wandb fails \(ConnectionError: nobody answers\)\. Log in with `wandb login`, set "
        r"WANDB_MODE=offline, or leave wandb out\.",
    ):
        run(tmp_path)
    assert not list(tmp_path.glob("teacher/checkpoints/*"))
    memory.failing.clear()
    memory.failing.add(CONTROL)
    run(tmp_path)
    assert any(message.startswith(f"{CONTROL}: log_to=wandb fails") for message in caplog.messages)
    assert len(memory.runs) == 1


@pytest.mark.parametrize("ids", [{"wandb": "../x", "mlflow": None}, {"wandb": 3, "mlflow": None}, {}])
def test_a_file_that_names_no_runs_is_refused(tmp_path, memory, ids):
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / FILE).write_text(json.dumps(ids))
    with pytest.raises(CheckpointError, match=r"tracked\.json is damaged"):
        Tracking(["wandb"]).begin("Teacher", folder)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_package_that_is_missing_is_named_before_anything_is_written(tmp_path, monkeypatch, name, folder):
    (tmp_path / name).mkdir()  # such a folder is what wandb writes to, and no package
    monkeypatch.syspath_prepend(str(tmp_path))
    where = find_spec if folder else lambda name: None
    monkeypatch.setattr(tracking, "find_spec", where)
    if folder and find_spec(name).origin is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(
        ConfigError, match=rf"log_to={name} needs {name}: pip install 'pml-slade\[{name}\]'\."
    ):
        run(tmp_path / "run", log_to=name)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
def test_wandb_writes_files_and_sends_nothing_when_it_is_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    run(tmp_path / "run")
    kept = {
        json.loads((tmp_path / "run" / row / FILE).read_text())["wandb"] for row in ("teacher", "control")
    }
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert {file.stem.partition("-")[2] for file in files} == kept
    assert all(b"total_loss" in file.read_bytes() for file in files)
    assert any(
        b"student.lr" in file.read_bytes() or b"labeled_alphabets" in file.read_bytes() for file in files
    )
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow")
def test_mlflow_holds_each_epoch_once_and_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "run", "student.schedule=constant", log_to="mlflow")
    run(tmp_path / "run", "student.schedule=constant", "student.steps=12", log_to="mlflow")
    from mlflow import MlflowClient

    client = MlflowClient()
    found = client.search_runs([client.get_experiment_by_name(services.PROJECT).experiment_id])
    assert sorted(each.info.run_name for each in found) == [
        f"{tmp_path}/run: {row}" for row in (CONTROL, "Teacher")
    ]
    assert {each.info.status for each in found} == {"FINISHED"}
    [control] = [each for each in found if each.info.run_name.endswith(CONTROL)]
    assert control.data.params["student.lr"] == "0.001"
    for name in ("epoch", "total_loss", "MAP_at_R"):
        history = client.get_metric_history(control.info.run_id, name)
        assert [metric.step for metric in history] == [1, 2, 3]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
