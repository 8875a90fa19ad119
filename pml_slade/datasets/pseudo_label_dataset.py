"""A pool with pseudo-labels in place of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..checks import check_map_style
from ..clustering import Clustering, Clusters, embed
from ..exceptions import ConfigError, DataError

LEFT_OUT = -1
LARGEST = np.iinfo(np.int64).max


class PseudoLabelDataset(torch.utils.data.Dataset[tuple[Any, int]]):
    """Wraps any map-style dataset and yields ``(data, pseudo_label + label_offset)``.

    The wrapped dataset's own labels never come out. Samples with pseudo-label -1 are left out: they are
    not counted by ``len`` and not reachable by index.

    Args:
        dataset: map-style; its items are ``(data, ...)`` or the data alone.
        pseudo_labels: one integer per item of `dataset`, -1 to leave the item out.
        label_offset: added to every pseudo-label. FeatureBasisLoss takes labels below its
            ``num_classes`` for annotated ones, so give that number.
        data_getter: picks the data from an item of `dataset`; default the first of a tuple or list,
            else the item itself.
        reason: why samples were left out, for people to read.

    Attributes:
        labels: int64 array, the label of each reachable item; feeds PML's samplers.
        num_left_out: how many samples were left out.
        clusters: the clustering it came from, where `from_teacher` made it, else None.

    Raises:
        DataError: a dataset that is not map-style; labels of the wrong length or type, below -1, or so large
            that int64 cannot hold them with the offset; nothing left; a bad offset.

    Examples:
        >>> images = [("img0", 7), ("img1", 7), ("img2", 9)]
        >>> pool = PseudoLabelDataset(images, [1, -1, 0], label_offset=100)
        >>> [pool[i] for i in range(len(pool))]
        [('img0', 101), ('img2', 100)]
        >>> print(pool.num_left_out, pool.labels)
        1 [101 100]
    """

    def __init__(
        self,
        dataset: Any,
        pseudo_labels: Sequence[int] | np.ndarray | torch.Tensor,
        label_offset: int = 0,
        data_getter: Callable[[Any], Any] | None = None,
        reason: str = "their pseudo-label is -1",
    ) -> None:
        check_map_style("dataset", dataset)
        if not isinstance(label_offset, (int, np.integer)) or label_offset < 0:
            raise DataError(f"label_offset must be an integer >= 0, got {label_offset!r}.")
        labels = _checked_labels(dataset, pseudo_labels, int(label_offset))
        self.dataset = dataset
        self.label_offset = int(label_offset)
        self.data_getter = data_getter or first_of_item
        self.reason = reason
        self.indices = np.flatnonzero(labels != LEFT_OUT)
        self.labels = labels[self.indices] + self.label_offset
        self.num_left_out = len(labels) - len(self.indices)
        self.clusters: Clusters | None = None

    @classmethod
    def from_teacher(
        cls,
        dataset: Any,
        teacher: torch.nn.Module,
        num_clusters: int,
        label_offset: int = 0,
        *,
        embed_dataset: Any = None,
        data_getter: Callable[[Any], Any] | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        batch_size: int = 128,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        num_workers: int = 0,
        progress: bool = True,
        clustering: Clustering | None = None,
        **cluster_kwargs: Any,
    ) -> PseudoLabelDataset:
        """Embed `dataset` with a teacher, cluster it, and label it (SLADE, stage 3).

        Args:
            dataset: the pool.
            teacher: images to embeddings, (n, ...) -> (n, d). Put in eval mode for this, then back.
            num_clusters: k.
            label_offset: as in the constructor.
            embed_dataset: the same items under the transform used for evaluation; default `dataset`.
            data_getter: as in the constructor.
            collate_fn: makes a batch to embed of the items' data; default PyTorch's own.
            batch_size: images embedded at once.
            device: where the teacher runs; default where its parameters are.
            dtype: data are cast to it before they are embedded; None leaves them as they are.
            num_workers: of the data loader.
            progress: show a progress bar.
            clustering: how the embeddings are clustered; ``Clustering()`` does it as the preset `best`.
            cluster_kwargs: in place of `clustering`, arguments of `clustering.cluster` (method, seed,
                min_cluster_size, ...). Without either, k-means as it stands there.

        Raises:
            ConfigError: settings of clustering that do not exist or are out of range.
            DataError: k above the pool, embeddings that are not finite, and whatever the constructor
                refuses.

        Examples:
            >>> images = [torch.full((2,), float(i > 1)) for i in range(4)]
            >>> pool = PseudoLabelDataset.from_teacher(
            ...     images, torch.nn.Linear(2, 2), num_clusters=2, progress=False)
            >>> bool(pool.labels[0] == pool.labels[1] != pool.labels[2] == pool.labels[3])
            True
        """
        if clustering is not None and cluster_kwargs:
            raise ConfigError(f"clustering was given, so {', '.join(cluster_kwargs)} would not be looked at.")
        clustering = Clustering.plain(**cluster_kwargs) if clustering is None else clustering
        source = dataset if embed_dataset is None else embed_dataset
        check_map_style("dataset", dataset)
        check_map_style("embed_dataset", source)
        if len(source) != len(dataset):
            raise DataError(
                f"embed_dataset has {len(source)} items and dataset {len(dataset)}: they must be the "
                "same items in the same order."
            )
        embeddings = embed(
            source,
            teacher,
            data_getter=data_getter or first_of_item,
            collate_fn=collate_fn,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            num_workers=num_workers,
            progress=progress,
        )
        return cls.from_clusters(dataset, clustering(embeddings, num_clusters), label_offset, data_getter)

    @classmethod
    def from_clusters(
        cls,
        dataset: Any,
        clusters: Clusters,
        label_offset: int = 0,
        data_getter: Callable[[Any], Any] | None = None,
    ) -> PseudoLabelDataset:
        """Label `dataset` by a clustering of its embeddings.

        Args:
            dataset: the pool.
            clusters: of an embedding per item of `dataset`, in its order.
            label_offset: as in the constructor.
            data_getter: as in the constructor.

        Raises:
            DataError: whatever the constructor refuses.

        Examples:
            >>> from pml_slade.clustering import cluster
            >>> clusters = cluster(np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), num_clusters=2)
            >>> pool = PseudoLabelDataset.from_clusters(["a", "b", "a"], clusters)
            >>> bool(pool.labels[0] == pool.labels[2] != pool.labels[1])
            True
        """
        pool = cls(dataset, clusters.labels, label_offset, data_getter, reason=clusters.left_out_reason)
        pool.clusters = clusters
        return pool

    @property
    def pseudo_labels(self) -> np.ndarray:
        """As the constructor takes them: one per item of `dataset`, no offset, -1 where left out."""
        labels = np.full(len(self.dataset), LEFT_OUT, dtype=np.int64)
        labels[self.indices] = self.labels - self.label_offset
        return labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} samples")
        return self.data_getter(self.dataset[int(self.indices[index])]), int(self.labels[index])

    def __repr__(self) -> str:
        text = f"{len(self)} samples in {len(np.unique(self.labels))} pseudo-classes"
        if self.num_left_out:
            text += f", {self.num_left_out} left out: {self.reason}"
        return f"PseudoLabelDataset({text})"


def first_of_item(item: Any) -> Any:
    """Return the data of a dataset's item: the first of a tuple or list, else the item itself.

    Examples:
        >>> first_of_item(("image", 3)), first_of_item("image")
        ('image', 'image')
    """
    if isinstance(item, Mapping):
        raise DataError(
            f"dataset items are mappings with keys {sorted(map(str, item))}: give data_getter, such as "
            "operator.itemgetter('image'), so that no label slips through."
        )
    return item[0] if isinstance(item, (tuple, list)) else item


def _checked_labels(
    dataset: Any, pseudo_labels: Sequence[int] | np.ndarray | torch.Tensor, label_offset: int
) -> np.ndarray:
    labels = np.asarray(pseudo_labels.cpu() if torch.is_tensor(pseudo_labels) else pseudo_labels)
    if labels.ndim != 1 or len(labels) != len(dataset):
        raise DataError(
            f"pseudo_labels must be one integer per sample: got shape {labels.shape} for a dataset of "
            f"{len(dataset)} samples."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"pseudo_labels must be integers, got {labels.dtype}; cluster ids, for example.")
    if len(labels) == 0 or labels.max() < 0:
        raise DataError("pseudo_labels leave no sample to train on: all are -1 or there are none.")
    if labels.min() < LEFT_OUT:
        raise DataError(f"pseudo_labels must be >= -1 (-1: left out), got {labels.min()}.")
    if int(labels.max()) + label_offset > LARGEST:
        raise DataError(
            f"pseudo_labels must fit into int64 with label_offset={label_offset}, got {labels.max()}: number "
            "the clusters from 0."
        )
    return labels.astype(np.int64)
