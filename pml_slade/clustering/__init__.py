"""Embeddings to pseudo-labels (SLADE, stage 3)."""

from .clustering import Clustering, Method, cluster
from .clusters import Clusters, class_means, suggest_num_clusters, suggest_num_neighbours
from .embedding import checked_embeddings, embed, unit_rows
from .smoothing import smooth
from .whitening import whiten

__all__ = [
    "Clustering",
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
