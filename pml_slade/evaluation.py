"""How good embeddings are at retrieval, by PML's own calculator, and how sure that is."""

from collections.abc import Sequence
from statistics import mean

import faiss
import numpy as np
from scipy.stats import t as student_t

from .clustering import checked_embeddings, unit_rows, without_itself
from .compat import retrieval_accuracy
from .exceptions import DataError

BLOCK = 4096
"""Queries that are looked up at once."""


def evaluate(
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> dict[str, float]:
    """MAP@R, R-precision (RP) and P@1 of retrieval by cosine, in percent (Musgrave et al., ECCV 2020).

    Args:
        embeddings: (n, d) queries.
        labels: (n,) their true classes, as integers or as names.
        gallery: (m, d) to search in, or None to search among the queries themselves.
        gallery_labels: (m,).

    Raises:
        DataError: shapes that do not match, values that are not finite, or no class with two images.

    Examples:
        >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> evaluate(points, np.array([0, 0, 1, 1]))
        {'MAP@R': 100.0, 'RP': 100.0, 'P@1': 100.0}
    """
    query = unit_rows(checked_embeddings(embeddings))
    labels = np.asarray(labels)
    if labels.shape != (len(query),):
        raise DataError(f"labels must have shape ({len(query)},), got {labels.shape}.")
    if gallery is None:
        if np.unique(labels, return_counts=True)[1].max() < 2:
            raise DataError("labels: no class has two images, so nothing can be retrieved.")
        result = retrieval_accuracy(query, _numbers(labels))
    else:
        if gallery_labels is None or len(gallery_labels) != len(gallery):
            raise DataError("gallery_labels must hold one label per row of gallery.")
        if not np.isin(labels, gallery_labels).any():
            raise DataError("gallery_labels: no query's class is in the gallery.")
        reference = unit_rows(checked_embeddings(gallery))
        numbers = _numbers(np.concatenate([labels, np.asarray(gallery_labels)]))
        result = retrieval_accuracy(query, numbers[: len(query)], reference, numbers[len(query) :])
    return {name: 100 * value for name, value in result.items()}


def map_at_r_by_class(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """MAP@R of the queries of each class, in percent, in the order of the classes; of classes of one, none.

    Args:
        embeddings: (n, d), which are searched among themselves, by cosine.
        labels: (n,) their true classes.

    Examples:
        >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.3], [0.5, 1.0]])
        >>> map_at_r_by_class(points, np.array([0, 0, 1, 1, 2]))
        array([100.,   0.])
    """
    unit = unit_rows(checked_embeddings(embeddings))
    classes, labels, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    wanted = counts[labels] - 1
    ranks = np.arange(1, counts.max())
    totals = np.zeros(len(classes))
    for start in range(0, len(unit), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(unit)))
        _, found = index.search(unit[block], int(counts.max()))
        others = without_itself(found, block)
        hit = (labels[others] == labels[block, None]) & (ranks <= wanted[block, None])
        precision = hit.cumsum(axis=1) / ranks
        np.add.at(totals, labels[block], (precision * hit).sum(axis=1) / np.maximum(wanted[block], 1))
    several = counts > 1
    return 100 * totals[several] / counts[several]


def interval(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half width of the confidence interval of the mean (Student's t), or None for fewer than two values.

    Examples:
        >>> round(interval([1.0, 2.0, 3.0]), 2)
        2.48
    """
    n = len(values)
    if n < 2:
        return None
    center = mean(values)
    spread = (sum((v - center) ** 2 for v in values) / (n - 1)) ** 0.5
    return float(student_t.ppf((1 + confidence) / 2, n - 1) * spread / n**0.5)


def _numbers(labels: np.ndarray) -> np.ndarray:
    """A number for each class, whatever its label is."""
    numbers: np.ndarray = np.unique(labels, return_inverse=True)[1]
    return numbers
