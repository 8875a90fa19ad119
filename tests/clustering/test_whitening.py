"""whiten against the definition."""

import numpy as np
import pytest

from pml_slade.clustering import cluster, whiten
from pml_slade.exceptions import ConfigError, DataError


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def points(n=200, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.array([5.0, 3.0, 1.0, 0.5, 0.2])[:d]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_it_divides_principal_directions_by_their_deviations(power):
    x = unit(points())
    left, values, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = unit(left * values ** (1 - power))
    found = whiten(points(), power)
    assert found.dtype == np.float32
    assert np.allclose(found @ found.T, expected @ expected.T, atol=1e-4)  # axes may be mirrored and swapped


def test_only_directions_count_and_the_input_is_left_alone():
    x = points()
    before = x.copy()
    assert np.allclose(whiten(x), whiten(x * np.linspace(1, 9, len(x))[:, None]), atol=1e-4)
    assert (x == before).all()


def test_directions_that_nothing_varies_in_stay_small():
    x = np.hstack([points(), np.zeros((200, 3))])
    found = whiten(x, 1.0)
    assert np.isfinite(found).all()
    flat = whiten(points(), 1.0)
    assert np.allclose(found @ found.T, flat @ flat.T, atol=1e-3)


@pytest.mark.parametrize("x", [np.ones((4, 3)), np.ones((1, 3)), np.zeros((3, 2))])
def test_points_that_are_one_stay_so(x):
    found = whiten(x)
    assert np.isfinite(found).all()
    assert (found == found[0]).all()


def test_classes_that_differ_in_a_small_direction_come_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    x = np.column_stack([np.full(200, 3.0), rng.normal(size=200), 0.15 * (2 * labels - 1)])
    x[:, 2] += rng.normal(scale=0.02, size=200)

    def found(whitening):
        clusters = cluster(x, 2, method="ward", whitening=whitening).labels
        return max((clusters == labels).mean(), (clusters != labels).mean())

    assert found(0.0) < 0.7
    assert found(1.0) > 0.85


@pytest.mark.parametrize("power", [-0.1, 1.1, float("nan")])
def test_a_power_out_of_range_is_refused(power):
    with pytest.raises(ConfigError, match=r"power must be in \[0, 1\]"):
        whiten(points(), power)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        whiten(np.array([[1.0, np.nan]]))
