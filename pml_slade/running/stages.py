"""Training one stage: epochs, validation, checkpoints, records; resumable at any step, to the bit."""

from __future__ import annotations

import copy
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from tqdm import tqdm

from .. import processes
from ..averages import ModelAverage
from ..checkpoints import Checkpoints, as_size, free_space
from ..compat import train_loaders_by
from ..datasets.draws import seed_everything
from ..evaluation import interval
from ..exceptions import CheckpointError, ConfigError, DivergedError, MachineError, SladeError
from ..faults import told
from ..numerics import Numerics
from ..stopping import held, leave, released, take, waiting
from ..trainers import StatefulTrainer, load_trainer_state, trainer_metrics, trainer_state
from ..trainers.checks import check_finite
from .clock import Clock
from .epochs import EpochLoaders
from .records import Records
from .restoring import check_best, check_history, check_like, check_optimizer
from .tracking import Tracking

logger = logging.getLogger("pml_slade")

Metrics = dict[str, float]
Validation = tuple[Metrics, list[float]]
"""Figures, and MAP@R of each validation class."""
Validate = Callable[[torch.nn.Module], Metrics]
"""Measures a module that turns images into embeddings."""
KEPT = 2
"""Checkpoints of a stage."""
GRACE = 2.0
"""Seconds in which a launcher passes on what the terminal has sent already."""
COPIES = 5
"""Of what is learned, in a checkpoint: itself, two moments of an optimizer, an average, the best so far."""


@dataclass
class Stage:
    """A PML trainer and what it takes to run it.

    Attributes:
        name: for people.
        folder: of this stage's checkpoints and records.
        trainer: a PML trainer with `iterations_per_epoch` set.
        epochs: how many.
        seed: all that is drawn depends on it, on the epoch and on the step alone, so that a resumed run draws
            what an unbroken one draws.
        validate: measures the models after each epoch, as a whole and by validation class; None to take the
            last epoch.
        images_per_class: of the labeled batches; None draws images at random.
        average: follows the trainer's models; it is validated and kept in their place.
        keep_best: end with the models of the epoch that validated best, not with the last ones.
        tolerance: prefer a later epoch that validates worse than the best by no more than this, in points
            of MAP@R, or by what may be chance: few validation classes make for noise, and unlabeled images
            help others more than these. 0 prefers none.
        checkpoint_minutes: a checkpoint is written after so many minutes, too, not only after each epoch.
        numerics: how models compute.
        progress: show a progress bar.
        tracking: where records go besides files.
        history: figures of the epochs so far.
        best: the best models so far.
        totals: sums of what the steps of the epoch so far came to, by name.
        step: how many steps are done.
    """

    name: str
    folder: Path
    trainer: Any
    epochs: int
    seed: int
    validate: Callable[[], Validation] | None
    images_per_class: int | None = None
    average: ModelAverage | None = None
    keep_best: bool = True
    tolerance: float = 0.0
    checkpoint_minutes: float = math.inf
    numerics: Numerics = field(default_factory=Numerics)
    progress: bool = True
    tracking: Tracking = field(default_factory=Tracking)
    history: list[Metrics] = field(default_factory=list)
    best: dict[str, Any] | None = None
    totals: dict[str, torch.Tensor] = field(default_factory=dict)
    step: int = 0

    @property
    def models(self) -> dict[str, torch.nn.Module]:
        """What is validated and kept."""
        models: dict[str, torch.nn.Module] = (
            self.trainer.models if self.average is None else self.average.models
        )
        return models

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        steps: int = self.trainer.iterations_per_epoch
        return steps

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epochs * self.epoch_steps


def run_stage(stage: Stage) -> None:
    """Train, going on after the last checkpoint; leaves the best weights in `stage.models`, or the last ones.

    "Best" is the highest validation MAP@R, the earlier one where two are equal; with a tolerance, the last
    epoch that is as good but for that, or but for chance. What the stage starts from is validated, too, and
    is kept if training makes it worse.

    Raises:
        DivergedError: the loss is not finite.
        CheckpointError: checkpoints exist, but none can be read.
    """
    checkpoints = Checkpoints(stage.folder / "checkpoints", KEPT)
    clock = Clock(stage.name, stage.checkpoint_minutes)
    grace = GRACE if processes.size() > 1 else 0.0
    with told(lambda: _resumes_at(stage, checkpoints)), held(grace):
        _set_numerics(stage)
        fresh = not _restore(stage, checkpoints)
        parts = (*stage.models.values(), *stage.trainer.loss_funcs.values())
        processes.copy_first((*stage.trainer.models.values(), *parts))
        check_space(checkpoints.folder, stage.name, parts)
        if fresh and stage.validate is not None and stage.keep_best:
            _keep_best(stage, 0, _validate(stage, clock))
        with _records(stage) as records, _bar(stage) as bar, _loaders(stage) as loaders:
            for epoch in range(len(stage.history) + 1, stage.epochs + 1):
                row = _train_epoch(stage, epoch, _Epoch(loaders, checkpoints, clock, bar))
                if records is not None:
                    records.add(row)
                _show(stage, row, bar)
                leave()
    if stage.best is not None:
        _load(stage.models, stage.best["models"])


