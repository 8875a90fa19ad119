"""NeighbourBatches: who stands in a batch beside whom."""

import numpy as np
import pytest
from reference import cosine
from torch.utils.data import BatchSampler, DataLoader

from pml_slade.exceptions import DataError
from pml_slade.trainers import NeighbourBatches


def groups(pool, batch_size, num_neighbours, num_batches):
    sampler = NeighbourBatches(pool, batch_size, num_neighbours, num_batches)
    return np.array(list(sampler)).reshape(num_batches, batch_size // num_neighbours, num_neighbours)


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(size=(50, 6))


@pytest.mark.parametrize("num_neighbours", [1, 2, 5])
def test_each_query_is_followed_by_its_nearest_neighbours_by_cosine(points, num_neighbours):
    vectors = points.tolist()
    for query, *others in groups(points, 10, num_neighbours, 4).reshape(-1, num_neighbours):
        by_cosine = sorted(range(50), key=lambda j: -cosine(vectors[query], vectors[j]))
        assert by_cosine[:num_neighbours] == [query, *others]


def test_the_length_is_that_of_all_batches(points):
    sampler = NeighbourBatches(points, batch_size=10, num_neighbours=5, num_batches=3)
    assert len(sampler) == len(list(sampler)) == 30
    assert [len(batch) for batch in BatchSampler(sampler, 10, drop_last=False)] == [10] * 3


def test_a_loader_can_use_it(points):
    sampler = NeighbourBatches(points, batch_size=10, num_neighbours=5, num_batches=3)
    assert [tuple(x.shape) for x in DataLoader(points, batch_size=10, sampler=sampler)] == [(10, 6)] * 3


def test_the_queries_of_a_batch_differ(points):
    for batch in groups(points, 100, 2, 5):
        assert sorted(batch[:, 0]) == list(range(50))


@pytest.mark.parametrize("copies", [2, 5, 50])
def test_a_group_holds_no_sample_twice_even_among_duplicates(copies):
    pool = np.repeat(np.random.default_rng(0).normal(size=(50 // copies, 6)), copies, axis=0)
    for group in groups(pool, 200, 4, 2).reshape(-1, 4):
        assert len(set(group)) == 4


def test_lengths_of_the_embeddings_do_not_matter(points):
    np.random.seed(3)  # noqa: NPY002
    expected = groups(points, 10, 5, 4)
    np.random.seed(3)  # noqa: NPY002
    longer = points * np.random.default_rng(1).uniform(0.5, 2, (50, 1))
    np.testing.assert_array_equal(groups(longer, 10, 5, 4), expected)


def test_numpys_global_seed_fixes_the_batches_and_passes_differ(points):
    sampler = NeighbourBatches(points, batch_size=10, num_neighbours=5, num_batches=3)
    passes = []
    for seed in (1, 1, 2):
        np.random.seed(seed)  # noqa: NPY002
        passes.append(list(sampler))
    assert passes[0] == passes[1] != passes[2] != list(sampler)


def test_the_whole_pool_can_be_one_group(points):
    assert sorted(groups(points[:4], 4, 4, 1).ravel()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1), "batch_size must be an integer of at least 1"),
        ((4, 0, 1), "num_neighbours must be an integer of at least 1"),
        ((4, 2, 0), "num_batches must be an integer of at least 1"),
        ((10, 4, 1), "batch_size must be a multiple of num_neighbours=4, got 10"),
        ((60, 60, 1), "do not fit a pool of 50"),
        ((51, 1, 1), "do not fit a pool of 50"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(points, sizes, message):
    with pytest.raises(ValueError, match=message):
        NeighbourBatches(points, *sizes)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (np.zeros((0, 3)), "must have shape"),
        (np.zeros(3), "must have shape"),
        (np.array([[1.0, np.nan]]), "not finite"),
    ],
    ids=["empty", "flat", "nan"],
)
def test_embeddings_that_cannot_be_searched_are_refused(pool, message):
    with pytest.raises(DataError, match=message):
        NeighbourBatches(pool, 1, 1, 1)
