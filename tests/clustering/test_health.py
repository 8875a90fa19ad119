"""Clusters that are of little use are said to be, and sound ones are not."""

import logging

import numpy as np
import pytest

from pml_slade.clustering import Clustering, cluster
from pml_slade.clustering.health import few_points, signs

CLASSES, EACH = 10, 20


@pytest.fixture
def points():
    """Ten directions, twenty points around each."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, 16)).repeat(EACH, axis=0)
    return (centres + 0.1 * np.random.default_rng(1).normal(size=centres.shape)).astype(np.float32)


@pytest.mark.parametrize("method", ["ward", "kmeans"])
@pytest.mark.parametrize("k", [2, 5, CLASSES, 30])
def test_sound_clusters_have_no_signs(points, method, k, caplog):
    found = cluster(points, k, method=method, min_cluster_size=2)
    assert found.signs == ()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_most_images_left_out_is_a_warning_with_the_numbers(points, caplog):
    found = cluster(points, 190, min_cluster_size=3, method="ward")
    left_out = int((found.labels < 0).sum())
    assert left_out > 100
    assert f"{left_out} of 200 images are left out" in caplog.text
    assert "num_clusters=190 for 200 images leaves 1.1 images a cluster" in caplog.text
    assert len(found.signs) == sum(record.levelno >= logging.WARNING for record in caplog.records)


def test_one_giant_cluster_is_named_with_its_size():
    rng = np.random.default_rng(0)
    crowd = np.array([1.0, 0, 0, 0]) + 0.01 * rng.normal(size=(150, 4))
    others = np.repeat(np.eye(4)[1:], 2, axis=0)
    points = np.concatenate([crowd, others]).astype(np.float32)
    found = cluster(points, 4, method="ward")
    assert any("one cluster holds 150 of 156 images" in sign for sign in found.signs)


def test_copies_and_collapse_are_told_apart(caplog):
    same = np.ones((40, 4), np.float32)
    assert "40 images have 1 different embedding, fewer" in cluster(same, 8).signs[0]
    near = same + 1e-4 * np.random.default_rng(0).normal(size=same.shape).astype(np.float32)
    assert "mean cosine of 1.000000" in cluster(near, 8, method="ward").signs[0]


def test_few_clusters_left_are_counted():
    points = np.concatenate([np.tile([1.0, 0, 0], (30, 1)), np.random.default_rng(0).normal(size=(20, 3))])
    points[:30] += 1e-4 * np.random.default_rng(1).normal(size=(30, 3))
    found = Clustering(smooth=False, whitening=0, min_cluster_size=25)(points, 10)
    assert any(sign.startswith("1 of 10 clusters are left") for sign in found.signs)


def test_two_images_a_cluster_are_enough():
    assert few_points(100, 200) is None
    assert "at most 100" in few_points(101, 200)


def test_embeddings_that_are_all_zero_are_one_embedding():
    zeros = np.zeros((6, 2), np.float32)
    assert "1 different embedding" in signs(cluster(zeros, 2), zeros)[0]
