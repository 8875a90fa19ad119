"""Ward's clustering against scipy's, and what must hold for any data."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import cut_tree, linkage

from pml_slade.clustering import ward as module
from pml_slade.clustering.ward import ward


def same_partition(a, b):
    return len({*zip(a, b)}) == len({*a}) == len({*b})


def by_scipy(points, k):
    return cut_tree(linkage(points, "ward"), k)[:, 0]


@pytest.fixture(params=["cloud", "blobs", "far away", "nearly equal"])
def points(request):
    generator = np.random.default_rng(0)
    cloud = generator.normal(size=(150, 6))
    blobs = generator.normal(size=(9, 6))[np.arange(150) % 9]
    return {
        "cloud": cloud,
        "blobs": blobs + 0.1 * cloud,
        "far away": cloud + 1e7,
        "nearly equal": blobs + 1e-4 * cloud,
    }[request.param]


@pytest.mark.parametrize("block", [1, 1000, 1 << 22])
@pytest.mark.parametrize("k", [1, 2, 9, 40, 149, 150])
def test_it_is_scipys(points, k, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    assert same_partition(ward(points, k), by_scipy(points, k))


@pytest.mark.parametrize("k", [2, 9, 40])
def test_a_weight_is_a_point_that_often(points, k):
    weights = np.random.default_rng(1).integers(1, 5, len(points))
    repeated = np.repeat(points, weights, axis=0)
    assert same_partition(np.repeat(ward(points, k, weights), weights), by_scipy(repeated, k))


@pytest.mark.parametrize("k", [2, 9, 40])
def test_the_order_of_points_does_not_matter(points, k):
    order = np.random.default_rng(1).permutation(len(points))
    assert same_partition(ward(points, k)[order], ward(points[order], k))


def test_labels_have_no_gaps_and_points_are_left_as_they_were(points):
    before = points.copy()
    assert sorted({*ward(points, 9).tolist()}) == list(range(9))
    assert np.array_equal(points, before)


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_identical_points_stay_together_and_fewer_clusters_come_out(distinct):
    which = np.arange(12) % distinct
    assert same_partition(ward(np.eye(3)[which], 6), which)


@pytest.mark.parametrize("k", range(1, 13))
def test_points_at_equal_distances_end_in_as_many_clusters_as_asked_for(k):
    assert len({*ward(np.arange(12.0)[:, None], k)}) == k
    assert len({*ward(np.eye(12), k)}) == k


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_points_will_do(n):
    for k in range(1, n + 1):
        assert len({*ward(np.eye(3)[:n], k)}) == k


def test_where_rounding_hides_every_pair_the_cheapest_merges():
    cost, partner = module.torch.tensor([3.0, 1.0, 2.0]), module.torch.tensor([1, 2, 0])
    assert [t.tolist() for t in module._reciprocal(cost, partner)] == [[1], [2]]
