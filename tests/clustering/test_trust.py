"""How far neighbours in a pool can be trusted."""

import numpy as np
import pytest

from pml_slade.clustering import smooth, whiten
from pml_slade.clustering.neighbours import nearest_others
from pml_slade.clustering.trust import NEAREST, neighbours_right


def classes(number, noise, seed, per_class=20, size=24):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(number, size)).repeat(per_class, axis=0)
    found = centres + noise * rng.normal(size=centres.shape)
    return found.astype(np.float32), np.arange(number).repeat(per_class)


def truth(pool, labels, k=20):
    near, _ = nearest_others(smooth(whiten(pool), k), NEAREST)
    return (labels[near] == labels[:, None]).mean()


@pytest.mark.parametrize("noise", [0.3, 1.5, 2.0, 3.0])
def test_it_is_near_what_true_labels_of_the_pool_say(noise):
    labeled, labels = classes(30, noise, seed=0)
    pool, hidden = classes(40, noise, seed=1)
    assert neighbours_right(pool, labeled, labels) == pytest.approx(truth(pool, hidden), abs=0.1)


def test_noise_makes_it_small():
    shares = [
        neighbours_right(classes(40, noise, seed=1)[0], *classes(30, noise, seed=0))
        for noise in (0.3, 2.0, 5.0)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.95
    assert shares[-1] < 0.3


def test_the_pool_s_images_are_strangers():
    labeled, labels = classes(10, 0.3, seed=0)
    assert neighbours_right(labeled[:0].reshape(0, 24), labeled, labels) == 1
    assert neighbours_right(labeled, labeled, labels) < 0.6


def test_without_whitening():
    labeled, labels = classes(10, 0.3, seed=0)
    assert neighbours_right(classes(5, 0.3, seed=1)[0], labeled, labels, whitening=0) == 1
