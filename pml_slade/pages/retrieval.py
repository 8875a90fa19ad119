"""What a model finds for each query, and which classes it takes for each other."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from ..clustering import checked_embeddings, unit_rows

MOST_NEIGHBOURS = 200
"""Neighbours of a query that are looked at; R counts no further."""


@dataclass(frozen=True)
class Retrieval:
    """The neighbours of n queries.

    Attributes:
        positions: (n, k) of their neighbours in the gallery, the nearest first.
        scores: (n, k) cosines.
        right: (n, k) whether a neighbour is of the query's class.
        relevant: (n,) R, how many images of its class the gallery holds.
        precision: (n,) average precision at R, from 0 to 1; NaN where R is 0.
    """

    positions: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    relevant: np.ndarray
    precision: np.ndarray


def retrieve(
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    most: int = MOST_NEIGHBOURS,
) -> Retrieval:
    """Find the neighbours of queries, and whether they are right.

    Args:
        embeddings: (n, d) of the queries.
        labels: (n,) their classes.
        gallery: (m, d) to search in; None: the queries themselves, each without itself.
        gallery_labels: (m,).
        most: neighbours that are looked at.

    Examples:
        >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> found = retrieve(points, np.array([0, 0, 0, 1]))
        >>> found.positions[:, 0].tolist(), found.precision.tolist()
        ([1, 0, 3, 2], [0.5, 0.5, 0.25, nan])
    """
    queries = unit_rows(checked_embeddings(embeddings)).astype(np.float32)
    others = queries if gallery is None else unit_rows(checked_embeddings(gallery)).astype(np.float32)
    theirs = labels if gallery_labels is None else gallery_labels
    relevant = (np.bincount(theirs, minlength=max(labels.max(), theirs.max()) + 1))[labels]
    relevant = relevant - (gallery is None)
    k = min(max(int(relevant.max()), 8), most, len(others) - (gallery is None))
    index = faiss.IndexFlatIP(others.shape[1])
    index.add(np.ascontiguousarray(others))
    scores, positions = index.search(np.ascontiguousarray(queries), k + (gallery is None))
    if gallery is None:
        scores, positions = _without_self(scores, positions)
    right = theirs[positions] == labels[:, None]
    return Retrieval(positions, scores, right, relevant, _precision(right, relevant))


def _without_self(scores: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take each query out of its own neighbours, or the last neighbour where it is not among them."""
    kept = positions != np.arange(len(positions))[:, None]
    kept[kept.all(axis=1), -1] = False
    shape = (len(positions), positions.shape[1] - 1)
    return scores[kept].reshape(shape), positions[kept].reshape(shape)


def _precision(right: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Average precision at R: the mean over the first R ranks of the precision at those that are right."""
    ranks = np.arange(1, right.shape[1] + 1)
    limit = np.minimum(relevant, right.shape[1])
    counted = right & (ranks <= limit[:, None])
    sums = (np.cumsum(right, axis=1) / ranks * counted).sum(axis=1)
    return np.where(limit > 0, sums / np.maximum(limit, 1), np.nan)


def by_class(values: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the mean of values in each class, (classes,); NaN for a class without any.

    Examples:
        >>> by_class(np.array([1.0, 0.0, np.nan]), np.array([0, 0, 1]), 2)
        array([0.5, nan])
    """
    known = ~np.isnan(values)
    counts = np.bincount(labels[known], minlength=classes)
    sums = np.bincount(labels[known], values[known], minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True)
class Confusion:
    """Two classes that are taken for each other.

    Attributes:
        first: a class.
        second: the other.
        share: of the R neighbours of their queries that are of the other class.
    """

    first: int
    second: int
    share: float


def confusions(found: Retrieval, labels: np.ndarray, theirs: np.ndarray, most: int) -> list[Confusion]:
    """Return the pairs of classes that are most often among each other's neighbours, the worst first.

    Args:
        found: the neighbours of the queries.
        labels: (n,) classes of the queries.
        theirs: (m,) classes of the gallery.
        most: pairs.

    Examples:
        >>> points = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
        >>> labels = np.array([0, 0, 1, 1])
        >>> confusions(retrieve(points, labels), labels, labels, 3)
        [Confusion(first=0, second=1, share=1.0)]
    """
    limit = np.minimum(found.relevant, found.right.shape[1])
    wrong = (np.arange(found.right.shape[1]) < limit[:, None]) & ~found.right
    rows, columns = np.nonzero(wrong)
    one, other = labels[rows], theirs[found.positions[rows, columns]]
    classes = int(max(labels.max(), theirs.max())) + 1
    pairs = np.minimum(one, other).astype(np.int64) * classes + np.maximum(one, other)
    keys, counts = np.unique(pairs, return_counts=True)
    seen = np.bincount(labels, limit, minlength=classes)
    shares = counts / np.maximum(seen[keys // classes] + seen[keys % classes], 1)
    order = np.argsort(-shares, kind="stable")[:most]
    return [
        Confusion(int(keys[i] // classes), int(keys[i] % classes), float(shares[i])) for i in order.tolist()
    ]
