"""Training one stage: epochs, validation, checkpoints, records; resumable to the bit."""

from __future__ import annotations

import copy
import logging
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import record_keeper
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..averages import ModelAverage
from ..checkpoints import Checkpoints
from ..compat import silent_epochs
from ..exceptions import CheckpointError, DivergedError, SladeError
from ..faults import told
from ..trainers import load_trainer_state, trainer_metrics, trainer_state
from ..trainers.checks import check_finite
from .restoring import check_best, check_history, check_like, check_optimizer

logger = logging.getLogger("pml_slade")

Metrics = dict[str, float]
Validate = Callable[[torch.nn.Module], Metrics]
"""Measures a module that turns images into embeddings."""


@dataclass
class Stage:
    """A PML trainer and what it takes to run it.

    Attributes:
        name: for people.
        folder: of this stage's checkpoints and records.
        trainer: a PML trainer with `iterations_per_epoch` set.
        epochs: how many.
        seed: reseeds everything at each epoch, so that a resumed run draws what an unbroken one draws.
        validate: measures the models after each epoch, or None to take the last epoch.
        images_per_class: of the labeled batches; None draws images at random.
        average: follows the trainer's models; it is validated and kept in their place.
        keep_best: end with the models of the epoch that validated best, not with the last ones.
        tolerance: prefer a later epoch that validates worse than the best by no more than this, in points
            of MAP@R. Few validation classes make for noise, and unlabeled images help others more than these.
        progress: show a progress bar.
    """

    name: str
    folder: Path
    trainer: Any
    epochs: int
    seed: int
    validate: Callable[[], Metrics] | None
    images_per_class: int | None = None
    average: ModelAverage | None = None
    keep_best: bool = True
    tolerance: float = 0.0
    progress: bool = True
    history: list[Metrics] = field(default_factory=list)
    best: dict[str, Any] | None = None

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        """What is validated and kept."""
        models: dict[str, torch.nn.Module] = (
            self.trainer.models if self.average is None else self.average.models
        )
        return models


def run_stage(stage: Stage) -> None:
    """Train, going on after the last checkpoint; leaves the best weights in `stage.models`, or the last ones.

    "Best" is the highest validation MAP@R, the earlier one where two are equal; with a tolerance, the last
    epoch that is as good but for that. What the stage starts from is validated, too, and is kept if training
    makes it worse.

    Raises:
        DivergedError: the loss is not finite.
        CheckpointError: checkpoints exist, but none can be read.
    """
    checkpoints = Checkpoints(stage.folder / "checkpoints")
    done = _restore(stage, checkpoints)
    if not done and stage.validate is not None and stage.keep_best:
        _keep_best(stage, 0, stage.validate()["MAP@R"])
    records = _Records(stage.folder / "records", stage.history)
    trainer = stage.trainer
    bar = tqdm(
        total=stage.epochs * trainer.iterations_per_epoch,
        initial=done * trainer.iterations_per_epoch,
        desc=stage.name,
        disable=not stage.progress or not sys.stderr.isatty(),
    )
    with bar, silent_epochs(), told(lambda: _resumes_at(stage, checkpoints)):
        for epoch in range(done + 1, stage.epochs + 1):
            row = {"epoch": float(epoch), **_train_epoch(stage, epoch, bar)}
            if stage.validate is not None:
                row |= stage.validate()
                if stage.keep_best:
                    _keep_best(stage, epoch, row["MAP@R"])
            stage.history.append(row)
            checkpoints.save(_state(stage), epoch)
            records.add(row)
            bar.set_postfix_str(_brief(row))
            if stage.progress and bar.disable:  # a file gets a line an epoch
                steps = [n * trainer.iterations_per_epoch for n in (epoch, stage.epochs)]
                print(f"{stage.name}: step {steps[0]}/{steps[1]}, {_brief(row)}", file=sys.stderr, flush=True)
    records.close()
    if stage.best is not None:
        _load(stage.models, stage.best["models"])


def _resumes_at(stage: Stage, checkpoints: Checkpoints) -> str:
    step, steps = (n * stage.trainer.iterations_per_epoch for n in (checkpoints.newest, stage.epochs))
    return f"{stage.name}, step {step} of {steps}"


