"""Losses."""

from .cluster_basis_loss import ClusterBasisLoss
from .feature_basis_loss import FeatureBasisLoss

__all__ = ["ClusterBasisLoss", "FeatureBasisLoss"]