@contextmanager
def _loaders(stage: Stage) -> Iterator[EpochLoaders]:
    """What reads the images of a stage."""
    loaders = EpochLoaders(stage.seed, stage.trainer.data_device)
    try:
        yield loaders
    finally:
        loaders.close(stage.trainer)


def _records(stage: Stage) -> Any:
    """Where the figures of each epoch are written: by one process."""
    if not processes.is_first():
        return nullcontext()
    return Records(stage.folder, stage.name, stage.history, stage.tracking)


def _resumes_at(stage: Stage, checkpoints: Checkpoints) -> str:
    return f"{stage.name}, step {checkpoints.newest} of {stage.steps}"


class _Epoch(NamedTuple):
    """What an epoch is trained with."""

    loaders: EpochLoaders
    checkpoints: Checkpoints
    clock: Clock
    bar: Any


def _set_numerics(stage: Stage) -> None:
    trainer, numerics = stage.trainer, stage.numerics
    if isinstance(trainer, StatefulTrainer):
        trainer.numerics = numerics
    elif processes.size() > 1:
        raise ConfigError(
            f"{stage.name}: {type(trainer).__name__} is no StatefulTrainer, so that it trains in one "
            "process; start it without torchrun."
        )
    elif numerics.precision != "fp32":
        kind = type(trainer).__name__
        logger.warning("%s: %s is no StatefulTrainer, so that it computes in fp32", stage.name, kind)
    if numerics.compiled:
        for model in trainer.models.values():
            model.compile()


def _train_epoch(stage: Stage, epoch: int, tools: _Epoch) -> Metrics:
    """Train what is left of an epoch, and validate; return its figures, which are in a checkpoint then."""

    def save() -> None:
        if processes.is_first():
            tools.checkpoints.save(_state(stage), stage.step)
        tools.clock.save()

    trainer, first = stage.trainer, stage.step - (epoch - 1) * stage.epoch_steps
    tools.loaders.begin(epoch, stage.epoch_steps, first)
    with train_loaders_by(tools.loaders.make), _stage_named(stage):
        with released():
            _begin_epoch(stage, epoch)
        for trainer.iteration in range(first, stage.epoch_steps):
            _train_step(stage)
            tools.bar.update()
            tools.clock.step(stage.steps - stage.step, stage.epochs - len(stage.history))
            if _is_due(tools.clock):
                _settle(trainer)
                save()
                processes.wait()  # who leaves first may end the others
                leave()
        _settle(trainer)
    row = {"epoch": float(epoch), **{name: float(total) for name, total in stage.totals.items()}}
    if stage.validate is not None:
        try:
            measured = _validate(stage, tools.clock)
        except KeyboardInterrupt:
            save()
            raise
        row |= measured[0]
        if stage.keep_best:
            _keep_best(stage, epoch, measured)
    trainer.step_lr_schedulers(end_of_epoch=True)
    trainer.zero_losses()
    trainer.end_of_epoch_hook(trainer)
    stage.history.append(row)
    stage.totals = {}
    save()
    return row


def _is_due(clock: Clock) -> bool:
    """Whether a checkpoint is written now: it is time, or a signal has come, to whichever process."""
    number, late = processes.most(waiting(), clock.is_due())
    take(number)
    return bool(number or late)


def _begin_epoch(stage: Stage, epoch: int) -> None:
    """What PML's trainers do before the first step of an epoch, or before the first one that is left."""
    trainer = stage.trainer
    seed_everything(stage.seed, epoch)
    if stage.images_per_class is not None:
        trainer.sampler = MPerClassSampler(
            trainer.dataset.labels,
            stage.images_per_class,
            trainer.batch_size,
            length_before_new_iter=trainer.iterations_per_epoch * trainer.batch_size,
        )
    trainer.initialize_dataloader()
    trainer.epoch = epoch
    trainer.set_to_train()


