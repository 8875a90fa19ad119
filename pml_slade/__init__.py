"""Self-training for metric learning (SLADE) as a plug-in to pytorch-metric-learning."""

from . import compat as _compat  # noqa: F401  it prepares the installed PML, so it comes first
from .datasets import PseudoLabelDataset
from .losses import FeatureBasisLoss
from .miners import ThresholdPairMiner
from .trainers import SelfTrainingTrainer

__all__ = ["FeatureBasisLoss", "PseudoLabelDataset", "SelfTrainingTrainer", "ThresholdPairMiner"]
__version__ = "0.1.0"
