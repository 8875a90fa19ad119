"""PML's trainer of a loss on labeled images, with what our trainers have over PML's."""

from typing import Any

from pytorch_metric_learning.trainers import MetricLossOnly
from torch import Tensor

from .state import StatefulTrainer


class SupervisedTrainer(StatefulTrainer, MetricLossOnly):
    """Trains models by one loss on labeled images, as PML's MetricLossOnly does.

    Args:
        args: see MetricLossOnly.
        kwargs: likewise.
    """

    def get_batch(self) -> tuple[Any, Any]:
        """Return images and the labels of the whole batch; of several processes, each has its images."""
        data, labels = super().get_batch()
        return data, self.labels_of_all(labels, self.batch_size)

    def compute_embeddings(self, data: Tensor) -> Tensor:
        """Return the embeddings of the whole batch."""
        return self.rows_of_all(super().compute_embeddings(data), self.batch_size)
