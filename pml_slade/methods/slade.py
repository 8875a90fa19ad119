"""SLADE (Duan et al., CVPR 2021), as configured: the paper's, or what became of it here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from .basis import WholeBasis
from .method import Job
from .neighbours import OWN_WEIGHT, Neighbours, NeighboursConfig
from .settings import Section

if TYPE_CHECKING:
    from ..averages import ModelAverage
    from .method import Models


OF_TRUSTED, LEAST = 4.0, 0.1
"""lambda1 where every neighbour is right, and where hardly any is."""


class SladeConfig(Section):
    """Settings of the method, beside those of `student`."""

    neighbours: bool | None = Field(
        None,
        description="learn from neighbours in the pool, not from clusters; null: true for photographs with a "
        "pretrained trunk",
    )
    own_weight: float = OWN_WEIGHT


class SladeOfClusters(WholeBasis):
    """The whole method, from labels of the pool."""

    title = "SLADE from clusters"

    def pool_miners(self, job: Job, losses: Models) -> dict[str, Any]:
        """Eq. 7, where it is asked for."""
        if job.student.mining != "eq7":
            return {}
        from ..miners import ThresholdPairMiner

        basis: Any = losses["basis_loss"]
        miner = ThresholdPairMiner(basis, basis, distance=basis.similarity, collect_stats=True)
        return {"unlabeled_miner": miner}


class Slade(SladeOfClusters):
    """The whole method."""

    title = "SLADE"
    Settings = SladeConfig

    def trainer(self, job: Job, models: Models, average: ModelAverage | None, folder: Path) -> Any:
        """Return one that learns from clusters, or from neighbours."""
        if not looks_for_neighbours(job):
            return super().trainer(job, models, average, folder)
        asked = job.own or SladeConfig()
        own = NeighboursConfig(weight=self.pool_weight(job), own_weight=asked.own_weight)
        return Neighbours().trainer(replace(job, own=own), models, average, folder)

    def pool_weight(self, job: Job) -> float:
        """lambda1 of Eq. 9: neighbours count as far as they can be trusted, unless it is given."""
        if job.student.unlabeled_weight is not None or job.trust is None or not looks_for_neighbours(job):
            return super().pool_weight(job)
        return max(OF_TRUSTED * job.trust, LEAST)


def looks_for_neighbours(job: Job) -> bool:
    """Whether the pool is learned from by neighbours."""
    if job.own is None or job.own.neighbours is None:
        return job.knows_photographs and job.student.basis.clusters
    asked: bool = job.own.neighbours
    return asked
