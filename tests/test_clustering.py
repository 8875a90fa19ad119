"""Embeddings to pseudo-labels: k-means that hides nothing, and embedding that changes nothing."""

import copy

import numpy as np
import pytest
import torch

from pml_slade.clustering import cluster, embed, suggest_num_clusters
from pml_slade.exceptions import DataError


@pytest.fixture
def points():
    """Three blobs in turn, far apart by direction."""
    generator = np.random.default_rng(0)
    return (np.eye(3, 5)[np.arange(60) % 3] + 0.02 * generator.normal(size=(60, 5))).astype(np.float32)


def slow_nearest(points, centroids):
    return [min(range(len(centroids)), key=lambda c: sum((p - centroids[c]) ** 2)) for p in points]


# cluster


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


# embed


class Recorder(torch.nn.Module):
    """Gives back what comes, and notes how it was called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        return x


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_embeddings_come_in_order_and_in_float32(batch_size, num_workers):
    data = [torch.full((2,), float(i), dtype=torch.float64) for i in range(7)]
    out = embed(data, torch.nn.Identity(), batch_size=batch_size, num_workers=num_workers, progress=False)
    assert out.dtype == np.float32
    assert out.tolist() == [[i, i] for i in range(7)]


def test_the_model_runs_in_eval_mode_without_gradients_in_batches():
    model = Recorder().train()
    embed([torch.zeros(2)] * 7, model, batch_size=3, progress=False)
    assert model.calls == [(3, False, False), (3, False, False), (1, False, False)]
    assert model.training


def mixed_modes():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Sequential(torch.nn.Dropout()))
    model.train()
    model[0].eval()
    model[1].eval()
    model[1][0].train()
    return model


def test_training_modes_of_every_module_and_the_weights_are_restored():
    model = mixed_modes()
    modes, state = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    embed([torch.randn(4)] * 5, model, progress=False)
    assert [m.training for m in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_training_modes_are_restored_after_an_error_as_well():
    model = mixed_modes()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError):
        embed([torch.randn(3)] * 5, model, progress=False)
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_embeddings_come_out_in_float32(dtype):
    out = embed([torch.full((3,), 0.5, dtype=dtype)] * 2, torch.nn.Identity(), progress=False)
    assert out.dtype == np.float32
    assert (out == 0.5).all()


def test_the_data_getter_picks_from_each_item():
    items = [{"image": torch.full((2,), float(i)), "label": 9} for i in range(3)]
    out = embed(items, torch.nn.Identity(), data_getter=lambda item: item["image"], progress=False)
    assert out[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "dataset is empty"),
        ([torch.zeros(2, 2)], r"must give \(n, d\) embeddings, got \(1, 2, 2\)"),
        ([torch.zeros(2), torch.full((2,), torch.nan)], "1 of 2 embeddings are not finite"),
    ],
)
def test_what_cannot_be_embedded_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        embed(data, torch.nn.Identity(), progress=False)
