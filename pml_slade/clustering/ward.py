"""Ward's clustering: exact, in O(N d) memory, for weighted points."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

BLOCK = 1 << 22  # costs held at once: 32 MiB, and as much for what divides them


def ward(points: np.ndarray, num_clusters: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Merge the two clusters whose merge adds least to the sum of squared distances, until k are left.

    It gives scipy's ``linkage(points, "ward")`` cut at k clusters, without its N^2 / 2 distances: all pairs
    that are each other's cheapest merge at once. A merge makes none of the others cheaper, so that the tree
    is the same (Sumengen et al., Scaling Hierarchical Agglomerative Clustering to Billion-sized Datasets,
    2021).

    Args:
        points: (N, d).
        num_clusters: k. Identical points stay together, so that fewer may come out.
        weights: (N,), how many points each stands for; default one.

    Returns:
        (N,) labels 0..k-1.

    Examples:
        >>> ward(np.array([[0.0], [5.0], [0.1], [5.2], [9.0]]), 3)
        array([0, 1, 0, 1, 2]...)
    """
    weights = np.ones(len(points)) if weights is None else weights
    distinct, which = np.unique(points, axis=0, return_inverse=True)
    which = which.ravel()
    size = len(distinct)
    edges = _cheapest_merges(
        torch.as_tensor(distinct, dtype=torch.float64),
        torch.as_tensor(np.bincount(which, weights), dtype=torch.float64),
        size - num_clusters,
    )
    return cut(edges, size)[which]


def cut(merges: np.ndarray, size: int) -> np.ndarray:
    """Return (size,) labels of points of which these pairs, (m, 2), are in one cluster."""
    tree = coo_matrix((np.ones(len(merges)), merges.T), (size, size))
    return np.asarray(connected_components(tree, directed=False)[1])


def _cheapest_merges(centers: Tensor, weights: Tensor, wanted: int) -> np.ndarray:
    """Return (wanted, 2): the merges that one merge at a time makes first, each by a point of either side."""
    if wanted <= 0:
        return np.zeros((0, 2), dtype=np.int64)
    centers = centers - centers.mean(0)  # far from the origin, differences would drown in rounding
    point, height = torch.arange(len(centers)), torch.zeros(len(centers)).double()
    cost, partner = _cheapest_partner(centers, weights, point)
    pairs, heights = [], []
    while len(centers) > 1:
        a, b = _reciprocal(cost, partner)
        height[a] = torch.maximum(cost[a], torch.maximum(height[a], height[b]))
        pairs.append(torch.stack([point[a], point[b]], dim=1))
        heights.append(height[a])
        if int((torch.cat(heights) <= cost.min()).sum()) >= wanted:
            break  # no merge to come is cheaper than this round's cheapest
        share = (weights[b] / (weights[a] + weights[b]))[:, None]
        centers[a] = torch.lerp(centers[a], centers[b], share)
        weights[a] += weights[b]
        merged, kept = torch.zeros(len(centers)).bool(), torch.ones(len(centers)).bool()
        merged[a] = merged[b] = True
        kept[b] = False
        stale = torch.nonzero((merged | merged[partner])[kept])[:, 0]
        partner = (torch.cumsum(kept, 0) - 1)[partner]
        centers, weights, point, height, cost, partner = (
            t[kept] for t in (centers, weights, point, height, cost, partner)
        )
        cost[stale], partner[stale] = _cheapest_partner(centers, weights, stale)
    order = torch.argsort(torch.cat(heights), stable=True)[:wanted]
    return torch.cat(pairs)[order].numpy()


def _cheapest_partner(centers: Tensor, weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the cheapest merge of each of these clusters adds to the sum of squares, and with whom."""
    squares, shares = (centers**2).sum(1), 1 / weights
    costs, partners = centers.new_empty(len(rows)), torch.empty_like(rows)
    # Two buffers for all blocks: allocated one by one, blocks of this size fragment the heap to gigabytes.
    buffers = centers.new_empty(2, min(max(1, BLOCK // len(centers)), len(rows)), len(centers))
    start = 0
    for part in rows.split(max(1, buffers.shape[1])):
        cost, share = buffers[:, : len(part)]
        torch.addmm(squares, centers[part], centers.T, alpha=-2, out=cost)
        cost += squares[part, None]
        cost /= torch.add(shares[part, None], shares, out=share)
        cost[torch.arange(len(part)), part] = torch.inf
        best, end = cost.min(1), start + len(part)
        costs[start:end], partners[start:end] = best.values, best.indices
        start = end
    return costs, partners


def _reciprocal(cost: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs that are each other's cheapest; where rounding hides them all, the cheapest of all."""
    own = torch.arange(len(partner))
    a = own[(partner[partner] == own) & (own < partner)]
    if len(a) == 0:
        a = cost.argmin()[None]
    return a, partner[a]
