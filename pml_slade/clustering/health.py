"""Signs that clusters are of little use as pseudo-labels, each with its number and what to do."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from .clusters import Clusters
from .embedding import row_blocks, unit_rows

MOST_LEFT_OUT = 0.5
"""Share of the points without a cluster from which it is said."""
GIANT = 0.5
"""Share of the points in one cluster, of four or more, from which it is said."""
FEWEST_LEFT = 0.25
"""Share of the clusters asked for that should hold points."""
COLLAPSED = 1 - 1e-6
"""Mean cosine between embeddings from which nothing tells them apart. Those of a teacher that hardly trained
reach 0.9999, and clusters of them are of use still."""


def few_points(num_clusters: int, num_points: int) -> str | None:
    """Say that clusters cannot have two points each on average, or return None.

    Examples:
        >>> few_points(190, 200)
        'num_clusters=190 for 200 images leaves 1.1 images a cluster: most images have no partner to learn
        from. Give about as many clusters as there are classes, at most 100.'
        >>> few_points(20, 200) is None
        True
    """
    if num_points >= 2 * num_clusters:
        return None
    return (
        f"num_clusters={num_clusters} for {num_points} images leaves {num_points / num_clusters:.1f} images "
        "a cluster: most images have no partner to learn from. Give about as many clusters as there are "
        f"classes, at most {num_points // 2}."
    )


def signs(clusters: Clusters, embeddings: np.ndarray) -> list[str]:
    """Look at clusters and at the embeddings that they were made of.

    Args:
        clusters: of N points.
        embeddings: (N, d) float32, before whitening and smoothing.

    Examples:
        >>> from .clustering import Clustering
        >>> same = np.ones((8, 2), np.float32)
        >>> signs(Clustering(method="kmeans", smooth=False, whitening=0)(same, 2), same)[0]
        'the 8 images have 1 different embedding, fewer than num_clusters=2: are they copies of each other, or
        has the model collapsed?'
    """
    found = [few_points(clusters.requested, len(embeddings)), _embeddings(embeddings, clusters.requested)]
    return [said for said in [*found, *_sizes(clusters)] if said is not None]


def _embeddings(embeddings: np.ndarray, num_clusters: int) -> str | None:
    points, different = len(embeddings), _different(embeddings, num_clusters)
    if different < num_clusters:
        return (
            f"the {points} images have {different} different embedding{'s' * (different > 1)}, fewer than "
            f"num_clusters={num_clusters}: are they copies of each other, or has the model collapsed?"
        )
    total = sum(unit_rows(embeddings[rows]).sum(axis=0, dtype=np.float64) for rows in row_blocks(points))
    mean = min(float(np.square(total / points).sum()), 1.0)
    if mean <= COLLAPSED:
        return None
    return (
        f"the embeddings of the {points} images have a mean cosine of {mean:.6f}: they all point one "
        "way, and clusters of them mean little. Train the teacher longer, or lower its learning rate."
    )


def _different(embeddings: np.ndarray, enough: int) -> int:
    """How many rows differ; it counts no further than to `enough`."""
    seen: set[bytes] = set()
    for row in embeddings:
        seen.add(blake2b(row.tobytes(), digest_size=16).digest())
        if len(seen) >= enough:
            break
    return len(seen)


def _sizes(clusters: Clusters) -> list[str]:
    points, left_out = len(clusters.labels), int((clusters.labels < 0).sum())
    found = []
    if left_out > MOST_LEFT_OUT * points:
        found.append(
            f"{left_out} of {points} images are left out, {clusters.left_out_reason}: lower "
            f"num_clusters={clusters.requested} or min_cluster_size={clusters.min_cluster_size}."
        )
    if len(clusters.sizes) < max(2, FEWEST_LEFT * clusters.requested):
        found.append(
            f"{len(clusters.sizes)} of {clusters.requested} clusters are left: lower num_clusters or "
            "min_cluster_size, or train the teacher longer."
        )
    if clusters.requested >= 4 and clusters.sizes.max() > GIANT * points:
        found.append(
            f"one cluster holds {clusters.sizes.max()} of {points} images: the embeddings do not tell them "
            "apart. Train the teacher longer, or give other num_clusters."
        )
    return found
