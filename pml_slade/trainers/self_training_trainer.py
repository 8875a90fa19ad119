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

from ..clustering import suggest_num_clusters
from ..compat import TrainerWithExtraKeys
from ..datasets.pseudo_label_dataset import PseudoLabelDataset, first_of_item
from ..exceptions import ConfigError, DataError
from .optimizers import check_optimizers

logger = logging.getLogger("pml_slade")

LOSS_WEIGHTS = {"metric_loss": 1.0, "unlabeled_metric_loss": 1.0, "basis_loss": 0.25}


class SelfTrainingTrainer(TrainerWithExtraKeys):
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
        clustering_dataset: the raw pool under the transform used for evaluation; default the pool as is.
        cluster_kwargs: see `clustering.cluster`.
        unlabeled_batch_size: unlabeled images a step; default `batch_size`.
        unlabeled_sampler: default PML's MPerClassSampler with 4 images per pseudo-class, or shuffling
            where there are too few pseudo-classes to fill a batch.
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
        unlabeled_batch_size: int | None = None,
        unlabeled_sampler: Any = None,
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
        self.unlabeled_batch_size = unlabeled_batch_size or batch_size
        self.unlabeled_sampler = unlabeled_sampler
        self.basis_warmup = basis_warmup
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
        self._check_pool()
        for part in (*self.loss_funcs.values(), *self.mining_funcs.values()):
            if isinstance(part, torch.nn.Module):
                part.to(self.data_device)

    def initialize_dataloader(self) -> None:
        """Make both loaders; a raw pool gets its pseudo-labels here, before the first step."""
        if not isinstance(self.unlabeled_dataset, PseudoLabelDataset):
            self.unlabeled_dataset = self._label_pool()
            self._check_pool()
        super().initialize_dataloader()
        sampler = self.unlabeled_sampler or self._default_unlabeled_sampler()
        self.unlabeled_dataloader = c_f.get_train_dataloader(
            self.unlabeled_dataset,
            self.unlabeled_batch_size,
            sampler,
            self.dataloader_num_workers,
            self.collate_fn,
        )
        self.unlabeled_dataloader_iter = iter(self.unlabeled_dataloader)

    def get_batch(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return a labeled and an unlabeled batch."""
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
                self.losses["unlabeled_metric_loss"] = self._unlabeled_loss(pool_embeddings, pool_labels)

    def _unlabeled_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
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

    def _label_pool(self) -> PseudoLabelDataset:
        getter = None
        if self.data_and_label_getter is not c_f.return_input:
            getter = _DataGetter(self.data_and_label_getter)
        teacher = self.models if self.teacher is None else self.teacher
        if isinstance(teacher, dict):
            teacher = torch.nn.Sequential(*(teacher[k] for k in ("trunk", "embedder") if k in teacher))
        pool = PseudoLabelDataset.from_teacher(
            self.unlabeled_dataset,
            teacher.to(self.data_device),
            self.num_clusters or self._default_num_clusters(),
            self._num_annotated(),
            embed_dataset=self.clustering_dataset,
            data_getter=getter,
            num_workers=self.dataloader_num_workers,
            device=self.data_device,
            **self.cluster_kwargs,
        )
        logger.info("%s; %s", pool, pool.clusters)
        return pool

    def _default_num_clusters(self) -> int:
        labels = self._known_labels()
        if labels is None:
            raise ConfigError(
                "num_clusters was not given, and the dataset has no `labels` or `targets` to derive it "
                "from: give num_clusters, or dataset_labels."
            )
        return suggest_num_clusters(len(self.unlabeled_dataset), len(labels) / len(np.unique(labels)))

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

    def _default_unlabeled_sampler(self) -> Any:
        labels, m, size = self.unlabeled_dataset.labels, 4, self.unlabeled_batch_size
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
        if not isinstance(pool, PseudoLabelDataset):
            self.num_clusters = self.num_clusters or self._default_num_clusters()
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


class _DataGetter:
    """A PML data_and_label_getter, applied to one item and asked for the data only."""

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self.getter = getter

    def __call__(self, item: Any) -> Any:
        return first_of_item(self.getter(item))


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
