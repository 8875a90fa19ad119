"""Mean teacher (Tarvainen & Valpola, NeurIPS 2017), brought to embeddings."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from .method import Job
from .pool import TwoViewsMethod
from .settings import Section


class MeanTeacherConfig(Section):
    """Settings of the mean teacher."""

    weight: float = Field(1.0, gt=0, description="weight of its loss on the pool")


class MeanTeacher(TwoViewsMethod):
    """Embeds the pool's images as the running average of its weights embeds other views of them."""

    title = "Mean teacher"
    Settings: ClassVar[type[Section]] = MeanTeacherConfig

    def trainer_class(self) -> Any:
        """One that shows the average other views."""
        from ..trainers import MomentumTrainer

        return MomentumTrainer

    def pool_loss(self, job: Job, basis: Any) -> Any:
        """The squared distance of embeddings."""
        from ..losses import MeanTeacherLoss

        return MeanTeacherLoss()

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Refuse to do without an average."""
        if student.average is None:
            raise ValueError(
                f"rows: {self.key} learns from a running average of the weights: give student.average, 0.99 "
                "say"
            )
