"""What our trainers ask of their losses and optimizers."""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction

from ..datasets.pseudo_label_dataset import PseudoLabelDataset
from ..exceptions import ConfigError, DataError, DivergedError
from ..losses import ClusterBasisLoss, FeatureBasisLoss

LOSS_WEIGHTS = {"metric_loss": 1.0, "unlabeled_metric_loss": 1.0, "basis_loss": 0.25}
"""Eq. 9: lambda1 = 1, lambda2 = 0.25."""


def check_optimizers(trainer: Any) -> None:
    """Refuse a loss whose parameters no optimizer holds: they would silently never train.

    Args:
        trainer: a PML trainer, with `optimizers`, `loss_funcs` and `freeze_these`.

    Raises:
        ConfigError: names the loss.
    """
    trained = {id(p) for o in trainer.optimizers.values() for g in o.param_groups for p in g["params"]}
    for name, loss in trainer.loss_funcs.items():
        parameters = [p for p in loss.parameters() if p.requires_grad]
        if name in trainer.freeze_these or all(id(p) in trained for p in parameters):
            continue
        raise ConfigError(
            f"optimizers: no optimizer holds the parameters of {name} ({type(loss).__name__}), so they "
            f'would never train. Add "{name}_optimizer", or "{name}" to freeze_these.'
        )


def with_unlabeled_loss(loss_funcs: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """Give the unlabeled side the labeled side's loss where it has none of its own.

    Raises:
        ConfigError: there is no metric_loss, or it has weights of the labeled classes.
    """
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


def with_default_weights(
    loss_funcs: dict[str, torch.nn.Module], given: dict[str, float] | None
) -> dict[str, float]:
    """Give the losses the weights of Eq. 9 where none are given.

    Raises:
        ConfigError: a weight of no loss, or one that is negative or not finite.
    """
    unknown = set(given or ()) - set(loss_funcs)
    if unknown:
        raise ConfigError(
            f"loss_weights: {sorted(unknown)} name no loss; loss_funcs has {sorted(loss_funcs)}."
        )
    for name, weight in (given or {}).items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"loss_weights: {name} must be 0 or more, got {weight!r}.")
    return {name: (given or {}).get(name, LOSS_WEIGHTS.get(name, 1.0)) for name in loss_funcs}


def check_relabeling(loss: torch.nn.Module, every: int) -> None:
    """Refuse a loss that would hold on to the numbers of clusters when the pool is relabeled.

    Raises:
        ConfigError: it has weights for each pseudo-class, and nothing that restarts them.
    """
    for part in loss.modules():
        if not isinstance(part, BaseMetricLossFunction):
            continue  # a distance's weights are no class's
        if isinstance(part, (FeatureBasisLoss, ClusterBasisLoss)):
            continue  # these have weights of annotated classes, and weights that the trainer restarts
        if any(p.numel() > 1 for p in part.parameters(recurse=False)):
            raise ConfigError(
                f"relabel_every={every} renumbers the pseudo-classes, and the pool's loss "
                f"{type(part).__name__} learns weights for each: give relabel_every=0, or a loss "
                "without, such as ContrastiveLoss()."
            )


def check_cluster_losses(losses: list[ClusterBasisLoss], basis: torch.nn.Module | None) -> None:
    """Refuse losses whose basis is not the one that is trained.

    Raises:
        ConfigError: names the loss.
    """
    for loss in losses:
        if loss.basis is not basis:
            raise ConfigError(
                f"unlabeled_metric_loss: {type(loss).__name__} was made with a basis that is not "
                'loss_funcs["basis_loss"], so that it would never train: give both the same one.'
            )


def check_num_clusters(num_clusters: int | None, losses: list[ClusterBasisLoss]) -> None:
    """Refuse to cluster without a number of clusters, or into more than a loss has vectors for.

    Raises:
        ConfigError: says what to give.
    """
    if num_clusters is None:
        raise ConfigError(
            "num_clusters was not given, and the dataset has no `labels` or `targets` to derive it "
            "from: give num_clusters, or dataset_labels."
        )
    for loss in losses:
        if loss.num_clusters < num_clusters:
            raise ConfigError(
                f"num_clusters={num_clusters}, but {type(loss).__name__} was made with "
                f"num_clusters={loss.num_clusters}: give it as many."
            )


