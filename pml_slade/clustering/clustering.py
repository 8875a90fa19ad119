"""Embeddings to clusters: the settings, and what is done with them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..exceptions import ConfigError, DataError
from .clusters import Clusters, means, suggest_num_neighbours, tidy
from .embedding import checked_embeddings, row_blocks, unit_rows
from .graph_ward import graph_ward
from .health import signs
from .neighbours import faiss_kmeans
from .settings import ClusteringSettings, Method
from .smoothing import smooth
from .ward import ward
from .whitening import whiten

logger = logging.getLogger("pml_slade")

WARD_POINTS = 20_000
"""Most points of which Ward's clustering compares all clusters with all."""


@dataclass(frozen=True)
class Clustering(ClusteringSettings):
    """How embeddings are clustered. The defaults are those of the preset `best`.

    Embeddings are whitened, then smoothed, then clustered. Whitening and smoothing look at directions only.

    Args:
        method: "ward" or "kmeans". Ward finds classes better.
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
        max_ward_points: of more points, a cluster merges with clusters of its neighbours alone, see
            `graph_ward`: comparing all with all takes time with N^2. Default: 20,000.
        device: "cpu" or "cuda": where neighbours are found, and k-means runs if faiss sees a GPU. Ward
            itself runs on the CPU.

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
        max_ward_points, device.
    """

    def __call__(self, embeddings: np.ndarray, num_clusters: int) -> Clusters:
        """Cluster embeddings.

        Args:
            embeddings: (N, d), any float type.
            num_clusters: k, at most N. Fewer may come out; the result says how many.

        Raises:
            ConfigError: no such device.
            DataError: bad shape, values that are not finite, k out of range, clusters that are all too small.
        """
        x = checked_embeddings(embeddings)
        self._check(x, num_clusters)
        k = int(num_clusters)
        assigned, about = self._assign(x, k)
        centroids = about.pop("centroids", None)
        if centroids is None:
            centroids = means(x, assigned, _lengths(x) if self.normalize else None)
            centroids = unit_rows(centroids) if self.normalize else centroids
        squared = np.empty(len(x))
        for rows in row_blocks(len(x)):  # memory for another copy of all embeddings may not be there
            points = unit_rows(x[rows]) if self.normalize else x[rows]
            squared[rows] = ((points - centroids[assigned[rows]]) ** 2).sum(axis=1, dtype=np.float64)
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
        seen = self._seen(x, k)
        if self.method == "kmeans":
            per_centroid = len(x) if self.max_points_per_centroid is None else self.max_points_per_centroid
            assigned, kmeans = self._kmeans(seen, k, per_centroid)
            about: dict[str, Any] = {"trained_on": min(len(x), per_centroid * k)}
            if not self.whitening and not self.smooth:
                about |= {"centroids": kmeans.centroids, "objective": float(kmeans.obj[-1])}
            return assigned, about
        about = {"trained_on": len(x), "merged": len(x)}
        if len(x) <= (self.max_ward_points or WARD_POINTS):
            return ward(seen, k), about
        return graph_ward(seen.copy() if seen is x else seen, k, self.device, self.seed), about

    def _seen(self, x: np.ndarray, k: int) -> np.ndarray:
        """What is clustered: embeddings whitened and smoothed, or themselves where neither is wanted."""
        if self.smooth:
            neighbours = self.num_neighbours or suggest_num_neighbours(len(x), k)
            return smooth(x, neighbours, device=self.device, whitening=self.whitening)
        if self.whitening:
            return whiten(x, self.whitening)
        return unit_rows(x) if self.normalize else x

    def _kmeans(self, x: np.ndarray, k: int, per_centroid: int) -> tuple[np.ndarray, Any]:
        kmeans = faiss_kmeans(
            x.shape[1],
            k,
            self.device,
            min_points_per_centroid=1,
            max_points_per_centroid=per_centroid,
            niter=self.niter,
            nredo=self.nredo,
            seed=self.seed,
        )
        kmeans.train(x)
        _, nearest = kmeans.index.search(x, 1)
        return nearest[:, 0], kmeans

    def _check(self, x: np.ndarray, num_clusters: int) -> None:
        if int(num_clusters) != num_clusters or not 1 <= num_clusters <= len(x):
            raise DataError(
                f"num_clusters must be an integer between 1 and the pool's {len(x)} samples, got "
                f"{num_clusters!r}."
            )
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device: {self.device!r} cannot be used: {reason}") from None


def _lengths(x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.linalg.norm(x[rows], axis=1) for rows in row_blocks(len(x))])


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
    device: str = "cpu",
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
        device: "cpu" or "cuda".

    Raises:
        ConfigError: a setting of the wrong type or out of range, no such device.
        DataError: bad shape, values that are not finite, k out of range.

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
        device=device,
    )
    return clustering(embeddings, num_clusters)
