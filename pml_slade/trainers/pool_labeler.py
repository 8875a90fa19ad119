"""What labels the pool of a trainer: a teacher embeds it, clustering says which images belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .. import processes
from ..checks import check_batch_size, check_int, check_map_style
from ..clustering import Clustering
from ..datasets.pseudo_label_dataset import PseudoLabelDataset
from ..exceptions import ConfigError, DataError
from .pool_reader import PoolReader

OF_EMBEDDING = ("batch_size", "progress")
"""Settings of `PoolLabeler` that stand among a trainer's cluster_kwargs."""


@dataclass(frozen=True)
class PoolLabeler:
    """Labels a pool: how it is read and embedded, into how many clusters, by which clustering, and when.

    Args:
        images: the pool, map-style.
        num_clusters: k; None where labels are given and are never made.
        label_offset: see PseudoLabelDataset.
        view: the images as they are embedded, such as under the transform for evaluation; default `images`.
        clustering: how embeddings become clusters; it has the seed.
        relabel_every: the pool is relabeled after so many epochs; 0: never.
        data_getter: see PseudoLabelDataset.
        reader: makes batches of images.
        batch_size: images embedded at once; default as suits the device, see `clustering.embed`.
        progress: show a progress bar.

    Raises:
        ConfigError: a number out of range.
        DataError: images that are not map-style, a view of another length, k out of range.

    Examples:
        >>> images = [torch.eye(4)[i // 2] for i in range(8)]
        >>> labeler = PoolLabeler(images, num_clusters=4, clustering=Clustering(), progress=False)
        >>> labeler.label(torch.nn.Identity())
        PseudoLabelDataset(8 samples in 4 pseudo-classes)
    """

    images: Any
    num_clusters: int | None = None
    label_offset: int = 0
    view: Any = None
    clustering: Clustering = field(default_factory=Clustering.plain)
    relabel_every: int = 0
    data_getter: Callable[[Any], Any] | None = None
    reader: PoolReader = field(default_factory=PoolReader)
    batch_size: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_map_style("unlabeled_dataset", self.images)
        if self.view is not None:
            check_map_style("clustering_dataset", self.view)
            if len(self.view) != len(self.images):
                raise DataError(
                    f"clustering_dataset has {len(self.view)} items and unlabeled_dataset "
                    f"{len(self.images)}: they must be the same items in the same order."
                )
        check_int("relabel_every", self.relabel_every, at_least=0)
        check_batch_size(self.batch_size)
        k = self.num_clusters
        if k is None:
            return
        if int(k) != k or k < 1:
            raise DataError(f"num_clusters must be an integer of at least 1, got {k!r}.")
        if k > len(self.images):
            raise DataError(f"num_clusters={k} is more than the pool's {len(self.images)} samples.")

    def embed(self, model: torch.nn.Module) -> np.ndarray:
        """Embed every image of the pool, in order.

        Returns:
            (N, d) float32.
        """
        images = self.images if self.view is None else self.view
        return self.reader.embed(images, model, self.data_getter, self.batch_size, self.progress)

    def label(self, teacher: torch.nn.Module) -> PseudoLabelDataset:
        """Return the pool with the labels that clustering a teacher's embeddings gives.

        Args:
            teacher: images to embeddings, (n, ...) -> (n, d). Put in eval mode for this, then back.

        Raises:
            ConfigError: num_clusters was not given.
            DataError: embeddings or clusters that cannot be used.
        """
        if self.num_clusters is None:
            raise ConfigError("num_clusters was not given: give the number of clusters to label the pool by.")
        embeddings, k = self.embed(teacher), self.num_clusters
        clusters = processes.once(lambda: self.clustering(embeddings, k))
        return PseudoLabelDataset.from_clusters(self.images, clusters, self.label_offset, self.data_getter)

    def with_labels(self, pseudo_labels: Any, label_offset: int) -> PseudoLabelDataset:
        """Return the pool with labels that were made before.

        Args:
            pseudo_labels: one per image, without offset, -1 to leave it out.
            label_offset: of these labels.
        """
        return PseudoLabelDataset(self.images, pseudo_labels, label_offset, self.data_getter)

    def is_due(self, epoch: int) -> bool:
        """Whether the pool is relabeled before this epoch; the first one is epoch 1.

        Examples:
            >>> labeler = PoolLabeler([torch.ones(2)] * 4, num_clusters=2, relabel_every=2)
            >>> [epoch for epoch in range(1, 7) if labeler.is_due(epoch)]
            [3, 5]
        """
        return self.relabel_every > 0 and epoch > 1 and (epoch - 1) % self.relabel_every == 0


def clustering_and_embedding(
    cluster_kwargs: Clustering | Mapping[str, Any] | None,
) -> tuple[Clustering, dict[str, Any]]:
    """Tell a trainer's settings of clustering from those of embedding.

    Args:
        cluster_kwargs: a Clustering, or arguments of `clustering.cluster`, among which `progress` and
            `batch_size` of embedding may stand.

    Raises:
        ConfigError: a setting that does not exist, or out of range.

    Examples:
        >>> clustering, embedding = clustering_and_embedding({"method": "ward", "progress": False})
        >>> clustering.method, embedding
        ('ward', {'progress': False})
        >>> clustering_and_embedding({"num_workers": 0})
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: cluster_kwargs: clustering has no setting num_workers; it has
        method, whitening, smooth, num_neighbours, min_cluster_size, seed, niter, nredo, normalize,
        max_points_per_centroid, max_ward_points, device. Embedding has batch_size, progress.
    """
    if isinstance(cluster_kwargs, Clustering):
        return cluster_kwargs, {}
    settings = dict(cluster_kwargs or {})
    embedding = {name: settings.pop(name) for name in OF_EMBEDDING if name in settings}
    try:
        return Clustering.plain(**settings), embedding
    except ConfigError as error:
        raise ConfigError(f"cluster_kwargs: {error} Embedding has {', '.join(OF_EMBEDDING)}.") from None
