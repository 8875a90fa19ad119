"""Methods that learn from labeled images alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .method import Job, Method

if TYPE_CHECKING:
    from ..averages import ModelAverage
    from .method import Models


class Supervised(Method):
    """A ranking loss and, where `teacher.classifier` says so, Eq. 3, on labeled images.

    It takes as many images a step as a student has labeled and unlabeled ones.
    """

    def images_a_step(self, job: Job) -> int:
        """Labeled images, which make up for the pool's."""
        return job.student.batch_size + job.student.unlabeled_batch_size

    def labeled_batch_size(self, job: Job) -> int:
        """All of them."""
        return self.images_a_step(job)

    def trainer(self, job: Job, models: Models, average: ModelAverage | None, folder: Path) -> Any:
        """Return PML's trainer of a loss."""
        from ..trainers import SupervisedTrainer

        losses = {"metric_loss": self.loss(job).to(job.runtime.device)}
        return SupervisedTrainer(
            **self.recipe(job), **self.learning(job, models, losses), **self.reading(job)
        )

    def recipe(self, job: Job) -> dict[str, Any]:
        """Arguments of the trainer that are the method's own."""
        return {"batch_size": self.labeled_batch_size(job), "mining_funcs": self.miners(job)}

    def loss(self, job: Job) -> Any:
        """The ranking loss, and the classifier beside it."""
        from pytorch_metric_learning.losses import MultipleLosses

        ranking, classifier = self.ranking_loss(job), self.classifier(job)
        if classifier is None:
            return ranking
        weights = {"ranking": 1.0, "basis": self.training(job).basis_weight}
        return MultipleLosses({"ranking": ranking, "basis": classifier}, weights=weights)

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Refuse batches that no number of classes fills."""
        together = student.batch_size + student.unlabeled_batch_size
        if together % student.images_per_class:
            raise ValueError(
                f"student.batch_size={student.batch_size} and "
                f"student.unlabeled_batch_size={student.unlabeled_batch_size} must come to a multiple "
                f"of student.images_per_class={student.images_per_class}: {self.key} takes as many"
            )
