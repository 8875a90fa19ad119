"""A student that learns from each image's neighbours in the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import processes
from ..checks import check_int
from ..clustering import smooth
from ..clustering.neighbours import nearest_others
from ..exceptions import ConfigError
from ..losses import NeighbourLoss
from .self_training_trainer import SelfTrainingTrainer


class NeighbourTrainer(SelfTrainingTrainer):
    """Lets each image of the pool predict its neighbours, which the teacher finds before each epoch.

    Its ``unlabeled_metric_loss`` is a NeighbourLoss, and its pool a PseudoLabelDataset in which each image
    has a label of its own, in their order.

    Args:
        args: see SelfTrainingTrainer; ``clustering_dataset`` is embedded to find neighbours.
        whitening: `whiten` embeddings to this power before neighbours are looked for; 0 does not.
        smoothing: then average them with so many reciprocal neighbours.
        kwargs: see SelfTrainingTrainer.

    Raises:
        ConfigError: another loss.
    """

    def __init__(self, *args: Any, whitening: float = 0.5, smoothing: int = 10, **kwargs: Any) -> None:
        check_int("smoothing", smoothing, at_least=1)
        self.whitening, self.smoothing = whitening, smoothing
        super().__init__(*args, **kwargs)
        if not isinstance(self.neighbour_loss, NeighbourLoss):
            kind = type(self.neighbour_loss).__name__
            raise ConfigError(f"loss_funcs: unlabeled_metric_loss must be a NeighbourLoss, got {kind}.")

    @property
    def neighbour_loss(self) -> Any:
        """The loss on the pool."""
        return self.loss_funcs["unlabeled_metric_loss"]

    def unlabeled_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the pool's term of Eq. 9, before its weight."""
        assert self.pool is not None  # it was given with labels
        images = (labels - self.pool.label_offset).to(embeddings.device, non_blocking=True)
        loss: Tensor = self.neighbour_loss(embeddings, images)
        return loss

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        embeddings = self.labeler.embed(self._teacher())
        found = (embeddings, *processes.once(lambda: self._neighbours(embeddings)))
        self.neighbour_loss.remember(*(torch.from_numpy(x).to(self.data_device) for x in found))

    def _neighbours(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = smooth(embeddings, self.smoothing, device=self.data_device, whitening=self.whitening)
        return nearest_others(seen, min(self.neighbour_loss.num_neighbours, len(seen) - 1), self.data_device)

    def get_extra_state(self) -> dict[str, Any]:
        """Also the neighbours of this epoch."""
        return {**super().get_extra_state(), "neighbours": self.neighbour_loss.memory}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        super().set_extra_state(state)
        memory = state["neighbours"]
        self.neighbour_loss.memory = memory and {name: x.to(self.data_device) for name, x in memory.items()}
