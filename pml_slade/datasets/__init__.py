"""Datasets: the pseudo-labeled pool, and images from folders, lists and known collections."""

from .pseudo_label_dataset import PseudoLabelDataset

__all__ = ["PseudoLabelDataset"]
