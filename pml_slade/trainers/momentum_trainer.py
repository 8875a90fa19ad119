"""Trainers in which a momentum teacher looks at another view of the pool's images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..exceptions import ConfigError, DataError
from .neighbour_batches import NeighbourBatches
from .pool_reader import Collate
from .self_training_trainer import SelfTrainingTrainer, plain_collate


class MomentumTrainer(SelfTrainingTrainer):
    """Compares the student's embeddings of the pool's images with a teacher's of other views of them.

    Its ``unlabeled_metric_loss`` is called with both embeddings, and with no labels. Unlabeled batches hold
    two views of each image, all first ones before all second ones, which `unlabeled_collate_fn` has to see to
    (see `datasets.batch_transforms`); the student sees the first ones.

    Args:
        args: see SelfTrainingTrainer.
        kwargs: likewise; ``teacher`` is the `models` of a ModelAverage that follows the student.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.teacher is None:
            raise ConfigError("teacher: give the `models` of a ModelAverage that follows the student.")

    def _embedding_collate(self) -> Collate | None:
        """That of the labeled images: the pool's makes two views."""
        return self.clustering_collate_fn or plain_collate(self.collate_fn)

    def get_batch(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return a labeled batch and the first views of an unlabeled one; keep the second views."""
        labeled, (views, labels) = super().get_batch()
        n, images = len(views) // 2, len(labels) // 2
        if len(views) != 2 * n or not torch.equal(labels[:images], labels[images:]):
            raise DataError("unlabeled_collate_fn must give two views of each image, first views first.")
        self._second_views = views[n:]
        return labeled, (views[:n], labels[:images])

    def unlabeled_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return what the loss says of the student's and the teacher's embeddings."""
        teacher = self._teacher().eval()
        with torch.no_grad():
            taught = teacher(self.to_device(self._second_views))
            taught = self.rows_of_all(taught, self.unlabeled_batch_size)
        loss: Tensor = self.loss_funcs["unlabeled_metric_loss"](embeddings, taught)
        return loss


class SelfTaughtTrainer(MomentumTrainer):
    """Self-taught metric learning (Kim et al., CVPR 2022) beside the loss on labeled images.

    Unlabeled batches hold random images with their nearest neighbours, which the teacher finds at the
    beginning of each epoch.

    Args:
        neighbours: nearest neighbours of an image in a batch, itself counted.
        args: see MomentumTrainer.
        kwargs: see MomentumTrainer; ``clustering_dataset`` is embedded to find neighbours.
    """

    def __init__(self, *args: Any, neighbours: int = 4, **kwargs: Any) -> None:
        self.neighbours = neighbours
        self._embeddings: np.ndarray | None = None
        super().__init__(*args, **kwargs)

    def _begin_epoch(self) -> None:
        super()._begin_epoch()
        assert self.pool is not None  # it has been labeled
        self._embeddings = self.labeler.embed(self._teacher())[self.pool.indices]
        self.unlabeled_dataloader_iter = None  # other neighbours

    def _default_unlabeled_sampler(self) -> NeighbourBatches:
        size = self.unlabeled_batch_size
        assert self._embeddings is not None  # the epoch has begun
        steps = self.iterations_per_epoch or len(self._embeddings) // size
        return NeighbourBatches(self._embeddings, size, self.neighbours, steps)

    def get_extra_state(self) -> dict[str, Any]:
        """Also the embeddings among which the epoch's neighbours are found."""
        return {**super().get_extra_state(), "embeddings": self._embeddings}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        super().set_extra_state(state)
        self._embeddings = state["embeddings"]
