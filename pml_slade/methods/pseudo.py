"""A student that ranks pseudo-labeled images as it ranks labeled ones (SLADE without its basis)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .method import Job
from .pool import PoolMethod
from .settings import NamedConfig, Section


class PseudoConfig(Section):
    """Settings of students on pseudo-labels."""

    weight: float | None = Field(
        16.0, gt=0, description="weight of its loss on the pool; null: student.unlabeled_weight"
    )
    loss: NamedConfig | None = Field(
        NamedConfig(name="MultiSimilarityLoss"),
        description="ranking loss on the pool, if student.unlabeled_loss is null; null: student.loss",
    )


class Pseudo(PoolMethod):
    """Ranks pseudo-labeled images, too, which are labeled by clustering, once."""

    title = "Student on pseudo-labels"
    Settings = PseudoConfig

    def pool_loss(self, job: Job, basis: Any) -> Any:
        """`student.unlabeled_loss`, or its own."""
        from .building import build_loss

        given = super().pool_loss(job, basis)
        if given is not None or job.own.loss is None:
            return given
        return build_loss(job.own.loss, f"methods.{self.key}.loss")

    def pool_weight(self, job: Job) -> float:
        """Its own, or that of all students."""
        return super().pool_weight(job) if job.own.weight is None else job.own.weight
