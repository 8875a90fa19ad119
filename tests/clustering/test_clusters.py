"""Embeddings to pseudo-labels: clustering that hides nothing."""

import numpy as np
import pytest
import torch

from pml_slade.clustering import class_means, cluster, smooth, suggest_num_clusters
from pml_slade.clustering.neighbours import faiss_kmeans
from pml_slade.clustering.ward import ward
from pml_slade.datasets import PseudoLabelDataset
from pml_slade.exceptions import ConfigError, DataError


@pytest.fixture
def points():
    """Three blobs in turn, far apart by direction."""
    generator = np.random.default_rng(0)
    return (np.eye(3, 5)[np.arange(60) % 3] + 0.02 * generator.normal(size=(60, 5))).astype(np.float32)


def slow_nearest(points, centroids):
    return [min(range(len(centroids)), key=lambda c: sum((p - centroids[c]) ** 2)) for p in points]


# k-means


def test_blobs_are_found(points):
    result = cluster(points, 3)
    assert sorted(set(result.labels.tolist())) == [0, 1, 2]
    for k in range(3):
        assert len(set(result.labels[k::3].tolist())) == 1
    assert result.sizes.tolist() == [20, 20, 20]


@pytest.mark.parametrize("k", [1, 2, 7, 60])
def test_each_point_belongs_to_its_nearest_centroid(points, k):
    result = cluster(points, k, normalize=False)
    assert result.labels.shape == (60,)
    assert result.labels.dtype == np.int64
    assert result.centroids.shape == (len(result.sizes), 5)
    assert result.labels.tolist() == slow_nearest(points, result.centroids)
    assert np.bincount(result.labels).tolist() == result.sizes.tolist()
    assert result.sizes.sum() == 60
    distances = [np.sum((p - result.centroids[c]) ** 2) for p, c in zip(points, result.labels)]
    assert result.objective == pytest.approx(sum(distances), rel=0.2, abs=1e-3)


def test_same_seed_same_clusters():
    points = np.random.default_rng(1).normal(size=(200, 8))
    first, second = (cluster(points, 20, seed=5) for _ in range(2))
    assert first.labels.tolist() == second.labels.tolist()
    assert first.centroids.tolist() == second.centroids.tolist()
    assert cluster(points, 20, seed=6).labels.tolist() != first.labels.tolist()


def test_the_embeddings_are_left_as_they_were(points):
    kept = points.copy()
    cluster(points, 3)
    assert np.array_equal(points, kept)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type_will_do(points, dtype):
    assert cluster(points.astype(dtype), 3).sizes.tolist() == [20, 20, 20]


def test_a_slice_of_a_larger_array_will_do(points):
    wide = np.repeat(points, 2, axis=1)
    assert cluster(wide[:, ::2], 3).labels.tolist() == cluster(points, 3).labels.tolist()


def test_normalizing_clusters_by_direction_only():
    points = np.array([[1.0, 0.0], [100.0, 0.0], [0.0, 1.0], [0.0, 100.0]])
    by_direction, by_place = cluster(points, 2).labels, cluster(points, 3, normalize=False).labels
    assert by_direction[0] == by_direction[1] != by_direction[2] == by_direction[3]
    assert by_place[0] == by_place[2]


def test_a_zero_embedding_survives_normalizing():
    result = cluster(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 2)
    assert np.isfinite(result.centroids).all()


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_more_clusters_than_distinct_points_come_out_fewer_without_gaps_and_say_so(distinct):
    points = np.eye(3)[np.arange(12) % distinct]
    result = cluster(points, 6)
    used = sorted(set(result.labels.tolist()))
    assert used == list(range(len(used)))
    assert len(used) <= distinct
    assert result.requested == 6
    assert result.num_empty == 6 - len(used) == 6 - len(result.sizes)
    assert f"{len(used)} of 6 clusters" in str(result)
    assert f"{result.num_empty} empty" in str(result)


def test_points_of_tiny_clusters_are_left_out_without_gaps(points):
    outliers = np.array([[0, 0, 0, -1.0, 0], [0, 0, 0, 0, -1.0]])
    result = cluster(np.concatenate([outliers, points]), 5, min_cluster_size=2, nredo=10)
    assert result.labels[:2].tolist() == [-1, -1]
    assert sorted(set(result.labels[2:].tolist())) == [0, 1, 2]
    assert result.num_tiny == 2
    assert result.num_empty == 0
    assert result.sizes.tolist() == [20, 20, 20]
    assert result.centroids.shape == (3, 5)
    assert "2 tiny, 2 samples left out" in str(result)
    assert "fewer than 2" in result.left_out_reason


def test_a_minimum_that_leaves_no_cluster_is_refused(points):
    with pytest.raises(DataError, match="min_cluster_size=21 leaves no cluster: the largest has 20"):
        cluster(points, 3, min_cluster_size=21)


