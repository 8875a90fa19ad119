"""Embeddings whose directions count alike."""

from __future__ import annotations

import numpy as np

from ..exceptions import ConfigError
from .embedding import checked_embeddings, row_blocks, unit_rows

SMALLEST = 1e-6
"""Share of the largest variance below which a direction counts as having this much."""


def whiten(embeddings: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Divide each principal direction of unit embeddings by its standard deviation to a power.

    A model trained on few classes spreads others over few directions, which say more about what it was
    trained on than about them; evened out, new classes come apart (on whitening of embeddings: Jegou & Chum,
    ECCV 2012).

    Args:
        embeddings: (N, d), any float type. Only their directions count.
        power: 0 leaves them but for their mean, 1 whitens them wholly.

    Returns:
        (N, d) float32, rows of unit length, coordinates along principal directions.

    Raises:
        ConfigError: power is not in [0, 1].
        DataError: bad shape, values that are not finite.

    Examples:
        >>> points = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
        >>> abs(whiten(points, power=1.0)).round(2)
        array([[0.71, 0.71],
               [0.71, 0.71],
               [0.71, 0.71],
               [0.71, 0.71]], dtype=float32)
    """
    if not 0 <= power <= 1:
        raise ConfigError(f"power must be in [0, 1], got {power!r}.")
    x = unit_rows(checked_embeddings(embeddings))
    x -= x.mean(axis=0)
    spread = sum(x[rows].T.astype(np.float64) @ x[rows] for rows in row_blocks(len(x)))
    variances, directions = np.linalg.eigh(spread / len(x))
    largest = variances[-1]
    if largest <= 0:  # all points are one
        return unit_rows(checked_embeddings(embeddings))
    scales = np.maximum(variances / largest, SMALLEST) ** (-power / 2)
    turned = (directions * scales).astype(np.float32)
    for rows in row_blocks(len(x)):
        x[rows] = unit_rows(x[rows] @ turned)
    return x
