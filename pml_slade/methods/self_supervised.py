"""Instance discrimination between two views (Chen et al., ICML 2020), beside the loss on labeled images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from .method import Job
from .pool import TwoViewsMethod
from .settings import Section

if TYPE_CHECKING:
    from .method import Models


class SelfSupervisedConfig(Section):
    """Settings of the self-supervised peer."""

    weight: float = Field(3.0, gt=0, description="weight of its loss on the pool")
    temperature: float = Field(0.1, gt=0, description="temperature of its loss")


class SelfSupervised(TwoViewsMethod):
    """Tells each image of the pool apart from the others by two views of it."""

    title = "Self-supervised views"
    Settings = SelfSupervisedConfig

    def pool_loss(self, job: Job, basis: Any) -> Any:
        """NT-Xent between the views."""
        from ..losses import TwoViewsLoss

        return TwoViewsLoss(job.own.temperature)

    def recipe(self, job: Job, losses: Models) -> dict[str, Any]:
        """Half as many images, since it learns from both views."""
        size = job.student.unlabeled_batch_size // 2
        return super().recipe(job, losses) | {"unlabeled_batch_size": size}

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Refuse batches that are no two views of two images or more."""
        size = student.unlabeled_batch_size
        if size % 2 or size < 4:
            raise ValueError(
                f"student.unlabeled_batch_size={size} must be even, and at least 4: {self.key} takes two "
                "views of each"
            )
