"""Data to embeddings that can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..exceptions import DataError


def checked_embeddings(embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings as contiguous float32 (N, d), or say what is wrong with them."""
    x = np.ascontiguousarray(embeddings, dtype=np.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(f"embeddings must have shape (N, d) with N, d >= 1, got {x.shape}.")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(x)} embeddings are not finite, the first at index {bad[0]}: the model "
            "diverged or its weights are damaged. Lower the learning rate or check the weights."
        )
    return x


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Bring rows to unit length; zeros stay zeros.

    Examples:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
        array([[0.6, 0.8],
               [0. , 0. ]])
    """
    unit: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
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
    batch_size: int = 128,
    device: torch.device | str | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> np.ndarray:
    """Embed every item of a dataset, in order.

    Args:
        dataset: map-style.
        model: (n, ...) -> (n, d). Put in eval mode for this, then back.
        data_getter: picks the data from an item.
        batch_size: items at once.
        device: default where the model's parameters are.
        num_workers: of the data loader.
        progress: show a progress bar.

    Returns:
        (N, d) float32.

    Raises:
        DataError: empty dataset, a model that does not give (n, d), values that are not finite.

    Examples:
        >>> embed([torch.ones(3), torch.zeros(3)], torch.nn.Identity(), progress=False).shape
        (2, 3)
    """
    if len(dataset) == 0:
        raise DataError("dataset is empty: there is nothing to embed.")
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    loader = DataLoader(_DataOnly(dataset, data_getter), batch_size=batch_size, num_workers=num_workers)
    was_training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        parts = []
        for data in tqdm(loader, desc="embedding", leave=False, disable=not progress):
            out = model(data.to(device))
            if out.ndim != 2:
                raise DataError(f"the model must give (n, d) embeddings, got {tuple(out.shape)}.")
            parts.append(out.float().cpu().numpy())
    finally:
        for module, training in was_training.items():
            module.training = training
    return checked_embeddings(np.concatenate(parts))
