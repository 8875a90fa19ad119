"""How a trainer comes to the labels of its pool: the half of SelfTrainingTrainer that clusters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction, CrossBatchMemory
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from ..clustering import class_means, embed, suggest_num_clusters
from ..datasets.pseudo_label_dataset import LEFT_OUT, PseudoLabelDataset, first_of_item
from ..exceptions import ConfigError, DataError
from ..losses import ClusterBasisLoss, FeatureBasisLoss

logger = logging.getLogger("pml_slade")


class PoolLabeling:
    """Labels the pool of a SelfTrainingTrainer, whose attributes it reads."""

    models: Any
    optimizers: Any
    loss_funcs: Any
    dataset: Any
    dataset_labels: Any
    data_device: Any
    data_and_label_getter: Any
    dataloader_num_workers: int
    unlabeled_dataset: Any
    num_clusters: int | None
    teacher: Any
    clustering_dataset: Any
    cluster_kwargs: dict[str, Any]
    relabel_every: int
    unlabeled_batch_size: int
    unlabeled_sampler: Any
    unlabeled_dataloader_iter: Any
    end_of_labeling_hook: Callable[[Any], Any] | None
    _pool_is_ready: bool

    def label_pool(self) -> None:
        """Give the pool the labels that the teacher, as it is now, finds by clustering."""
        pool = self._cluster_pool()
        logger.info("%s; %s", pool, pool.clusters)
        self._start_clusters(pool)
        self._empty_memories()
        self._use_pool(pool)
        if self.end_of_labeling_hook is not None:
            self.end_of_labeling_hook(self)

    def restore_pool(self, pseudo_labels: Tensor) -> None:
        """Go on with labels that were made before, and with clusters' vectors as they are."""
        pool = self.unlabeled_dataset
        offset = pool.label_offset if isinstance(pool, PseudoLabelDataset) else self._num_annotated()
        raw, getter = self._raw_pool()
        self._use_pool(PseudoLabelDataset(raw, pseudo_labels, offset, getter))

    def _use_pool(self, pool: PseudoLabelDataset) -> None:
        self.unlabeled_dataset = pool
        self._check_pool()
        self._pool_is_ready, self.unlabeled_dataloader_iter = True, None

    def _cluster_pool(self) -> PseudoLabelDataset:
        raw, getter = self._raw_pool()
        return PseudoLabelDataset.from_teacher(
            raw,
            self._teacher(),
            self.num_clusters or self._default_num_clusters(),
            self._num_annotated(),
            embed_dataset=self.clustering_dataset,
            data_getter=getter,
            num_workers=self.dataloader_num_workers,
            device=self.data_device,
            **self.cluster_kwargs,
        )

    def _raw_pool(self) -> tuple[Any, Callable[[Any], Any] | None]:
        """The pool without labels, and what picks the data from its items."""
        pool = self.unlabeled_dataset
        if isinstance(pool, PseudoLabelDataset):
            return pool.dataset, pool.data_getter
        own = self.data_and_label_getter is not c_f.return_input
        return pool, _DataGetter(self.data_and_label_getter) if own else None

    def _teacher(self) -> torch.nn.Module:
        return _as_module(self.models if self.teacher is None else self.teacher).to(self.data_device)

    def _start_clusters(self, pool: PseudoLabelDataset) -> None:
        """Let a loss with a vector per cluster start from the pool's centroids, and its optimizer anew.

        Of a pool that is labeled anew, vectors start from what was learned: the mean of those that the
        images of a cluster had before.
        """
        starting = self._cluster_losses()
        if not starting:
            return
        for loss in starting:
            vectors = self._learned(loss, pool) if self._pool_is_ready else self._centroids(pool)
            loss.start_from(torch.as_tensor(vectors))
            for optimizer in self.optimizers.values():
                for parameter in loss.parameters():
                    optimizer.state.pop(parameter, None)

    def _empty_memories(self) -> None:
        """Forget embeddings that a loss remembers under labels of before."""
        for part in self.loss_funcs["unlabeled_metric_loss"].modules():
            if isinstance(part, CrossBatchMemory):
                part.has_been_filled, part.queue_idx = False, 0

    def _centroids(self, pool: PseudoLabelDataset) -> np.ndarray:
        follows = self.teacher is None or isinstance(self.teacher, dict)  # it embeds as the models do
        if pool.clusters is not None and follows:
            return pool.clusters.centroids
        model = self._teacher() if follows else _as_module(self.models)
        return class_means(self._embed_pool(pool, model), pool.pseudo_labels)

    def _learned(self, loss: Any, pool: PseudoLabelDataset) -> np.ndarray:
        """Mean vectors of each cluster's images so far; the centroids where none had any."""
        before, now = self.unlabeled_dataset.pseudo_labels, pool.pseudo_labels
        vectors = loss.V.detach().cpu().numpy()[np.maximum(before, 0)]
        means = class_means(vectors, np.where(before < 0, LEFT_OUT, now))
        learned = np.zeros((now.max() + 1, means.shape[1]), np.float32)
        learned[: len(means)] = means
        unknown = ~learned.any(axis=1)
        if unknown.any():
            learned[unknown] = self._centroids(pool)[unknown]
        return learned

    def _cluster_losses(self) -> list[ClusterBasisLoss]:
        loss = self.loss_funcs["unlabeled_metric_loss"]
        return [part for part in loss.modules() if isinstance(part, ClusterBasisLoss)]

    def _embed_pool(self, pool: PseudoLabelDataset, model: torch.nn.Module) -> np.ndarray:
        return embed(
            pool.dataset if self.clustering_dataset is None else self.clustering_dataset,
            model,
            data_getter=pool.data_getter,
            num_workers=self.dataloader_num_workers,
            device=self.data_device,
            progress=self.cluster_kwargs.get("progress", True),
        )

    def _default_num_clusters(self) -> int:
        labels = self._known_labels()
        if labels is None:
            raise ConfigError(
                "num_clusters was not given, and the dataset has no `labels` or `targets` to derive it "
                "from: give num_clusters, or dataset_labels."
            )
        pool = self.unlabeled_dataset
        size = len(pool.dataset if isinstance(pool, PseudoLabelDataset) else pool)
        return suggest_num_clusters(size, len(labels) / len(np.unique(labels)))

    def _num_annotated(self) -> int:
        if "basis_loss" in self.loss_funcs:
            return int(self.loss_funcs["basis_loss"].num_classes)
        labels = self._known_labels()
        return 0 if labels is None else int(np.max(labels)) + 1

    def _known_labels(self) -> np.ndarray | None:
        for labels in (
            self.dataset_labels,
            *(getattr(self.dataset, a, None) for a in ("labels", "targets")),
        ):
            if labels is not None:
                return np.asarray(labels)
        return None

    def _check_pool(self) -> None:
        pool = self.unlabeled_dataset
        if pool is None or not hasattr(pool, "__getitem__") or not hasattr(pool, "__len__"):
            raise DataError(
                "unlabeled_dataset must be a map-style dataset or a PseudoLabelDataset, got "
                f"{type(pool).__name__}."
            )
        if len(pool) < self.unlabeled_batch_size:
            raise DataError(
                f"unlabeled_dataset has {len(pool)} samples, fewer than one batch of "
                f"{self.unlabeled_batch_size}: lower unlabeled_batch_size."
            )
        if self.relabel_every or not isinstance(pool, PseudoLabelDataset):
            self.num_clusters = self.num_clusters or self._default_num_clusters()
            self._check_num_clusters(self.num_clusters, len(self._raw_pool()[0]))
        if not isinstance(pool, PseudoLabelDataset):
            return
        if "basis_loss" not in self.loss_funcs:
            return
        num_classes = self.loss_funcs["basis_loss"].num_classes
        if pool.labels.min() < num_classes:
            raise DataError(
                f"unlabeled_dataset has pseudo-labels from {pool.labels.min()} on, which basis_loss takes "
                f"for annotated classes (num_classes={num_classes}): make the PseudoLabelDataset with "
                f"label_offset={num_classes}."
            )

    def _check_schedule(self) -> None:
        every, pool = self.relabel_every, self.unlabeled_dataset
        if int(every) != every or every < 0:
            raise ConfigError(f"relabel_every must be a whole number of epochs, or 0, got {every!r}.")
        if not every:
            return
        check_relabeling(self.loss_funcs["unlabeled_metric_loss"], every)
        if self.unlabeled_sampler is not None:
            raise ConfigError(
                "unlabeled_sampler was made for the labels that the pool has now, and relabel_every="
                f"{every} changes them: leave it out; unlabeled_images_per_class says what batches hold."
            )
        if isinstance(pool, PseudoLabelDataset) and pool.num_left_out:
            raise ConfigError(
                f"relabel_every={every} would label the {pool.num_left_out} samples that unlabeled_dataset "
                "leaves out: give a pool that does not hold them, or relabel_every=0."
            )

    def _check_cluster_losses(self) -> None:
        for loss in self._cluster_losses():
            if loss.basis is not self.loss_funcs.get("basis_loss"):
                raise ConfigError(
                    f"unlabeled_metric_loss: {type(loss).__name__} was made with a basis that is not "
                    'loss_funcs["basis_loss"], so that it would never train: give both the same one.'
                )

    def _check_num_clusters(self, num_clusters: int, pool_size: int) -> None:
        if num_clusters > pool_size:
            raise DataError(f"num_clusters={num_clusters} is more than the pool's {pool_size} samples.")
        for loss in self._cluster_losses():
            if loss.num_clusters < num_clusters:
                raise ConfigError(
                    f"num_clusters={num_clusters}, but {type(loss).__name__} was made with "
                    f"num_clusters={loss.num_clusters}: give it as many."
                )


