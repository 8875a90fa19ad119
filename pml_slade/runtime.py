"""Where and how a run computes: one object for training, embedding and evaluation."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from . import processes
from .clustering import embed
from .datasets.pseudo_label_dataset import first_of_item
from .evaluation import evaluate
from .exceptions import ConfigError
from .numerics import Computing, Numerics

USUAL = Numerics(channels_last=None)
"""float32, and images laid out as suits the model."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt."""


@dataclass(frozen=True)
class Runtime:
    """The device, and how images reach it.

    Attributes:
        device: that computes.
        workers: data loader processes.
        progress: whether progress is shown: bars on a terminal, else lines.
        numerics: how models compute.

    Examples:
        >>> runtime = Runtime.find("cpu")
        >>> runtime.embed([torch.ones(3), torch.zeros(3)], torch.nn.Identity()).shape
        (2, 3)
    """

    device: torch.device
    workers: int = 0
    progress: bool = False
    numerics: Numerics = USUAL

    @classmethod
    def find(
        cls,
        device: str = "auto",
        workers: int = 0,
        progress: bool = False,
        numerics: Numerics = USUAL,
    ) -> Runtime:
        """Return the runtime of a device by name; "auto" is the first GPU where there is one.

        Of several processes on a machine each has a GPU of its own, and the first one shows progress.
        On CPUs, this process keeps the memory that it frees, see `keep_freed_memory`.

        Raises:
            ConfigError: no such device or precision, or several processes were launched that do not share
                the work, see `processes.joined`.
        """
        processes.check_joined()
        found = _device(device)
        if found.type == "cpu":
            keep_freed_memory()
        return cls(found, workers, progress and processes.is_first(), numerics.on(found))

    @property
    def bars(self) -> bool:
        """Whether progress bars are shown; in a file they are one endless line."""
        return self.progress and sys.stderr.isatty()

    @property
    def quiet(self) -> Runtime:
        """The same without progress bars."""
        return replace(self, progress=False)

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device, laid out in memory as suits it."""
        return self.numerics.place(model, self.device)

    def embed(self, dataset: Any, model: torch.nn.Module, batch_size: int | None = None) -> np.ndarray:
        """Embed every item of a dataset, in order, see `clustering.embed`; float32 (N, d)."""
        return embed(
            dataset,
            Computing(self.place(model), self.numerics),
            data_getter=first_of_item,
            batch_size=batch_size,
            device=self.device,
            num_workers=self.workers,
            progress=self.bars,
        )

    def evaluate(self, *found: np.ndarray) -> dict[str, float]:
        """Measure retrieval, see `evaluation.evaluate`."""
        return processes.once(lambda: evaluate(*found, device=self.device))


def cpu_workers() -> int:
    """Data loader processes that suit reading image files here: one a CPU, eight at most."""
    return min(max((os.cpu_count() or 1) // processes.on_machine(), 1), 8)


def keep_freed_memory() -> bool:
    """Have this process keep memory of up to 1 GiB that it frees; return whether its C library can.

    By itself, glibc gives a large tensor's memory back at once, and the system clears it anew for the next,
    which takes long where images are large.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    kept = mallopt(MMAP_THRESHOLD, 2**30) or mallopt(MMAP_THRESHOLD, 2**25)  # an older one takes no more
    return bool(kept and mallopt(TRIM_THRESHOLD, 2**31 - 1))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.size() > 1:
        name = f"cuda:{processes.place()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and processes.size() > 1:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
