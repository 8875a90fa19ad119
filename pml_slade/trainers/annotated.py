"""What the labels of the labeled images say of the pool's: how many clusters, and numbered from where."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytorch_metric_learning.utils import common_functions as c_f

from ..clustering import suggest_num_clusters


def known_labels(dataset: Any, dataset_labels: Any = None, level: Any = 0) -> np.ndarray | None:
    """Return the labels of a labeled dataset, without looking at its items.

    Args:
        dataset: may have `labels` or `targets`.
        dataset_labels: goes first, where it is given.
        level: PML's label_hierarchy_level, of labels with several levels.

    Returns:
        (N,) integers or names; (N, levels) where `level` is several; None where they are not known.

    Examples:
        >>> known_labels([], dataset_labels=[[0, 5], [1, 5]], level=1)
        array([5, 5])
    """
    for labels in (dataset_labels, getattr(dataset, "labels", None), getattr(dataset, "targets", None)):
        if labels is not None:
            found: np.ndarray = c_f.get_hierarchy_label(np.asarray(labels), level)
            return found
    return None


def clusters_like_classes(labels: np.ndarray | None, pool_size: int) -> int | None:
    """Return the k that gives a cluster as many images as a class has; None for unknown labels.

    Examples:
        >>> clusters_like_classes(np.array(["oak", "oak", "elm", "elm"]), pool_size=10)
        5
    """
    if labels is None:
        return None
    return suggest_num_clusters(pool_size, len(labels) / len(np.unique(labels, axis=0)))


def first_free_label(labels: np.ndarray | None, renumbered: bool = False) -> int:
    """Return the first number that stands for no class, once PML has numbered them; 0 for unknown labels.

    Args:
        labels: see `known_labels`.
        renumbered: PML's set_min_label_to_zero, which numbers the classes from 0 without gaps.

    Examples:
        >>> labels = np.array([3, 7, 7])
        >>> first_free_label(labels), first_free_label(labels, renumbered=True)
        (8, 2)
    """
    if labels is None:
        return 0
    if renumbered or not np.issubdtype(labels.dtype, np.integer):
        return max(len(np.unique(level)) for level in np.atleast_2d(labels.T))
    return int(labels.max()) + 1
