"""How good embeddings are at retrieval, by PML's own calculator."""

import numpy as np

from .clustering import checked_embeddings, unit_rows
from .compat import retrieval_accuracy
from .exceptions import DataError


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


def _numbers(labels: np.ndarray) -> np.ndarray:
    """A number for each class, whatever its label is."""
    numbers: np.ndarray = np.unique(labels, return_inverse=True)[1]
    return numbers
