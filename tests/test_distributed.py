"""Two processes, each with half of a batch, learn what one does with the whole."""

import pytest
import torch

from pml_slade.compat import LEGACY

if LEGACY:
    pytest.skip("PML 0.9.92 gathers no batches", allow_module_level=True)

import distributed_jobs as jobs
from two_processes import in_two_processes

CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of the two processes found."""
    return in_two_processes(tmp_path_factory.mktemp("processes"), jobs.everything)


@pytest.mark.parametrize("regularizer", jobs.REGULARIZERS)
def test_losses_gradients_and_statistics_are_those_of_one_process(both, regularizer):
    losses, gradients, state = jobs.train(None, regularizer)
    assert len(set(losses)) == jobs.STEPS
    for trained, _ in both:
        found = trained[regularizer]
        torch.testing.assert_close(found[0], losses, **CLOSE)
        torch.testing.assert_close(found[1], gradients, **CLOSE)
        torch.testing.assert_close(found[2], state, **CLOSE)
    assert (state["pos_batches"] > 0) == (regularizer is not None)


def test_pairs_mined_from_all_processes_are_those_of_one(both):
    pairs, loss, gradient = jobs.mine(None, False)
    assert all(pairs)
    for _, mined in both:
        found = mined[False]
        assert found[0] == pairs
        torch.testing.assert_close(found[1], loss, **CLOSE)
        torch.testing.assert_close(found[2], gradient, **CLOSE)


def test_an_efficient_miner_finds_in_each_process_the_pairs_of_its_own_samples(both):
    pairs, _, _ = jobs.mine(None, False)
    first, second = (mined[True][0] for _, mined in both)
    for side in range(2):
        assert first[side] | second[side] == pairs[side]
        assert not first[side] & second[side]
