"""What a method is: one row of a comparison, with all that is its own."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .settings import Section, StudentConfig, TeacherConfig, TrainingConfig

if TYPE_CHECKING:  # `--help` and a bad setting are answered without torch
    import torch

    from ..averages import ModelAverage
    from ..datasets.views import Views
    from ..runtime import Runtime

    Models = dict[str, torch.nn.Module]


@dataclass(frozen=True)
class Job:
    """What a method works with.

    Attributes:
        teacher: settings of the teacher.
        student: settings that all rows share which start from it.
        own: the method's own settings, of its type `Settings`.
        num_classes: labeled ones.
        num_clusters: k, of the pool.
        embedding_size: of the models.
        runtime: device and loader processes.
        images: the splits of the run, and the views of them.
        freeze_batchnorm: keep the trunk's batch norm as it came.
        knows_photographs: whether the trunk comes with weights, for photographs.
        epoch_steps: between validations.
        seed: of the run.
        trust: share of the neighbours which the teacher finds in the pool that is estimated to be right; None
            before it is known.
    """

    teacher: TeacherConfig
    student: StudentConfig
    own: Any
    num_classes: int
    num_clusters: int
    embedding_size: int
    runtime: Runtime
    images: Views
    freeze_batchnorm: bool = False
    knows_photographs: bool = False
    epoch_steps: int = 250
    seed: int = 0
    trust: float | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """What a loss with weights for the labeled classes has to know."""
        return {"num_classes": self.num_classes, "embedding_size": self.embedding_size}


class Method(ABC):
    """A row of a comparison. Subclass it, or one of its subclasses, for a row of your own.

    Attributes:
        key: name of the row in settings, folders and results; by default the class's name as
            snake_case.
        title: what tables call it.
        stage: whose settings it is trained by, "teacher" or "student".
        uses_pool: whether unlabeled images have a part in it.
        trains: whether anything is trained at all.
        is_teacher: whether the other rows start from it.
        share: of a student's weights in what `student.soup` keeps.
        is_bound: whether it knows what no user has, so that its model is never the run's.
        Settings: type of its own settings, which stand under `methods.KEY`.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    stage: ClassVar[str] = "student"
    uses_pool: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    is_teacher: ClassVar[bool] = False
    share: ClassVar[float] = 1 / 2
    is_bound: ClassVar[bool] = False
    Settings: ClassVar[type[Section]] = Section

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "key" not in cls.__dict__:
            cls.key = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if "title" not in cls.__dict__:
            cls.title = cls.__name__

    @property
    def starts_from_teacher(self) -> bool:
        """Whether it starts from the teacher's models; the teacher starts from `model.weights`."""
        return not self.is_teacher

    @property
    def anchor(self) -> Method | None:
        """Method whose student its own is averaged with by `student.soup`; None: with what it starts from."""
        return None

    def training(self, job: Job) -> TrainingConfig:
        """Settings of its training."""
        settings: TrainingConfig = getattr(job, self.stage)
        return settings

    def check_settings(  # noqa: B027  it need not be overridden
        self, teacher: TeacherConfig, student: StudentConfig, own: Any
    ) -> None:
        """Refuse settings that do not go with this method, before any image is looked at.

        Raises:
            ValueError: says which, and what to give.
        """

    def check(self, job: Job, models: Models) -> None:
        """Refuse what cannot work on these images, before anything is trained: by default, build it all.

        Args:
            job: as in training.
            models: fresh ones, to build for.

        Raises:
            ConfigError: a loss, miner or optimizer that cannot be built, or does not fit.
            DataError: images that it cannot be trained on.
        """
        self.build(job, models, Path())

    @abstractmethod
    def images_a_step(self, job: Job) -> int:
        """Training images that it sees in each step."""

    def labeled_batch_size(self, job: Job) -> int:
        """Labeled images in a step."""
        return self.training(job).batch_size

    def images_per_class(self, job: Job) -> int | None:
        """Images of each class in a labeled batch; None draws images at random.

        By default as configured, or as many more as the classes need to fill a batch.
        """
        size, classes = self.labeled_batch_size(job), job.num_classes
        configured = self.training(job).images_per_class
        return next(m for m in range(configured, size + 1) if size % m == 0 and classes * m >= size)

    def build(self, job: Job, models: Models, folder: Path) -> tuple[Any, ModelAverage | None]:
        """Return a PML trainer for the models, and what follows them in training, if anything.

        Args:
            job: what to work with.
            models: trunk and embedder, to start from.
            folder: of the row, for what it wants to write for people.
        """
        from .. import processes
        from ..averages import ModelAverage
        from .building import build_cosine_schedulers

        settings = self.training(job)
        models = {name: job.runtime.place(model) for name, model in models.items()}
        average = None if settings.average is None else ModelAverage(models, settings.average)
        trainer = self.trainer(job, models, average, folder)
        for size in ("batch_size", "unlabeled_batch_size"):
            processes.check_batch(f"{self.key}, {size}", getattr(trainer, size, 0))
        if settings.schedule == "cosine":
            trainer.lr_schedulers = build_cosine_schedulers(trainer.optimizers, settings.steps)
        return trainer, average

    def begin(self, job: Job, trainer: Any) -> None:
        """Let the vectors of the classes start at the means of their embeddings, before the first step."""
        from .building import start_at_means

        if self.training(job).basis.start == "means":
            labeled = job.images.splits.labeled
            start_at_means(
                trainer.loss_funcs,
                trainer.models,
                job.runtime,
                job.images.plain(labeled),
                labeled.known_labels(),
            )

    @abstractmethod
    def trainer(self, job: Job, models: Models, average: ModelAverage | None, folder: Path) -> Any:
        """Return the PML trainer; see `build` for the arguments."""

    def ranking_loss(self, job: Job) -> torch.nn.Module:
        """The loss that ranks labeled images, from the settings of the stage."""
        from .building import build_loss

        return build_loss(self.training(job).loss, f"{self.stage}.loss", **job.sizes)

    def miners(self, job: Job) -> dict[str, Any]:
        """The miner of labeled pairs, from the settings of the stage."""
        from .building import build_miner

        miner = self.training(job).miner
        return {} if miner is None else {"tuple_miner": build_miner(miner, f"{self.stage}.miner")}

    def classifier(self, job: Job) -> Any:
        """Eq. 3 alone, or None where `teacher.classifier` is false."""
        if not job.teacher.classifier:
            return None
        from ..losses import FeatureBasisLoss

        scale = self.training(job).basis.logit_scale
        return FeatureBasisLoss(**job.sizes, regularizer=None, logit_scale=scale)

    def learning(self, job: Job, models: Models, losses: Models) -> dict[str, Any]:
        """Arguments of a trainer that say what learns, and how."""
        from .building import build_optimizers

        optimizers = build_optimizers(self.training(job), models | losses, f"{self.stage}.optimizer")
        still = [name for name, model in models.items() if not list(model.parameters())]
        return {"models": models, "optimizers": optimizers, "loss_funcs": losses, "freeze_these": still}

    def reading(self, job: Job) -> dict[str, Any]:
        """Arguments of a trainer that concern labeled images, and where it computes."""
        return {
            "dataset": job.images.augmented(job.images.splits.labeled),
            "collate_fn": job.images.collate(),
            "iterations_per_epoch": min(job.epoch_steps, self.training(job).steps),
            "data_device": job.runtime.device,
            "freeze_trunk_batchnorm": job.freeze_batchnorm,
            "dataloader_num_workers": job.runtime.workers,
        }
