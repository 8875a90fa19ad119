"""How the steps of an epoch read their images, from whichever step on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from ..datasets.draws import BatchDraws, Draws, SeededItems


@dataclass
class _Kept:
    """A loader, and what it was made of."""

    dataset: Any
    made_with: tuple[Any, ...]
    draws: Draws
    loader: DataLoader[Any]


class EpochLoaders:
    """Makes the loaders of a stage, epoch after epoch, in place of PML's.

    What a step sees depends on the seed, the epoch and the step alone, see `datasets.draws`. Where a dataset
    stays from epoch to epoch, the processes that read it stay, too.

    Args:
        seed: of the stage.
        device: that computes; batches for a GPU are put together where it can fetch them by itself.
    """

    def __init__(self, seed: int, device: torch.device | str) -> None:
        self.seed = seed
        self.pin = torch.device(device).type == "cuda"
        self._kept: dict[int, _Kept] = {}
        self._made = 0

    def begin(self, epoch: int, steps: int, first: int) -> None:
        """The loaders that are made next are of this epoch, and leave out its `first` steps."""
        self.epoch, self.steps, self.first, self._made = epoch, steps, first, 0

    def make(self, dataset: Any, batch_size: int, sampler: Any, num_workers: int, collate_fn: Any) -> Any:
        """Return a loader of batches; the arguments are those of PML's function."""
        number, self._made = self._made, self._made + 1
        sampler = RandomSampler(dataset) if sampler is None else sampler
        kind = BatchDraws if isinstance(sampler, BatchSampler) else Draws
        draws = kind(sampler, int(batch_size), self.steps, self.first, (self.seed, self.epoch, number))
        made_with = (kind, draws.size, num_workers, collate_fn)
        kept = self._kept.pop(number, None)
        if kept is None or kept.dataset is not dataset or kept.made_with != made_with:
            del kept  # its processes end before others begin
            kept = _Kept(dataset, made_with, draws, self._loader(dataset, draws, num_workers, collate_fn))
        vars(kept.draws).update(vars(draws))
        self._kept[number] = kept
        return kept.loader

    def close(self) -> None:
        """Let go of all loaders, so that the processes that read end."""
        self._kept.clear()

    def _loader(self, dataset: Any, draws: Draws, num_workers: int, collate_fn: Any) -> DataLoader[Any]:
        batches: dict[str, Any] = {"batch_sampler": draws}
        if not isinstance(draws, BatchDraws):
            batches = {"sampler": draws, "batch_size": draws.size, "drop_last": True}
        return DataLoader(
            SeededItems(dataset),
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=self.pin,
            persistent_workers=num_workers > 0,
            **batches,
        )
