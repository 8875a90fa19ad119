"""Eq. 4 as a PML distance."""

import copy
import pickle

import pytest
import reference
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from reference import rows

from pml_slade.distances import BasisSimilarity

DTYPES = [torch.float16, torch.float32, torch.float64]


@pytest.fixture
def W():
    return torch.nn.Parameter(torch.randn(3, 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ref_size", [None, 1, 4])
@pytest.mark.parametrize("n", [1, 6])
def test_all_pairs_are_eq_4_in_float32_at_least(W, dtype, ref_size, n):
    embeddings = torch.randn(n, 5).to(dtype)
    ref = None if ref_size is None else torch.randn(ref_size, 5).to(dtype)
    got = BasisSimilarity(W)(embeddings, ref)
    expected = reference.basis_similarity(rows(embeddings), rows(W), None if ref is None else rows(ref))
    assert got.dtype == torch.promote_types(dtype, torch.float32)
    for row, expected_row in zip(rows(got), expected):
        assert row == pytest.approx(expected_row, abs=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pairwise_distance_is_the_diagonal_of_all_pairs(W, dtype):
    query, ref = torch.randn(4, 5).to(dtype), torch.randn(4, 5).to(dtype)
    distance = BasisSimilarity(W)
    got = distance.pairwise_distance(query, ref)
    assert rows(got) == pytest.approx(rows(distance(query, ref).diagonal()), abs=1e-5)


def test_autocast_does_not_lower_the_precision(W):
    embeddings = torch.randn(6, 5)
    distance = BasisSimilarity(W)
    expected = distance(embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distance(embeddings), expected)


def test_larger_means_more_similar(W):
    distance = BasisSimilarity(W)
    assert distance.is_inverted
    assert distance.margin(torch.tensor(0.25), torch.tensor(0.75)) == 0.5


def test_the_basis_is_shared_and_gets_gradients(W):
    distance = BasisSimilarity(W)
    embeddings = torch.randn(4, 5)
    assert distance.W is W
    distance(embeddings)[0, 1].backward()
    assert W.grad.abs().sum() > 0
    before = distance(embeddings).detach()
    with torch.no_grad():
        W.normal_()
    assert not torch.allclose(distance(embeddings), before)


def test_a_plain_tensor_is_a_buffer_and_no_parameter():
    distance = BasisSimilarity(torch.eye(3))
    assert list(distance.parameters()) == []
    assert torch.equal(distance.state_dict()["W"], torch.eye(3))


@pytest.mark.parametrize("loss_cls", [ContrastiveLoss, TripletMarginLoss])
def test_pml_losses_take_it_as_their_distance(W, loss_cls):
    settings = {"pos_margin": 1, "neg_margin": 0} if loss_cls is ContrastiveLoss else {"margin": 1}
    embeddings = torch.randn(8, 5, requires_grad=True)
    loss = loss_cls(distance=BasisSimilarity(W), **settings)(embeddings, torch.arange(8) // 2)
    loss.backward()
    assert loss > 0
    assert embeddings.grad.isfinite().all()
    assert W.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"]
)
def test_a_duplicate_gives_the_same_similarities_over_a_basis_of_its_own(W, duplicate):
    distance, embeddings = BasisSimilarity(W), torch.randn(4, 5)
    twin = duplicate(distance)
    assert torch.equal(twin(embeddings), distance(embeddings))
    assert twin.W is not W


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(1, 2, 3), [[1.0, 0.0]], None])
def test_a_basis_that_is_no_matrix_is_refused(bad):
    with pytest.raises(ValueError, match="W must be a tensor of shape"):
        BasisSimilarity(bad)
