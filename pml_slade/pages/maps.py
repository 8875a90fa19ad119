"""Embeddings as points of a plane, for the eye."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import faiss
import numpy as np
import torch

from ..clustering import checked_embeddings, unit_rows

FEWEST = 16
"""Points that UMAP can place; it starts from a spectral layout, which needs more points than it has axes."""
SEED = 0


def plane(embeddings: np.ndarray) -> tuple[np.ndarray, str]:
    """Place embeddings in a plane: by UMAP where umap-learn is installed, else by principal components.

    Args:
        embeddings: (N, d).

    Returns:
        (N, 2), each axis from 0 to 1, and how they were placed, for people.

    Examples:
        >>> plane(np.eye(3))[1]
        'on the first two principal components, which hold 100 % of the variance'
    """
    if len(embeddings) >= FEWEST and find_spec("umap") is not None:
        return _umap_plane(embeddings), "placed by UMAP, which keeps neighbours together"
    places, share = principal_plane(embeddings)
    return places, f"on the first two principal components, which hold {share:.0%} of the variance".replace(
        "%", " %"
    )


def _umap_plane(embeddings: np.ndarray) -> np.ndarray:
    import umap

    x = unit_rows(checked_embeddings(embeddings))
    with warnings.catch_warnings(), _threads_kept():
        warnings.simplefilter("ignore")  # one thread, as a seed needs it
        found = umap.UMAP(metric="cosine", random_state=SEED).fit_transform(x)
    return _framed(np.asarray(found, np.float64))


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Undo what numba, which UMAP is compiled by, does to the threads of torch and faiss: it asks for all."""
    of_torch, of_faiss = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        faiss.omp_set_num_threads(of_faiss)


def principal_plane(embeddings: np.ndarray) -> tuple[np.ndarray, float]:
    """Project embeddings onto their first two principal components.

    Args:
        embeddings: (N, d), brought to unit length here.

    Returns:
        (N, 2), each axis from 0 to 1, and the share of the variance that the two components hold.

    Examples:
        >>> places, share = principal_plane(np.eye(3))
        >>> places.shape, share
        ((3, 2), 1.0)
    """
    x = unit_rows(checked_embeddings(embeddings))
    x = x - x.mean(axis=0)
    _, sizes, axes = np.linalg.svd(x, full_matrices=False)
    axes = np.vstack([axes, np.zeros((2, axes.shape[1]))])[:2]
    places = x @ axes.T
    total = float((sizes**2).sum())
    share = float((sizes[:2] ** 2).sum()) / total if total else 1.0
    return _framed(places), round(share, 6)


def _framed(places: np.ndarray) -> np.ndarray:
    """Bring each axis to the range from 0 to 1."""
    low, high = places.min(axis=0), places.max(axis=0)
    framed: np.ndarray = (places - low) / np.maximum(high - low, 1e-12)
    return framed