def test_all_points_are_looked_at_unless_limited():
    points = np.random.default_rng(0).normal(size=(600, 4))  # faiss itself would stop at 256 a cluster
    assert cluster(points, 2).trained_on == 600
    assert "k-means looked at" not in str(cluster(points, 2))
    limited = cluster(points, 2, max_points_per_centroid=50)
    assert limited.trained_on == 100
    assert len(limited.labels) == 600
    assert limited.labels.min() >= 0
    assert "k-means looked at 100 of 600 points" in str(limited)


def test_looking_at_all_points_finds_their_mean():
    points = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    assert np.allclose(cluster(points, 1, normalize=False).centroids[0], points.mean(0), atol=1e-5)


@pytest.mark.parametrize("k", [0, -1, 61, 2.5])
def test_an_impossible_number_of_clusters_is_refused(points, k):
    with pytest.raises(DataError, match="num_clusters must be an integer between 1 and the pool's 60"):
        cluster(points, k)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_embeddings_that_are_not_finite_are_refused_and_located(points, bad):
    points = points.astype(np.float64)
    points[17, 2] = bad
    with np.errstate(over="ignore"), pytest.raises(DataError, match=r"1 of 60 .* not finite.*index 17"):
        cluster(points, 3)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (5,), (2, 3, 4)])
def test_embeddings_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match=r"embeddings must have shape \(N, d\)"):
        cluster(np.zeros(shape), 1)


@pytest.mark.parametrize(
    ("pool_size", "images_per_class", "k"),
    [(1000, 10, 100), (1000, 3.3, 303), (10, 1000, 2), (10, 0.1, 10), (1, 5, 1)],
)
def test_suggested_clusters_are_as_large_as_classes_within_what_the_pool_allows(
    pool_size, images_per_class, k
):
    assert suggest_num_clusters(pool_size, images_per_class) == k


# Ward


def same_partition(a, b):
    """Whether two labelings tell the same points apart, whatever the numbers."""
    return len({*zip(a, b)}) == len({*a}) == len({*b})


def unit(points):
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def means(points, labels):
    return np.stack(
        [np.mean([p for p, c in zip(points, labels) if c == k], 0) for k in range(max(labels) + 1)]
    )


@pytest.fixture
def cloud():
    return np.random.default_rng(3).normal(size=(200, 8)).astype(np.float32)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("k", [1, 2, 30, 200])
def test_ward_clusters_what_embeddings_become(cloud, k, normalize):
    result = cluster(cloud, k, method="ward", normalize=normalize)
    assert same_partition(result.labels, ward(unit(cloud) if normalize else cloud, k))
    assert result.labels.dtype == np.int64
    assert np.bincount(result.labels).tolist() == result.sizes.tolist()
    assert result.num_empty == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_ward_has_no_random_start(cloud, seed):
    first, second = (cluster(cloud, 9, method="ward", seed=s) for s in (0, seed))
    assert first.labels.tolist() == second.labels.tolist()
    assert first.centroids.tolist() == second.centroids.tolist()


@pytest.mark.parametrize("max_ward_points", [200, 60])
@pytest.mark.parametrize("num_neighbours", [None, 5])
def test_wards_centroids_are_means_of_the_embeddings_as_they_came(cloud, num_neighbours, max_ward_points):
    settings = {"method": "ward", "num_neighbours": num_neighbours, "max_ward_points": max_ward_points}
    by_direction = cluster(cloud, 9, **settings)
    by_place = cluster(cloud, 9, normalize=False, **settings)
    expected = unit(means(unit(cloud), by_direction.labels))
    assert by_direction.centroids.dtype == np.float32
    assert np.allclose(by_direction.centroids, expected, atol=1e-6)
    assert by_direction.objective == pytest.approx(
        sum(np.sum((p - expected[c]) ** 2) for p, c in zip(unit(cloud), by_direction.labels)), rel=1e-5
    )
    assert np.allclose(by_place.centroids, means(cloud, by_place.labels), atol=1e-6)


@pytest.mark.parametrize("num_neighbours", [None, 5])
def test_separate_blobs_are_found_through_neighbours_as_without(points, num_neighbours):
    settings = {"method": "ward", "num_neighbours": num_neighbours}
    exact, by_neighbours = (cluster(points, 3, max_ward_points=m, **settings) for m in (60, 12))
    assert same_partition(exact.labels, by_neighbours.labels)
    assert exact.sizes.tolist() == [20, 20, 20]
    assert same_partition(exact.labels, np.arange(60) % 3)


def test_clusters_weigh_as_much_as_their_points():
    places = np.array([[0.0, 0.0], [1.0, 0.0], [1.9, 0.0], [0.0, 3.0]])
    heavy = np.repeat(places, [1, 1, 30, 1], axis=0)  # the third place is nearest to the second, but heavy
    result = cluster(heavy, 3, method="ward", normalize=False, max_ward_points=8)
    assert same_partition(result.labels, np.repeat([0, 0, 1, 2], [1, 1, 30, 1]))


