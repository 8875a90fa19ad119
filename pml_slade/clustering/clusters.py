"""Embeddings to clusters."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, get_args

import faiss
import numpy as np
from scipy.sparse import csr_matrix

from ..exceptions import ConfigError, DataError
from .embedding import checked_embeddings, unit_rows
from .smoothing import smooth
from .ward import ward
from .whitening import whiten

logger = logging.getLogger("pml_slade")

Method = Literal["kmeans", "ward"]

# Small clusters for Ward to merge are settled after so many iterations.
SMALL_NITER = 3
WARD_POINTS = 20_000


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
        merged: how many points, or small clusters of points, Ward merged; 0 for k-means.
    """

    labels: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray
    requested: int
    num_tiny: int
    min_cluster_size: int
    trained_on: int
    objective: float
    merged: int = 0

    @property
    def num_empty(self) -> int:
        """Clusters asked for that got no point."""
        return self.requested - len(self.sizes) - self.num_tiny

    @property
    def left_out_reason(self) -> str:
        """Why points have label -1, for people to read."""
        return f"in clusters of fewer than {self.min_cluster_size} samples"

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
        if self.merged == len(self.labels):
            text += f"; Ward merged {self.merged} points"
        elif self.merged:
            text += f"; Ward merged {self.merged} small clusters of {len(self.labels)} points"
        return text


def suggest_num_clusters(pool_size: int, images_per_class: float) -> int:
    """Number of clusters that gives each as many images as a labeled class has on average.

    Examples:
        >>> suggest_num_clusters(10_000, images_per_class=50)
        200
    """
    return int(min(max(round(pool_size / images_per_class), 2), pool_size))


def suggest_num_neighbours(pool_size: int, num_clusters: int) -> int:
    """Number of neighbours to `smooth` embeddings with: as many as a cluster has points on average, or 100.

    Examples:
        >>> suggest_num_neighbours(10_000, num_clusters=200)
        50
    """
    return min(max(round(pool_size / num_clusters), 2), 100)


def cluster(
    embeddings: np.ndarray,
    num_clusters: int,
    *,
    method: Method = "kmeans",
    whitening: float = 0.0,
    num_neighbours: int | None = None,
    seed: int = 0,
    niter: int = 25,
    nredo: int = 1,
    normalize: bool = True,
    min_cluster_size: int = 1,
    max_points_per_centroid: int | None = None,
    max_ward_points: int | None = None,
    gpu: bool = False,
) -> Clusters:
    """k-means by faiss, or Ward's clustering.

    Ward finds classes better and has no random start. It takes time with N^2.

    Args:
        embeddings: (N, d), any float type.
        num_clusters: k, at most N. Fewer may come out; the result says how many.
        method: "kmeans" or "ward".
        whitening: `whiten` embeddings to this power first; 0 does not.
        num_neighbours: `smooth` embeddings by so many reciprocal neighbours then; None does not. Both look at
            directions only. The centroids are means of the embeddings as they came.
        seed: of k-means' initial centroids; same seed, same machine, same clusters.
        niter: k-means' iterations.
        nredo: k-means' restarts; the best objective wins.
        normalize: bring embeddings to unit length first, as retrieval by cosine sees them. Ward's centroids
            are then brought to unit length, too.
        min_cluster_size: points of smaller clusters get label -1.
        max_points_per_centroid: let k-means look at this many points per cluster only, drawn at random;
            None looks at all of them.
        max_ward_points: for more points, Ward merges this many small clusters that k-means finds. Default:
            20,000, or twice `num_clusters` where that is more.
        gpu: run k-means on the GPUs that faiss sees. Ward itself runs on the CPU.

    Raises:
        ConfigError: an unknown method, a bad num_neighbours, max_ward_points below num_clusters.
        DataError: bad shape, values that are not finite, k out of range, no GPU to be had.

    Examples:
        >>> points = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> print(cluster(points, 2))
        2 of 2 clusters hold samples; sizes 1 to 2, median 1; 0 empty
        >>> print(cluster(points, 2, method="ward"))
        2 of 2 clusters hold samples; sizes 1 to 2, median 1; 0 empty; Ward merged 3 points
    """
    x = checked_embeddings(embeddings)
    most = max(WARD_POINTS, 2 * num_clusters) if max_ward_points is None else max_ward_points
    _check_settings(x, num_clusters, method, most, gpu)
    if normalize:
        x = unit_rows(x)
    seen = whiten(x, whitening) if whitening else x
    seen = seen if num_neighbours is None else smooth(seen, num_neighbours)
    k = int(num_clusters)
    limit = len(x) if max_points_per_centroid is None else max_points_per_centroid
    settings = {"seed": seed, "nredo": nredo, "gpu": gpu, "max_points_per_centroid": limit}
    if method == "kmeans":
        assigned, kmeans = _kmeans(seen, k, niter=niter, **settings)
        about = {"trained_on": min(len(x), limit * k)}
    elif len(x) <= most:
        assigned, about = ward(seen, k), {"trained_on": len(x), "merged": len(x)}
    else:
        small, _ = _kmeans(seen, int(most), niter=SMALL_NITER, **settings)
        assigned, merged = _merge_small(seen, small, k)
        about = {"trained_on": min(len(x), limit * int(most)), "merged": merged}
    if method == "kmeans" and seen is x:
        centroids, objective = kmeans.centroids, float(kmeans.obj[-1])
    else:
        centroids = unit_rows(_means(x, assigned)) if normalize else _means(x, assigned)
        objective = float(((x - centroids[assigned]) ** 2).sum(dtype=np.float64))
    clusters = _tidy(assigned, centroids, k, min_cluster_size, objective=objective, **about)
    logger.info("pseudo-labels: %s", clusters)
    return clusters