def check_relabeled_pool(pool: PseudoLabelDataset | None, sampler: Any, every: int) -> None:
    """Refuse what relabeling a pool would undo: a sampler of its labels, and images left out.

    Raises:
        ConfigError: says what to give.
    """
    if sampler is not None:
        raise ConfigError(
            "unlabeled_sampler was made for the labels that the pool has now, and relabel_every="
            f"{every} changes them: leave it out; unlabeled_images_per_class says what batches hold."
        )
    if pool is not None and pool.num_left_out:
        raise ConfigError(
            f"relabel_every={every} would label the {pool.num_left_out} samples that unlabeled_dataset "
            "leaves out: give a pool that does not hold them, or relabel_every=0."
        )


def check_offset(pool: PseudoLabelDataset, basis: Any) -> None:
    """Refuse pseudo-labels that a basis would take for annotated classes.

    Raises:
        DataError: says which offset to give.
    """
    if basis is not None and pool.labels.min() < basis.num_classes:
        raise DataError(
            f"unlabeled_dataset has pseudo-labels from {pool.labels.min()} on, which basis_loss takes "
            f"for annotated classes (num_classes={basis.num_classes}): make the PseudoLabelDataset with "
            f"label_offset={basis.num_classes}."
        )


def check_finite(trainer: Any) -> None:
    """Stop a training whose loss is not finite; called before the step, it keeps the weights sound.

    Args:
        trainer: a PML trainer in a step, with `losses`.

    Raises:
        DivergedError: names the step and the losses.
    """
    if not math.isfinite(_number(trainer.losses["total_loss"])):
        values = {name: _number(loss) for name, loss in trainer.losses.items()}
        raise _diverged_loss(trainer.get_global_iteration() + 1, values)


class FiniteWatch:
    """Stops a training whose losses or embeddings are not finite, without waiting for a GPU.

    There, what a step computed is looked at in the next one, or when `settle` is called; elsewhere at once.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device | str | None) -> None:
        self.late = torch.device(device or "cpu").type == "cuda"
        self._embeddings: torch.Tensor | None = None
        self._last: tuple[int, list[str], torch.Tensor, Any] | None = None

    def embeddings(self, trainer: Any, embeddings: torch.Tensor) -> None:
        """Look at the embeddings of a step; many losses of PML do not show what is wrong with these.

        Raises:
            DivergedError: names the step.
        """
        finite = torch.isfinite(embeddings.detach()).all()
        if self.late:
            self._embeddings = finite
        elif not finite:
            raise _diverged_embeddings(trainer.get_global_iteration() + 1)

    def losses(self, trainer: Any) -> None:
        """Look at the losses of a step, before it is taken.

        Raises:
            DivergedError: names the step, or the one before.
        """
        if not self.late:
            check_finite(trainer)
            return
        self.settle()
        device = trainer.losses["total_loss"].device
        seen = [True if self._embeddings is None else self._embeddings, *trainer.losses.values()]
        values = torch.stack([_on(device, value) for value in seen])
        copied, arrived = _fetch(values)
        self._last = (trainer.get_global_iteration() + 1, list(trainer.losses), copied, arrived)
        self._embeddings = None

    def settle(self) -> None:
        """Look at the step before.

        Raises:
            DivergedError: names it.
        """
        if self._last is None:
            return
        step, names, copied, arrived = self._last
        self._last = None
        arrived()
        finite, *numbers = copied.numpy().tolist()
        values = dict(zip(names, numbers))
        if not finite:
            raise _diverged_embeddings(step)
        if not math.isfinite(values["total_loss"]):
            raise _diverged_loss(step, values)


def _on(device: torch.device, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().to(torch.float32)
    return torch.full((), float(value), device=device)


def _fetch(values: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Begin to copy numbers from a GPU; return where they will be, and what waits until they are there."""
    copied = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copied.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return copied, event.synchronize


def _diverged_loss(step: int, values: dict[str, float]) -> DivergedError:
    return DivergedError(
        f"the loss became {values['total_loss']} in step {step} ({values}). Lower the learning rate."
    )


def _diverged_embeddings(step: int) -> DivergedError:
    return DivergedError(
        f"embeddings are not finite in step {step}: the model diverged, or its weights or the data are "
        "damaged. Lower the learning rate, or check them."
    )


def _number(loss: Any) -> float:
    return float(torch.as_tensor(loss).detach())
