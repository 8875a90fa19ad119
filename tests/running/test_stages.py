"""One stage: the epochs it trains, what it records, which epoch it keeps, and how it goes on."""

import csv
import logging
import math
import multiprocessing
import re
import signal
import sqlite3
from collections import namedtuple

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, ProxyAnchorLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pml_slade.checkpoints import Checkpoints
from pml_slade.exceptions import CheckpointError, MachineError, SladeError
from pml_slade.numerics import Numerics
from pml_slade.running import stages
from pml_slade.running.stages import Stage, run_stage
from pml_slade.stopping import Stopped

STEPS, EPOCHS = 3, 4


class Points(torch.utils.data.Dataset):
    """Four classes of noisy points; each look at one draws new noise."""

    def __init__(self):
        self.labels = torch.arange(4).repeat_interleave(6).numpy()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        label = int(self.labels[index])
        return torch.eye(4)[label] + 0.3 * torch.randn(4), label


class Failing(ContrastiveLoss):
    """Gives `value` from the n-th call on."""

    def __init__(self, step, value=math.nan):
        super().__init__()
        self.left, self.value = step, value

    def forward(self, *args, **kwargs):
        self.left -= 1
        loss = super().forward(*args, **kwargs)
        return loss if self.left > 0 else loss * self.value


