"""Embeddings to pseudo-labels (SLADE, stage 3)."""

from .clusters import Clusters, Method, class_means, cluster, suggest_num_clusters, suggest_num_neighbours
from .embedding import checked_embeddings, embed, unit_rows
from .smoothing import smooth
from .whitening import whiten

__all__ = [
    "Clusters",
    "Method",
    "checked_embeddings",
    "class_means",
    "cluster",
    "embed",
    "smooth",
    "suggest_num_clusters",
    "suggest_num_neighbours",
    "unit_rows",
    "whiten",
]
