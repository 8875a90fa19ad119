"""Embeddings averaged with their neighbours."""

from __future__ import annotations

import faiss
import numpy as np
from scipy.sparse import csr_matrix, diags

from ..exceptions import ConfigError
from .embedding import checked_embeddings, unit_rows


def smooth(embeddings: np.ndarray, num_neighbours: int, rounds: int = 2, power: float = 3.0) -> np.ndarray:
    """Average each embedding with those whose nearest neighbours include it, as it includes them.

    Such reciprocal neighbours are mostly of one class (Zhong et al., Re-ranking Person Re-identification
    with k-reciprocal Encoding, 2017), so that classes contract before they are clustered.

    Args:
        embeddings: (N, d), any float type. Only their directions count.
        num_neighbours: k, itself included; more than N are all. About as many as a class has images.
        rounds: how often; each starts from the averages of the one before.
        power: a neighbour's weight is its cosine similarity to this power, 0 where it is negative.

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
    x = unit_rows(checked_embeddings(embeddings))
    for _ in range(int(rounds)):
        x = unit_rows(_reciprocal_weights(x, min(int(num_neighbours), len(x)), power) @ x)
    return x


def _reciprocal_weights(x: np.ndarray, k: int, power: float) -> csr_matrix:
    """Return (N, N): similarity ** power where both are among each other's k nearest, and on the diagonal."""
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    similarity, nearest = index.search(x, k)
    weights = np.clip(similarity, 0, 1) ** np.float32(power)
    rows = np.repeat(np.arange(len(x)), k)
    weights = csr_matrix((weights.ravel(), (rows, nearest.ravel())), shape=(len(x), len(x)))
    weights = weights.minimum(weights.T)
    # Among more than k identical points, not all find themselves.
    return weights + diags(1 - weights.diagonal())
