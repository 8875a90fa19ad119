"""Neighbours in the pool as soft targets, in place of clusters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from .method import Job
from .pool import TwoViewsMethod
from .settings import Section

if TYPE_CHECKING:
    from .method import Models


OWN_WEIGHT: Any = Field(
    0.6,
    ge=0,
    description="from neighbours: weight of telling which image it is, beside telling its neighbours",
)


class NeighboursConfig(Section):
    """Settings of the method."""

    weight: float = Field(2.0, gt=0, description="weight of its loss on the pool")
    temperature: float = Field(0.1, gt=0, description="temperature of the targets")
    scale: float = Field(16.0, gt=0, description="factor of the cosines of the student's embeddings")
    own_weight: float = OWN_WEIGHT


class Neighbours(TwoViewsMethod):
    """Each image of the pool predicts its neighbours there, which the running average finds each epoch."""

    title = "Neighbours in the pool"
    Settings = NeighboursConfig
    views = 1

    def trainer_class(self) -> Any:
        """One that finds neighbours."""
        from ..trainers import NeighbourTrainer

        return NeighbourTrainer

    def pool_loss(self, job: Job, basis: Any) -> Any:
        """The cross-entropy over the pool."""
        from ..losses import NeighbourLoss

        return NeighbourLoss(job.own.temperature, job.own.scale, own_weight=job.own.own_weight)

    def recipe(self, job: Job, losses: Models) -> dict[str, Any]:
        """How neighbours are found: as before clustering."""
        from ..clustering import suggest_num_neighbours

        pool_size = len(job.images.splits.unlabeled)
        return super().recipe(job, losses) | {
            "whitening": job.student.whitening,
            "smoothing": suggest_num_neighbours(pool_size, job.num_clusters),
            "cluster_kwargs": {"progress": job.runtime.bars},
        }

    def pool(self, job: Job, folder: Path) -> dict[str, Any]:
        """A view of each image, and one to find neighbours by."""
        plain = job.images.plain(job.images.splits.unlabeled.without_labels())
        return super().pool(job, folder) | {"clustering_dataset": plain}
