"""Embeddings of a pool as a trained model gives them, drawn at any size, with their true classes."""

from __future__ import annotations

import numpy as np

DIRECTIONS = 64
"""Directions that embeddings spread over, the first the most."""
ROWS = 1 << 14


def draw(images: int, classes: int, size: int = 512, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw unit embeddings whose classes overlap, differ in spread and in how many images they have.

    Args:
        images: N.
        classes: classes that they are of, of which the rarest may get no image.
        size: d of the embeddings.
        seed: of all that is drawn.

    Returns:
        (N, d) float32 and (N,) int64.

    Examples:
        >>> embeddings, labels = draw(100, 5, size=32)
        >>> embeddings.shape, len(set(labels.tolist()))
        ((100, 32), 5)
    """
    rng = np.random.default_rng(seed)
    shares = rng.lognormal(0, 0.5, classes)
    labels = np.sort(rng.choice(classes, images, p=shares / shares.sum()))
    scales = np.arange(1, DIRECTIONS + 1) ** -0.5
    centres = rng.normal(size=(classes, DIRECTIONS)).astype(np.float32) * scales.astype(np.float32)
    spreads = rng.lognormal(0, 0.3, classes).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0][: min(DIRECTIONS, size)].astype(np.float32)
    embeddings = np.empty((images, size), dtype=np.float32)
    for start in range(0, images, ROWS):
        own = labels[start : start + ROWS]
        noise = rng.standard_normal((len(own), DIRECTIONS), dtype=np.float32) * scales.astype(np.float32)
        points = (centres[own] + spreads[own, None] * noise)[:, : len(turn)] @ turn
        points += 0.02 * rng.standard_normal((len(own), size), dtype=np.float32)
        embeddings[start : start + ROWS] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return embeddings, labels
