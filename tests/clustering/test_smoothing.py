"""Averages with reciprocal neighbours, against a slow loop."""

import numpy as np
import pytest

from pml_slade.clustering import smooth, whiten
from pml_slade.exceptions import ConfigError, DataError


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)


def slow_smooth(points, k, rounds, power):
    x = [p / np.linalg.norm(p) for p in points.astype(np.float64)]
    for _ in range(rounds):
        near = [sorted(range(len(x)), key=lambda j: -(x[i] @ x[j]))[:k] for i in range(len(x))]
        sums = [
            sum(max(x[i] @ x[j], 0) ** power * x[j] for j in near[i] if i in near[j]) for i in range(len(x))
        ]
        x = [s / np.linalg.norm(s) for s in sums]
    return np.array(x)


@pytest.mark.parametrize("k", [1, 2, 7, 40, 100])
@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("power", [0.5, 1, 3.0])
def test_it_is_the_slow_loop(points, k, rounds, power):
    out = smooth(points, k, rounds=rounds, power=power)
    assert out.dtype == np.float32
    assert np.allclose(out, slow_smooth(points, k, rounds, power), atol=1e-4)
    assert np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type_and_any_length_will_do(points, dtype):
    lengths = np.random.default_rng(1).uniform(0.5, 2, size=(40, 1))
    out = smooth((points * lengths).astype(dtype), 5)
    assert out.dtype == np.float32
    assert np.allclose(out, smooth(points, 5), atol=0.02 if dtype == np.float16 else 1e-4)


def test_points_may_be_whitened_before_and_stay_as_they_are(points):
    before = points.copy()
    assert np.array_equal(smooth(points, 5, whitening=0.5), smooth(whiten(points, 0.5), 5))
    assert not np.allclose(smooth(points, 5, whitening=0.5), smooth(points, 5), atol=0.01)
    assert np.array_equal(points, before)


def test_the_order_of_points_does_not_matter(points):
    order = np.random.default_rng(1).permutation(40)
    assert np.allclose(smooth(points, 5)[order], smooth(points[order], 5), atol=1e-5)


def test_embeddings_are_left_as_they_were(points):
    before = points.copy()
    smooth(points, 5)
    assert np.array_equal(points, before)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_identical_points_stay_where_they_are(n):
    assert np.allclose(smooth(np.tile([0.6, 0.8], (n, 1)), 3), [[0.6, 0.8]] * n, atol=1e-6)


def test_one_of_many_identical_points_keeps_itself():
    points = np.concatenate([np.tile([1.0, 0.0], (9, 1)), [[0.0, 1.0]]])
    assert np.allclose(smooth(points, 2), points, atol=1e-6)


def test_zeros_stay_zeros():
    assert smooth(np.array([[0.0, 0.0], [1.0, 0.0]]), 2).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_neighbours": 0}, "num_neighbours must be a positive integer, got 0"),
        ({"num_neighbours": 2.5}, "num_neighbours must be a positive integer, got 2.5"),
        ({"num_neighbours": 2, "rounds": 0}, "rounds must be a positive integer, got 0"),
        ({"num_neighbours": 2, "power": 0}, "power must be a positive number, got 0"),
        ({"num_neighbours": 2, "power": np.nan}, "power must be a positive number, got nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(points, settings, message):
    with pytest.raises(ConfigError, match=message):
        smooth(points, **settings)


def test_embeddings_that_are_not_finite_are_refused(points):
    points[3, 1] = np.nan
    with pytest.raises(DataError, match=r"1 of 40 .* not finite.*index 3"):
        smooth(points, 5)
