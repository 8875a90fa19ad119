"""Data to embeddings that can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from .. import processes
from ..checks import check_batch_size, check_int, check_map_style
from ..exceptions import DataError

ROWS = 1 << 14
"""Rows that are computed at once, where all would take as much memory as the embeddings."""


def row_blocks(count: int) -> Iterator[slice]:
    """Cut so many rows into blocks.

    Examples:
        >>> list(row_blocks(20_000))
        [slice(0, 16384, None), slice(16384, 20000, None)]
    """
    return (slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS))


def checked_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings as contiguous float32 (N, d), or say what is wrong with them."""
    x = np.ascontiguousarray(embeddings, dtype=np.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(f"embeddings must have shape (N, d) with N, d >= 1, got {x.shape}.")
    finite = np.concatenate([np.isfinite(x[rows]).all(axis=1) for rows in row_blocks(len(x))])
    bad = np.flatnonzero(~finite)
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(x)} embeddings are not finite, the first at index {bad[0]}: the model "
            "diverged or its weights are damaged. Lower the learning rate or check the weights."
        )
    return x


def without_itself(found: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Neighbours of points among themselves, (n, k), without the points; (n, k - 1).

    Among duplicates a point may be found late, or not at all.

    Args:
        found: (n, k) positions, nearest first.
        queries: (n,) position of each point itself.

    Examples:
        >>> without_itself(np.array([[0, 2, 1], [2, 1, 0]]), np.array([0, 1]))
        array([[2, 1],
               [2, 0]])
    """
    return np.take_along_axis(found, itself_last(found, queries), axis=1)[:, :-1]


def itself_last(found: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Order of the neighbours of each point, (n, k), in which the point itself comes last."""
    return np.argsort(found == queries[:, None], axis=1, kind="stable")


def unit_rows(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Bring rows to unit length; zeros stay zeros.

    Args:
        x: (N, d).
        out: (N, d), to write to, which may be x itself.

    Examples:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
        array([[0.6, 0.8],
               [0. , 0. ]])
    """
    unit = np.empty(x.shape, dtype=x.dtype if x.dtype.kind == "f" else np.float64) if out is None else out
    for rows in row_blocks(len(x)):
        unit[rows] = x[rows] / np.maximum(np.linalg.norm(x[rows], axis=1, keepdims=True), 1e-12)
    return unit


def _identity(item: Any) -> Any:
    return item


class _DataOnly(torch.utils.data.Dataset[Any]):
    def __init__(self, dataset: Any, getter: Callable[[Any], Any]) -> None:
        self.dataset, self.getter = dataset, getter

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.getter(self.dataset[index])


@torch.no_grad()
def embed(
    dataset: Any,
    model: torch.nn.Module,
    *,
    data_getter: Callable[[Any], Any] = _identity,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    batch_getter: Callable[[Any], torch.Tensor] = _identity,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """Embed every item of a dataset, in order. Processes that are `joined` share the batches.

    Args:
        dataset: map-style.
        model: (n, ...) -> (n, d). Put in eval mode for this, then back.
        data_getter: picks the data from an item.
        collate_fn: makes a batch of what `data_getter` picked; default PyTorch's own.
        batch_getter: picks the data, a tensor (n, ...), from a batch.
        batch_size: items at once; default 256 on a GPU, and on CPUs 64, as more take memory and no less time.
        device: default where the model's parameters are.
        dtype: data are cast to it; None leaves them as they are.
        num_workers: of the data loader.
        progress: show a progress bar.

    Returns:
        (N, d) float32.

    Raises:
        ConfigError: batch_size below 1, num_workers below 0.
        DataError: a dataset that is empty or not map-style, a model that does not give an embedding per item,
            values that are not finite.

    Examples:
        >>> embed([torch.ones(3), torch.zeros(3)], torch.nn.Identity(), progress=False).shape
        (2, 3)
    """
    check_map_style("dataset", dataset)
    check_batch_size(batch_size)
    check_int("num_workers", num_workers, at_least=0)
    if len(dataset) == 0:
        raise DataError("dataset is empty: there is nothing to embed.")
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if batch_size is None:
        batch_size = 64 if torch.device(device).type == "cpu" else 256
    parts = processes.shares(len(dataset), batch_size)
    own = parts[processes.rank()]
    loader = DataLoader(
        _DataOnly(dataset, data_getter),
        batch_size=batch_size,
        sampler=range(own.start, own.stop),
        num_workers=num_workers,
        collate_fn=collate_fn,
    )
    embeddings, done = np.empty((0, 0), dtype=np.float32), own.start
    with _eval_mode(model):
        for batch in tqdm(loader, desc="embedding", leave=False, disable=not progress):
            out = model(batch_getter(batch).to(device=device, dtype=dtype))
            _check_output(out, min(batch_size, own.stop - done))
            if done == own.start:
                embeddings = np.empty((len(dataset), out.shape[1]), dtype=np.float32)
            embeddings[done : done + len(out)] = out.float().cpu().numpy()
            done += len(out)
    return checked_embeddings(_of_all(embeddings, parts))


def _of_all(embeddings: np.ndarray, parts: Sequence[slice]) -> np.ndarray:
    """Embeddings of all items, where a process has those of its part."""
    if processes.size() == 1:
        return embeddings
    size = processes.once(lambda: embeddings.shape[1])
    if not len(embeddings):  # there were fewer batches than processes
        embeddings = np.empty((parts[-1].stop, size), dtype=np.float32)
    processes.fill(torch.from_numpy(embeddings), parts)
    return embeddings


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and each of its modules back where it was."""
    was_training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


def _check_output(out: torch.Tensor, items: int) -> None:
    if out.ndim != 2:
        raise DataError(f"the model must give (n, d) embeddings, got {tuple(out.shape)}.")
    if len(out) != items:
        raise DataError(
            f"a batch of {items} items gave {len(out)} embeddings: the model, and collate_fn where there is "
            "one, must give one for each item, in order."
        )
