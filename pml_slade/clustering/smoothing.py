"""Embeddings averaged with their neighbours."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ..exceptions import ConfigError
from .embedding import checked_embeddings, row_blocks, unit_rows
from .neighbours import nearest
from .whitening import whiten

COLUMNS = 64
"""Coordinates of all points that are averaged at once."""
PAIRS = 1 << 24
"""Pairs of neighbours that are looked at at once."""


def smooth(
    embeddings: np.ndarray,
    num_neighbours: int,
    rounds: int = 2,
    power: float = 3.0,
    device: torch.device | str = "cpu",
    whitening: float = 0.0,
) -> np.ndarray:
    """Average each embedding with those whose nearest neighbours include it, as it includes them.

    Such reciprocal neighbours are mostly of one class (Zhong et al., Re-ranking Person Re-identification
    with k-reciprocal Encoding, 2017), so that classes contract before they are clustered.

    Args:
        embeddings: (N, d), any float type. Only their directions count.
        num_neighbours: k, itself included; more than N are all. About as many as a class has images.
        rounds: how often; each starts from the averages of the one before.
        power: a neighbour's weight is its cosine similarity to this power, 0 where it is negative.
        device: where neighbours are found, see `neighbours.nearest`.
        whitening: `whiten` them to this power before; 0 does not.

    Returns:
        (N, d) float32, rows of unit length.

    Raises:
        ConfigError: num_neighbours or rounds is not a positive integer, power is not positive.
        DataError: bad shape, values that are not finite.

    Examples:
        >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
        >>> smooth(points, 2, rounds=1).round(2)
        array([[ 0.98,  0.21],
               [ 0.91,  0.42],
               [ 0.  , -1.  ]], dtype=float32)
    """
    for name, value in (("num_neighbours", num_neighbours), ("rounds", rounds)):
        if int(value) != value or value < 1:
            raise ConfigError(f"{name} must be a positive integer, got {value!r}.")
    if not 0 < power < np.inf:
        raise ConfigError(f"power must be a positive number, got {power!r}.")
    x = whiten(embeddings, whitening) if whitening else checked_embeddings(embeddings)
    x = unit_rows(x, out=x if whitening else None)
    for _ in range(int(rounds)):
        average(x, _reciprocal_weights(x, min(int(num_neighbours), len(x)), power, device))
    return x


def average(x: np.ndarray, weights: csr_matrix) -> None:
    """Add to each unit row others by their weights, and bring it to unit length; in place."""
    for start in range(0, x.shape[1], COLUMNS):
        columns = slice(start, start + COLUMNS)
        x[:, columns] += weights @ np.ascontiguousarray(x[:, columns])
    for rows in row_blocks(len(x)):
        unit_rows(x[rows], out=x[rows])


def _reciprocal_weights(x: np.ndarray, k: int, power: float, device: torch.device | str) -> csr_matrix:
    """Return (N, N): similarity ** power of others where both are among each other's k nearest."""
    similarity, near = nearest(x, k, device)
    both = np.empty(near.shape, dtype=bool)
    step = max(1, PAIRS // k**2)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        own = np.arange(start, min(start + step, len(x)), dtype=near.dtype)[:, None]
        both[rows] = (near[near[rows]] == own[:, :, None]).any(axis=2) & (near[rows] != own)
    ends = np.concatenate([[0], both.sum(axis=1).cumsum()])
    weights = similarity[both]
    del similarity  # of very many points, these arrays and the points fill the memory
    np.power(np.clip(weights, 0, 1, out=weights), np.float32(power), out=weights)
    return csr_matrix((weights, near[both], ends), shape=(len(x), len(x)))
