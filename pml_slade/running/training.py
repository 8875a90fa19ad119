"""How a row is trained: in one turn or several, a student promoted to teacher between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from .. import processes
from ..averages import mean_of_models
from ..datasets.draws import seed_everything
from ..methods import Method
from .models import starts_principal
from .stages import Stage, run_stage
from .workshop import Models, Workshop


@dataclass(frozen=True)
class Training:
    """Trains one row, and goes on where it was stopped.

    Attributes:
        shop: what the rows of the run share.
        method: of the row.
        teacher: the method that others start from.
        is_done: whether a method is a row of the run that is done.
    """

    shop: Workshop
    method: Method
    teacher: Method
    is_done: Callable[[Method], bool]

    @property
    def turns(self) -> int:
        """How many times a student is trained, each on the pseudo-labels of the last."""
        return self.shop.config.student.iterations if self.method.starts_from_teacher else 1

    @property
    def file(self) -> Path:
        """The file of the row's model."""
        return self._file(self.turns)

    def run(self, pretrained: Path | None) -> None:
        """Train all turns, but for those whose models are there already.

        Args:
            pretrained: file that a teacher's trunk starts from, in place of `model.weights`.
        """
        if self.method.uses_pool and self.method.starts_from_teacher:
            self.shop.look_at_pool(self._teacher_file)
        for turn in range(1, self.turns + 1):
            file = self._file(turn)
            if processes.once(file.exists):
                continue
            learned = self._learn(turn, file.parent, self._start(turn, pretrained))
            if self.shop.config.student.soup and self.method.starts_from_teacher:
                learned = self._soup(turn, file.parent, learned)
            self.shop.save(file, learned)

    def effort(self) -> tuple[int, int]:
        """Steps, and the training images in them; those of what the row is averaged with count, too."""
        if not self.method.trains:
            return 0, 0
        job = self.shop.job(self.method)
        steps = self.method.training(job).steps * self.turns
        images = steps * self.method.images_a_step(job)
        if self.shop.config.student.soup and self.method.anchor is not None:
            more_steps, more_images = self._of(self.method.anchor).effort()
            return steps + more_steps, images + more_images
        return steps, images

    def stage(self, turn: int, folder: Path, models: Models) -> Stage:
        """What trains one turn, and what is recorded of it.

        Args:
            turn: from 1 on.
            folder: that the stage writes to.
            models: that it starts from.
        """
        shop, method, config = self.shop, self.method, self.shop.config
        job = shop.job(method, shop.learned)
        seed = int(
            np.random.SeedSequence([config.seed, crc32(method.key.encode()), turn]).generate_state(1)[0]
        )
        seed_everything(seed)
        trainer, average = method.build(job, models, folder)
        if method.starts_from_teacher or starts_principal(config):
            method.begin(job, trainer)
        stage = Stage(
            name=method.title + (f" {turn}/{self.turns}" if self.turns > 1 else ""),
            folder=folder,
            trainer=trainer,
            epochs=method.training(job).steps // trainer.iterations_per_epoch,
            seed=seed,
            validate=None,
            images_per_class=method.images_per_class(job),
            average=average,
            tolerance=config.tolerance,
            checkpoint_minutes=config.checkpoint_minutes,
            numerics=shop.runtime.numerics,
            progress=shop.runtime.progress,
            tracking=shop.tracking,
        )
        if shop.splits.validation is not None:
            stage.validate = lambda: shop.validate(stage.models)
        return stage

    def _learn(self, turn: int, folder: Path, start: Models) -> Models:
        """Train one turn, going on after the checkpoints in a folder."""
        stage = self.stage(turn, folder, start)
        run_stage(stage)
        return stage.models

    def _soup(self, turn: int, folder: Path, learned: Models) -> Models:
        """The mean of a student's weights and of those that it started from, or that labels alone taught."""
        other, labels = self._start(turn), self.method.anchor
        if labels is not None:
            training = self._of(labels)
            same = turn == 1 and processes.once(lambda: self.is_done(labels))  # it is the same training
            place = training._file(turn).parent if same else folder / labels.key
            other = training._learn(turn, place, other)
        return mean_of_models([other, learned], [1 - self.method.share, self.method.share])

    def _start(self, turn: int, pretrained: Path | None = None) -> Models:
        """What a turn starts from."""
        if turn > 1:  # the student promoted
            return self.shop.load(self._file(turn - 1))
        if self.method.starts_from_teacher:
            return self.shop.load(self._teacher_file)
        return self.shop.fresh(pretrained)

    @property
    def _teacher_file(self) -> Path:
        return self._of(self.teacher).file

    def _file(self, turn: int) -> Path:
        folder = self.shop.folder / self.method.key
        return (folder / f"turn-{turn}" if self.turns > 1 else folder) / "model.safetensors"

    def _of(self, method: Method) -> Training:
        """That of another method."""
        return replace(self, method=method)
