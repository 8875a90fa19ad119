"""One student stage of SLADE as a PML trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from ..checks import check_int, check_map_style
from ..clustering import Clustering, class_means
from ..datasets.pseudo_label_dataset import PseudoLabelDataset, first_of_item
from ..exceptions import ConfigError, DataError
from ..losses import ClusterBasisLoss
from ..numerics import Computing
from .annotated import clusters_like_classes, first_free_label, known_labels
from .checks import (
    check_cluster_losses,
    check_num_clusters,
    check_offset,
    check_optimizers,
    check_relabeled_pool,
    check_relabeling,
    with_default_weights,
    with_unlabeled_loss,
)
from .cluster_vectors import cluster_losses, forget_memories, learned_vectors, start_vectors
from .pool_labeler import PoolLabeler, clustering_and_embedding
from .pool_reader import Collate, PoolReader, kept_of
from .state import StatefulTrainer

logger = logging.getLogger("pml_slade")


class SelfTrainingTrainer(StatefulTrainer):
    """Trains a student on labeled and pseudo-labeled images and a feature basis, jointly (SLADE, Eq. 9).

    ``L = L_rank(labeled) + lambda1 * L_rank(unlabeled) + lambda2 * L_Basis(both)``, with one forward pass
    a step over both halves of the batch. All else is PML's BaseTrainer: its hooks, samplers, schedulers,
    `freeze_these`, `collate_fn`, `dtype` and `data_and_label_getter`.

    The pool is read by the rules for the labeled images, to embed it and to train on it: its items go
    through `collate_fn`, its batches through `data_and_label_getter`, and data become `dtype`. Items that are
    data alone come to `collate_fn` as pairs (data, label). The pool's own functions go first where there are
    any: `unlabeled_collate_fn`, and a PseudoLabelDataset's `data_getter`, whose pairs (data, label) need no
    `data_and_label_getter`. Where a collate function pads each batch to a length of its own, the two halves
    go through the models one after the other.

    Args:
        models: ``trunk`` and, unless the trunk embeds by itself, ``embedder``; they start as they come.
        optimizers: for the models, and ``basis_loss_optimizer`` for the basis.
        batch_size: labeled images a step.
        loss_funcs: ``metric_loss`` (any PML loss); optional ``unlabeled_metric_loss`` (default: the
            same) and ``basis_loss`` (a FeatureBasisLoss; without it this is plain pseudo-labeling).
        dataset: labeled, map-style.
        unlabeled_dataset: the pool. A PseudoLabelDataset is used as it is, anything else is labeled by
            the teacher before the first step.
        num_clusters: k for a raw pool; default: as many images a cluster as a labeled class has.
        teacher: embeds a raw pool: one module, or a dict like `models`. Default: the models as they come.
            The `models` of a ModelAverage that follows in training make for better labels. A dict is taken
            to embed as the models do, a module is not: clusters' vectors then start from the models' means.
        clustering_dataset: the raw pool under the transform used for evaluation; default the pool as is.
        clustering_collate_fn: makes batches of `clustering_dataset`. Default: what makes batches of the pool,
            or its attribute `plain` if it has one, as collate functions of this package have that augment.
        cluster_kwargs: a `clustering.Clustering` (``Clustering()`` clusters as the preset `best`). Or
            arguments of `clustering.cluster`, which is k-means by default, and `progress` or `batch_size` of
            embedding.
        relabel_every: relabel the pool after so many epochs; 0: never. The teacher should be one that
            learns meanwhile.
        unlabeled_batch_size: unlabeled images a step; default `batch_size`.
        unlabeled_images_per_class: of a pseudo-class in a batch; None shuffles the pool, for losses that
            do not look at pairs.
        unlabeled_sampler: draws indices of `unlabeled_dataset`. Images of a raw pool that clustering leaves
            out are skipped. Default: PML's MPerClassSampler, or shuffling where there are too few
            pseudo-classes to fill a batch.
        unlabeled_collate_fn: makes batches of the pool; default `collate_fn`.
        end_of_labeling_hook: called with the trainer when it has labeled the pool.
        basis_warmup: for so many iterations the basis alone is trained, on detached embeddings.
        mining_funcs: ``tuple_miner`` for labeled pairs, ``unlabeled_miner`` for unlabeled ones.
        loss_weights: any of the three; the others keep lambda1 = 1, lambda2 = 0.25.
        kwargs: everything else that PML's BaseTrainer takes.

    Attributes:
        unlabeled_dataset: the pool as it was given.
        pool: the PseudoLabelDataset that is trained on; None until a raw pool has been labeled.
        labeler: the PoolLabeler that labels the pool.

    Raises:
        ConfigError: losses, miners, optimizers or sizes that do not fit each other.
        DataError: labeled images or a pool that cannot be used, or pseudo-labels that collide with the true
            ones.
        DivergedError: in training, a loss or an embedding that is not finite; the weights are those before
            that step.

    Examples:
        >>> from pytorch_metric_learning.losses import ContrastiveLoss
        >>> from pml_slade import FeatureBasisLoss
        >>> images = [(torch.randn(4) + 3 * (i % 2), i % 2) for i in range(16)]
        >>> models = {"trunk": torch.nn.Linear(4, 3)}
        >>> basis = FeatureBasisLoss(num_classes=2, embedding_size=3)
        >>> trainer = SelfTrainingTrainer(
        ...     models,
        ...     {"trunk_optimizer": torch.optim.SGD(models["trunk"].parameters(), lr=0.01),
        ...      "basis_loss_optimizer": torch.optim.SGD(basis.parameters(), lr=0.01)},
        ...     batch_size=8,
        ...     loss_funcs={"metric_loss": ContrastiveLoss(), "basis_loss": basis},
        ...     dataset=images,
        ...     unlabeled_dataset=[x for x, _ in images],
        ...     num_clusters=2,
        ...     dataloader_num_workers=0,
        ... )
        >>> trainer.train(num_epochs=1)
        >>> trainer.pool
        PseudoLabelDataset(16 samples in 2 pseudo-classes)
    """

    dataloader_iter: Any

    extra_loss_keys = ("unlabeled_metric_loss", "basis_loss")
    extra_mining_keys = ("unlabeled_miner",)

    def __init__(
        self,
        models: dict[str, torch.nn.Module],
        optimizers: dict[str, torch.optim.Optimizer],
        batch_size: int,
        loss_funcs: dict[str, torch.nn.Module],
        dataset: Any,
        unlabeled_dataset: Any,
        num_clusters: int | None = None,
        teacher: torch.nn.Module | dict[str, torch.nn.Module] | None = None,
        *,
        clustering_dataset: Any = None,
        clustering_collate_fn: Collate | None = None,
        cluster_kwargs: Clustering | Mapping[str, Any] | None = None,
        relabel_every: int = 0,
        unlabeled_batch_size: int | None = None,
        unlabeled_images_per_class: int | None = 4,
        unlabeled_sampler: Any = None,
        unlabeled_collate_fn: Collate | None = None,
        end_of_labeling_hook: Callable[[SelfTrainingTrainer], Any] | None = None,
        basis_warmup: int = 0,
        mining_funcs: dict[str, Any] | None = None,
        loss_weights: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        check_int("batch_size", batch_size, at_least=1)
        check_int("basis_warmup", basis_warmup, at_least=0)
        for name, size in (
            ("unlabeled_batch_size", unlabeled_batch_size),
            ("unlabeled_images_per_class", unlabeled_images_per_class),
        ):
            if size is not None:
                check_int(name, size, at_least=1)
        self.unlabeled_dataset = unlabeled_dataset
        self.teacher = teacher
        self.unlabeled_batch_size = batch_size if unlabeled_batch_size is None else unlabeled_batch_size
        self.unlabeled_images_per_class = unlabeled_images_per_class
        self.unlabeled_sampler = unlabeled_sampler
        self.unlabeled_collate_fn = unlabeled_collate_fn
        self.clustering_collate_fn = clustering_collate_fn
        self.end_of_labeling_hook = end_of_labeling_hook
        self.basis_warmup = basis_warmup
        self.unlabeled_dataloader_iter: Any = None
        self._vectors_started, self._epoch_begun = False, 0
        loss_funcs = with_unlabeled_loss(loss_funcs)
        super().__init__(
            models=dict(models),
            optimizers=optimizers,
            batch_size=batch_size,
            loss_funcs=loss_funcs,
            dataset=dataset,
            mining_funcs=mining_funcs,
            loss_weights=with_default_weights(loss_funcs, loss_weights),
            **kwargs,
        )
        if basis_warmup and not self._weighs("basis_loss"):
            raise ConfigError(
                f"basis_warmup={basis_warmup}, but there is no basis_loss to warm up, or its weight is 0."
            )
        check_optimizers(self)
        check_cluster_losses(self._cluster_losses(), self.loss_funcs.get("basis_loss"))
        given = unlabeled_dataset if isinstance(unlabeled_dataset, PseudoLabelDataset) else None
        self.pool: PseudoLabelDataset | None = given
        self.labeler = self._build_labeler(num_clusters, clustering_dataset, cluster_kwargs, relabel_every)
        self._check_size(len(unlabeled_dataset))
        if given is None or relabel_every:
            check_num_clusters(self.labeler.num_clusters, self._cluster_losses())
        if relabel_every:
            check_relabeling(self.loss_funcs["unlabeled_metric_loss"], relabel_every)
            check_relabeled_pool(given, unlabeled_sampler, relabel_every)
        if given is not None:
            check_offset(given, self.loss_funcs.get("basis_loss"))
        for part in (*self.loss_funcs.values(), *self.mining_funcs.values()):
            if isinstance(part, torch.nn.Module):
                part.to(self.data_device)

    # How the pool gets its labels

    def label_pool(self) -> None:
        """Give the pool the labels that the teacher, as it is now, finds by clustering."""
        pool = self.labeler.label(self._teacher())
        logger.info("%s; %s", pool, pool.clusters)
        self._start_vectors(pool)
        forget_memories(self.loss_funcs["unlabeled_metric_loss"])
        self._use_pool(pool)
        if self.end_of_labeling_hook is not None:
            self.end_of_labeling_hook(self)

    def restore_pool(self, pseudo_labels: Any, label_offset: int | None = None) -> None:
        """Go on with labels that were made before, and with clusters' vectors as they are.

        Args:
            pseudo_labels: one per image of the pool, without offset, -1 to leave it out.
            label_offset: default: that of the labels the pool has, or would get.
        """
        if label_offset is None:
            label_offset = self.labeler.label_offset if self.pool is None else self.pool.label_offset
        pool = self.labeler.with_labels(pseudo_labels, label_offset)
        before = self.pool if self.pool is not None and self.pool.label_offset == label_offset else None
        if before is not None and np.array_equal(before.pseudo_labels, pool.pseudo_labels):
            pool = before  # it may know more, such as why images were left out
        self._use_pool(pool)

    def _build_labeler(
        self, num_clusters: int | None, view: Any, cluster_kwargs: Any, relabel_every: int
    ) -> PoolLabeler:
        images, data_getter = self.unlabeled_dataset, None
        if self.pool is not None:
            images = self.pool.dataset
            data_getter = None if self.pool.data_getter is first_of_item else self.pool.data_getter
        clustering, embedding = clustering_and_embedding(cluster_kwargs)
        labels = known_labels(self.dataset, self.dataset_labels, self.label_hierarchy_level)
        basis = self.loss_funcs.get("basis_loss")
        offset = first_free_label(labels, self.set_min_label_to_zero) if basis is None else basis.num_classes
        check_map_style("unlabeled_dataset", images)
        return PoolLabeler(
            images=images,
            num_clusters=clusters_like_classes(labels, len(images)) if num_clusters is None else num_clusters,
            label_offset=offset,
            view=view,
            clustering=clustering,
            relabel_every=relabel_every,
            data_getter=data_getter,
            reader=self._build_reader(data_getter),
            **embedding,
        )

    def _build_reader(self, data_getter: Any) -> PoolReader:
        """Who reads the pool: a pool that brings a function of its own for it gives pairs (data, label)."""
        own = self.pool is not None and (data_getter is not None or self.unlabeled_collate_fn is not None)
        pairs = own or self.data_and_label_getter is c_f.return_input
        return PoolReader(
            getter=None if pairs else self.data_and_label_getter,
            or_pairs=self.pool is not None,
            collate_fn=self.unlabeled_collate_fn or self.collate_fn,
            embedding_collate_fn=self._embedding_collate(),
            device=self.data_device,
            dtype=self.dtype,
            num_workers=self.dataloader_num_workers,
        )

    def _embedding_collate(self) -> Collate | None:
        return self.clustering_collate_fn or plain_collate(self.unlabeled_collate_fn or self.collate_fn)

    def _teacher(self) -> torch.nn.Module:
        teacher = _as_module(self.models if self.teacher is None else self.teacher)
        return Computing(teacher.to(self.data_device), self.numerics)

    def _use_pool(self, pool: PseudoLabelDataset) -> None:
        self._check_size(len(pool))
        check_offset(pool, self.loss_funcs.get("basis_loss"))
        self.pool = pool
        self._vectors_started, self.unlabeled_dataloader_iter = True, None

    def _cluster_losses(self) -> list[ClusterBasisLoss]:
        return cluster_losses(self.loss_funcs["unlabeled_metric_loss"])

    def _start_vectors(self, pool: PseudoLabelDataset) -> None:
        """Let a loss with a vector per cluster start from the pool's centroids.

        When the pool is relabeled, vectors start from what was learned.
        """
        for loss in self._cluster_losses():
            vectors = self._learned(loss, pool) if self._vectors_started else self._centroids(pool)
            start_vectors(loss, vectors, self.optimizers.values())

    def _centroids(self, pool: PseudoLabelDataset) -> np.ndarray:
        follows = self.teacher is None or isinstance(self.teacher, dict)  # it embeds as the models do
        if pool.clusters is not None and follows:
            return pool.clusters.centroids
        model = self._teacher() if follows else Computing(_as_module(self.models), self.numerics)
        return class_means(self.labeler.embed(model), pool.pseudo_labels)

    def _learned(self, loss: ClusterBasisLoss, pool: PseudoLabelDataset) -> np.ndarray:
        assert self.pool is not None  # vectors have started
        learned = learned_vectors(loss, self.pool.pseudo_labels, pool.pseudo_labels)
        unknown = ~learned.any(axis=1)
        if unknown.any():
            learned[unknown] = self._centroids(pool)[unknown]
        return learned

    # Steps

    def initialize_dataloader(self) -> None:
        """Make the labeled loader; a raw pool gets its pseudo-labels here, before the first step."""
        if self.sampler is None and len(self.dataset) < self.batch_size:
            raise DataError(
                f"dataset has {len(self.dataset)} samples, fewer than one batch of {self.batch_size}, so "
                "that nothing would be trained: lower batch_size."
            )
        if self.pool is None:
            self.label_pool()
        elif not self._vectors_started:
            self._start_vectors(self.pool)
            self._vectors_started = True
        super().initialize_dataloader()
        if not self.iterations_per_epoch:
            raise _no_batch("dataset", "sampler", self.batch_size)
        self.unlabeled_dataloader_iter = None

    def train(self, start_epoch: int = 1, num_epochs: int = 1) -> None:
        """Train as PML's trainers do; an epoch that was trained before begins again."""
        self._epoch_begun = 0
        super().train(start_epoch, num_epochs)

    def set_to_train(self) -> None:
        """Begin an epoch: relabel the pool where that is due."""
        epoch = getattr(self, "epoch", 0)  # it is not there before training: somebody takes steps by hand
        if self._epoch_begun != epoch:  # this is also called within epochs, by batch mining
            self._epoch_begun = epoch
            self._begin_epoch()
        super().set_to_train()

    def _begin_epoch(self) -> None:
        if self.labeler.is_due(self.epoch):
            self.label_pool()

    def get_batch(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return a labeled and an unlabeled batch.

        Raises:
            DataError: a sampler that gives no batch, images of two sizes.
        """
        if self.unlabeled_dataloader_iter is None:
            self._load_pool()
        try:
            labeled = self._labeled_batch()
        except StopIteration:
            raise _no_batch("dataset", "sampler", self.batch_size) from None
        try:
            self.unlabeled_dataloader_iter, batch = c_f.try_next_on_generator(
                self.unlabeled_dataloader_iter, self.unlabeled_dataloader
            )
        except StopIteration:
            raise _no_batch("unlabeled_dataset", "unlabeled_sampler", self.unlabeled_batch_size) from None
        data, pseudo_labels = self.labeler.reader.data_and_labels(batch)
        self._check_shapes(labeled[0], data)
        return labeled, (data, self.labels_of_all(pseudo_labels, self.unlabeled_batch_size))

    def calculate_loss(self, curr_batch: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        """Compute the three terms of Eq. 9.

        Labels stay where the loader left them, as in PML's trainers: there they can be looked at without
        waiting for the device.
        """
        (data, labels), (pool_data, pool_labels) = curr_batch
        joint = self._joint_embeddings(data, pool_data)
        self.finite.embeddings(self, joint)
        warming_up = self.get_global_iteration() < self.basis_warmup
        # The basis goes first: an unlabeled miner reads the statistics that it updates.
        if self._weighs("basis_loss"):
            self._check_labels(labels)
            self.losses["basis_loss"] = self.loss_funcs["basis_loss"](
                joint.detach() if warming_up else joint, torch.cat([labels, pool_labels])
            )
        # While the basis warms up the others are measured, not trained: hooks record all losses at each step.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not warming_up):
            embeddings, pool_embeddings = joint[: len(labels)], joint[len(labels) :]
            if self._weighs("metric_loss"):
                pairs = self.maybe_mine_embeddings(embeddings, labels)
                self.losses["metric_loss"] = self.loss_funcs["metric_loss"](embeddings, labels, pairs)
            if self._weighs("unlabeled_metric_loss"):
                self.losses["unlabeled_metric_loss"] = self.unlabeled_loss(pool_embeddings, pool_labels)

    def unlabeled_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the pool's term of Eq. 9, before its weight."""
        pairs = None
        if "unlabeled_miner" in self.mining_funcs:
            pairs = self.mining_funcs["unlabeled_miner"](embeddings, labels)
            if all(len(index) == 0 for index in pairs):
                # Some losses read "no pair" as "no preference"; here it means nothing to learn from. The
                # loss is called all the same, since what hooks record of it begins with its first call.
                with torch.no_grad():
                    self.loss_funcs["unlabeled_metric_loss"](embeddings, labels, pairs)
                return embeddings.sum() * 0
        loss: Tensor = self.loss_funcs["unlabeled_metric_loss"](embeddings, labels, pairs)
        return loss

    def _weighs(self, name: str) -> bool:
        return name in self.loss_funcs and self.loss_weights[name] > 0

    def metrics(self) -> dict[str, float | Tensor]:
        """Return similarity statistics of the basis, and how many pairs of the pool were mined.

        Returns:
            ``mu_pos`` and ``mu_neg`` (Eq. 6) of a basis with a regulariser; ``mined_pos`` and ``mined_neg``,
            pairs of the last step, of an unlabeled miner that counts them.
        """
        values: dict[str, float | Tensor] = {}
        basis = self.loss_funcs.get("basis_loss")
        if basis is not None and basis.regularizer is not None:
            values |= {"mu_pos": basis.pos_mean.clone(), "mu_neg": basis.neg_mean.clone()}
        miner = self.mining_funcs.get("unlabeled_miner")
        if hasattr(miner, "num_pos_pairs") and hasattr(miner, "num_neg_pairs"):
            values |= {"mined_pos": float(miner.num_pos_pairs), "mined_neg": float(miner.num_neg_pairs)}
        return values

    def get_extra_state(self) -> dict[str, Any]:
        """The pool's labels, and the epoch that has begun with them.

        A teacher is not part of it: a ModelAverage has a `state_dict` of its own.
        """
        labels, offset = None, None
        if self.pool is not None:
            labels, offset = torch.from_numpy(self.pool.pseudo_labels), self.pool.label_offset
        own = {"pseudo_labels": labels, "label_offset": offset, "epoch_begun": self._epoch_begun}
        return {**super().get_extra_state(), **own}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on with these labels, also within an epoch; clusters' vectors stay as the losses have them."""
        super().set_extra_state(state)
        self._epoch_begun = state["epoch_begun"]
        if state["pseudo_labels"] is not None:
            self.restore_pool(state["pseudo_labels"], state["label_offset"])

    def _labeled_batch(self) -> tuple[Tensor, Tensor]:
        """PML's get_batch, which renumbers class names only where they come as an array."""
        self.dataloader_iter, batch = c_f.try_next_on_generator(self.dataloader_iter, self.dataloader)
        data, labels = self.data_and_label_getter(batch)
        if isinstance(labels, (list, tuple)) and isinstance(labels[0], str):
            labels = np.array(labels)
        labels = c_f.process_label(labels, self.label_hierarchy_level, self.label_mapper)
        data, labels = self.maybe_do_batch_mining(data, labels)
        return data, self.labels_of_all(labels, self.batch_size)

    def _joint_embeddings(self, data: Tensor, pool_data: Tensor) -> Tensor:
        if data.shape[1:] == pool_data.shape[1:]:
            joint = self.compute_embeddings(torch.cat([self.to_device(data), self.to_device(pool_data)]))
            parts = joint[: len(data)], joint[len(data) :]
        else:
            parts = self.compute_embeddings(data), self.compute_embeddings(pool_data)
        sizes = self.batch_size, self.unlabeled_batch_size
        return torch.cat([self.rows_of_all(part, size) for part, size in zip(parts, sizes)])

    def _load_pool(self) -> None:
        assert self.pool is not None  # initialize_dataloader has seen to it
        sampler = self.unlabeled_sampler
        if sampler is None:
            sampler = self._default_unlabeled_sampler()
        elif not isinstance(self.unlabeled_dataset, PseudoLabelDataset):
            sampler = kept_of(sampler, self.pool)
        self.unlabeled_dataloader = self.labeler.reader.loader(self.pool, self.unlabeled_batch_size, sampler)
        self.unlabeled_dataloader_iter = iter(self.unlabeled_dataloader)

    def _default_unlabeled_sampler(self) -> Any:
        assert self.pool is not None
        m, size = self.unlabeled_images_per_class, self.unlabeled_batch_size
        if m is None:
            return None
        labels = self.pool.labels
        if size % m or m * len(np.unique(labels)) < size:
            logger.warning(
                "unlabeled batches of %d cannot hold %d images of each of %d pseudo-classes: shuffling.",
                size, m, len(np.unique(labels)),
            )  # fmt: skip
            return None
        steps = self.iterations_per_epoch or len(labels) // size + 1
        return MPerClassSampler(labels, m, size, length_before_new_iter=steps * size)

    # What is refused

    def _check_size(self, size: int) -> None:
        if size < self.unlabeled_batch_size:
            raise DataError(
                f"unlabeled_dataset has {size} samples, fewer than one batch of "
                f"{self.unlabeled_batch_size}: lower unlabeled_batch_size."
            )

    def _check_shapes(self, labeled: Tensor, unlabeled: Tensor) -> None:
        collated = self.collate_fn is not None or self.unlabeled_collate_fn is not None  # it may pad
        same = labeled.ndim == unlabeled.ndim if collated else labeled.shape[1:] == unlabeled.shape[1:]
        if not same:
            raise DataError(
                f"labeled images come as {tuple(labeled.shape[1:])} and unlabeled ones as "
                f"{tuple(unlabeled.shape[1:])}: their transforms must give one size."
            )

    def _check_labels(self, labels: Tensor) -> None:
        num_classes = self.loss_funcs["basis_loss"].num_classes
        if labels.min() < 0 or labels.max() >= num_classes:
            raise DataError(
                f"labels of the labeled dataset run from {labels.min()} to {labels.max()}, but basis_loss "
                f"was made with num_classes={num_classes}: labels must be 0..num_classes-1. "
                "set_min_label_to_zero=True with dataset_labels renumbers them."
            )


def plain_collate(collate_fn: Collate | None) -> Collate | None:
    """Return a collate function, or what it says does the same without augmenting."""
    plain: Collate | None = getattr(collate_fn, "plain", collate_fn)
    return plain


def _no_batch(dataset: str, sampler: str, size: int) -> DataError:
    return DataError(
        f"{dataset}: {sampler} gives no batch of {size}, so that nothing would be trained: give another, or "
        "smaller batches."
    )


def _as_module(teacher: Any) -> torch.nn.Module:
    """Trunk and embedder of a dictionary as one module; a module as it is."""
    if isinstance(teacher, torch.nn.Module):
        return teacher
    return torch.nn.Sequential(*(teacher[k] for k in ("trunk", "embedder") if k in teacher))
