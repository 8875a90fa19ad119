"""What clustering gives: labels, centroids, and what became of the points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from ..exceptions import ConfigError, DataError
from .embedding import unit_rows

COLUMNS = 32
"""Coordinates of all points that are summed up at once."""


@dataclass(frozen=True)
class Clusters:
    """A clustering of N points.

    Attributes:
        labels: (N,) int64, cluster of each point, 0..k-1 without gaps; -1 for a point left out.
        centroids: (k, d) float32, row per label.
        sizes: (k,) int64.
        requested: how many clusters were asked for.
        num_tiny: clusters below `min_cluster_size` whose points were left out.
        min_cluster_size: see `cluster`.
        trained_on: how many points were looked at: all N, unless k-means was limited.
        objective: sum of squared distances to the centroids.
        distances: (N,) float32, Euclidean distance of each embedding to the centroid of its cluster, at unit
            length where embeddings are brought to it; that of a point left out is to its small cluster's.
        merged: how many points Ward merged; 0 for k-means.
        signs: that they are of little use, see `health`.
    """

    labels: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray
    requested: int
    num_tiny: int
    min_cluster_size: int
    trained_on: int
    objective: float
    distances: np.ndarray
    merged: int = 0
    signs: tuple[str, ...] = ()

    @property
    def num_empty(self) -> int:
        """Clusters asked for that got no point."""
        return self.requested - len(self.sizes) - self.num_tiny

    @property
    def left_out_reason(self) -> str:
        """Why points have label -1, for people to read."""
        return f"in clusters of fewer than {self.min_cluster_size} samples"

    def facts(self) -> dict[str, Any]:
        """The numbers of a clustering by name, as JSON takes them."""
        left_out = self.labels < 0
        smallest, median, largest = np.percentile(self.sizes, [0, 50, 100]).tolist()
        return {
            "images": len(self.labels),
            "clusters": len(self.sizes),
            "requested": self.requested,
            "empty": self.num_empty,
            "tiny": self.num_tiny,
            "left_out": int(left_out.sum()),
            "smallest": int(smallest),
            "median": median,
            "largest": int(largest),
            "mean_distance": float(self.distances[~left_out].mean()),
            "objective": self.objective,
            "trained_on": self.trained_on,
            "merged": self.merged,
        }

    def __str__(self) -> str:
        q = np.percentile(self.sizes, [0, 50, 100]).astype(int)
        text = (
            f"{len(self.sizes)} of {self.requested} clusters hold samples; sizes {q[0]} to {q[2]}, "
            f"median {q[1]}; {self.num_empty} empty"
        )
        if self.num_tiny:
            text += f"; {self.num_tiny} tiny, {int((self.labels < 0).sum())} samples left out"
        if self.trained_on < len(self.labels):
            text += f"; k-means looked at {self.trained_on} of {len(self.labels)} points"
        if self.merged:
            text += f"; Ward merged {self.merged} points"
        return text


def suggest_num_clusters(pool_size: int, images_per_class: float) -> int:
    """Number of clusters that gives each as many images as a labeled class has on average.

    Raises:
        ConfigError: images_per_class is not positive.

    Examples:
        >>> suggest_num_clusters(10_000, images_per_class=50)
        200
    """
    if not images_per_class > 0:
        raise ConfigError(f"images_per_class must be positive, got {images_per_class!r}.")
    return int(min(max(round(pool_size / images_per_class), 2), pool_size))


def suggest_num_neighbours(pool_size: int, num_clusters: int) -> int:
    """Number of neighbours to `smooth` embeddings with: as many as a cluster has points on average, or 100.

    Examples:
        >>> suggest_num_neighbours(10_000, num_clusters=200)
        50
    """
    return min(max(round(pool_size / num_clusters), 2), 100)


def tidy(
    assigned: np.ndarray,
    centroids: np.ndarray,
    requested: int,
    min_cluster_size: int,
    **about: Any,
) -> Clusters:
    """Renumber without gaps, and leave out what sits in clusters below the minimum.

    Raises:
        DataError: no cluster is that large.
    """
    sizes = np.bincount(assigned, minlength=requested)
    kept = np.flatnonzero((sizes > 0) & (sizes >= min_cluster_size))
    if len(kept) == 0:
        raise DataError(
            f"min_cluster_size={min_cluster_size} leaves no cluster: the largest has {sizes.max()}."
        )
    renumber = np.full(requested, -1, dtype=np.int64)
    renumber[kept] = np.arange(len(kept))
    return Clusters(
        labels=renumber[assigned],
        centroids=centroids[kept],
        sizes=sizes[kept],
        requested=requested,
        num_tiny=int(((sizes > 0) & (sizes < min_cluster_size)).sum()),
        min_cluster_size=min_cluster_size,
        **about,
    )


def class_means(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean embedding of each class at unit length, each embedding brought to unit length first.

    Args:
        embeddings: (N, d).
        labels: (N,) integers 0..k-1; points below 0 are left out.

    Returns:
        (k, d) float32; a class without points has a row of zeros.

    Examples:
        >>> class_means(np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0]]), np.array([1, 0, -1]))
        array([[0., 1.],
               [1., 0.]], dtype=float32)
    """
    kept = labels >= 0
    return unit_rows(means(unit_rows(embeddings[kept]), labels[kept]))


def means(x: np.ndarray, labels: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Mean of each class 0..k-1; zeros where there is no point.

    Args:
        x: (N, d).
        labels: (N,).
        lengths: (N,), by which points are divided first; None leaves them as they are.

    Returns:
        (k, d) float32.
    """
    shares = np.ones(len(x)) if lengths is None else 1 / np.maximum(lengths, 1e-12)
    members = csr_matrix((shares, (labels, np.arange(len(x)))))
    counts = np.maximum(np.bincount(labels), 1)[:, None]
    mean = np.empty((len(counts), x.shape[1]), dtype=np.float32)
    for start in range(0, x.shape[1], COLUMNS):  # scipy copies what it multiplies, as float64
        columns = slice(start, start + COLUMNS)
        mean[:, columns] = (members @ x[:, columns]) / counts
    return mean
