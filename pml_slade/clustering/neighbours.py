"""The vectors that are nearest to others by their inner product: exact, in blocks, on any device."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import torch

from .embedding import without_itself

MEMORY = 1 << 28
"""Bytes that a block of queries takes, about: 256 MiB."""
BLOCK = 4096
"""Queries in a block at most: more make a matrix product no faster."""
MOST_BY_FAISS = 1024
"""Neighbours that faiss finds faster than a sort does. Its GPUs stop at 2,048."""
BYTES_BY_FAISS, BYTES_BY_SORT = 64, 24
"""Memory for each neighbour of each query, and for each vector and query where rows are sorted."""


class Neighbours:
    """Finds which of N vectors have the largest inner product with a query: of unit rows, the cosine.

    Args:
        vectors: (N, d) float32.
        device: where products are computed and sorted.

    Examples:
        >>> neighbours = Neighbours(np.eye(3, dtype=np.float32))
        >>> neighbours.search(np.array([[0.0, 0.8, 0.6]], dtype=np.float32), k=2)
        (array([[0.8, 0.6]], dtype=float32), array([[1, 2]]))
    """

    def __init__(self, vectors: np.ndarray, device: torch.device | str = "cpu") -> None:
        self.vectors = vectors
        self.device = torch.device(device)
        self._there = torch.from_numpy(vectors).to(self.device)  # no copy on the CPU

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self, k: int, memory: int = MEMORY) -> int:
        """How many queries fit into a block, so that it takes about so many bytes."""
        each = BYTES_BY_FAISS * k if self._by_faiss(k) else BYTES_BY_SORT * len(self)
        return max(1, min(BLOCK, memory // each))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k largest products of each query, (n, k) float32, and whose they are, (n, k) int64."""
        if self._by_faiss(k):
            found: tuple[np.ndarray, np.ndarray] = faiss.knn(
                queries, self.vectors, k, metric=faiss.METRIC_INNER_PRODUCT
            )
            return found
        best = (torch.from_numpy(queries).to(self.device) @ self._there.T).topk(k)
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
