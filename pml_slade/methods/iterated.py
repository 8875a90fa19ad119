"""Iterated clustering: pseudo-labels that are made again as the student learns (Caron et al., ECCV 2018)."""

from __future__ import annotations

from pydantic import Field

from .method import Job
from .pool import epochs_to_relabeling
from .pseudo import Pseudo, PseudoConfig


class IteratedConfig(PseudoConfig):
    """Settings of iterated clustering."""

    weight: float | None = Field(
        8.0, gt=0, description="weight of its loss on the pool; null: student.unlabeled_weight"
    )


class Iterated(Pseudo):
    """As `pseudo`, relabeled on the schedule of SLADE."""

    title = "Iterated clustering"
    Settings = IteratedConfig

    def relabel_every(self, job: Job) -> int:
        """As SLADE."""
        return epochs_to_relabeling(job)
