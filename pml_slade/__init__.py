"""Self-training for metric learning (SLADE) as a plug-in to pytorch-metric-learning.

Names are imported when they are first used, so that `pml-slade --help` does not wait for torch.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from .lazy import names_of

if version("pytorch-metric-learning").startswith("0."):
    from . import compat as _compat  # noqa: F401  it prepares the installed PML, so it comes first

if TYPE_CHECKING:
    from .api import load, train
    from .averages import ModelAverage
    from .datasets import PseudoLabelDataset
    from .losses import ClusterBasisLoss, FeatureBasisLoss
    from .miners import ThresholdPairMiner
    from .recipe import best_student, best_teacher
    from .trainers import SelfTrainingTrainer

__version__ = "0.1.0"

_HOMES = {
    "ClusterBasisLoss": "losses",
    "FeatureBasisLoss": "losses",
    "ModelAverage": "averages",
    "PseudoLabelDataset": "datasets",
    "SelfTrainingTrainer": "trainers",
    "ThresholdPairMiner": "miners",
    "best_student": "recipe",
    "best_teacher": "recipe",
    "load": "api",
    "train": "api",
}
__all__ = [
    "ClusterBasisLoss",
    "FeatureBasisLoss",
    "ModelAverage",
    "PseudoLabelDataset",
    "SelfTrainingTrainer",
    "ThresholdPairMiner",
    "best_student",
    "best_teacher",
    "load",
    "train",
]


__getattr__, __dir__ = names_of(__name__, _HOMES)
