"""Self-taught metric learning without labels (Kim et al., CVPR 2022), beside the loss on labeled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from .mean_teacher import MeanTeacher
from .method import Job
from .settings import Section

if TYPE_CHECKING:
    from .method import Models


class SelfTaughtConfig(Section):
    """Settings of the self-taught peer."""

    weight: float = Field(3.0, gt=0, description="weight of its loss on the pool")
    neighbours: int = Field(
        4, ge=1, description="nearest neighbours of each image in a batch, the image itself included"
    )


class SelfTaught(MeanTeacher):
    """Distances follow similarities that the running average sees, in batches of nearest neighbours."""

    title = "Self-taught (STML)"
    Settings = SelfTaughtConfig

    def trainer_class(self) -> Any:
        """One that draws nearest neighbours."""
        from ..trainers import SelfTaughtTrainer

        return SelfTaughtTrainer

    def pool_loss(self, job: Job, basis: Any) -> Any:
        """The relaxed contrastive loss; with one view of each image, as many neighbours as a group has."""
        from ..losses import SelfTaughtLoss

        return SelfTaughtLoss(job.own.neighbours, normalize_student=True)

    def recipe(self, job: Job, losses: Models) -> dict[str, Any]:
        """How many neighbours there are in a group."""
        embedding = {"progress": job.runtime.bars}
        return super().recipe(job, losses) | {"neighbours": job.own.neighbours, "cluster_kwargs": embedding}

    def pool(self, job: Job, folder: Path) -> dict[str, Any]:
        """Two views of each image, and one to find neighbours by."""
        arguments = super().pool(job, folder)
        del arguments["unlabeled_sampler"]
        plain = job.images.plain(job.images.splits.unlabeled.without_labels())
        return arguments | {"clustering_dataset": plain}

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Refuse batches that groups do not fill."""
        super().check_settings(teacher, student, own)
        if student.unlabeled_batch_size % own.neighbours:
            raise ValueError(
                f"student.unlabeled_batch_size={student.unlabeled_batch_size} must be a multiple of "
                f"methods.self_taught.neighbours={own.neighbours}"
            )
