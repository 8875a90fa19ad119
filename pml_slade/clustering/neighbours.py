"""The vectors that are nearest to others: in blocks, on any device; among very many, in the cells around."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import torch

from .embedding import itself_last, without_itself

MEMORY = 1 << 28
"""Bytes that a block of queries takes, about: 256 MiB."""
BLOCK = 4096
"""Queries in a block at most: more make a matrix product no faster."""
MOST_BY_FAISS = 1024
"""Neighbours that faiss finds faster than a sort does."""
BYTES_BY_FAISS, BYTES_BY_SORT = 64, 24
"""Memory for each neighbour of each query, and for each vector and query where rows are sorted."""
EXACT_ON_CPU, EXACT_ON_GPU = 50_000, 2_000_000
"""Most vectors that are all compared with each other. Beyond, cells are quicker, and clusters no worse."""
CELLS_LOOKED_AT = 32
"""Cells in which a vector's neighbours are looked for, its own included."""
AT_ONCE = 1 << 14
"""Vectors whose neighbours are looked for at once, cell by cell."""


class Neighbours:
    """Finds which of N vectors are nearest to queries, exactly.

    Args:
        vectors: (N, d) float32.
        device: where they are compared.
        euclidean: compare by distance; else by inner product, which is the cosine of unit vectors.

    Examples:
        >>> neighbours = Neighbours(np.eye(3, dtype=np.float32))
        >>> neighbours.search(np.array([[0.0, 0.8, 0.6]], dtype=np.float32), k=2)
        (array([[0.8, 0.6]], dtype=float32), array([[1, 2]]))
    """

    def __init__(
        self, vectors: np.ndarray, device: torch.device | str = "cpu", euclidean: bool = False
    ) -> None:
        self.vectors = vectors
        self.device = torch.device(device)
        self.euclidean = euclidean
        self._there = torch.from_numpy(vectors).to(self.device)  # no copy on the CPU

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self, k: int, memory: int = MEMORY) -> int:
        """How many queries fit into a block, so that it takes about so many bytes."""
        each = BYTES_BY_FAISS * k if self._by_faiss(k) else BYTES_BY_SORT * len(self)
        return max(1, min(BLOCK, memory // each))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest vectors of each query, the nearest first.

        Returns:
            Products or squared distances, (n, k) float32, and positions, (n, k) int64.
        """
        if self._by_faiss(k):
            metric = faiss.METRIC_L2 if self.euclidean else faiss.METRIC_INNER_PRODUCT
            found: tuple[np.ndarray, np.ndarray] = faiss.knn(queries, self.vectors, k, metric=metric)
            return found
        asked = torch.from_numpy(queries).to(self.device)
        if self.euclidean:
            best = torch.cdist(asked, self._there).square().topk(k, largest=False)
        else:
            best = (asked @ self._there.T).topk(k)
        return best.values.cpu().numpy(), best.indices.cpu().numpy()

    def others(self, positions: np.ndarray, k: int) -> np.ndarray:
        """Return the k nearest to some of the vectors, without themselves, (n, k) int64."""
        return without_itself(self.search(self.vectors[positions], k + 1)[1], positions)

    def _by_faiss(self, k: int) -> bool:
        return self.device.type == "cpu" and k <= MOST_BY_FAISS


def blocks(wanted: np.ndarray, neighbours: Neighbours, memory: int = MEMORY) -> Iterator[np.ndarray]:
    """Cut queries into blocks that fit into memory, those that want most neighbours first.

    Args:
        wanted: (n,) how many neighbours each query wants; those that want none are left out.
        neighbours: that they are looked for among.
        memory: bytes for a block, about.

    Examples:
        >>> neighbours = Neighbours(np.eye(3, dtype=np.float32))
        >>> [block.tolist() for block in blocks(np.array([1, 0, 2]), neighbours, memory=64)]
        [[2], [0]]
    """
    order = np.argsort(-wanted, kind="stable")
    order = order[: np.count_nonzero(wanted)]
    while len(order):
        rows = neighbours.rows(int(wanted[order[0]]), memory)
        yield order[:rows]
        order = order[rows:]


def nearest(
    vectors: np.ndarray,
    k: int,
    device: torch.device | str = "cpu",
    euclidean: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the neighbours of vectors among themselves, each its own neighbour.

    All are compared with all up to 50,000 vectors, or 2,000,000 on a GPU. Beyond, k-means makes 4 sqrt(N)
    cells, and each vector's neighbours are looked for in the 32 cells whose centres are nearest to it: the
    time grows with N ** 1.5. Some are missed, and clusters are no worse for it (docs/performance.md).

    Args:
        vectors: (N, d) float32.
        k: how many, N at most.
        device: see Neighbours, for this and the next.
        euclidean: by distance.
        seed: of k-means.

    Returns:
        Products or squared distances, (N, k) float32, and positions, (N, k) int32, the nearest first. Where
        too few were looked at, a vector's own position stands for those that are missing, at product 0.

    Examples:
        >>> nearest(np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=np.float32), k=2)[1]
        array([[0, 2],
               [1, 2],
               [2, 0]], dtype=int32)
    """
    exact = EXACT_ON_CPU if torch.device(device).type == "cpu" else EXACT_ON_GPU
    if len(vectors) > exact:
        among: Neighbours | _Cells = _Cells(vectors, device, euclidean, seed)
    else:
        among = Neighbours(vectors, device, euclidean)
    closeness = np.empty((len(vectors), k), dtype=np.float32)
    positions = np.empty((len(vectors), k), dtype=np.int32)
    rows = among.rows(k)
    for start in range(0, len(vectors), rows):
        block = slice(start, start + rows)
        closeness[block], found = among.search(vectors[block], k)
        own = np.arange(start, start + len(found), dtype=np.int32)[:, None]
        positions[block] = np.where(found < 0, own, found)
    return closeness, positions


def nearest_others(
    vectors: np.ndarray, k: int, device: torch.device | str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Find the neighbours of unit vectors among themselves, themselves left out.

    Args:
        vectors: (N, d) float32.
        k: how many, N - 1 at most.
        device: see Neighbours.

    Returns:
        Positions, (N, k) int32, and cosines, (N, k) float32, the nearest first.

    Examples:
        >>> nearest_others(np.eye(2, dtype=np.float32), k=1)
        (array([[1],
               [0]], dtype=int32), array([[0.],
               [0.]], dtype=float32))
    """
    closeness, positions = nearest(vectors, k + 1, device)
    kept = itself_last(positions, np.arange(len(vectors)))[:, :-1]
    return np.take_along_axis(positions, kept, axis=1), np.take_along_axis(closeness, kept, axis=1)


class _Cells:
    """Vectors in cells, in some of which their neighbours are looked for; made as `Neighbours`."""

    def __init__(self, vectors: np.ndarray, device: torch.device | str, euclidean: bool, seed: int) -> None:
        cells = round(4 * len(vectors) ** 0.5)
        kmeans = faiss_kmeans(
            vectors.shape[1], cells, device, niter=10, seed=seed, max_points_per_centroid=64
        )
        kmeans.train(vectors)
        cell = kmeans.index.search(vectors, 1)[1][:, 0]
        members = torch.from_numpy(np.argsort(cell, kind="stable").astype(np.int32))
        self.members = members.split(np.bincount(cell, minlength=cells).tolist())
        self.centers = Neighbours(kmeans.centroids, device, euclidean=True)
        self.vectors = torch.from_numpy(vectors).to(device)
        self.euclidean = euclidean

    def rows(self, k: int) -> int:
        """How many vectors are looked at at once."""
        return AT_ONCE

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `Neighbours.search`; position -1, at product 0, stands where too few were looked at."""
        looked_at = min(CELLS_LOOKED_AT, len(self.centers))
        near = self.centers.search(queries, looked_at)[1].ravel()
        by_cell = torch.from_numpy(np.argsort(near, kind="stable") // looked_at)
        asked = torch.from_numpy(queries).to(self.vectors.device)
        best = asked.new_full((len(queries), k), -torch.inf)
        found = torch.full_like(best, -1, dtype=torch.int32)
        sizes = np.bincount(near, minlength=len(self.centers)).tolist()
        for own, members in zip(by_cell.split(sizes), self.members):
            rows, others = own.to(asked.device), members.to(asked.device)
            close = self._closeness(asked[rows], self.vectors[others])
            best[rows], at = torch.cat([best[rows], close], dim=1).topk(k, sorted=False)
            found[rows] = torch.cat([found[rows], others.expand(len(rows), -1)], dim=1).gather(1, at)
        best, order = best.sort(dim=1, descending=True)
        if self.euclidean:
            best = (asked.square().sum(dim=1, keepdim=True) - best).clamp(min=0)
        best[best.isinf()] = 0
        return best.cpu().numpy(), found.gather(1, order).cpu().numpy()

    def _closeness(self, asked: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Products, or for distances the part of them that the other vector decides, negated."""
        products = asked @ vectors.T
        return 2 * products - vectors.square().sum(dim=1) if self.euclidean else products


def faiss_kmeans(dimension: int, k: int, device: torch.device | str = "cpu", **settings: Any) -> Any:
    """Return faiss' k-means, on faiss' GPUs where the device is one and faiss sees any."""
    gpu = torch.device(device).type == "cuda" and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    return faiss.Kmeans(dimension, k, gpu=gpu, **settings)
