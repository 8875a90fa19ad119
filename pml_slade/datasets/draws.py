"""What a step of training sees, by its number alone: the seed of each image that is drawn in an epoch.

Augmentation draws from global generators. Here these are seeded for each image, so that an epoch can be
taken up at any step, without reading the images before it, and by any number of loader processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset, Sampler


def seed_everything(*parts: int) -> None:
    """Seed torch, numpy and random from several integers.

    It is called for each image. `torch.manual_seed` would note who called it, for a GPU that nothing has used
    yet: that takes longer than reading a small image, and the notes are never let go.

    Examples:
        >>> seed_everything(0, 1); a = torch.rand(1)
        >>> seed_everything(0, 1); bool(a == torch.rand(1))
        True
    """
    state = int(np.random.SeedSequence(parts).generate_state(1)[0])
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(state)
    np.random.seed(state)  # noqa: NPY002  PML's samplers draw from the global generator
    random.seed(state)


class Draw(int):
    """The index of an image, and what the generators are seeded with before it is read."""

    seed: tuple[int, ...]

    @classmethod
    def of(cls, index: int, *seed: int) -> Draw:
        """Return a draw of the image at an index."""
        draw = cls(index)
        draw.seed = seed
        return draw


class Draws(Sampler[Any]):
    """The batches of an epoch as a sampler draws them, pass after pass; each draw has a seed of its own.

    Several processes draw the same batches, and each takes an even share of every one of them.

    Args:
        sampler: of indices, or of batches of them.
        batch_size: of batches of indices. What is left of a pass that fills no batch is dropped.
        steps: batches in the epoch.
        first: batches that are left out, since they were trained on.
        seed: of the epoch.
        part: of each batch to take, and how many parts it has.

    Examples:
        >>> [int(draw) for draw in Draws([3, 1, 2], batch_size=2, steps=3, first=1, seed=(0,))]
        [3, 1, 3, 1]
        >>> [int(draw) for draw in Draws([3, 1, 2], batch_size=2, steps=3, first=1, seed=(0,), part=(1, 2))]
        [1, 1]
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        steps: int,
        first: int,
        seed: tuple[int, ...],
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.sampler, self.steps, self.first, self.seed, self.part = sampler, steps, first, seed, part
        self.size = 1 if isinstance(sampler, BatchSampler) else batch_size

    def __len__(self) -> int:
        return (self.steps - self.first) * self.share

    @property
    def share(self) -> int:
        """Items that it takes of a batch; 1 where the sampler makes batches."""
        return max(self.size // self.part[1], 1)

    def __iter__(self) -> Iterator[Any]:
        number, passes, end = 0, 0, self.steps * self.size
        while number < end:
            with _seeded(*self.seed, 1, passes):
                drawn = list(islice(self.sampler, end - number))
            if len(drawn) < self.size:
                return
            for index in drawn[: len(drawn) // self.size * self.size]:
                if number >= self.first * self.size and self._takes(number % self.size):
                    yield self._draw(index, number)
                number += 1
            passes += 1

    def _takes(self, place: int) -> bool:
        return self.size == 1 or place // self.share == self.part[0]

    def _draw(self, index: Any, number: int) -> Any:
        if isinstance(index, (list, tuple)):
            share = len(index) // self.part[1]
            places = range(self.part[0] * share, (self.part[0] + 1) * share)
            return [Draw.of(index[place], *self.seed, 0, number, place) for place in places]
        return Draw.of(index, *self.seed, 0, number)


class BatchDraws(Draws, BatchSampler):
    """The same of a sampler of batches, which a loader tells by its class."""


class SeededItems(Dataset[Any]):
    """A dataset whose items depend on their draw alone, see `Draws`."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        seed_everything(*draw.seed)
        return self.dataset[int(draw)]


@contextmanager
def _seeded(*parts: int) -> Iterator[None]:
    """Seed the generators for the block, and bring them back to where they were."""
    of_random, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed_everything(*parts)
    try:
        yield
    finally:
        random.setstate(of_random)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)
