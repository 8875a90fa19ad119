"""Batches of images with their nearest neighbours, for STML (Kim et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
from pytorch_metric_learning.utils import common_functions as c_f
from torch.utils.data import Sampler

from ..checks import check_int
from ..clustering import checked_embeddings, unit_rows, without_itself


class NeighbourBatches(Sampler[int]):
    """Batches of random queries, each followed by its nearest neighbours (STML, Section 3).

    Consecutive runs of `batch_size` indices are the batches: give a DataLoader the same batch size. The
    queries of a batch differ, and so do the samples of a query's group; a neighbour may stand in several
    groups. Queries come from numpy's global generator, as in PML's samplers.

    Args:
        embeddings: (N, d), any float type; compared by cosine.
        batch_size: a multiple of `num_neighbours`; 120 in the authors' code.
        num_neighbours: size of a group, the query itself included; 5 in the authors' code.
        num_batches: batches per pass.

    Raises:
        ValueError: a size out of range, or sizes that do not fit each other or the pool.
        DataError: embeddings of a bad shape or with values that are not finite.

    Examples:
        >>> pool = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> batches = NeighbourBatches(pool, batch_size=2, num_neighbours=2, num_batches=3)
        >>> len(batches), sorted(list(batches)[:2]) in ([0, 1], [2, 3])
        (6, True)
    """

    def __init__(
        self, embeddings: np.ndarray, batch_size: int, num_neighbours: int, num_batches: int
    ) -> None:
        for name, count in (
            ("batch_size", batch_size),
            ("num_neighbours", num_neighbours),
            ("num_batches", num_batches),
        ):
            check_int(name, count, at_least=1)
        self._unit = unit_rows(checked_embeddings(embeddings))
        if batch_size % num_neighbours:
            raise ValueError(
                f"batch_size must be a multiple of num_neighbours={num_neighbours}, got {batch_size}."
            )
        self.queries_per_batch = batch_size // num_neighbours
        if max(self.queries_per_batch, num_neighbours) > len(self._unit):
            raise ValueError(
                f"{self.queries_per_batch} queries with {num_neighbours} neighbours each do not fit a pool "
                f"of {len(self._unit)} samples; lower batch_size or num_neighbours."
            )
        self.batch_size = batch_size
        self.num_neighbours = num_neighbours
        self.num_batches = num_batches
        self._index = faiss.IndexFlatIP(self._unit.shape[1])
        self._index.add(self._unit)

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        drawn = [
            c_f.NUMPY_RANDOM.choice(len(self._unit), self.queries_per_batch, replace=False)
            for _ in range(self.num_batches)
        ]
        return iter(self._groups(np.concatenate(drawn)).ravel().tolist())

    def _groups(self, queries: np.ndarray) -> np.ndarray:
        """Each query and its nearest others, shape (q, num_neighbours)."""
        _, found = self._index.search(self._unit[queries], self.num_neighbours)
        return np.concatenate([queries[:, None], without_itself(found, queries)], axis=1)
