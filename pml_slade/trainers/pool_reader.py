"""How a trainer makes batches of its pool: by the rules for its labeled images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_metric_learning.utils import common_functions as c_f
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, default_collate

from ..clustering import embed
from ..datasets.pseudo_label_dataset import LEFT_OUT, PseudoLabelDataset, first_of_item
from ..exceptions import DataError

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class PoolReader:
    """Makes batches of a pool's items, to train on and to embed.

    Without a `getter`, the collate function meets pairs (data, label) and returns a pair of batches. With
    one, it meets items as the pool has them, so that the getter meets batches that look like the labeled
    ones; the batch then gets its pseudo-labels in the order of its items. An item that is data alone comes
    as a pair in either case.

    Args:
        getter: PML's data_and_label_getter, which meets whole batches; None takes batches as they are.
        or_pairs: take a pair of batches (data, labels) that the getter cannot read as it is, and warn. The
            getter may be made for labeled items of another form.
        collate_fn: makes batches to train on; None is PyTorch's own.
        embedding_collate_fn: makes batches to embed; None is PyTorch's own.
        device: where batches to embed go.
        dtype: batches to embed are cast to it, as PML's trainers cast theirs; None leaves them.
        num_workers: of the data loaders.
    """

    getter: Callable[[Any], Any] | None = None
    or_pairs: bool = False
    collate_fn: Collate | None = None
    embedding_collate_fn: Collate | None = None
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None
    num_workers: int = 0

    def loader(self, pool: PseudoLabelDataset, batch_size: int, sampler: Any) -> DataLoader[Any]:
        """Return a loader of batches that `data_and_labels` reads."""
        dataset: Any = pool
        collate: Any = self.collate_fn
        if self.getter is not None:
            dataset, collate = _ItemsAndLabels(pool), _CollateBoth(self.collate_fn or default_collate)
        loader: DataLoader[Any] = c_f.get_train_dataloader(
            dataset, batch_size, sampler, self.num_workers, collate
        )
        return loader

    def data_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return data and pseudo-labels of a batch from `loader`.

        Raises:
            DataError: the collate function or the getter does not give what it should.
        """
        if self.getter is None:
            return _pair(batch)
        items, labels = batch
        data = self._data(items)
        if len(data) != len(labels):
            raise DataError(
                f"{len(labels)} items of unlabeled_dataset became a batch of {len(data)}, so that their "
                "pseudo-labels are not known. With data_and_label_getter, collate_fn must keep all items in "
                "order. Or give a PseudoLabelDataset and an unlabeled_collate_fn, which meets pairs "
                "(data, label)."
            )
        return data, labels

    def embed(
        self,
        images: Any,
        model: torch.nn.Module,
        data_getter: Callable[[Any], Any] | None = None,
        batch_size: int | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """Embed images of the pool, in order; see `clustering.embed`.

        Args:
            images: map-style.
            model: (n, ...) -> (n, d).
            data_getter: picks the data from an item, where there is no `getter`.
            batch_size: images at once; default as there.
            progress: show a progress bar.

        Returns:
            (N, d) float32.
        """
        return embed(
            images,
            model,
            data_getter=_DataAlone(data_getter or first_of_item) if self.getter is None else _as_labeled,
            collate_fn=self.embedding_collate_fn,
            batch_getter=self._data,
            batch_size=batch_size,
            device=self.device,
            dtype=self.dtype,
            num_workers=self.num_workers,
            progress=progress,
        )

    def _data(self, batch: Any) -> Tensor:
        if self.getter is None:
            return _pair(batch)[0]
        try:
            data: Tensor = self.getter(batch)[0]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            if self.or_pairs and isinstance(batch, (tuple, list)) and len(batch) == 2:
                warnings.warn(
                    "data_and_label_getter cannot read batches (data, labels) of the PseudoLabelDataset "
                    f"({type(error).__name__}: {error}): they are taken as they are. Give it a data_getter "
                    "if that is right.",
                    stacklevel=2,
                )
                return _pair(batch)[0]
            raise DataError(
                "data_and_label_getter cannot read a batch of unlabeled_dataset "
                f"({type(error).__name__}: {error}). Items of the pool must look like those of `dataset`. "
                "Where they have no label, let the getter take batch.get('label'). Or give a "
                "PseudoLabelDataset with a data_getter, whose batches need no other getter."
            ) from error
        return data


def kept_of(sampler: Any, pool: PseudoLabelDataset) -> Any:
    """Return a sampler of a raw pool as one of the images that clustering kept.

    Args:
        sampler: draws indices of the raw pool, or batches of them.
        pool: the raw pool with its pseudo-labels.

    Returns:
        A sampler of `pool` that draws the same images; those that are left out are skipped.

    Examples:
        >>> pool = PseudoLabelDataset(["a", "b", "c"], [0, -1, 0])
        >>> [pool[i][0] for i in kept_of([2, 1, 0, 2], pool)]
        ['c', 'a', 'c']
    """
    if pool.num_left_out == 0:
        return sampler
    positions = np.full(len(pool.dataset), LEFT_OUT)
    positions[pool.indices] = np.arange(len(pool))
    kind = _KeptBatches if isinstance(sampler, BatchSampler) else _Kept
    return kind(sampler, positions)


class _Kept(Sampler[int]):
    def __init__(self, sampler: Any, positions: np.ndarray) -> None:
        self.sampler, self.positions = sampler, positions

    def __iter__(self) -> Iterator[int]:
        found = (int(self.positions[int(index)]) for index in self.sampler)
        return (position for position in found if position != LEFT_OUT)


class _KeptBatches(BatchSampler):
    def __init__(self, sampler: Any, positions: np.ndarray) -> None:
        self.batches, self.positions = sampler, positions

    def __iter__(self) -> Iterator[list[int]]:
        found = (list(_Kept(batch, self.positions)) for batch in self.batches)
        return (batch for batch in found if batch)

    def __len__(self) -> int:
        return len(self.batches)


class _ItemsAndLabels(Dataset[tuple[Any, int]]):
    """Items of a pool as they are, not as PseudoLabelDataset gives them, each with its pseudo-label."""

    def __init__(self, pool: PseudoLabelDataset) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        item, label = self.pool.dataset[int(self.pool.indices[index])], int(self.pool.labels[index])
        return _as_labeled(item, label), label


class _CollateBoth:
    """Collates items, and their pseudo-labels beside them."""

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, pairs: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        return self.collate([item for item, _ in pairs]), torch.tensor([label for _, label in pairs])


class _DataAlone:
    """An item's data, with a label that nothing reads: collate functions expect one."""

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self.getter = getter

    def __call__(self, item: Any) -> tuple[Any, int]:
        return self.getter(item), 0


def _as_labeled(item: Any, label: int = 0) -> Any:
    """Return an item as it is, or a pair where it is data alone."""
    if isinstance(item, (Tensor, np.ndarray, Image.Image, str)):
        return item, label
    return (item[0], label) if isinstance(item, (tuple, list)) and len(item) == 1 else item


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(
            "collate_fn must make (data, labels) of the pool's (data, label) pairs, got "
            f"{type(batch).__name__}; give data_and_label_getter, or another unlabeled_collate_fn."
        )
    return batch[0], batch[1]