@pytest.mark.parametrize("method", ["kmeans", "ward"])
def test_more_neighbours_than_points_and_few_points_will_do(method):
    for n in (1, 2, 3):
        points = np.eye(3)[:n]
        for k in range(1, n + 1):
            result = cluster(points, k, method=method, num_neighbours=10)
            assert len(result.sizes) == k
            assert result.sizes.sum() == n


def test_ward_keeps_identical_points_together_and_says_what_stays_empty():
    result = cluster(np.eye(3)[np.arange(12) % 2], 6, method="ward")
    assert result.sizes.tolist() == [6, 6]
    assert result.num_empty == 4
    assert "2 of 6 clusters hold samples" in str(result)


def test_the_sentence_says_what_ward_merged(points):
    assert str(cluster(points, 3, method="ward")).endswith("0 empty; Ward merged 60 points")
    assert "Ward" not in str(cluster(points, 3))
    assert cluster(points, 3, method="ward", max_ward_points=12).trained_on == 60


@pytest.mark.parametrize("max_ward_points", [100, 40])
def test_points_of_wards_tiny_clusters_are_left_out(points, max_ward_points):
    pool = np.concatenate([points, -np.eye(2, 5)])
    result = cluster(pool, 5, method="ward", min_cluster_size=2, max_ward_points=max_ward_points)
    assert same_partition(result.labels[:60], np.arange(60) % 3)
    assert result.labels[60:].tolist() == [-1, -1]
    assert result.num_tiny == 2
    assert np.allclose(result.centroids, unit(means(unit(points), result.labels[:60])), atol=1e-6)
    assert "2 tiny, 2 samples left out; Ward merged" in str(result)


def test_k_means_of_smoothed_embeddings_has_means_of_the_embeddings_as_they_came(cloud):
    result = cluster(cloud, 9, num_neighbours=5)
    assert result.labels.tolist() == cluster(smooth(unit(cloud), 5), 9).labels.tolist()
    assert np.allclose(result.centroids, unit(means(unit(cloud), result.labels)), atol=1e-6)
    assert "Ward" not in str(result)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "average"}, "method must be one of kmeans, ward, got 'average'"),
        ({"method": "ward", "max_ward_points": 9.5}, "max_ward_points must be an integer.*got 9.5"),
        ({"num_neighbours": 0}, "num_neighbours must be an integer of at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(points, settings, message):
    with pytest.raises(ConfigError, match=message):
        cluster(points, 3, **settings)


@pytest.mark.parametrize("method", ["kmeans", "ward"])
def test_a_device_that_is_not_there_is_refused(points, method):
    with pytest.raises(ConfigError, match="device: 'cuda:99' cannot be used: "):
        cluster(points, 3, method=method, device="cuda:99")


def test_k_means_runs_on_the_gpus_of_faiss_where_the_device_is_one(monkeypatch):
    made = []
    monkeypatch.setattr("faiss.Kmeans", lambda d, k, **settings: made.append(settings["gpu"]))
    for device, gpus in (("cpu", 1), ("cuda", 0), ("cuda", 1), ("cuda:1", 2)):
        monkeypatch.setattr("faiss.get_num_gpus", lambda gpus=gpus: gpus, raising=False)
        faiss_kmeans(2, 3, device)
    assert made == [False, False, True, True]


def test_a_pool_is_labeled_by_ward(points):
    pool = PseudoLabelDataset.from_teacher(
        torch.from_numpy(points), torch.nn.Identity(), 3, 10, method="ward", num_neighbours=5, progress=False
    )
    assert same_partition(pool.labels, np.arange(60) % 3)
    assert sorted({*pool.labels.tolist()}) == [10, 11, 12]
    assert str(pool.clusters).endswith("Ward merged 60 points")


def test_class_means_are_unit_means_of_unit_embeddings_without_those_left_out(cloud):
    labels = np.arange(200) % 7 - 1
    kept = labels >= 0
    assert np.allclose(class_means(cloud, labels), unit(means(unit(cloud[kept]), labels[kept])), atol=1e-6)


def test_a_class_without_points_has_a_mean_of_zeros():
    assert np.allclose(class_means(np.array([[3.0, 4.0]]), np.array([1])), [[0, 0], [0.6, 0.8]])


@pytest.mark.parametrize(("method", "whitening"), [("ward", 0), ("kmeans", 0), ("ward", 0.5)])
def test_distances_are_those_to_the_centroids(method, whitening):
    points = np.random.default_rng(0).normal(size=(40, 3))
    clusters = cluster(points, 5, method=method, whitening=whitening)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected = [np.linalg.norm(x - clusters.centroids[label]) for x, label in zip(unit, clusters.labels)]
    assert clusters.distances == pytest.approx(expected, abs=1e-5)
    assert clusters.facts()["mean_distance"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert clusters.objective == pytest.approx(np.square(expected).sum(), rel=1e-4)
