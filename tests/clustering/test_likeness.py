"""How like labeled images others are."""

import numpy as np
import pytest

from pml_slade.clustering.likeness import NEAREST, Likeness


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def labeled():
    """Four classes around one direction, and their labels."""
    rng = np.random.default_rng(0)
    centres = np.eye(16)[0] + 0.3 * rng.normal(size=(4, 16))
    return np.repeat(centres, 10, axis=0) + 0.05 * rng.normal(size=(40, 16)), np.arange(4).repeat(10)


def test_nearness_is_the_mean_cosine_to_the_nearest_labeled_images(labeled):
    features, labels = labeled
    asked = np.random.default_rng(1).normal(size=(7, 16))
    expected = np.sort(unit(asked) @ unit(features).T, axis=1)[:, -NEAREST:].mean(axis=1)
    assert np.allclose(Likeness(features, labels).nearness(asked), expected, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_the_floor_is_that_of_labeled_images_to_other_classes(labeled, share):
    features, labels = labeled
    cosines = unit(features) @ unit(features).T
    cosines[labels[:, None] == labels] = -np.inf
    nearness = np.sort(cosines, axis=1)[:, -NEAREST:].mean(axis=1)
    assert Likeness(features, labels, share).floor == pytest.approx(np.quantile(nearness, share), abs=1e-6)


def test_further_classes_are_like_them_and_other_things_are_not(labeled):
    likeness = Likeness(*labeled)
    rng = np.random.default_rng(2)
    further = np.eye(16)[0] + 0.25 * rng.normal(size=(200, 16))
    assert (likeness.nearness(further) >= likeness.floor).mean() > 0.5
    others = rng.normal(size=(200, 16))
    assert (likeness.nearness(others) >= likeness.floor).mean() <= 0.1


def test_classes_of_one_image_and_fewer_images_than_are_compared():
    likeness = Likeness(np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2]]), np.array([0, 1, 1]))
    assert likeness.nearness(np.array([[1.0, 0.0]])).shape == (1,)
    assert 0 < likeness.floor <= 1


@pytest.mark.parametrize(
    ("labels", "share"), [(np.zeros(40, int), 0.05), (np.arange(3), 0.05), (np.arange(40), 1.0)]
)
def test_bad_arguments_are_refused(labeled, labels, share):
    with pytest.raises(ValueError, match="must be"):
        Likeness(labeled[0], labels, share)
