"""Averages of weights: a running one in training, as mean teachers and EMAs are, and that of two models."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .exceptions import ConfigError


class ModelAverage:
    """Follows models step by step: ``average <- decay * average + (1 - decay) * weights``.

    Such an average retrieves better than the weights of any one step, and labels a pool better. It is a
    hook for PML's trainers: give it as ``end_of_iteration_hook``. Give its `models` as the ``teacher`` of a
    SelfTrainingTrainer that relabels its pool, and evaluate them in place of the models that are trained.

    Args:
        models: by name, as a PML trainer takes them, before or after one has used them. Copies are made.
        decay: in [0, 1); 0.99 looks back over some hundred steps.

    Attributes:
        models: the averaged modules by name. Weights and statistics of batch norm follow; they get no
            gradients. Whole numbers, such as counts of batches, are taken as they are.

    Raises:
        ConfigError: decay is not in [0, 1).

    Examples:
        >>> trunk = torch.nn.Linear(1, 1, bias=False)
        >>> average = ModelAverage({"trunk": trunk}, decay=0.75)
        >>> before = trunk.weight.item()
        >>> _ = torch.nn.init.constant_(trunk.weight, before + 4)
        >>> average.update({"trunk": trunk})
        >>> round(average.models["trunk"].weight.item() - before, 4)
        1.0
    """

    def __init__(self, models: dict[str, torch.nn.Module], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay must be in [0, 1), got {decay!r}.")
        self._follow = get_ema_multi_avg_fn(decay)
        self.models = {name: copy.deepcopy(model).requires_grad_(False) for name, model in models.items()}

    def __call__(self, trainer: Any) -> None:
        """Follow the models of a PML trainer."""
        self.update(trainer.models)

    @torch.no_grad()
    def update(self, models: dict[str, torch.nn.Module]) -> None:
        """Take in the weights of one more step, many of them at once.

        Args:
            models: by name, those that were given or what they have become; further ones are not looked at.
        """
        for name, average in self.models.items():
            pairs = list(zip(_values(average), _values(models[name])))
            numbers = [(ours, theirs) for ours, theirs in pairs if ours.is_floating_point()]
            if numbers:
                self._follow([a for a, _ in numbers], [b.to(a.device) for a, b in numbers], 1)
            for ours, theirs in pairs:
                if not ours.is_floating_point():
                    ours.copy_(theirs)

    def copies(self) -> dict[str, torch.nn.Module]:
        """Return copies of the averaged models that can be trained on, in training mode."""
        return {
            name: copy.deepcopy(model).requires_grad_(True).train() for name, model in self.models.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything it holds, to be stored beside the state of the trainer."""
        return {name: average.state_dict() for name, average in self.models.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for name, average in self.models.items():
            average.load_state_dict(state[name])


def _values(model: torch.nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def mean_of_models(
    models: Sequence[Mapping[str, torch.nn.Module]], shares: Sequence[float]
) -> dict[str, torch.nn.Module]:
    """Return the weighted mean of models that were trained from one start.

    Such models lie in one valley of the loss, and their mean often retrieves better than each of them
    (model soups, Wortsman et al., ICML 2022).

    Args:
        models: the same modules by name, several times. Buffers are averaged, too; of whole numbers the
            first's are taken.
        shares: of each, which sum to one.

    Returns:
        Copies, by name.

    Examples:
        >>> zeros, ones = (torch.nn.Linear(1, 1, bias=False) for _ in range(2))
        >>> _ = torch.nn.init.zeros_(zeros.weight), torch.nn.init.ones_(ones.weight)
        >>> mean = mean_of_models([{"trunk": zeros}, {"trunk": ones}], [0.75, 0.25])
        >>> mean["trunk"].weight.item()
        0.25
    """
    mean = {name: copy.deepcopy(model) for name, model in models[0].items()}
    for name, model in mean.items():
        states = [part[name].state_dict() for part in models]
        model.load_state_dict(
            {
                key: sum(share * state[key] for share, state in zip(shares, states))
                if value.is_floating_point()
                else value
                for key, value in states[0].items()
            }
        )
    return mean
