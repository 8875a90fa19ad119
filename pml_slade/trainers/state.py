"""What a trainer needs to go on where it was stopped, and what it tells of itself meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from pytorch_metric_learning.losses import CrossBatchMemory
from torch import Tensor, nn

from .. import processes
from ..compat import TrainerWithExtraKeys
from ..exceptions import CheckpointError, ConfigError
from ..functional import at_least_float32
from ..joint_norm import joint_batch_norm
from ..losses.memory import QUEUE, Memory
from ..numerics import Numerics, laid_out_for
from .checks import FiniteWatch

PARTS = ("models", "loss_funcs", "mining_funcs", "optimizers", "lr_schedulers")
"""Dictionaries of a PML trainer whose values have a state."""


def trainer_state(trainer: Any) -> dict[str, Any]:
    """Return the state of any PML trainer: models, losses, miners, optimizers and schedulers.

    A part that stands under two names is there twice. Data, samplers, hooks and random generators are not
    part of it: make the new trainer with the same ones, and seed it.

    Args:
        trainer: a PML trainer. What its ``get_extra_state`` returns, if it has one, is part of the state.

    Returns:
        Nested dicts and lists of tensors, numbers and strings, as `checkpoints.Checkpoints` stores them.

    Examples:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> def trainer(value):
        ...     trunk = torch.nn.Linear(1, 1)
        ...     torch.nn.init.constant_(trunk.weight, value)
        ...     return SimpleNamespace(models={"trunk": trunk}, loss_funcs={}, mining_funcs={},
        ...         optimizers={"trunk_optimizer": torch.optim.SGD(trunk.parameters(), lr=0.1)},
        ...         lr_schedulers={})
        >>> first, second = trainer(1.0), trainer(2.0)
        >>> load_trainer_state(second, trainer_state(first))
        >>> second.models["trunk"].weight.item()
        1.0
    """
    state: dict[str, Any] = {
        part: {name: _state_of(thing) for name, thing in _with_state(trainer, part).items()} for part in PARTS
    }
    if hasattr(trainer, "get_extra_state"):
        state["extra"] = trainer.get_extra_state()
    return state


def load_trainer_state(trainer: Any, state: Mapping[str, Any]) -> None:
    """Let a trainer go on from a `trainer_state` of one that was made alike.

    Raises:
        CheckpointError: the state is of a trainer with other parts.
    """
    for part in PARTS:
        things, states = _with_state(trainer, part), state.get(part, {})
        if set(things) != set(states):
            raise CheckpointError(
                f"the trainer has {part} {sorted(things)}, and the state {sorted(states)}: make the trainer "
                "as the one that was saved."
            )
        for name, thing in things.items():
            _load(thing, states[name])
    if hasattr(trainer, "set_extra_state"):
        trainer.set_extra_state(state["extra"])


def trainer_metrics(trainer: Any) -> dict[str, float | Tensor]:
    """Return what a PML trainer tells of its last step beside the losses; those of PML tell nothing."""
    metrics: dict[str, float | Tensor] = trainer.metrics() if hasattr(trainer, "metrics") else {}
    return metrics


class StatefulTrainer(TrainerWithExtraKeys):
    """What our trainers have over PML's: a state, metrics, numerics, an end where the loss is not finite.

    Attributes:
        numerics: how models compute; set it before the first step. Embeddings come in float32 at least.
        finite: looks whether they, and the losses, are finite.
    """

    numerics: Numerics = Numerics()

    @cached_property
    def finite(self) -> FiniteWatch:
        """What stops a training that diverges."""
        return FiniteWatch(self.data_device)

    @cached_property
    def scaler(self) -> Any:
        """What scales gradients, or None."""
        return self.numerics.scaler(torch.device(self.data_device))

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes; see `trainer_state`."""
        return trainer_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a trainer that was made alike.

        Raises:
            CheckpointError: the state is of a trainer with other parts.
        """
        load_trainer_state(self, state)

    def get_extra_state(self) -> dict[str, Any]:
        """What this kind of trainer has beside its parts."""
        return {} if self.scaler is None else {"scaler": self.scaler.state_dict()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    def metrics(self) -> dict[str, float | Tensor]:
        """Return what the last step tells of the training, beside its losses."""
        return {}

    def train(self, start_epoch: int = 1, num_epochs: int = 1) -> None:
        """Train as PML's trainers do, in one process.

        Raises:
            ConfigError: several processes share the work; only the stages of a run read shares of batches.
        """
        if processes.size() > 1:
            raise ConfigError(
                f"{type(self).__name__}.train trains in one process: start it without torchrun, or call "
                "pml_slade.train, whose runs several processes share."
            )
        super().train(start_epoch, num_epochs)

    def compute_embeddings(self, data: Tensor) -> Tensor:
        """Return the embeddings of images, in float32 at least."""
        data = laid_out_for(self.models["trunk"], self.to_device(data))
        with self.numerics.computing(data.device), joint_batch_norm(), processes.own_draws(data.device):
            embeddings: Tensor = super().compute_embeddings(data)
        return at_least_float32(embeddings)

    def rows_of_all(self, own: Tensor, batch_size: int) -> Tensor:
        """Return the rows of a batch, of which each process has those of its share, see `processes`.

        A loss is computed from the rows of all, and by every process.

        Args:
            own: rows of this process's images, or of all their views.
            batch_size: images of the batch.
        """
        return processes.gathered(own, batch_size // processes.size())

    def labels_of_all(self, own: Any, batch_size: int) -> Any:
        """Likewise of labels, which stay where they are."""
        return own if processes.size() == 1 else self.rows_of_all(torch.as_tensor(own), batch_size)

    def to_device(self, data: Tensor) -> Tensor:
        """Move images to where they are computed with, as `dtype`; what is pinned comes without a wait."""
        return data.to(device=self.data_device, dtype=self.dtype, non_blocking=True)

    def backward(self) -> None:
        """Backpropagate, unless the loss is not finite.

        Raises:
            DivergedError: names the step; the weights are those before it, on a GPU at times those after it.
        """
        self.finite.losses(self)
        with self.numerics.multiplying():
            if self.scaler is None:
                super().backward()
            else:
                self.scaler.scale(self.losses["total_loss"]).backward()
        models, losses = (
            [p for part in parts.values() for p in part.parameters()]
            for parts in (self.models, self.loss_funcs)
        )
        processes.add_gradients(models, losses)

    def clip_gradients(self) -> None:
        """Clip gradients as they are, not as they are scaled."""
        if self.scaler is not None and self.gradient_clippers:
            for optimizer in self.optimizers.values():
                self.scaler.unscale_(optimizer)
        super().clip_gradients()

    def step_optimizers(self) -> None:
        """Take the step; where gradients were scaled, the scaler does, unless they overflowed."""
        if self.scaler is None:
            super().step_optimizers()
            return
        for name, optimizer in self.optimizers.items():
            if name.removesuffix("_optimizer") not in self.freeze_these and _has_gradients(optimizer):
                self.scaler.step(optimizer)
        self.scaler.update()


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _with_state(trainer: Any, part: str) -> dict[str, Any]:
    things = getattr(trainer, part, None) or {}
    return {name: thing for name, thing in things.items() if hasattr(thing, "state_dict")}


def _state_of(thing: Any) -> dict[str, Any]:
    return {"state": _storable(thing.state_dict()), "queues": [_queue(memory) for memory in _memories(thing)]}


def _load(thing: Any, state: Mapping[str, Any]) -> None:
    thing.load_state_dict(state["state"])
    for memory, queue in zip(_memories(thing), state["queues"]):
        for name in QUEUE:  # and nothing else that a file may name
            value = queue[name]
            setattr(memory, name, value.clone() if isinstance(value, Tensor) else value)


def _memories(thing: Any) -> list[CrossBatchMemory]:
    """Memories whose queue is not in their own state dict, as it is in that of our `Memory`."""
    modules = thing.modules() if isinstance(thing, nn.Module) else ()
    return [m for m in modules if isinstance(m, CrossBatchMemory) and not isinstance(m, Memory)]


def _queue(memory: CrossBatchMemory) -> dict[str, Any]:
    return {name: getattr(memory, name) for name in QUEUE}


def _storable(value: Any) -> Any:
    """Leave out functions, which some schedulers count as state; the new scheduler is made with them."""
    if isinstance(value, Mapping):
        return {key: _storable(item) for key, item in value.items() if not callable(item)}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value
