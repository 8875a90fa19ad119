"""How far neighbours in a pool can be trusted, told without its labels."""

from __future__ import annotations

import numpy as np
import torch

from .clusters import suggest_num_neighbours
from .neighbours import nearest_others
from .smoothing import smooth

NEAREST = 5
"""Neighbours of an image that are looked at."""


def neighbours_right(
    pool: np.ndarray,
    labeled: np.ndarray,
    labels: np.ndarray,
    whitening: float = 0.5,
    device: torch.device | str = "cpu",
) -> float:
    """Estimate which share of an image's nearest neighbours in the pool are of its class.

    Labeled images are looked for among themselves and the pool together, and a neighbour counts as right if
    it is labeled, and alike. So each meets as many strangers as an image of the pool does. That holds for
    images that the model was trained on for few steps; after long training on them it is too good. Where the
    pool has images of labeled classes, these count as wrong, and it is too low.

    Args:
        pool: embeddings, (N, d).
        labeled: embeddings of the labeled images, (n, d).
        labels: their classes, (n,).
        whitening: as before clustering, see `whiten`.
        device: where neighbours are found.

    Returns:
        A share, from 0 to 1.

    Examples:
        >>> labeled = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> neighbours_right(-labeled, labeled, np.array([0, 0, 1, 1])) > 0.15
        True
    """
    together = np.concatenate([labeled, pool]).astype(np.float32, copy=False)
    k = suggest_num_neighbours(len(labels), len(np.unique(labels)))
    seen = smooth(together, k, device=device, whitening=whitening)
    near, _ = nearest_others(seen, min(NEAREST, len(seen) - 1), device)
    classes = np.concatenate([labels, np.full(len(pool), -1)])
    return float((classes[near[: len(labels)]] == labels[:, None]).mean())
