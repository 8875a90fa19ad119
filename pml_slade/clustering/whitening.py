"""Embeddings whose directions count alike."""

from __future__ import annotations

import numpy as np

from ..exceptions import ConfigError
from .embedding import checked_embeddings, unit_rows

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
    centred = x - x.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred / len(x))
    largest = variances[-1]
    if largest <= 0:  # all points are one
        return x
    scales = np.maximum(variances / largest, SMALLEST) ** (-power / 2)
    return unit_rows(centred @ (directions * scales).astype(np.float32))
