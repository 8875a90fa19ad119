"""One student stage of SLADE as a PML trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor

from ..compat import TrainerWithExtraKeys
from ..datasets.pseudo_label_dataset import PseudoLabelDataset
from ..exceptions import ConfigError, DataError
from .optimizers import check_optimizers
from .pool_labeling import PoolLabeling

logger = logging.getLogger("pml_slade")

LOSS_WEIGHTS = {"metric_loss": 1.0, "unlabeled_metric_loss": 1.0, "basis_loss": 0.25}


class SelfTrainingTrainer(PoolLabeling, TrainerWithExtraKeys):
    """Trains a student on labeled and pseudo-labeled images and a feature basis, jointly (SLADE, Eq. 9).

    ``L = L_rank(labeled) + lambda1 * L_rank(unlabeled) + lambda2 * L_Basis(both)``, with one forward pass
    a step over both halves of the batch. All else is PML's BaseTrainer: its hooks, samplers, schedulers,
    `freeze_these` and `data_and_label_getter`.

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
        cluster_kwargs: see `clustering.cluster`.
        relabel_every: label the pool anew after so many epochs; 0: never. The teacher should be one that
            learns meanwhile.
        unlabeled_batch_size: unlabeled images a step; default `batch_size`.
        unlabeled_images_per_class: of a pseudo-class in a batch; None shuffles the pool, for losses that
            do not look at pairs.
        unlabeled_sampler: default PML's MPerClassSampler, or shuffling where there are too few
            pseudo-classes to fill a batch.
        unlabeled_collate_fn: default `collate_fn`.
        end_of_labeling_hook: called with the trainer when it has labeled the pool.
        basis_warmup: for so many iterations the basis alone is trained, on detached embeddings.
        mining_funcs: ``tuple_miner`` for labeled pairs, ``unlabeled_miner`` for unlabeled ones.
        loss_weights: any of the three; the others keep lambda1 = 1, lambda2 = 0.25.
        kwargs: everything else that PML's BaseTrainer takes.

    Raises:
        ConfigError: losses, miners, optimizers or sizes that do not fit each other.
        DataError: a pool that cannot be used, or pseudo-labels that collide with the true ones.

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
    """

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
        cluster_kwargs: dict[str, Any] | None = None,
        relabel_every: int = 0,
        unlabeled_batch_size: int | None = None,
        unlabeled_images_per_class: int | None = 4,
        unlabeled_sampler: Any = None,
        unlabeled_collate_fn: Callable[[list[Any]], Any] | None = None,
        end_of_labeling_hook: Callable[[SelfTrainingTrainer], Any] | None = None,
        basis_warmup: int = 0,
        mining_funcs: dict[str, Any] | None = None,
        loss_weights: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.unlabeled_dataset = unlabeled_dataset
        self.num_clusters = num_clusters
        self.teacher = teacher
        self.clustering_dataset = clustering_dataset
        self.cluster_kwargs = cluster_kwargs or {}
        self.relabel_every = relabel_every
        self.unlabeled_batch_size = unlabeled_batch_size or batch_size
        self.unlabeled_images_per_class = unlabeled_images_per_class
        self.unlabeled_sampler = unlabeled_sampler
        self.unlabeled_collate_fn = unlabeled_collate_fn
        self.end_of_labeling_hook = end_of_labeling_hook
        self.basis_warmup = basis_warmup
        self.unlabeled_dataloader_iter: Any = None
        self._pool_is_ready, self._epoch_begun = False, 0
        loss_funcs = _with_unlabeled_loss(loss_funcs)
        super().__init__(
            models=dict(models),
            optimizers=optimizers,
            batch_size=batch_size,
            loss_funcs=loss_funcs,
            dataset=dataset,
            mining_funcs=mining_funcs,
            loss_weights=_with_default_weights(loss_funcs, loss_weights),
            **kwargs,
        )
        if basis_warmup and not self._weighs("basis_loss"):
            raise ConfigError(
                f"basis_warmup={basis_warmup}, but there is no basis_loss to warm up, or its weight is 0."
            )
        check_optimizers(self)
        self._check_cluster_losses()
        self._check_schedule()
        self._check_pool()
        for part in (*self.loss_funcs.values(), *self.mining_funcs.values()):
            if isinstance(part, torch.nn.Module):
                part.to(self.data_device)

    def initialize_dataloader(self) -> None:
        """Make the labeled loader; a raw pool gets its pseudo-labels here, before the first step."""
        if not self._pool_is_ready:
            if isinstance(self.unlabeled_dataset, PseudoLabelDataset):
                self._start_clusters(self.unlabeled_dataset)
                self._pool_is_ready = True
            else:
                self.label_pool()
        super().initialize_dataloader()
        self.unlabeled_dataloader_iter, self._epoch_begun = None, 0

    def set_to_train(self) -> None:
        """Begin an epoch: label the pool anew where that is due."""
        epoch = getattr(self, "epoch", 0)  # it is not there before training: somebody takes steps by hand
        if self._epoch_begun != epoch:  # this is also called within epochs, by batch mining
            self._epoch_begun = epoch
            self._begin_epoch()
        super().set_to_train()

    def _begin_epoch(self) -> None:
        if self.relabel_every and self.epoch > 1 and (self.epoch - 1) % self.relabel_every == 0:
            self.label_pool()

    def get_batch(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return a labeled and an unlabeled batch."""
        if self.unlabeled_dataloader_iter is None:
            self._load_pool()
        labeled = super().get_batch()
        self.unlabeled_dataloader_iter, unlabeled = c_f.try_next_on_generator(
            self.unlabeled_dataloader_iter, self.unlabeled_dataloader
        )
        if labeled[0].shape[1:] != unlabeled[0].shape[1:]:
            raise DataError(
                f"labeled images come as {tuple(labeled[0].shape[1:])} and unlabeled ones as "
                f"{tuple(unlabeled[0].shape[1:])}: their transforms must give one size."
            )
        return labeled, tuple(unlabeled)

    def calculate_loss(self, curr_batch: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        """Compute the three terms of Eq. 9."""
        (data, labels), (pool_data, pool_labels) = curr_batch
        joint = self.compute_embeddings(torch.cat([data, pool_data]))
        labels, pool_labels = labels.to(joint.device), pool_labels.to(joint.device)
        warming_up = self.get_global_iteration() < self.basis_warmup
        # The basis goes first: an unlabeled miner reads the statistics that it updates.
        if self._weighs("basis_loss"):
            self._check_labels(labels)
            self.losses["basis_loss"] = self.loss_funcs["basis_loss"](
                joint.detach() if warming_up else joint, torch.cat([labels, pool_labels])
            )
        # While the basis warms up the others are measured, not trained: hooks record all losses at each step.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not warming_up):
            embeddings, pool_embeddings = joint[: len(data)], joint[len(data) :]
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

    def _load_pool(self) -> None:
        self.unlabeled_dataloader = c_f.get_train_dataloader(
            self.unlabeled_dataset,
            self.unlabeled_batch_size,
            self.unlabeled_sampler or self._default_unlabeled_sampler(),
            self.dataloader_num_workers,
            self.unlabeled_collate_fn or self.collate_fn,
        )
        self.unlabeled_dataloader_iter = iter(self.unlabeled_dataloader)

    def _default_unlabeled_sampler(self) -> Any:
        m, size = self.unlabeled_images_per_class, self.unlabeled_batch_size
        if m is None:
            return None
        labels = self.unlabeled_dataset.labels
        if size % m or m * len(np.unique(labels)) < size:
            logger.warning(
                "unlabeled batches of %d cannot hold %d images of each of %d pseudo-classes: shuffling.",
                size, m, len(np.unique(labels)),
            )  # fmt: skip
            return None
        steps = self.iterations_per_epoch or len(labels) // size + 1
        return MPerClassSampler(labels, m, size, length_before_new_iter=steps * size)

    def _check_labels(self, labels: Tensor) -> None:
        num_classes = self.loss_funcs["basis_loss"].num_classes
        if labels.min() < 0 or labels.max() >= num_classes:
            raise DataError(
                f"labels of the labeled dataset run from {labels.min()} to {labels.max()}, but basis_loss "
                f"was made with num_classes={num_classes}: labels must be 0..num_classes-1. "
                "set_min_label_to_zero=True with dataset_labels renumbers them."
            )


def _with_unlabeled_loss(loss_funcs: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """Give the unlabeled side the labeled side's loss where it has none of its own."""
    if "metric_loss" not in loss_funcs:
        raise ConfigError(f'loss_funcs must contain "metric_loss", got {sorted(loss_funcs)}.')
    if "unlabeled_metric_loss" in loss_funcs:
        return dict(loss_funcs)
    metric_loss = loss_funcs["metric_loss"]
    if any(True for _ in metric_loss.parameters()):
        raise ConfigError(
            f"loss_funcs: metric_loss {type(metric_loss).__name__} learns weights for the labeled classes "
            'and cannot rank pseudo-labels: add "unlabeled_metric_loss", for example ContrastiveLoss().'
        )
    return {**loss_funcs, "unlabeled_metric_loss": metric_loss}


def _with_default_weights(
    loss_funcs: dict[str, torch.nn.Module], given: dict[str, float] | None
) -> dict[str, float]:
    unknown = set(given or ()) - set(loss_funcs)
    if unknown:
        raise ConfigError(
            f"loss_weights: {sorted(unknown)} name no loss; loss_funcs has {sorted(loss_funcs)}."
        )
    return {name: (given or {}).get(name, LOSS_WEIGHTS.get(name, 1.0)) for name in loss_funcs}
