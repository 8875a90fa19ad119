"""Ward's clustering of very many points: each cluster merges with a neighbour."""

from __future__ import annotations

import numpy as np
import torch

from .neighbours import nearest
from .ward import cut

NEIGHBOURS = 16
"""Neighbours of a cluster among which the cheapest merge is looked for, itself included."""
EDGES = 1 << 14
"""Pairs of clusters whose difference is computed at once."""
ROUNDING = 1e-10
"""Share of the points' mean square that two of them differ by if they are copies of each other."""


def graph_ward(
    points: np.ndarray, num_clusters: int, device: torch.device | str = "cpu", seed: int = 0
) -> np.ndarray:
    """Merge clusters as `ward` does, but each only with clusters that hold a neighbour of one of its points.

    All pairs that are each other's cheapest merge are merged at once, and the cheapest of all merges count
    (Sumengen et al., Scaling Hierarchical Agglomerative Clustering to Billion-sized Datasets, 2021). Where no
    cluster has a neighbour left, neighbours are looked for among the clusters' centres. Time grows as that of
    finding the neighbours of all points, memory with N.

    Args:
        points: (N, d) float32. They are overwritten: two copies of them may not fit into memory.
        num_clusters: k. Points that differ by rounding stay together, so that fewer may come out.
        device: where neighbours are found, see `neighbours.nearest`.
        seed: of k-means, which finds neighbours among very many points.

    Returns:
        (N,) labels 0..k-1.

    Examples:
        >>> graph_ward(np.array([[0.0], [5.0], [0.1], [5.2], [9.0]], dtype=np.float32), 3)
        array([0, 1, 0, 1, 2]...)
    """
    clusters, wanted = _Clusters(points, device, seed), len(points) - num_clusters
    pairs, heights = np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)
    while len(clusters) > 1:
        if len(clusters.costs):
            merged, height = clusters.merge()
        elif len(heights) < wanted:
            merged, height = clusters.find_edges()
        else:
            break
        pairs, heights = np.concatenate([pairs, merged]), np.concatenate([heights, height])
        if np.count_nonzero(heights <= clusters.costs.min(initial=np.inf)) >= wanted:
            break  # no merge to come is cheaper than those that count
    counted = max(wanted, np.count_nonzero(heights == 0))
    return cut(pairs[np.argsort(heights, kind="stable")[:counted]], len(points))


class _Clusters:
    """Clusters, the edges between those that may merge, and what merging along each edge costs.

    Attributes:
        centers: (n, d), the first rows of the points' own memory.
        weights: (n,) how many points each has.
        points: (n,) one of its points.
        heights: (n,) cost of the merge that made it.
        edges: (e, 2) int32, clusters, the lower one first.
        costs: (e,) what merging adds to the sum of squared distances.
    """

    def __init__(self, points: np.ndarray, device: torch.device | str, seed: int) -> None:
        self.centers = torch.from_numpy(points)
        self.device, self.seed = device, seed
        self.weights = np.ones(len(points), dtype=np.float32)
        self.points, self.heights = np.arange(len(points)), np.zeros(len(points), dtype=np.float32)
        self.edges, self.costs = np.zeros((0, 2), dtype=np.int32), np.zeros(0, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.weights)

    def find_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Let each cluster have edges to those whose centres are nearest, and merge those that are copies.

        Many copies have the same few neighbours: `merge` would take as many rounds as there are copies.

        Returns:
            As `merge`.
        """
        k = min(NEIGHBOURS, len(self))
        _, near = nearest(self.centers.numpy(), k, self.device, euclidean=True, seed=self.seed)
        own = np.repeat(np.arange(len(self), dtype=np.int32), k)
        self._connect(own, near.ravel(), np.zeros(len(own), np.float32), np.ones(len(own), dtype=bool))
        copies = self.costs <= ROUNDING * float(self.centers[:EDGES].square().sum(1).mean())
        same = cut(self.edges[copies], len(self))
        first = np.unique(same, return_index=True)[1][same]
        b = np.flatnonzero(first != np.arange(len(self)))
        a, merged = first[b], self.points[np.stack([first[b], b], axis=1)]
        if len(b):
            np.add.at(self.weights, a, self.weights[b])
            self._drop(a, b)
        return merged, np.zeros(len(merged), dtype=np.float32)

    def merge(self) -> tuple[np.ndarray, np.ndarray]:
        """Merge all pairs that are each other's cheapest.

        Returns:
            A point of either side, (m, 2), and the height of each merge, (m,).
        """
        order, cheapest = np.argsort(-self.costs, kind="stable"), np.empty(len(self), dtype=np.int64)
        cheapest[self.edges[order].ravel()] = np.repeat(order, 2)  # the last stays: the cheapest edge
        chosen = np.flatnonzero((cheapest[self.edges] == np.arange(len(self.edges))[:, None]).all(axis=1))
        a, b = self.edges[chosen].T
        merged = self.points[self.edges[chosen]]
        height = np.maximum(self.costs[chosen], np.maximum(self.heights[a], self.heights[b]))
        for start in range(0, len(a), EDGES):
            into, other = a[start : start + EDGES], b[start : start + EDGES]
            share = torch.from_numpy(self.weights[other] / (self.weights[into] + self.weights[other]))
            self.centers[into] = torch.lerp(self.centers[into], self.centers[other], share[:, None])
        self.weights[a] += self.weights[b]
        self.heights[a] = height
        self._drop(a, b)
        return merged, height

    def _drop(self, a: np.ndarray, b: np.ndarray) -> None:
        """Forget clusters b, which are in a now."""
        left, changed = np.ones(len(self), dtype=bool), np.zeros(len(self), dtype=bool)
        left[b], changed[a] = False, True
        number = np.cumsum(left, dtype=np.int32) - 1
        number[b], changed[b] = number[a], True
        kept = np.flatnonzero(left)
        for start in range(0, len(kept), EDGES):  # in place: a row moves up, before others are read
            rows = kept[start : start + EDGES]
            self.centers[start : start + len(rows)] = self.centers[rows]
        self.centers = self.centers[: len(kept)]
        self.weights, self.points, self.heights = self.weights[kept], self.points[kept], self.heights[kept]
        one, other = self.edges.T
        self._connect(number[one], number[other], self.costs, changed[one] | changed[other])

    def _connect(self, one: np.ndarray, other: np.ndarray, costs: np.ndarray, stale: np.ndarray) -> None:
        """Take edges, each once, and compute what merging along those that are stale costs."""
        low, high = np.minimum(one, other), np.maximum(one, other)
        _, first = np.unique(low * np.int64(len(self)) + high, return_index=True)
        first = first[low[first] < high[first]]
        self.edges, self.costs = np.stack([low[first], high[first]], axis=1), costs[first]
        stale = np.flatnonzero(stale[first])
        for start in range(0, len(stale), EDGES):
            part = stale[start : start + EDGES]
            a, b = self.edges[part].T
            squares = (self.centers[a] - self.centers[b]).square_().sum(1).numpy()
            self.costs[part] = squares / (1 / self.weights[a] + 1 / self.weights[b])
