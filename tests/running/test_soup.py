"""`student.soup`: rows keep the mean of two models' weights."""

import pytest
import torch
from images import BEST, small_config, splits

from pml_slade.averages import mean_of_models
from pml_slade.models import load_model
from pml_slade.running import stages
from pml_slade.running import training as training_module
from pml_slade.running.run import Run

pytestmark = pytest.mark.once

NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}
LAST = "tolerance=100"
"""The last epoch is kept."""
WEIGHT = "layers.0.weight"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs rows, and says which stages were trained and what these ended with."""

    def run(rows, *settings, output="run"):
        config = small_config(NOWHERE, tmp_path / output, *BEST, LAST, rows, *settings)
        trained = {}

        def watched(stage):
            stages.run_stage(stage)
            name = str(stage.folder.relative_to(tmp_path / output))
            trained[name] = {k: v.clone() for k, v in stage.models["embedder"].state_dict().items()}

        with monkeypatch.context() as patch:
            patch.setattr(training_module, "run_stage", watched)
            results = {r.row: r for r in Run(config, progress=False, splits=splits()).run()}
        kept = {
            row: load_model(tmp_path / output / result.model).embedder.state_dict()
            for row, result in results.items()
        }
        return results, trained, kept

    return run


def assert_mean(mean, first, second, share):
    for name, value in mean.items():
        expected = (1 - share) * first[name] + share * second[name]
        assert torch.allclose(value, expected, atol=1e-6), name


def test_the_control_is_averaged_with_the_teacher_and_a_student_of_the_pool_with_the_controls(run):
    results, trained, kept = run("rows=[teacher, control, slade]", "student.soup=true")
    assert list(trained) == ["teacher", "control", "slade"]
    assert_mean(kept["teacher"], trained["teacher"], trained["teacher"], 1 / 2)
    assert_mean(kept["control"], kept["teacher"], trained["control"], 1 / 2)
    assert_mean(kept["slade"], trained["control"], trained["slade"], 2 / 3)
    assert not torch.equal(kept["slade"][WEIGHT], trained["slade"][WEIGHT])
    steps = {row: (result.steps, result.images) for row, result in results.items()}
    assert steps["slade"] == tuple(2 * n for n in steps["control"])


def test_without_the_row_labels_alone_are_learned_beside_it_to_the_same_weights(run, tmp_path):
    run("rows=[teacher, control, slade]", "student.soup=true")
    _, trained, _ = run("rows=[teacher, slade]", "student.soup=true", output="alone")
    assert list(trained) == ["teacher", "slade", "slade/control"]
    first, second = (tmp_path / output / "slade" / "model.safetensors" for output in ("run", "alone"))
    assert first.read_bytes() == second.read_bytes()


def test_each_turn_is_averaged_with_labels_alone_from_the_same_start(run):
    _, trained, kept = run("rows=[teacher, slade]", "student.soup=true", "student.iterations=2")
    folders = [f"slade/turn-{turn}{part}" for turn in (1, 2) for part in ("", "/control")]
    assert list(trained) == ["teacher", *folders]
    assert_mean(kept["slade"], trained[folders[3]], trained[folders[2]], 2 / 3)


def test_a_run_that_is_killed_while_it_trains_the_control_goes_on(run, tmp_path, monkeypatch):
    run("rows=[teacher, slade]", "student.soup=true", output="unbroken")
    save = stages.Checkpoints.save

    def stopping(self, state, *step):
        path = save(self, state, *step)
        if "slade" in self.folder.parts:
            raise KeyboardInterrupt
        return path

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(stages.Checkpoints, "save", stopping)
            with pytest.raises(KeyboardInterrupt):
                run("rows=[teacher, slade]", "student.soup=true")
    run("rows=[teacher, slade]", "student.soup=true")
    first, second = (tmp_path / output / "slade" / "model.safetensors" for output in ("unbroken", "run"))
    assert first.read_bytes() == second.read_bytes()


def test_the_mean_leaves_the_models_as_they_are_and_numbers_whole():
    first, second = ({"trunk": torch.nn.BatchNorm1d(2)} for _ in range(2))
    second["trunk"](torch.randn(8, 2))
    mean = mean_of_models([first, second], [0.5, 0.5])["trunk"]
    assert torch.equal(mean.running_mean, second["trunk"].running_mean / 2)
    assert (mean.num_batches_tracked, second["trunk"].num_batches_tracked) == (0, 1)
    assert torch.equal(first["trunk"].running_mean, torch.zeros(2))
