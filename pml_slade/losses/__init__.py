"""Losses."""

from .feature_basis_loss import FeatureBasisLoss

__all__ = ["FeatureBasisLoss"]
