"""Embeddings to pseudo-labels (SLADE, stage 3)."""

from typing import TYPE_CHECKING

from ..lazy import names_of
from .settings import ClusteringSettings, Method

if TYPE_CHECKING:
    from .clustering import Clustering, cluster
    from .clusters import Clusters, class_means, suggest_num_clusters, suggest_num_neighbours
    from .embedding import checked_embeddings, embed, unit_rows, without_itself
    from .smoothing import smooth
    from .whitening import whiten

__all__ = [
    "Clustering",
    "ClusteringSettings",
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
    "without_itself",
]

__getattr__, __dir__ = names_of(
    __name__,
    {
        "Clustering": "clustering",
        "Clusters": "clusters",
        "checked_embeddings": "embedding",
        "class_means": "clusters",
        "cluster": "clustering",
        "embed": "embedding",
        "smooth": "smoothing",
        "suggest_num_clusters": "clusters",
        "suggest_num_neighbours": "clusters",
        "unit_rows": "embedding",
        "whiten": "whitening",
        "without_itself": "embedding",
    },
)
