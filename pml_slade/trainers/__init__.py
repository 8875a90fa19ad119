"""Trainers."""

from .checks import check_relabeling
from .momentum_trainer import MomentumTrainer, SelfTaughtTrainer
from .neighbour_batches import NeighbourBatches
from .neighbour_trainer import NeighbourTrainer
from .pool_labeler import PoolLabeler
from .self_training_trainer import SelfTrainingTrainer
from .state import StatefulTrainer, load_trainer_state, trainer_metrics, trainer_state
from .supervised_trainer import SupervisedTrainer

__all__ = [
    "MomentumTrainer",
    "NeighbourBatches",
    "NeighbourTrainer",
    "PoolLabeler",
    "SelfTaughtTrainer",
    "SelfTrainingTrainer",
    "StatefulTrainer",
    "SupervisedTrainer",
    "check_relabeling",
    "load_trainer_state",
    "trainer_metrics",
    "trainer_state",
]
