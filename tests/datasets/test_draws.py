"""Each image that is drawn has a seed of its own, whatever was drawn before it."""

import random

import numpy as np
import torch
from torch.utils.data import BatchSampler, RandomSampler

from pml_slade.datasets.draws import BatchDraws, Draws, SeededItems, seed_everything


def test_seeding_takes_several_numbers_and_their_order_counts():
    def draw(*parts):
        seed_everything(*parts)
        return torch.rand(1).item()

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(2, 1), draw(1), draw(1, 2, 0)}) >= 3


def test_seeding_leaves_nothing_behind():
    kept = len(torch.cuda._queued_calls)
    for number in range(5):
        seed_everything(number)
    assert len(torch.cuda._queued_calls) == kept
    torch.manual_seed(torch.initial_seed())
    expected = torch.rand(3)
    seed_everything(4)
    assert torch.equal(torch.rand(3), expected)


def numbers():
    """One from every generator."""
    return torch.rand(1).item(), np.random.random_sample(), random.random()  # noqa: NPY002


class Noise(torch.utils.data.Dataset):
    """Seven of them."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return index, *numbers()


def items(first, kind=Draws, sampler=None):
    sampler = sampler or RandomSampler(Noise())
    read = SeededItems(Noise())
    drawn = [*kind(sampler, batch_size=3, steps=5, first=first, seed=(1, 2))]
    return [[read[i] for i in draw] if isinstance(draw, list) else read[draw] for draw in drawn]


def test_an_epoch_that_is_taken_up_anywhere_goes_on_as_if_it_had_never_stopped():
    whole = items(0)
    assert len(whole) == 15  # of a pass over 7 images, the last is dropped
    assert len(set(whole)) == 15
    for first in range(5):
        assert items(first) == whole[3 * first :]


def test_batches_of_a_sampler_stay_whole():
    sampler = BatchSampler(RandomSampler(Noise()), 2, drop_last=True)
    whole = items(0, BatchDraws, sampler)
    assert [len(batch) for batch in whole] == [2] * 5
    assert items(3, BatchDraws, sampler) == whole[3:]


def test_what_else_is_drawn_does_not_notice():
    seed_everything(3)
    expected = numbers()
    seed_everything(3)
    list(Draws(RandomSampler(Noise()), 3, 5, 0, (1, 2)))
    assert numbers() == expected


def test_a_sampler_that_fills_no_batch_ends_the_epoch():
    assert list(Draws([1, 2], 3, 5, 0, (1, 2))) == []
