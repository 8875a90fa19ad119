"""From settings to losses, miners, optimizers and schedulers of pytorch-metric-learning and torch."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from torch.optim.lr_scheduler import CosineAnnealingLR

from ..clustering import class_means
from ..exceptions import ConfigError
from ..losses import ClusterBasisLoss, FeatureBasisLoss
from ..pretraining import lars
from ..runtime import Runtime
from .settings import NamedConfig, OptimizerConfig, TrainingConfig


def build_named(config: NamedConfig, module: ModuleType, key: str, **known: Any) -> torch.nn.Module:
    """Build a class of pytorch-metric-learning by name.

    Args:
        config: name and arguments.
        module: where to look.
        key: the setting's name, for messages.
        known: arguments that are given where the class asks for them (num_classes, embedding_size).

    Raises:
        ConfigError: no such class, or it refuses its arguments.

    Examples:
        >>> build_named(NamedConfig(name="ContrastiveLoss", neg_margin=0.5), losses, "loss").neg_margin
        0.5
    """
    names = [n for n in dir(module) if inspect.isclass(getattr(module, n))]
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{key}.name: {module.__name__} has no {config.name}; did you mean {near}?")
    kind = getattr(module, config.name)
    asked = _parameters(kind)
    arguments = {k: v for k, v in known.items() if k in asked} | config.arguments
    try:
        built: torch.nn.Module = kind(**arguments)
        _try(built, arguments.get("embedding_size", 4))
    except (TypeError, ValueError, AssertionError, AttributeError, KeyError) as error:
        raise ConfigError(f"{key}: {config.name} refused {arguments}: {error}") from None
    return built


def _parameters(kind: type) -> set[str]:
    """What a class is made from, and what it passes on to those that it is a kind of."""
    names: set[str] = set()
    for each in kind.__mro__:
        parameters = inspect.signature(each.__init__).parameters  # type: ignore[misc]
        names |= parameters.keys()
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _try(built: torch.nn.Module, embedding_size: Any) -> None:
    """Call a loss or a miner once, since many keep arguments of any type without a look.

    Raises:
        TypeError: an argument is of a type that it cannot work with; AttributeError: likewise.
    """
    batch = torch.linspace(-1, 1, 8 * embedding_size).view(8, embedding_size)
    with suppress(ValueError, RuntimeError, AssertionError):  # it asks for another batch
        copy.deepcopy(built)(batch, torch.arange(8) // 2)


def build_loss(config: NamedConfig, key: str, **known: Any) -> torch.nn.Module:
    """Build a loss of pytorch-metric-learning, see `build_named`."""
    return build_named(config, losses, key, **known)


def build_miner(config: NamedConfig, key: str) -> torch.nn.Module:
    """Build a miner of pytorch-metric-learning, see `build_named`."""
    return build_named(config, miners, key)


def build_optimizer(
    stage: OptimizerConfig, groups: list[dict[str, Any]], key: str = "optimizer"
) -> torch.optim.Optimizer:
    """Build a stage's optimizer for parameter groups, of which each may bring an lr of its own.

    Raises:
        ConfigError: no such optimizer, or it cannot be used here.
    """
    optimizers = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
    }
    kind: Any = lars() if stage.optimizer == "LARS" else optimizers.get(stage.optimizer)
    if kind is None:
        near = difflib.get_close_matches(stage.optimizer, [*optimizers, "LARS"], n=1, cutoff=0.0)[0]
        raise ConfigError(f"{key}: torch.optim has no {stage.optimizer}; did you mean {near}?")
    usual = {"lr": stage.learning_rate, "weight_decay": stage.weight_decay}
    arguments = {**usual, **stage.further_arguments}
    try:
        optimizer: torch.optim.Optimizer = _fused_if_it_can_be(kind, groups, arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {stage.optimizer} cannot be used here: {error}") from None
    return optimizer


def _fused_if_it_can_be(kind: Any, groups: list[dict[str, Any]], arguments: dict[str, Any]) -> Any:
    """Build an optimizer that takes its step in one go where it can and nothing else is asked of it."""
    asked = {"fused", "foreach", "differentiable"} & set(arguments)
    if not asked and "fused" in inspect.signature(kind).parameters:
        with suppress(RuntimeError):  # on devices that this torch has no such step for
            return kind([dict(group) for group in groups], **arguments, fused=True)
    return kind(groups, **arguments)


def build_optimizers(
    stage: TrainingConfig, parts: dict[str, torch.nn.Module], key: str
) -> dict[str, torch.optim.Optimizer]:
    """An optimizer for each part that has parameters; embedder and basis may have rates of their own."""
    found = {}
    for name, part in parts.items():
        groups = _groups(part, stage.basis.lr)
        if name == "embedder" and stage.embedder_lr is not None:
            groups = [{**group, "lr": stage.embedder_lr} for group in groups]
        if groups:
            found[f"{name}_optimizer"] = build_optimizer(stage, groups, key)
    return found


def _groups(part: torch.nn.Module, basis_lr: float) -> list[dict[str, Any]]:
    bases = [m.W for m in part.modules() if isinstance(m, FeatureBasisLoss)]
    bases += [m.V for m in part.modules() if isinstance(m, ClusterBasisLoss)]
    others = [p for p in part.parameters() if all(p is not W for W in bases)]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": bases, "lr": basis_lr}]
    return [group for group in groups if group["params"]]


def start_at_means(
    losses: Mapping[str, torch.nn.Module],
    models: Mapping[str, torch.nn.Module],
    runtime: Runtime,
    labeled: Any,
    labels: np.ndarray,
) -> None:
    """Let the vectors of every basis that looks at cosines start at the classes' mean embeddings.

    Args:
        losses: the bases, or losses that hold them.
        models: trunk and embedder.
        runtime: to embed with.
        labeled: images under the transform of evaluation.
        labels: their classes, (N,).
    """
    found = [module for loss in losses.values() for module in loss.modules()]
    bases = [m for m in found if isinstance(m, FeatureBasisLoss) and m.logit_scale is not None]
    if bases:
        model = torch.nn.Sequential(models["trunk"], models["embedder"])
        means = torch.from_numpy(class_means(runtime.quiet.embed(labeled, model), labels))
        for basis in bases:
            basis.start_from(means.to(basis.W))


def build_cosine_schedulers(
    optimizers: dict[str, torch.optim.Optimizer], steps: int, final_lr: float = 0.0
) -> dict[str, CosineAnnealingLR]:
    """Let each learning rate fall by a cosine, to `final_lr` after `steps`, step by step."""
    return {
        name.replace("_optimizer", "_scheduler_by_iteration"): CosineAnnealingLR(optimizer, steps, final_lr)
        for name, optimizer in optimizers.items()
    }
