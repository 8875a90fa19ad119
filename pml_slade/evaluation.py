"""How good embeddings are at retrieval, in blocks of bounded memory, and how sure that is."""

from collections.abc import Sequence
from statistics import mean

import numpy as np
import torch
from scipy.special import stdtrit

from .clustering import checked_embeddings, unit_rows
from .clustering.neighbours import MEMORY, Neighbours, blocks
from .exceptions import DataError

FIGURES = ("MAP@R", "RP", "P@1")


def evaluate(
    embeddings: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    *,
    device: torch.device | str = "cpu",
    memory: int = MEMORY,
) -> dict[str, float]:
    """MAP@R, R-precision (RP) and P@1 of retrieval by cosine, in percent (Musgrave et al., ECCV 2020).

    They are those of PML's AccuracyCalculator, computed for a block of queries at a time. Queries whose class
    has no other image do not count.

    Args:
        embeddings: (n, d) queries.
        labels: (n,) their true classes, as integers or as names.
        gallery: (m, d) to search in, or None to search among the queries themselves.
        gallery_labels: (m,).
        device: that searches.
        memory: bytes that a block of queries takes, about, beside the embeddings.

    Raises:
        DataError: shapes that do not match, values that are not finite, or no class with two images.

    Examples:
        >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> evaluate(points, np.array([0, 0, 1, 1]))
        {'MAP@R': 100.0, 'RP': 100.0, 'P@1': 100.0}
    """
    query = _unit(embeddings)
    labels = np.asarray(labels)
    if labels.shape != (len(query),):
        raise DataError(f"labels must have shape ({len(query)},), got {labels.shape}.")
    if gallery is None:
        if np.unique(labels, return_counts=True)[1].max() < 2:
            raise DataError("labels: no class has two images, so nothing can be retrieved.")
        figures, wanted = _by_query(query, _numbers(labels), device=device, memory=memory)
    else:
        if gallery_labels is None or len(gallery_labels) != len(gallery):
            raise DataError("gallery_labels must hold one label per row of gallery.")
        if not np.isin(labels, gallery_labels).any():
            raise DataError("gallery_labels: no query's class is in the gallery.")
        numbers = _numbers(np.concatenate([labels, np.asarray(gallery_labels)]))
        own, others = numbers[: len(query)], numbers[len(query) :]
        figures, wanted = _by_query(query, own, _unit(gallery), others, device, memory)
    return dict(zip(FIGURES, (100 * figures[wanted > 0].mean(axis=0)).tolist()))


def map_at_r_by_class(
    embeddings: np.ndarray, labels: np.ndarray, *, device: torch.device | str = "cpu"
) -> np.ndarray:
    """MAP@R of the queries of each class, in percent, in the order of the classes; of classes of one, none.

    Args:
        embeddings: (n, d), which are searched among themselves, by cosine.
        labels: (n,) their true classes.
        device: that searches.

    Examples:
        >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.3], [0.5, 1.0]])
        >>> map_at_r_by_class(points, np.array([0, 0, 1, 1, 2]))
        array([100.,   0.])
    """
    numbers = _numbers(np.asarray(labels))
    figures, _ = _by_query(_unit(embeddings), numbers, device=device)
    counts = np.bincount(numbers)
    several = counts > 1
    totals = np.bincount(numbers, figures[:, FIGURES.index("MAP@R")])
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
    return float(stdtrit(n - 1, (1 + confidence) / 2) * spread / n**0.5)


def _by_query(
    query: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    memory: int = MEMORY,
) -> tuple[np.ndarray, np.ndarray]:
    """FIGURES of each query, (n, 3), and how many images of its class it could find, (n,)."""
    among_themselves = gallery is None
    neighbours = Neighbours(query if gallery is None else gallery, device)
    others = labels if gallery_labels is None else gallery_labels
    wanted = np.bincount(others, minlength=int(labels.max()) + 1)[labels] - among_themselves
    figures = np.zeros((len(query), len(FIGURES)))
    for block in blocks(wanted, neighbours, memory):
        most = int(wanted[block[0]])
        if among_themselves:
            found = neighbours.others(block, most)
        else:
            found = neighbours.search(query[block], most)[1]
        figures[block] = _figures(others[found] == labels[block, None], wanted[block])
    return figures, wanted


def _figures(same: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """FIGURES of queries, (n, 3), from whether their neighbours are of their class, (n, k), nearest first."""
    ranks = np.arange(1, same.shape[1] + 1, dtype=np.float32)
    hit = same & (ranks <= wanted[:, None])
    precision = hit.cumsum(axis=1, dtype=np.float32)
    right = precision[:, -1].astype(np.float64)
    precision /= ranks
    precision *= hit
    sums = precision.sum(axis=1, dtype=np.float64)
    return np.stack([sums / wanted, right / wanted, same[:, 0]], axis=1)


def _unit(embeddings: np.ndarray) -> np.ndarray:
    return unit_rows(checked_embeddings(embeddings))


def _numbers(labels: np.ndarray) -> np.ndarray:
    """A number for each class, whatever its label is."""
    numbers: np.ndarray = np.unique(labels, return_inverse=True)[1]
    return numbers
