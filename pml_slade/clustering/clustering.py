"""Embeddings to clusters: the settings, and what is done with them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np

from ..exceptions import ConfigError, DataError
from .clusters import Clusters, means, suggest_num_neighbours, tidy
from .embedding import checked_embeddings, unit_rows
from .health import signs
from .settings import ClusteringSettings, Method
from .smoothing import smooth
from .ward import ward
from .whitening import whiten

logger = logging.getLogger("pml_slade")

# Small clusters for Ward to merge are settled after so many iterations.
SMALL_NITER = 3
WARD_POINTS = 20_000


@dataclass(frozen=True)
class Clustering(ClusteringSettings):
    """How embeddings are clustered. The defaults are those of the preset `best`.

    Embeddings are whitened, then smoothed, then clustered. Whitening and smoothing look at directions only.

    Args:
        method: "ward" or "kmeans". Ward finds classes better and has no random start. It takes time with N^2.
        whitening: `whiten` embeddings to this power; 0 does not.
        smooth: `smooth` embeddings by their reciprocal neighbours.
        num_neighbours: how many neighbours to smooth by. Default: as many as a cluster has points on
            average, at most 100 (see `suggest_num_neighbours`).
        min_cluster_size: points of smaller clusters get label -1.
        seed: of k-means' initial centroids; same seed, same machine, same clusters.
        niter: iterations of k-means.
        nredo: restarts of k-means; the best objective wins.
        normalize: bring embeddings to unit length first, as retrieval by cosine sees them. Centroids are
            brought to unit length, too, but for those of plain k-means.
        max_points_per_centroid: k-means looks at this many points per cluster only, drawn at random; None:
            at all of them.
        max_ward_points: for more points, Ward merges this many small clusters that k-means finds. Default:
            20,000, or twice the number of clusters where that is more.
        gpu: run k-means on the GPUs that faiss sees. Ward itself runs on the CPU.

    Raises:
        ConfigError: a setting that does not exist, of the wrong type or out of range.

    Examples:
        >>> points = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> Clustering()(points, num_clusters=2).labels
        array([0, 0, 1, 1])
        >>> Clustering(niters=3)
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: clustering has no setting niters; it has method, whitening, smooth,
        num_neighbours, min_cluster_size, seed, niter, nredo, normalize, max_points_per_centroid,
        max_ward_points, gpu.
    """

    def __call__(self, embeddings: np.ndarray, num_clusters: int) -> Clusters:
        """Cluster embeddings.

        Args:
            embeddings: (N, d), any float type.
            num_clusters: k, at most N. Fewer may come out; the result says how many.

        Raises:
            ConfigError: max_ward_points below num_clusters.
            DataError: bad shape, values that are not finite, k out of range, clusters that are all too small,
                no GPU to be had.
        """
        x = checked_embeddings(embeddings)
        self._check(x, num_clusters)
        k = int(num_clusters)
        if self.normalize:
            x = unit_rows(x)
        seen = whiten(x, self.whitening) if self.whitening else x
        if self.smooth:
            seen = smooth(seen, self.num_neighbours or suggest_num_neighbours(len(x), k))
        assigned, about = self._assign(seen, k)
        centroids = about.pop("centroids", None)
        if seen is not x or centroids is None:
            centroids = unit_rows(means(x, assigned)) if self.normalize else means(x, assigned)
            about.pop("objective", None)
        squared = ((x - centroids[assigned]) ** 2).sum(axis=1, dtype=np.float64)
        about.setdefault("objective", float(squared.sum()))
        distances = np.sqrt(squared).astype(np.float32)
        clusters = tidy(assigned, centroids, k, self.min_cluster_size, distances=distances, **about)
        logger.info("pseudo-labels: %s", clusters)
        clusters = replace(clusters, signs=tuple(signs(clusters, x)))
        for sign in clusters.signs:
            logger.warning("pseudo-labels: %s", sign)
        return clusters

    def _assign(self, x: np.ndarray, k: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the cluster of each point, and what `Clusters` tells of how they were found."""
        per_centroid = len(x) if self.max_points_per_centroid is None else self.max_points_per_centroid
        if self.method == "kmeans":
            assigned, kmeans = self._kmeans(x, k, self.niter, per_centroid)
            return assigned, {
                "trained_on": min(len(x), per_centroid * k),
                "centroids": kmeans.centroids,
                "objective": float(kmeans.obj[-1]),
            }
        most = self._most_ward_points(k)
        if len(x) <= most:
            return ward(x, k), {"trained_on": len(x), "merged": len(x)}
        small, _ = self._kmeans(x, most, SMALL_NITER, per_centroid)
        # Ward merges small clusters, each as heavy as its points.
        used, small, sizes = np.unique(small, return_inverse=True, return_counts=True)
        assigned = ward(means(x, small), k, sizes)[small]
        return assigned, {"trained_on": min(len(x), per_centroid * most), "merged": len(used)}

    def _kmeans(self, x: np.ndarray, k: int, niter: int, per_centroid: int) -> tuple[np.ndarray, Any]:
        kmeans = faiss.Kmeans(
            x.shape[1],
            k,
            min_points_per_centroid=1,
            max_points_per_centroid=per_centroid,
            niter=niter,
            nredo=self.nredo,
            seed=self.seed,
            gpu=self.gpu,
        )
        kmeans.train(x)
        _, nearest = kmeans.index.search(x, 1)
        return nearest[:, 0], kmeans

    def _most_ward_points(self, k: int) -> int:
        return max(WARD_POINTS, 2 * k) if self.max_ward_points is None else self.max_ward_points

    def _check(self, x: np.ndarray, num_clusters: int) -> None:
        if int(num_clusters) != num_clusters or not 1 <= num_clusters <= len(x):
            raise DataError(
                f"num_clusters must be an integer between 1 and the pool's {len(x)} samples, got "
                f"{num_clusters!r}."
            )
        if self.method == "ward" and self._most_ward_points(int(num_clusters)) < num_clusters:
            raise ConfigError(
                f"max_ward_points must be an integer, at least num_clusters={num_clusters}, got "
                f"{self.max_ward_points!r}."
            )
        if self.gpu and getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
            raise DataError("gpu=True, but faiss sees no GPU; leave gpu=False or install faiss-gpu.")


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
    """Cluster embeddings in one call: k-means, unless asked for otherwise.

    Args:
        embeddings: (N, d), any float type.
        num_clusters: k, at most N. Fewer may come out; the result says how many.
        method: see `Clustering`, for this and all below.
        whitening: 0 does not whiten.
        num_neighbours: smooth by so many reciprocal neighbours; None does not smooth.
        seed: of k-means.
        niter: of k-means.
        nredo: of k-means.
        normalize: to unit length.
        min_cluster_size: points of smaller clusters get label -1.
        max_points_per_centroid: of k-means.
        max_ward_points: of Ward.
        gpu: of k-means.

    Raises:
        ConfigError: a setting of the wrong type or out of range, max_ward_points below num_clusters.
        DataError: bad shape, values that are not finite, k out of range, no GPU to be had.

    Examples:
        >>> points = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> print(cluster(points, 2))
        2 of 2 clusters hold samples; sizes 1 to 2, median 1; 0 empty
        >>> print(cluster(points, 2, method="ward"))
        2 of 2 clusters hold samples; sizes 1 to 2, median 1; 0 empty; Ward merged 3 points
    """
    clustering = Clustering.plain(
        method=method,
        whitening=whitening,
        num_neighbours=num_neighbours,
        seed=seed,
        niter=niter,
        nredo=nredo,
        normalize=normalize,
        min_cluster_size=min_cluster_size,
        max_points_per_centroid=max_points_per_centroid,
        max_ward_points=max_ward_points,
        gpu=gpu,
    )
    return clustering(embeddings, num_clusters)
