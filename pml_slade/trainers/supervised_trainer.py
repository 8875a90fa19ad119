"""PML's trainer of a loss on labeled images, with what our trainers have over PML's."""

from pytorch_metric_learning.trainers import MetricLossOnly

from .state import StatefulTrainer


class SupervisedTrainer(StatefulTrainer, MetricLossOnly):
    """Trains models by one loss on labeled images, as PML's MetricLossOnly does.

    Args:
        args: see MetricLossOnly.
        kwargs: likewise.
    """
