"""Losses."""

from .cluster_basis_loss import ClusterBasisLoss
from .feature_basis_loss import FeatureBasisLoss
from .mean_teacher_loss import MeanTeacherLoss
from .memory import Memory
from .neighbour_loss import NeighbourLoss
from .self_taught_loss import SelfTaughtLoss
from .two_views_loss import TwoViewsLoss

__all__ = [
    "ClusterBasisLoss",
    "FeatureBasisLoss",
    "MeanTeacherLoss",
    "Memory",
    "NeighbourLoss",
    "SelfTaughtLoss",
    "TwoViewsLoss",
]