def _check_settings(x: np.ndarray, num_clusters: int, method: str, max_ward_points: int, gpu: bool) -> None:
    if method not in get_args(Method):
        raise ConfigError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}.")
    if int(num_clusters) != num_clusters or not 1 <= num_clusters <= len(x):
        raise DataError(
            f"num_clusters must be an integer between 1 and the pool's {len(x)} samples, got "
            f"{num_clusters!r}."
        )
    if method == "ward" and (int(max_ward_points) != max_ward_points or max_ward_points < num_clusters):
        raise ConfigError(
            f"max_ward_points must be an integer, at least num_clusters={num_clusters}, got "
            f"{max_ward_points!r}."
        )
    if gpu and getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        raise DataError("gpu=True, but faiss sees no GPU; leave gpu=False or install faiss-gpu.")


def _kmeans(x: np.ndarray, k: int, **settings: Any) -> tuple[np.ndarray, Any]:
    kmeans = faiss.Kmeans(x.shape[1], k, min_points_per_centroid=1, **settings)
    kmeans.train(x)
    _, nearest = kmeans.index.search(x, 1)
    return nearest[:, 0], kmeans


def _merge_small(x: np.ndarray, small: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """Let Ward merge small clusters, each as heavy as its points: the points' labels, how many merged."""
    used, small, sizes = np.unique(small, return_inverse=True, return_counts=True)
    return ward(_means(x, small), k, sizes)[small], len(used)


def _tidy(
    assigned: np.ndarray,
    centroids: np.ndarray,
    requested: int,
    min_cluster_size: int,
    **about: Any,
) -> Clusters:
    """Renumber without gaps, and leave out what sits in clusters below the minimum."""
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
    return unit_rows(_means(unit_rows(embeddings[kept]), labels[kept]))


def _means(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (k, d) float32, the mean of each class 0..k-1; zeros where there is no point."""
    members = csr_matrix((np.ones(len(x)), (labels, np.arange(len(x)))))
    means: np.ndarray = (members @ x) / np.maximum(np.bincount(labels), 1)[:, None]
    return means.astype(np.float32)
