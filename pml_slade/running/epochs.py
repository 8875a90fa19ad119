"""How the steps of an epoch read their images, from whichever step on."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from .. import processes
from ..datasets.draws import BatchDraws, Draws, SeededItems
from ..exceptions import ConfigError


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

    Several processes that train together read their shares of the same batches. Where a collate function does
    not say by an attribute `by_item` that it is the same for each item, whatever the others are, each process
    collates whole batches and takes its rows.

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
        part = processes.rank(), processes.size()
        if part[1] > 1 and not (collate_fn is None or getattr(collate_fn, "by_item", False)):
            collate_fn, part = _Rows(collate_fn, *part), (0, 1)
        seed = (self.seed, self.epoch, number)
        draws = kind(sampler, int(batch_size), self.steps, self.first, seed, part)
        made_with = (kind, draws.size, num_workers, collate_fn)
        kept = self._kept.pop(number, None)
        if kept is None or kept.dataset is not dataset or kept.made_with != made_with:
            del kept  # its processes end before others begin
            kept = _Kept(dataset, made_with, draws, self._loader(dataset, draws, num_workers, collate_fn))
        vars(kept.draws).update(vars(draws))
        self._kept[number] = kept
        return kept.loader

    def close(self, trainer: Any) -> None:
        """Let go of all loaders, and let their trainer do so: then the processes that read end.

        Where Python's garbage collector has to find them, PyTorch waits 5 s for each of these processes.
        """
        self._kept.clear()
        held = {"dataloader_iter", "dataloader", "unlabeled_dataloader_iter", "unlabeled_dataloader"}
        vars(trainer).update(dict.fromkeys(held & vars(trainer).keys()))

    def _loader(self, dataset: Any, draws: Draws, num_workers: int, collate_fn: Any) -> DataLoader[Any]:
        batches: dict[str, Any] = {"batch_sampler": draws}
        if not isinstance(draws, BatchDraws):
            batches = {"sampler": draws, "batch_size": draws.share, "drop_last": True}
        return DataLoader(
            SeededItems(dataset),
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=self.pin,
            persistent_workers=num_workers > 0,
            worker_init_fn=_outlive if processes.size() > 1 else None,
            **batches,
        )


@dataclass
class _Rows:
    """Collates whole batches, and takes one process's rows of what comes out."""

    collate: Any
    rank: int
    size: int

    def __call__(self, items: list[Any]) -> Any:
        count = len(items)
        share = count // self.size
        return self._rows(self.collate(items), slice(self.rank * share, (self.rank + 1) * share), count)

    def _rows(self, batch: Any, own: slice, count: int) -> Any:
        if isinstance(batch, (torch.Tensor, np.ndarray)):
            views = batch.reshape(-1, count, *batch.shape[1:])[:, own]
            return views.reshape(-1, *batch.shape[1:])
        if isinstance(batch, Mapping):
            return {key: self._rows(value, own, count) for key, value in batch.items()}
        if isinstance(batch, (list, tuple)):
            return [self._rows(value, own, count) for value in batch]
        raise ConfigError(
            f"collate_fn: several processes can share tensors and arrays, got {type(batch).__name__}; give "
            "it an attribute by_item = True, or start one process."
        )


def _outlive(worker: int) -> None:
    """Let a process that reads images stay when all are asked to end: the step needs its batch."""
    for number in ("SIGTERM", "SIGHUP", "SIGINT"):
        if hasattr(signal, number):
            signal.signal(getattr(signal, number), signal.SIG_IGN)