class Stopping(ContrastiveLoss):
    """Gets SIGINT in the n-th call."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def forward(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().forward(*args, **kwargs)


def stage(folder, epochs=EPOCHS, scores=None, loss=None, cosine=False, progress=False, seed=0, workers=0):
    """A stage whose validation gives 0 for its start, and `scores`, one per epoch, in turn."""
    torch.manual_seed(0)
    models = {"trunk": torch.nn.Linear(4, 5), "embedder": torch.nn.Linear(5, 3)}
    losses = {"metric_loss": loss or ContrastiveLoss()}
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(part.parameters(), lr=0.01)
        for name, part in {**models, **losses}.items()
        if any(True for _ in part.parameters())
    }
    schedulers = None
    if cosine:
        schedulers = {
            "trunk_scheduler_by_iteration": torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizers["trunk_optimizer"], T_max=STEPS * EPOCHS
            )
        }
    trainer = MetricLossOnly(
        models=models,
        optimizers=optimizers,
        batch_size=8,
        loss_funcs=losses,
        mining_funcs={},
        dataset=Points(),
        iterations_per_epoch=STEPS,
        lr_schedulers=schedulers,
        dataloader_num_workers=workers,
        data_device=torch.device("cpu"),
    )
    coming = iter([*([] if (folder / "checkpoints").exists() else [0.0]), *(scores or ())])

    def validate():
        score = next(coming)
        by_class = [score, score] if isinstance(score, float) else score
        return {"MAP@R": sum(by_class) / len(by_class), "RP": 1.0, "P@1": 2.0}, by_class

    validated = None if scores is None else validate
    return Stage("Teacher", folder, trainer, epochs, seed, validated, images_per_class=2, progress=progress)


def weights(made):
    """All weights of the models in one vector."""
    parts = made.trainer.models.values()
    return torch.cat([p.detach().flatten() for part in parts for p in part.parameters()]).clone()


def run(*args, **kwargs):
    made = stage(*args, **kwargs)
    run_stage(made)
    return made


def weights_per_epoch(tmp_path):
    return [weights(run(tmp_path / f"{n} epochs", epochs=n)) for n in range(1, EPOCHS + 1)]


def test_the_best_epoch_is_kept_and_not_the_last(tmp_path):
    after = weights_per_epoch(tmp_path)
    made = run(tmp_path / "run", scores=[10.0, 30.0, 20.0, 5.0])
    assert made.best["epoch"] == 2
    assert torch.equal(weights(made), after[1])
    assert not torch.equal(after[1], after[3])


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [
        ([10.0, 30.0, 29.5, 29.0], 4),
        ([10.0, 30.0, 28.9, 5.0], 2),
        ([30.0, 29.5, 28.5, 29.0], 4),  # compared with the best, not with the one kept
        ([30.0, 29.5, 28.5, 28.0], 2),
        ([10.0, 20.0, 30.0, 40.0], 4),
    ],
)
def test_with_a_tolerance_the_last_good_epoch_is_kept(tmp_path, scores, epoch):
    made = stage(tmp_path / "run", scores=scores)
    made.tolerance = 1.0
    run_stage(made)
    assert made.best["epoch"] == epoch
    assert torch.equal(weights(made), weights_per_epoch(tmp_path)[epoch - 1])


@pytest.mark.parametrize(
    ("tolerance", "last", "epoch"),
    [
        (1.0, [20.0, 21.0, 39.0, 28.0], 4),  # 3 lower, on four classes of which two are higher
        (1.0, [21.0, 27.0, 33.0, 27.0], 2),  # 3 lower on each
        (0.0, [20.0, 21.0, 39.0, 28.0], 2),
    ],
)
def test_what_may_be_chance_is_no_worse(tmp_path, tolerance, last, epoch):
    best = [24.0, 30.0, 36.0, 30.0]
    made = stage(tmp_path / "run", scores=[[10.0] * 4, best, [0.0] * 4, last])
    made.tolerance = tolerance
    run_stage(made)
    assert made.best["epoch"] == epoch
    assert made.best["classes"].tolist() == best


def test_classes_of_another_number_say_nothing_of_chance(tmp_path):
    made = stage(tmp_path / "run", scores=[[10.0] * 4, [30.0] * 4, [20.0, 21.0, 39.0], [29.5] * 3])
    made.tolerance = 1.0
    run_stage(made)
    assert made.best["epoch"] == 4


def test_the_earlier_of_two_equal_epochs_is_kept(tmp_path):
    made = run(tmp_path / "run", scores=[10.0, 30.0, 30.0, 30.0])
    assert made.best["epoch"] == 2
    assert torch.equal(weights(made), weights_per_epoch(tmp_path)[1])


def test_without_validation_the_last_epoch_is_kept(tmp_path):
    made = run(tmp_path / "run")
    assert made.best is None
    assert torch.equal(weights(made), weights_per_epoch(tmp_path)[-1])


def test_validation_does_not_change_what_is_trained(tmp_path):
    increasing = run(tmp_path / "validated", scores=[1.0, 2.0, 3.0, 4.0])
    assert torch.equal(weights(increasing), weights(run(tmp_path / "plain")))


def test_the_seed_decides_what_is_drawn(tmp_path):
    first, again, other = (run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_every_epoch_draws_anew(tmp_path):
    class Still(ContrastiveLoss):
        def forward(self, embeddings, *args, **kwargs):
            seen.append(embeddings.detach().clone())
            return embeddings.sum() * 0

    seen = []
    run(tmp_path, epochs=2, loss=Still())
    assert len(seen) == 2 * STEPS
    assert not torch.equal(seen[0], seen[STEPS])


@pytest.mark.parametrize("done", [1, 2, 3, 4])
@pytest.mark.parametrize("cosine", [False, True])
def test_a_stage_that_goes_on_ends_like_an_unbroken_one(tmp_path, done, cosine):
    def loss(seed=0):
        torch.manual_seed(seed)
        return ProxyAnchorLoss(num_classes=4, embedding_size=3)

    scores = [10.0, 30.0, 20.0, 5.0]
    unbroken = run(tmp_path / "unbroken", scores=scores, loss=loss(), cosine=cosine)
    run(tmp_path / "broken", epochs=done, scores=scores[:done], loss=loss(), cosine=cosine)
    resumed = run(tmp_path / "broken", scores=scores[done:], loss=loss(seed=1), cosine=cosine)
    assert torch.equal(weights(resumed), weights(unbroken))
    assert resumed.history == unbroken.history
    for kind in ("optimizers", "lr_schedulers", "loss_funcs"):
        for name, part in getattr(unbroken.trainer, kind).items():
            other = getattr(resumed.trainer, kind)[name]
            assert str(other.state_dict()) == str(part.state_dict())


def test_the_cosine_schedule_falls_to_zero_over_all_steps(tmp_path):
    def rate(made):
        return made.trainer.optimizers["trunk_optimizer"].param_groups[0]["lr"]

    assert rate(run(tmp_path / "half", epochs=EPOCHS // 2, cosine=True)) == pytest.approx(0.005)
    assert rate(run(tmp_path / "half", cosine=True)) == pytest.approx(0.0, abs=1e-9)


def test_a_finished_stage_trains_nothing_more(tmp_path):
    first = run(tmp_path, loss=ContrastiveLoss())
    again = run(tmp_path, loss=Failing(step=1))
    assert torch.equal(weights(first), weights(again))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_stage_and_names_the_step(tmp_path, step, value):
    with pytest.raises(SladeError, match=rf"Teacher: the loss became (nan|inf) in step {step} .*Lower the"):
        run(tmp_path, loss=Failing(step, value))


def test_what_was_trained_before_the_loss_failed_is_kept(tmp_path):
    with pytest.raises(SladeError):
        run(tmp_path / "failed", loss=Failing(step=2 * STEPS + 1))
    made = run(tmp_path / "failed", epochs=2)
    assert torch.equal(weights(made), weights_per_epoch(tmp_path)[1])


def test_the_step_is_counted_on_after_a_resume(tmp_path):
    run(tmp_path, epochs=2)
    with pytest.raises(SladeError, match=f"in step {2 * STEPS + 2} "):
        run(tmp_path, loss=Failing(step=2))


def read_csv(folder):
    with (folder / "records" / "training.csv").open() as file:
        return list(csv.DictReader(file))


def test_records_hold_one_row_per_epoch_in_all_three_formats(tmp_path):
    scores = [10.0, 30.0, 20.0, 5.0]
    made = run(tmp_path, scores=scores)
    rows = read_csv(tmp_path)
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["MAP@R"]) for row in rows] == scores
    assert [float(row["total_loss"]) for row in rows] == [row["total_loss"] for row in made.history]

    with sqlite3.connect(tmp_path / "records" / "logs.db") as database:
        [table] = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
            if name.startswith("training")
        ]
        assert database.execute(f'SELECT "MAP@R" FROM {table} ORDER BY epoch').fetchall() == [
            (score,) for score in scores
        ]
    database.close()

    events = EventAccumulator(str(tmp_path / "records" / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/MAP@R")] == list(enumerate(scores, 1))


def test_recorded_losses_are_means_over_the_epoch(tmp_path):
    class Counting(ContrastiveLoss):
        calls = 0

        def forward(self, embeddings, *args, **kwargs):
            self.calls += 1
            return embeddings.sum() * 0 + float(self.calls)

    rows = run(tmp_path, epochs=2, loss=Counting()).history
    assert [row["metric_loss"] for row in rows] == [2.0, 5.0]
    assert [row["total_loss"] for row in rows] == [2.0, 5.0]


def test_records_do_not_repeat_rows_after_a_resume(tmp_path):
    run(tmp_path, epochs=2)
    checkpoint = tmp_path / "checkpoints" / f"checkpoint-{2 * STEPS}.pt"
    checkpoint.unlink()  # as if killed before it was written, after its row was
    run(tmp_path)
    assert [float(row["epoch"]) for row in read_csv(tmp_path)] == [1, 2, 3, 4]
    events = EventAccumulator(str(tmp_path / "records" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("training/total_loss")] == [1, 2, 3, 4]


def test_progress_is_shown_when_asked_for_and_only_then(tmp_path, capsys):
    run(tmp_path / "quiet", scores=[1.0, 2.0, 3.0, 4.0])
    assert capsys.readouterr() == ("", "")
    run(tmp_path / "shown", scores=[1.0, 2.0, 3.0, 4.0], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Teacher" in err
    assert f"{STEPS * EPOCHS}/{STEPS * EPOCHS}" in err
    assert "validation MAP@R 4.0" in err


def test_without_a_terminal_each_epoch_is_a_line(tmp_path, capsys):
    run(tmp_path, scores=[10.0, 20.0, 30.0, 40.0], progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"Teacher: step {3 * n}/12" for n in (1, 2, 3, 4)]
    assert "validation MAP@R 40.0" in lines[-1]
    assert max(map(len, lines)) < 100


def test_a_checkpoint_of_another_stage_is_refused_in_one_line(tmp_path):
    Checkpoints(tmp_path / "checkpoints").save({"trainer": {}, "history": []}, 2)
    with pytest.raises(
        CheckpointError, match=r"checkpoint-2\.pt .* is none of Teacher .*begin it again"
    ) as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_machine_names_the_step_of_the_last_checkpoint(tmp_path):
    made = stage(tmp_path)

    def measure():
        if made.history:
            raise MemoryError
        return {"MAP@R": 1.0, "RP": 1.0, "P@1": 1.0}, [1.0, 1.0]

    made.validate = measure
    with pytest.raises(MachineError, match=r"Out of memory.*\(Teacher, step 3 of 12\)"):
        run_stage(made)


@pytest.mark.parametrize("step", range(1, 2 * STEPS + 1))
def test_a_signal_waits_for_the_end_of_its_step_and_what_goes_on_there_ends_the_same(tmp_path, step):
    scores = [10.0, 30.0]
    unbroken = run(tmp_path / "unbroken", epochs=2, scores=scores, cosine=True)
    with pytest.raises(Stopped) as stop:
        run(tmp_path / "broken", epochs=2, scores=scores, cosine=True, loss=Stopping(step))
    assert stop.value.resumes_at == f"Teacher, step {step} of {2 * STEPS}"
    validated = (step - 1) // STEPS  # a step that ends an epoch is saved before the validation
    resumed = run(tmp_path / "broken", epochs=2, scores=scores[validated:], cosine=True)
    assert torch.equal(weights(resumed), weights(unbroken))
    assert resumed.history == unbroken.history
    for kind in ("optimizers", "lr_schedulers"):
        for name, part in getattr(unbroken.trainer, kind).items():
            assert str(getattr(resumed.trainer, kind)[name].state_dict()) == str(part.state_dict())


def test_a_signal_in_a_validation_ends_it_and_loses_no_step(tmp_path):
    made = stage(tmp_path / "broken")

    def measure():
        if made.step:
            signal.raise_signal(signal.SIGINT)
        return {"MAP@R": 1.0, "RP": 1.0, "P@1": 1.0}, [1.0, 1.0]

    made.validate = measure
    with pytest.raises(Stopped) as stop:
        run_stage(made)
    assert stop.value.resumes_at == f"Teacher, step {STEPS} of {STEPS * EPOCHS}"
    scores = [10.0, 20.0, 30.0, 40.0]
    resumed, unbroken = (run(tmp_path / name, scores=scores) for name in ("broken", "unbroken"))
    assert torch.equal(weights(resumed), weights(unbroken))
    assert resumed.history == unbroken.history


@pytest.mark.parametrize("minutes", [1e-9, 60])
def test_a_checkpoint_is_written_after_so_many_minutes(tmp_path, minutes, monkeypatch):
    saved = []
    monkeypatch.setattr(stages.Checkpoints, "save", lambda self, state, step: saved.append(step))
    made = stage(tmp_path, epochs=2)
    made.checkpoint_minutes = minutes
    run_stage(made)
    every = sorted([*range(1, 2 * STEPS + 1), STEPS, 2 * STEPS])
    assert saved == (every if minutes < 1 else [STEPS, 2 * STEPS])


@pytest.mark.once("processes that read")
def test_any_number_of_processes_reads_the_same_images_and_they_stay_between_epochs(tmp_path, capfd):
    alone = run(tmp_path / "alone")
    made = stage(tmp_path / "two", workers=2)
    iterators = set()
    made.validate = lambda: (
        iterators.add(getattr(made.trainer, "dataloader_iter", None))
        or (dict.fromkeys(("MAP@R", "RP", "P@1"), float(made.step)), [])
    )
    run_stage(made)
    assert torch.equal(weights(made), weights(alone))
    assert len(iterators - {None}) == 1
    iterators.clear()
    assert multiprocessing.active_children() == []
    with pytest.raises(Stopped):
        run(tmp_path / "broken", loss=Stopping(STEPS + 2), workers=2)
    assert torch.equal(weights(run(tmp_path / "broken", workers=2)), weights(alone))
    assert multiprocessing.active_children() == []
    assert capfd.readouterr() == ("", "")


def test_after_ten_steps_it_is_said_how_long_the_rest_takes(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "pml_slade"):
        run(tmp_path, scores=[1.0, 2.0, 3.0, 4.0])
    (said,) = (message for message in caplog.messages if "take about" in message)
    assert re.fullmatch(r"Teacher: 2 steps and 1 validations take about \d+ s", said)


def test_a_disk_that_will_not_hold_the_checkpoints_is_seen_before_the_first_step(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(0, 0, 1000))
    with pytest.raises(
        MachineError, match=r"checkpoints of Teacher take about [\d.]+ KiB, and [\d.]+ KiB are free"
    ):
        run(tmp_path, loss=Failing(step=1))


def test_models_are_compiled_where_asked_and_keep_their_names(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model: compiled.append(model))
    made = stage(tmp_path / "compiled")
    made.numerics = Numerics(compiled=True)
    run_stage(made)
    assert compiled == list(made.trainer.models.values())
    assert torch.equal(weights(made), weights(run(tmp_path / "plain")))
    assert len(compiled) == 2


def test_a_trainer_that_computes_in_fp32_alone_is_told_of(tmp_path, caplog):
    made = stage(tmp_path, epochs=1)
    made.numerics = Numerics("bf16")
    run_stage(made)
    assert "Teacher: MetricLossOnly is no StatefulTrainer, so that it computes in fp32" in caplog.messages
