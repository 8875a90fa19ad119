"""Embeddings to pseudo-labels (SLADE, stage 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from .exceptions import DataError

logger = logging.getLogger("pml_slade")


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
        trained_on: how many points k-means looked at.
        objective: sum of squared distances to the centroids.
    """

    labels: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray
    requested: int
    num_tiny: int
    min_cluster_size: int
    trained_on: int
    objective: float

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
        return text


def suggest_num_clusters(pool_size: int, images_per_class: float) -> int:
    """Number of clusters that gives each as many images as a labeled class has on average.

    Examples:
        >>> suggest_num_clusters(10_000, images_per_class=50)
        200
    """
    return int(min(max(round(pool_size / images_per_class), 2), pool_size))


def cluster(
    embeddings: np.ndarray,
    num_clusters: int,
    *,
    seed: int = 0,
    niter: int = 25,
    nredo: int = 1,
    normalize: bool = True,
    min_cluster_size: int = 1,
    max_points_per_centroid: int | None = None,
    gpu: bool = False,
) -> Clusters:
    """k-means by faiss.

    Args:
        embeddings: (N, d), any float type.
        num_clusters: k, at most N. Fewer may come out; the result says how many.
        seed: of the initial centroids; same seed, same machine, same clusters.
        niter: iterations.
        nredo: restarts; the best objective wins.
        normalize: bring embeddings to unit length first, as retrieval by cosine sees them.
        min_cluster_size: points of smaller clusters get label -1.
        max_points_per_centroid: let k-means look at this many points per cluster only, drawn at random;
            None looks at all of them.
        gpu: run on the GPUs that faiss sees.

    Raises:
        DataError: bad shape, values that are not finite, k out of range, no GPU to be had.

    Examples:
        >>> points = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> print(cluster(points, 2))
        2 of 2 clusters hold samples; sizes 1 to 2, median 1; 0 empty
    """
    x = checked_embeddings(embeddings)
    if int(num_clusters) != num_clusters or not 1 <= num_clusters <= len(x):
        raise DataError(
            f"num_clusters must be an integer between 1 and the pool's {len(x)} samples, got "
            f"{num_clusters!r}."
        )
    if gpu and getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        raise DataError("gpu=True, but faiss sees no GPU; leave gpu=False or install faiss-gpu.")
    if normalize:
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    limit = len(x) if max_points_per_centroid is None else max_points_per_centroid
    kmeans = faiss.Kmeans(
        x.shape[1],
        int(num_clusters),
        niter=niter,
        nredo=nredo,
        seed=seed,
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=limit,
    )
    kmeans.train(x)
    _, nearest = kmeans.index.search(x, 1)
    clusters = _tidy(nearest[:, 0], kmeans, int(num_clusters), min_cluster_size, limit)
    logger.info("pseudo-labels: %s", clusters)
    return clusters


def _tidy(assigned: np.ndarray, kmeans: Any, requested: int, min_cluster_size: int, limit: int) -> Clusters:
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
        centroids=kmeans.centroids[kept],
        sizes=sizes[kept],
        requested=requested,
        num_tiny=int(((sizes > 0) & (sizes < min_cluster_size)).sum()),
        min_cluster_size=min_cluster_size,
        trained_on=min(len(assigned), limit * requested),
        objective=float(kmeans.obj[-1]),
    )


def checked_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings as contiguous float32 (N, d), or say what is wrong with them."""
    x = np.ascontiguousarray(embeddings, dtype=np.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(f"embeddings must have shape (N, d) with N, d >= 1, got {x.shape}.")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(x)} embeddings are not finite, the first at index {bad[0]}: the model "
            "diverged or its weights are damaged. Lower the learning rate or check the weights."
        )
    return x


def _identity(item: Any) -> Any:
    return item


class _DataOnly(torch.utils.data.Dataset[Any]):
    def __init__(self, dataset: Any, getter: Callable[[Any], Any]) -> None:
        self.dataset, self.getter = dataset, getter

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.getter(self.dataset[index])


@torch.no_grad()
def embed(
    dataset: Any,
    model: torch.nn.Module,
    *,
    data_getter: Callable[[Any], Any] = _identity,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """Embed every item of a dataset, in order.

    Args:
        dataset: map-style.
        model: (n, ...) -> (n, d). Put in eval mode for this, then back.
        data_getter: picks the data from an item.
        batch_size: items at once.
        device: default where the model's parameters are.
        num_workers: of the data loader.
        progress: show a progress bar.

    Returns:
        (N, d) float32.

    Raises:
        DataError: empty dataset, a model that does not give (n, d), values that are not finite.

    Examples:
        >>> embed([torch.ones(3), torch.zeros(3)], torch.nn.Identity(), progress=False).shape
        (2, 3)
    """
    if len(dataset) == 0:
        raise DataError("dataset is empty: there is nothing to embed.")
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    loader = DataLoader(_DataOnly(dataset, data_getter), batch_size=batch_size, num_workers=num_workers)
    was_training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        parts = []
        for data in tqdm(loader, desc="embedding", leave=False, disable=not progress):
            out = model(data.to(device))
            if out.ndim != 2:
                raise DataError(f"the model must give (n, d) embeddings, got {tuple(out.shape)}.")
            parts.append(out.float().cpu().numpy())
    finally:
        for module, training in was_training.items():
            module.training = training
    return checked_embeddings(np.concatenate(parts))
