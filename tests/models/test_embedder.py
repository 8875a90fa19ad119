import numpy as np
import pytest
import torch
from torch import nn

from pml_slade.exceptions import ConfigError, DataError
from pml_slade.models import Embedder, principal_start


@pytest.mark.parametrize(
    ("hidden_sizes", "kinds"),
    [((), [nn.Linear]), ((7, 5), [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear])],
)
def test_hidden_sizes_make_an_mlp_that_ends_linear(hidden_sizes, kinds):
    embedder = Embedder(6, 4, hidden_sizes)
    assert [type(layer) for layer in embedder.layers] == kinds
    assert embedder(torch.randn(3, 6)).shape == (3, 4)


@pytest.mark.parametrize("sizes", [(0, 4), (6, 0), (6, 4, (0,))])
def test_a_size_below_one_is_refused(sizes):
    with pytest.raises(ConfigError, match="pass 1 or more"):
        Embedder(*sizes)


def features(n=40, size=8, rank=None, seed=0):
    """Features that vary by far more along some directions, and not around zero."""
    generator = torch.Generator().manual_seed(seed)
    scales = 10.0 ** -torch.arange(size).double()[: rank or size] * 30
    turned = torch.linalg.qr(torch.randn(size, size, generator=generator).double()).Q[: rank or size]
    x = torch.randn(n, len(scales), generator=generator).double() * scales.clamp(min=0.1) @ turned
    return x + torch.arange(size) * 10


def slow_start(x, embedding_size, whitening):
    """Embeddings by numpy's SVD, a component at a time; signs are free."""
    x = x.numpy()
    centred = x - x.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    columns = []
    for length, direction in zip(lengths[:embedding_size], directions):
        deviation = length / np.sqrt(len(x))
        columns.append(centred @ direction / deviation**whitening)
    embeddings = np.stack(columns, axis=1)
    return embeddings / np.sqrt((embeddings**2).sum(axis=1).mean())


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("embedding_size", [1, 3, 8])
def test_the_start_is_the_principal_components_by_a_slow_svd(embedding_size, whitening):
    x = features()
    weight, bias = principal_start(x, embedding_size, whitening)
    assert weight.shape == (embedding_size, 8)
    expected = torch.from_numpy(slow_start(x, embedding_size, whitening))
    torch.testing.assert_close((x @ weight.T + bias).abs(), expected.abs(), rtol=1e-6, atol=1e-8)


def test_whitened_components_have_one_deviation():
    x = features()
    weight, bias = principal_start(x, 4, 1.0)
    embeddings = x @ weight.T + bias
    covariance = embeddings.T @ embeddings / len(x)
    torch.testing.assert_close(covariance, torch.eye(4).double() / 4, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("n", "rank"),
    [(4, None), (40, 3), (2, None)],
    ids=["fewer images than dimensions", "features that do not fill their space", "two images"],
)
@pytest.mark.parametrize("whitening", [0.5, 1.0])
def test_directions_without_variance_add_nothing_and_are_not_blown_up(n, rank, whitening):
    x = features(n, rank=rank)
    weight, bias = principal_start(x, 8, whitening)
    known = min(n - 1, rank or 8)
    embeddings = x @ weight.T + bias
    expected = torch.from_numpy(slow_start(x, known, whitening))
    torch.testing.assert_close(embeddings[:, :known].abs(), expected.abs(), rtol=1e-5, atol=1e-6)
    assert embeddings[:, known:].abs().max() < 1e-6
    lengths = weight.norm(dim=1)
    torch.testing.assert_close(lengths[known:], lengths[:1].expand(8 - known))
    assert lengths.min() > 0


def test_more_dimensions_than_features_keep_all_distances():
    x = features(size=5)
    larger, square = (principal_start(x, size) for size in (12, 5))
    distances = [torch.cdist(x @ weight.T + bias, x @ weight.T + bias) for weight, bias in (larger, square)]
    torch.testing.assert_close(*distances, rtol=1e-5, atol=1e-6)
    assert larger[0].norm(dim=1).min() > 0  # every dimension can learn


def test_the_start_is_the_same_every_time_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    first, second = (principal_start(features(), 12) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_layer_has_the_features_dtype(dtype):
    weight, bias = principal_start(features().to(dtype), 3)
    assert (weight.dtype, bias.dtype) == (dtype, dtype)
    assert torch.isfinite(weight).all()


def test_an_embedder_starts_from_features_and_can_be_trained_on():
    embedder, x = Embedder(8, 3), features().float()
    embedder.start_from(x, whitening=0.0)
    expected = torch.from_numpy(slow_start(x.double(), 3, 0.0)).float()
    torch.testing.assert_close(embedder(x).detach().abs(), expected.abs(), rtol=1e-3, atol=1e-4)
    embedder(x).sum().backward()
    assert embedder.layers[0].weight.grad is not None


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: principal_start(x, 3, 1.5), ConfigError, r"whitening must be in \[0, 1\].*got 1.5"),
        (lambda x: principal_start(x, 0), ConfigError, "embedding_size at least 1.* and 0"),
        (lambda x: principal_start(x[:1], 3), DataError, r"two rows or more, all finite, got \(1, 8\)"),
        (lambda x: principal_start(x[0], 3), DataError, "features must be"),
        (lambda x: principal_start(x * float("nan"), 3), DataError, "all finite"),
        (lambda x: principal_start(x[:1].expand(9, -1), 3), DataError, "all alike"),
        (lambda x: principal_start(torch.zeros(9, 8), 3), DataError, "all alike"),
        (lambda x: Embedder(8, 3, (5,)).start_from(x), ConfigError, "1 hidden layers"),
        (lambda x: Embedder(9, 3).start_from(x), DataError, r"features must be \(N, 9\), got \(40, 8\)"),
    ],
)
def test_what_has_no_principal_start_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call(features())
