"""Losses that hold something of each cluster, when the clusters change."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pytorch_metric_learning.losses import CrossBatchMemory

from ..clustering import class_means
from ..datasets.pseudo_label_dataset import LEFT_OUT
from ..losses import ClusterBasisLoss


def cluster_losses(loss: torch.nn.Module) -> list[ClusterBasisLoss]:
    """Losses with a vector per cluster: `loss` itself, or those inside of it."""
    return [part for part in loss.modules() if isinstance(part, ClusterBasisLoss)]


def start_vectors(
    loss: ClusterBasisLoss, vectors: np.ndarray, optimizers: Iterable[torch.optim.Optimizer]
) -> None:
    """Let the clusters' vectors start from these, (k, d); optimizers forget their state of the old ones."""
    loss.start_from(torch.as_tensor(vectors))
    for optimizer in optimizers:
        for parameter in loss.parameters():
            optimizer.state.pop(parameter, None)


def learned_vectors(loss: ClusterBasisLoss, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return the mean of the vectors that a cluster's images have had so far.

    Args:
        loss: with the vectors.
        before: (N,) pseudo-labels that the vectors stand for, -1 where an image was left out.
        now: (N,) new pseudo-labels, likewise.

    Returns:
        (k, d) float32, a row per new cluster; zeros where none of its images had a vector.
    """
    vectors = loss.V.detach().cpu().numpy()[np.maximum(before, 0)]
    means = class_means(vectors, np.where(before < 0, LEFT_OUT, now))
    learned = np.zeros((now.max() + 1, means.shape[1]), np.float32)
    learned[: len(means)] = means
    return learned


def forget_memories(loss: torch.nn.Module) -> None:
    """Forget embeddings that a loss remembers under labels of before."""
    for part in loss.modules():
        if isinstance(part, CrossBatchMemory):
            part.has_been_filled, part.queue_idx = False, 0
