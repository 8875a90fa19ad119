"""Ward's clustering along neighbours against Ward's clustering of all."""

import numpy as np
import pytest
from scripts import load_script
from sklearn.metrics import normalized_mutual_info_score

from pml_slade.clustering import graph_ward as module
from pml_slade.clustering.graph_ward import graph_ward
from pml_slade.clustering.ward import ward


def same_partition(a, b):
    return len({*zip(a, b)}) == len({*a}) == len({*b})


@pytest.fixture(params=["cloud", "blobs"])
def points(request):
    generator = np.random.default_rng(0)
    cloud = generator.normal(size=(150, 6))
    blobs = generator.normal(size=(9, 6))[np.arange(150) % 9]
    return {"cloud": cloud, "blobs": blobs + 0.1 * cloud}[request.param].astype(np.float32)


@pytest.mark.parametrize("edges", [100, 1 << 14])
@pytest.mark.parametrize("k", [1, 2, 9, 40, 149, 150])
def test_where_all_are_neighbours_it_is_ward(points, k, edges, monkeypatch):
    monkeypatch.setattr(module, "NEIGHBOURS", 150)
    monkeypatch.setattr(module, "EDGES", edges)
    assert same_partition(graph_ward(points.copy(), k), ward(points, k))


@pytest.mark.parametrize("k", [1, 2, 9, 40, 149, 150])
@pytest.mark.parametrize("neighbours", [2, 16])
def test_as_many_clusters_come_out_as_asked_for(points, k, neighbours, monkeypatch):
    monkeypatch.setattr(module, "NEIGHBOURS", neighbours)
    assert sorted({*graph_ward(points.copy(), k).tolist()}) == list(range(k))


@pytest.mark.parametrize("neighbours", [3, 16])
def test_blobs_are_found_though_no_neighbour_leads_out_of_them(neighbours, monkeypatch):
    monkeypatch.setattr(module, "NEIGHBOURS", neighbours)
    which = np.arange(300) % 10
    generator = np.random.default_rng(0)
    centres = 100 * np.repeat(np.eye(5), 2, axis=0) + generator.normal(size=(10, 5))  # two and two are near
    points = (centres[which] + 0.01 * generator.normal(size=(300, 5))).astype(np.float32)
    assert same_partition(graph_ward(points.copy(), 10), which)
    assert same_partition(graph_ward(points, 5), which // 2)


@pytest.mark.parametrize("rounding", [0, 1e-7])
def test_copies_stay_together_and_take_few_rounds_however_many_they_are(rounding, monkeypatch):
    which = np.arange(2000) % 4
    noise = rounding * np.random.default_rng(0).normal(size=(2000, 4))
    points = (np.eye(4)[which] + noise).astype(np.float32)
    merge, rounds = module._Clusters.merge, []
    monkeypatch.setattr(module._Clusters, "merge", lambda self: rounds.append(1) or merge(self))
    assert same_partition(graph_ward(points.copy(), 4), which)
    assert same_partition(graph_ward(points.copy(), 9), which)
    assert len(np.unique(graph_ward(points, 2))) == 2
    assert len(rounds) < 20


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_points_will_do(n):
    for k in range(1, n + 1):
        assert len({*graph_ward(np.eye(3, dtype=np.float32)[:n], k)}) == k


def test_classes_that_overlap_are_found_as_well_as_by_ward():
    embeddings, classes = load_script("pool_embeddings").draw(1500, 40, size=64)
    exact = normalized_mutual_info_score(classes, ward(embeddings, 40))
    assert 0.4 < exact < 0.99
    assert normalized_mutual_info_score(classes, graph_ward(embeddings, 40)) > exact - 0.02