def _train_step(stage: Stage) -> None:
    """One step, as PML's trainers take it; what is drawn depends on seed, epoch and step alone."""
    trainer = stage.trainer
    seed_everything(stage.seed, trainer.epoch, trainer.iteration)
    trainer.forward_and_backward()
    if not isinstance(trainer, StatefulTrainer):
        check_finite(trainer)
    if stage.average is not None:
        stage.average(trainer)
    for name, value in {**trainer.losses, **trainer_metrics(trainer)}.items():
        share = torch.as_tensor(value).detach().double() / stage.epoch_steps
        stage.totals[name] = stage.totals[name] + share if name in stage.totals else share
    trainer.step_lr_schedulers(end_of_epoch=False)
    stage.step += 1


def _settle(trainer: Any) -> None:
    """Make sure that the last step was sound, before its weights are used or kept."""
    if isinstance(trainer, StatefulTrainer):
        trainer.finite.settle()


@contextmanager
def _stage_named(stage: Stage) -> Iterator[None]:
    """Say which stage diverged."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(
            f"{stage.name}: {error} What was trained until the last checkpoint is kept in {stage.folder}."
        ) from None


def _validate(stage: Stage, clock: Clock) -> Validation:
    assert stage.validate is not None
    with released(), clock.validation():
        return stage.validate()


def check_space(folder: Path, what: str, parts: Iterable[torch.nn.Module], stages: int = 1) -> None:
    """Refuse to train what the disk cannot hold.

    Args:
        folder: where checkpoints go; those that are there already are not counted twice.
        what: is trained, for people.
        parts: models and losses of a stage.
        stages: how many are to come.

    Raises:
        MachineError: says how much checkpoints take, and where.
    """
    learned = sum(x.nbytes for part in parts for x in (*part.parameters(), *part.buffers()))
    present = sum(file.stat().st_size for file in folder.glob("**/checkpoint-*.pt"))
    needed = (stages * KEPT + 1) * COPIES * learned - present
    there, free = free_space(folder)
    if needed > free:
        raise MachineError(
            f"{there}: checkpoints of {what} take about {as_size(needed)}, and {as_size(free)} are free. "
            "Free some, or give another output folder."
        )


def _bar(stage: Stage) -> Any:
    return tqdm(
        total=stage.steps,
        initial=stage.step,
        desc=stage.name,
        disable=not stage.progress or not sys.stderr.isatty(),
    )


def _show(stage: Stage, row: Metrics, bar: Any) -> None:
    bar.set_postfix_str(_brief(row))
    if stage.progress and bar.disable:  # a file gets a line an epoch
        line = f"{stage.name}: step {stage.step}/{stage.steps}, {_brief(row)}"
        print(line, file=sys.stderr, flush=True)


def _keep_best(stage: Stage, epoch: int, measured: Validation) -> None:
    figures, by_class = measured
    score, classes, best = figures["MAP@R"], torch.tensor(by_class, dtype=torch.float64), stage.best
    if best is None or score > best["score"]:
        highest = {"score": score, "classes": classes}
    elif stage.tolerance and best["score"] - score <= max(stage.tolerance, _chance(best["classes"], classes)):
        highest = {name: best[name] for name in ("score", "classes")}
    else:
        return
    models = {k: copy.deepcopy(m.state_dict()) for k, m in stage.models.items()}
    stage.best = {**highest, "epoch": epoch, "models": models}


def _chance(first: torch.Tensor, second: torch.Tensor) -> float:
    """By how much the mean over other classes may differ, where these two differ so by class."""
    if first.shape != second.shape:  # from a checkpoint that someone changed
        return 0.0
    return interval((first - second).tolist()) or 0.0


def _state(stage: Stage) -> dict[str, Any]:
    return {
        "trainer": trainer_state(stage.trainer),
        "average": None if stage.average is None else stage.average.state_dict(),
        "history": stage.history,
        "best": stage.best,
        "totals": stage.totals,
    }


def _restore(stage: Stage, checkpoints: Checkpoints) -> bool:
    """Go on after the last checkpoint; whether there is one."""
    found = checkpoints.load_latest()
    step, state = found or (0, {})
    if processes.once(lambda: step) != step:
        raise CheckpointError(
            f"the processes do not see the same checkpoints in {checkpoints.folder}: give an output folder "
            "that all machines share."
        )
    if found is None:
        return False
    try:
        _check(stage, state)
        load_trainer_state(stage.trainer, state["trainer"])
        if stage.average is not None:
            stage.average.load_state_dict(state["average"])
        device = stage.trainer.data_device
        stage.totals = {name: total.to(device) for name, total in state["totals"].items()}
        stage.history, stage.best, stage.step = state["history"], state["best"], step
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SladeError) as error:
        raise CheckpointError(
            f"checkpoint-{step}.pt in {checkpoints.folder} is none of {stage.name} "
            f"({' '.join(str(error).split())[:200]}): delete {stage.folder} to begin it again."
        ) from error
    logger.info("%s: going on after step %d", stage.name, step)
    return True


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