def _train_epoch(stage: Stage, epoch: int, bar: Any) -> Metrics:
    """One epoch; its randomness depends on the seed and the epoch alone."""
    trainer = stage.trainer
    seed_everything(stage.seed, epoch)
    if stage.images_per_class is not None:
        trainer.sampler = MPerClassSampler(
            trainer.dataset.labels,
            stage.images_per_class,
            trainer.batch_size,
            length_before_new_iter=trainer.iterations_per_epoch * trainer.batch_size,
        )
    totals: Metrics = {}

    def after_step(t: Any) -> None:
        if stage.average is not None:
            stage.average(t)
        check_finite(t)
        values = {name: float(torch.as_tensor(value).detach()) for name, value in t.losses.items()}
        for name, value in (values | trainer_metrics(t)).items():
            totals[name] = totals.get(name, 0.0) + value / t.iterations_per_epoch
        bar.update()

    trainer.end_of_iteration_hook = after_step
    try:
        trainer.train(start_epoch=epoch, num_epochs=epoch)
    except DivergedError as error:
        raise DivergedError(
            f"{stage.name}: {error} What was trained until the last checkpoint is kept in {stage.folder}."
        ) from None
    # Loader processes of later loaders would inherit these, and stumble over them when they end.
    trainer.dataloader_iter = trainer.unlabeled_dataloader_iter = None
    return totals


def seed_everything(seed: int, *parts: int) -> None:
    """Seed torch and numpy from several integers.

    Examples:
        >>> seed_everything(0, 1); a = torch.rand(1)
        >>> seed_everything(0, 1); bool(a == torch.rand(1))
        True
    """
    state = int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0])
    torch.manual_seed(state)
    np.random.seed(state)  # noqa: NPY002  PML's samplers draw from the global generator


def _keep_best(stage: Stage, epoch: int, score: float) -> None:
    highest = -math.inf if stage.best is None else stage.best["score"]
    if score > highest or (stage.tolerance and score >= highest - stage.tolerance):
        models = {k: copy.deepcopy(m.state_dict()) for k, m in stage.models.items()}
        stage.best = {"score": max(score, highest), "epoch": epoch, "models": models}


def _state(stage: Stage) -> dict[str, Any]:
    return {
        "trainer": trainer_state(stage.trainer),
        "average": None if stage.average is None else stage.average.state_dict(),
        "history": stage.history,
        "best": stage.best,
    }


def _restore(stage: Stage, checkpoints: Checkpoints) -> int:
    found = checkpoints.load_latest()
    if found is None:
        return 0
    epoch, state = found
    try:
        _check(stage, state)
        load_trainer_state(stage.trainer, state["trainer"])
        if stage.average is not None:
            stage.average.load_state_dict(state["average"])
        stage.history, stage.best = state["history"], state["best"]
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SladeError) as error:
        raise CheckpointError(
            f"checkpoint-{epoch}.pt in {checkpoints.folder} is none of {stage.name} "
            f"({' '.join(str(error).split())[:200]}): delete {stage.folder} to begin it again."
        ) from error
    logger.info("%s: going on after step %d", stage.name, epoch * stage.trainer.iterations_per_epoch)
    return epoch


def _check(stage: Stage, state: dict[str, Any]) -> None:
    """Refuse a state that is none of this stage, before anything of it is used."""
    own = _state(stage)
    optimizers = stage.trainer.optimizers
    check_like(state, {**own, "history": [], "best": None})
    check_history(state["history"])
    check_best(state["best"], stage.models)
    for name, found in state["trainer"]["optimizers"].items():
        check_optimizer(found["state"], optimizers[name], name)


def _load(part: dict[str, Any], states: dict[str, Any]) -> None:
    for key, thing in part.items():
        thing.load_state_dict(states[key])


def _brief(row: Metrics) -> str:
    score = f", validation MAP@R {row['MAP@R']:.1f}" if "MAP@R" in row else ""
    return f"loss {row['total_loss']:.4f}{score}"


class _Records:
    """record-keeper's CSV, SQLite and TensorBoard files, written anew from the history at the start.

    Rows that a killed run wrote after its last checkpoint would otherwise stand there twice.
    """

    def __init__(self, folder: Path, history: list[Metrics]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder / "tensorboard"))
        self.keeper = record_keeper.RecordKeeper(
            tensorboard_writer=self.writer, record_writer=record_keeper.RecordWriter(str(folder))
        )
        for row in history:
            self.add(row)

    def add(self, row: Metrics) -> None:
        for name, value in row.items():  # update_records differs between versions, this does not
            self.keeper.append_data("training", name, value, int(row["epoch"]))
        self.keeper.save_records()

    def close(self) -> None:
        self.writer.close()
