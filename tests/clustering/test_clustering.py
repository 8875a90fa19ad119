"""Clustering: the one place that says how the preset `best` clusters, and which settings there are."""

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest

from pml_slade.clustering import Clustering, cluster, smooth, suggest_num_neighbours, whiten
from pml_slade.clustering.ward import ward
from pml_slade.exceptions import ConfigError, SladeError
from pml_slade.running.loading import load_config


@pytest.fixture
def cloud():
    return np.random.default_rng(3).normal(size=(200, 8)).astype(np.float32)


def same_partition(a, b):
    return len({*zip(a, b)}) == len({*a}) == len({*b})


def test_its_defaults_are_the_steps_of_best_one_after_the_other(cloud):
    by_hand = ward(smooth(whiten(cloud, 0.5), suggest_num_neighbours(200, 120)), 120)
    sizes = np.bincount(by_hand)
    kept = sizes[by_hand] >= 2
    found = Clustering()(cloud, 120).labels
    assert ((found >= 0) == kept).all()
    assert not kept.all()
    assert same_partition(found[kept], by_hand[kept])


def test_its_defaults_are_those_of_the_preset_best():
    student = load_config("best", ["data.labeled=a", "data.unlabeled=b"]).model_dump()["student"]
    ours = Clustering()
    assert ours.method == student["clustering"]
    assert ours.whitening == student["whitening"]
    assert ours.smooth == student["smooth"]
    assert ours.min_cluster_size == student["min_cluster_size"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "ward"},
        {"whitening": 0.3, "num_neighbours": 4},
        {"method": "ward", "min_cluster_size": 3, "normalize": False},
        {"seed": 3, "niter": 2, "nredo": 2, "max_points_per_centroid": 5},
        {"method": "ward", "max_ward_points": 30},
    ],
    ids=str,
)
def test_the_function_and_the_plain_settings_are_one(cloud, settings):
    first, second = cluster(cloud, 12, **settings), Clustering.plain(**settings)(cloud, 12)
    assert first.labels.tolist() == second.labels.tolist()
    assert first.centroids.tolist() == second.centroids.tolist()
    assert str(first) == str(second)


def test_smoothing_takes_as_many_neighbours_as_asked_for(cloud):
    asked = Clustering(num_neighbours=3, min_cluster_size=1)(cloud, 20)
    assert same_partition(asked.labels, ward(smooth(whiten(cloud, 0.5), 3), 20))
    without = Clustering(smooth=False, min_cluster_size=1)(cloud, 20)
    assert same_partition(without.labels, ward(whiten(cloud, 0.5), 20))


@pytest.mark.parametrize("make", [Clustering, Clustering.plain, lambda **k: cluster(np.eye(4), 2, **k)])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "Ward"},
        {"whitening": -0.1},
        {"whitening": 1.1},
        {"whitening": math.nan},
        {"whitening": "0.5"},
        {"min_cluster_size": 0},
        {"min_cluster_size": 1.5},
        {"seed": -1},
        {"seed": 0.5},
        {"niter": 0},
        {"nredo": 0},
        {"num_neighbours": 0},
        {"num_neighbours": -2},
        {"max_points_per_centroid": 0},
        {"max_ward_points": 0},
        {"normalize": "no"},
        {"device": 1},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused_by_name(make, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ConfigError, match=f"{name} must be .*{value}"):
        make(**settings)


@pytest.mark.parametrize("make", [Clustering, Clustering.plain])
def test_an_unknown_setting_is_answered_by_the_names_of_those_that_there_are(make):
    with pytest.raises(ConfigError, match="no setting num_workers; it has method, whitening, smooth, num_ne"):
        make(num_workers=0)


def test_neighbours_without_smoothing_are_refused():
    with pytest.raises(ConfigError, match="num_neighbours=3 is of smoothing: give smooth=True"):
        Clustering(smooth=False, num_neighbours=3)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_settings_can_be_copied_compared_and_changed(duplicate):
    one = Clustering(seed=4)
    assert duplicate(one) == one
    assert dataclasses.replace(one, seed=5) == Clustering(seed=5) != one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seed = 6


@pytest.mark.parametrize("k", [0, -1, 2.5, 201])
def test_an_impossible_number_of_clusters_is_refused(cloud, k):
    with pytest.raises(SladeError, match="num_clusters must be an integer between 1 and the pool's 200"):
        Clustering()(cloud, k)
