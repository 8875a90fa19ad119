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
EXACT_ON_CPU, EXACT_ON_GPU = 100_000, 2_000_000
"""Most vectors that are all compared with each other: two cores take minutes for it."""
CELLS_LOOKED_AT = 32
"""Cells in which the neighbours of a cell's vectors are looked for, itself included."""


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

    All are compared with all up to 100,000 vectors, or 2,000,000 on a GPU. Beyond, k-means makes a cell of
    about sqrt(N) vectors each, and neighbours are looked for in the 32 cells whose centres are nearest: the
    time grows with N ** 1.5, and few neighbours are missed.

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
    own = np.arange(len(vectors), dtype=np.int32)
    closeness = np.zeros((len(vectors), k), dtype=np.float32)
    positions = np.repeat(own[:, None], k, axis=1)
    exact = EXACT_ON_CPU if torch.device(device).type == "cpu" else EXACT_ON_GPU
    around = [(own, own)] if len(vectors) <= exact else _cells(vectors, seed, device)
    for queries, candidates in around:
        among = vectors if candidates is own else vectors[candidates]
        neighbours, most = Neighbours(among, device, euclidean), min(k, len(candidates))
        rows = neighbours.rows(most)
        for start in range(0, len(queries), rows):
            block = queries[start : start + rows]
            closeness[block, :most], found = neighbours.search(vectors[block], most)
            positions[block, :most] = candidates[found]
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


def _cells(
    vectors: np.ndarray, seed: int, device: torch.device | str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The vectors of each cell, and those among which their neighbours are looked for."""
    kmeans = faiss_kmeans(vectors.shape[1], round(len(vectors) ** 0.5), device, niter=10, seed=seed)
    kmeans.train(vectors)
    cell = kmeans.index.search(vectors, 1)[1][:, 0]
    around = Neighbours(kmeans.centroids, euclidean=True)
    near = around.search(kmeans.centroids, min(CELLS_LOOKED_AT, len(around)))[1]
    members = np.argsort(cell, kind="stable").astype(np.int32)
    of_cell = np.split(members, np.cumsum(np.bincount(cell, minlength=len(around)))[:-1])
    for own, others in zip(of_cell, near):
        if len(own):
            yield own, np.concatenate([of_cell[other] for other in others])


def faiss_kmeans(dimension: int, k: int, device: torch.device | str = "cpu", **settings: Any) -> Any:
    """Return faiss' k-means, on faiss' GPUs where the device is one and faiss sees any."""
    gpu = torch.device(device).type == "cuda" and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    return faiss.Kmeans(dimension, k, gpu=gpu, **settings)
