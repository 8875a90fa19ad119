"""What other methods do with a pool, for comparison under one protocol."""

from .mean_teacher import MeanTeacherLoss
from .memory import Memory
from .self_supervised import TwoViewsLoss
from .stml import NeighbourBatches, SelfTaughtLoss
from .trainers import MomentumTrainer, SelfTaughtTrainer

__all__ = [
    "MeanTeacherLoss",
    "Memory",
    "MomentumTrainer",
    "NeighbourBatches",
    "SelfTaughtLoss",
    "SelfTaughtTrainer",
    "TwoViewsLoss",
]