def check_relabeling(loss: torch.nn.Module, every: int) -> None:
    """Refuse a loss that would hold on to the numbers of clusters when the pool is labeled anew.

    Raises:
        ConfigError: it has weights for each pseudo-class, and nothing that starts them anew.
    """
    for part in loss.modules():
        if not isinstance(part, BaseMetricLossFunction):
            continue  # a distance's weights are no class's
        if isinstance(part, (FeatureBasisLoss, ClusterBasisLoss)):
            continue  # these have weights of annotated classes, and such as the trainer starts anew
        if any(p.numel() > 1 for p in part.parameters(recurse=False)):
            raise ConfigError(
                f"relabel_every={every} numbers the pseudo-classes anew, and the pool's loss "
                f"{type(part).__name__} learns weights for each: give relabel_every=0, or a loss "
                "without, such as ContrastiveLoss()."
            )


class _DataGetter:
    """A PML data_and_label_getter, applied to one item and asked for the data only."""

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self.getter = getter

    def __call__(self, item: Any) -> Any:
        return first_of_item(self.getter(item))


def _as_module(teacher: Any) -> torch.nn.Module:
    """Trunk and embedder of a dictionary as one module; a module as it is."""
    if isinstance(teacher, torch.nn.Module):
        return teacher
    return torch.nn.Sequential(*(teacher[k] for k in ("trunk", "embedder") if k in teacher))
