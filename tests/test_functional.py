"""Every equation against the slow oracles, its gradient, and what it does with nothing to work on."""

import math

import pytest
import reference
import torch
import torch.nn.functional as F
from reference import rows
from torch.autograd import gradcheck

from pml_slade import functional
from pml_slade.functional import Moments

DTYPES = [torch.float16, torch.float32, torch.float64]
close = pytest.approx


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=[None, 0, 1, 5], ids=lambda m: f"ref={m}")
def ref_size(request):
    return request.param


def normal(*shape, dtype=torch.float64, grad=False):
    return torch.randn(*shape).to(dtype).requires_grad_(grad)


def wide(dtype):
    return torch.promote_types(dtype, torch.float32)


def mask_of(shape, pairs):
    mask = torch.zeros(shape, dtype=torch.bool)
    for i, j in pairs:
        mask[i, j] = True
    return mask


def moments(mean, var, seen=True):
    return Moments(torch.tensor(mean), torch.tensor(var), torch.tensor(seen))


def as_moments(pair):
    return moments(0.0, 0.0, False) if pair is None else moments(*pair)


# Eq. 1


@pytest.mark.parametrize(("num_pos", "num_neg"), [(7, 9), (0, 3), (3, 0), (1, 0), (0, 0)])
def test_ranking_loss_is_eq_1(dtype, num_pos, num_neg):
    pos, neg = torch.rand(num_pos).to(dtype), torch.rand(num_neg).to(dtype)
    expected = reference.ranking_loss(rows(pos), rows(neg), 0.3, 0.8)
    tolerance = 1e-2 if dtype is torch.float16 else 1e-5
    assert functional.ranking_loss(pos, neg, 0.3, 0.8).item() == close(expected, abs=tolerance)


def test_ranking_loss_costs_nothing_on_its_margins():
    assert functional.ranking_loss(torch.tensor([0.5]), torch.tensor([1.5]), 0.5, 1.5) == 0


def test_ranking_loss_gradient_is_exact():
    pos, neg = torch.rand(5).double().requires_grad_(), torch.rand(4).double().requires_grad_()
    assert gradcheck(lambda p, n: functional.ranking_loss(p, n, 0.21, 0.77), (pos, neg))


# Eq. 3


@pytest.mark.parametrize("logit_scale", [None, 1.0, 16.0])
@pytest.mark.parametrize("n", [0, 1, 8])
def test_basis_cross_entropy_is_eq_3(dtype, logit_scale, n):
    embeddings, W = normal(n, 5, dtype=dtype), normal(4, 5, dtype=torch.float32)
    labels = torch.arange(n) % 4
    losses = functional.basis_cross_entropy(embeddings, W, labels, logit_scale)
    expected = reference.basis_cross_entropy(rows(embeddings), rows(W), labels.tolist(), logit_scale)
    assert losses.shape == (n,)
    assert losses.dtype == wide(dtype)
    assert rows(losses) == close(expected, abs=1e-4)


def test_basis_cross_entropy_of_a_single_class_is_zero():
    losses = functional.basis_cross_entropy(normal(3, 5), normal(1, 5), torch.zeros(3).long())
    assert rows(losses) == close([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("logit_scale", [None, 4.0])
def test_basis_cross_entropy_gradient_is_exact(logit_scale):
    labels = torch.tensor([0, 2, 1])
    assert gradcheck(
        lambda f, W: functional.basis_cross_entropy(f, W, labels, logit_scale),
        (normal(3, 5, grad=True), normal(3, 5, grad=True)),
    )


@pytest.mark.parametrize("grown", ["embeddings", "basis"])
def test_with_a_logit_scale_growing_norms_cannot_lower_the_loss(grown):
    embeddings, W, labels = normal(4, 5), normal(3, 5), torch.tensor([0, 1, 2, 0])
    small = functional.basis_cross_entropy(embeddings, W, labels, 16.0)
    large = functional.basis_cross_entropy(
        embeddings * (1000 if grown == "embeddings" else 1),
        W * (1000 if grown == "basis" else 1),
        labels,
        16.0,
    )
    assert rows(small) == close(rows(large))


# Eq. 4


@pytest.mark.parametrize("n", [0, 1, 6])
def test_basis_similarity_is_eq_4(dtype, ref_size, n):
    embeddings, W = normal(n, 5, dtype=dtype), normal(3, 5, dtype=torch.float32)
    ref = None if ref_size is None else normal(ref_size, 5, dtype=dtype)
    similarity = functional.basis_similarity(embeddings, W, ref)
    expected = reference.basis_similarity(rows(embeddings), rows(W), None if ref is None else rows(ref))
    assert similarity.dtype == wide(dtype)
    assert similarity.shape == (n, n if ref_size is None else ref_size)
    for row, expected_row in zip(rows(similarity), expected):
        assert row == close(expected_row, abs=1e-5)


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_does_not_lower_the_precision_of_basis_similarity(autocast):
    embeddings, W = normal(6, 5, dtype=torch.float32), normal(3, 5, dtype=torch.float32)
    expected = functional.basis_similarity(embeddings, W)
    with torch.autocast("cpu", dtype=autocast):
        similarity = functional.basis_similarity(embeddings, W)
        response = functional.basis_response(embeddings, W)
    assert torch.equal(similarity, expected)
    assert torch.equal(response, F.linear(embeddings, W))


def test_basis_similarity_of_a_zero_response_is_zero_with_a_finite_gradient():
    embeddings, W = torch.zeros(2, 5, requires_grad=True), normal(3, 5, dtype=torch.float32)
    similarity = functional.basis_similarity(embeddings, W)
    similarity.sum().backward()
    assert rows(similarity) == [[0, 0], [0, 0]]
    assert embeddings.grad.isfinite().all()


def test_basis_similarity_gradient_is_exact():
    inputs = normal(4, 5, grad=True), normal(3, 5, grad=True), normal(2, 5, grad=True)
    assert gradcheck(functional.basis_similarity, inputs)
    assert gradcheck(functional.basis_similarity, inputs[:2])


# The Gaussians of Eq. 5, and Eq. 6


@pytest.mark.parametrize("num_pairs", [1, 2, 11])
def test_pair_moments_are_mean_and_population_variance(dtype, num_pairs):
    similarity = torch.rand(4, 6).to(wide(dtype))
    pairs = [(k % 4, (2 * k) % 6) for k in range(num_pairs)]
    pairs = sorted(set(pairs))
    got = functional.pair_moments(similarity, mask_of((4, 6), pairs))
    mean, var = reference.pair_moments(rows(similarity), pairs)
    assert got.mean.item() == close(mean, abs=1e-6)
    assert got.var.item() == close(var, abs=1e-6)
    assert got.seen


@pytest.mark.parametrize("shape", [(0, 0), (3, 3), (2, 0)])
def test_pair_moments_of_no_pair_are_zero_and_unseen(shape):
    got = functional.pair_moments(torch.rand(shape), torch.zeros(shape, dtype=torch.bool))
    assert got == (0, 0, False)


def test_variance_of_nearly_equal_similarities_is_not_lost():
    similarity = torch.tensor([[0.9990, 0.9991, 0.9992, 0.9993]])
    _, var = reference.moments(rows(similarity)[0])
    got = functional.pair_moments(similarity, torch.ones(1, 4, dtype=torch.bool))
    assert got.var.item() == close(var, rel=1e-2)


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("running", [None, (0.25, 0.5)])
@pytest.mark.parametrize("batch", [None, (0.75, 0.125)])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_update_moments_is_eq_6(running, batch, momentum, straight_through):
    got = functional.update_moments(as_moments(running), as_moments(batch), momentum, straight_through)
    expected = reference.update_moments(running, batch, momentum)
    assert bool(got.seen) == (expected is not None)
    assert (got.mean.item(), got.var.item()) == close(expected or (0, 0), abs=1e-6)


@pytest.mark.parametrize(("straight_through", "share"), [(True, 1.0), (False, 0.01)])
def test_gradient_of_eq_6_is_whole_if_straight_through_else_what_momentum_leaves(straight_through, share):
    mean, var = torch.tensor(0.5, requires_grad=True), torch.tensor(0.2, requires_grad=True)
    batch = Moments(mean, var, torch.tensor(True))
    got = functional.update_moments(moments(0.1, 0.3), batch, 0.99, straight_through)
    (got.mean + 2 * got.var).backward()
    assert mean.grad.item() == close(share, rel=1e-4)
    assert var.grad.item() == close(2 * share, rel=1e-4)


@pytest.mark.parametrize("straight_through", [True, False])
def test_the_first_batch_of_eq_6_has_the_whole_gradient(straight_through):
    mean = torch.tensor(0.5, requires_grad=True)
    batch = Moments(mean, torch.tensor(0.2), torch.tensor(True))
    functional.update_moments(moments(0.0, 0.0, False), batch, 0.99, straight_through)[0].backward()
    assert mean.grad.item() == 1


def test_a_batch_without_pairs_gives_eq_6_no_gradient():
    mean = torch.tensor(0.0, requires_grad=True)
    batch = Moments(mean, torch.tensor(0.0), torch.tensor(False))
    functional.update_moments(moments(0.5, 0.1), batch, 0.99)[0].backward()
    assert mean.grad.item() == 0


def test_gradient_of_moments_through_literal_eq_6_is_exact():
    mask = mask_of((3, 4), [(0, 1), (1, 2), (2, 3)])

    def literal(similarity):
        batch = functional.pair_moments(similarity, mask)
        return functional.update_moments(moments(0.2, 0.1), batch, 0.9, straight_through=False)[:2]

    assert gradcheck(literal, normal(3, 4, grad=True))


# Eq. 5


@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("variance_weight", [0.0, 1.5])
def test_similarity_distribution_loss_is_eq_5(margin, variance_weight):
    pos, neg = (0.6, 0.05), (0.2, 0.15)
    got = functional.similarity_distribution_loss(moments(*pos), moments(*neg), margin, variance_weight)
    expected = reference.similarity_distribution_loss(pos, neg, margin, variance_weight)
    assert got.item() == close(expected, abs=1e-6)


def test_similarity_distribution_loss_gradient_is_exact():
    P, N = mask_of((3, 4), [(0, 1), (1, 2)]), mask_of((3, 4), [(2, 0), (2, 3), (0, 0)])

    def batch_loss(similarity):
        pos, neg = (functional.pair_moments(similarity, mask) for mask in (P, N))
        return functional.similarity_distribution_loss(pos, neg, 10.0, 0.7)

    assert gradcheck(batch_loss, normal(3, 4, grad=True))


# Local-CE and Global-CE


PAIRS = {
    "both": ([(0, 1), (1, 0)], [(0, 2), (2, 0), (1, 2)]),
    "one positive": ([(0, 1)], []),
    "one negative": ([], [(0, 1)]),
    "none": ([], []),
}


@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_pair_cross_entropy_is_the_documented_binary_cross_entropy(dtype, pairs, scale):
    similarity = scale * normal(3, 3, dtype=wide(dtype))
    masks = [mask_of((3, 3), p) for p in pairs]
    pos, neg = (0.8, 0.04), (0.1, 0.02)
    got = functional.pair_cross_entropy(similarity, *masks, moments(*pos), moments(*neg))
    expected = reference.pair_cross_entropy(rows(similarity), *pairs, pos, neg)
    assert got.item() == close(expected, rel=1e-4, abs=1e-6)


def test_pair_cross_entropy_is_finite_where_nothing_varies():
    similarity = torch.ones(2, 2, requires_grad=True)
    masks = mask_of((2, 2), [(0, 1)]), mask_of((2, 2), [(1, 0)])
    loss = functional.pair_cross_entropy(similarity, *masks, moments(1.0, 0.0), moments(1.0, 0.0))
    loss.backward()
    assert loss.item() == close(math.log(2))
    assert similarity.grad.isfinite().all()


def test_pair_cross_entropy_gives_the_moments_no_gradient():
    leaf = torch.tensor(0.5, requires_grad=True)
    calibrating = Moments(leaf * 1, leaf * 2, torch.tensor(True))
    similarity = normal(2, 2, dtype=torch.float32, grad=True)
    masks = mask_of((2, 2), [(0, 1)]), mask_of((2, 2), [(1, 0)])
    functional.pair_cross_entropy(similarity, *masks, calibrating, calibrating).backward()
    assert leaf.grad is None
    assert similarity.grad.abs().sum() > 0


def test_pair_cross_entropy_gradient_is_exact_and_pulls_apart():
    masks = mask_of((3, 3), [(0, 1), (1, 0)]), mask_of((3, 3), [(0, 2), (2, 1)])
    similarity = normal(3, 3, grad=True)

    def loss(s):
        return functional.pair_cross_entropy(s, *masks, moments(0.5, 0.1), moments(0.1, 0.2))

    assert gradcheck(loss, similarity)
    loss(similarity).backward()
    assert (similarity.grad[masks[0]] < 0).all()
    assert (similarity.grad[masks[1]] > 0).all()


# Eq. 7


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (5, 5), (4, 7)])
def test_threshold_masks_are_eq_7_with_both_thresholds_included(shape):
    similarity = torch.randint(-4, 5, shape) / 4
    P, N = functional.threshold_masks(similarity, 0.5, -0.25)
    expected = reference.threshold_pairs(rows(similarity), 0.5, -0.25, same_set=False)
    for mask, pairs in zip((P, N), expected):
        assert mask.dtype == torch.bool
        assert set(map(tuple, mask.nonzero().tolist())) == pairs


# What must hold for all of them


@pytest.mark.parametrize("trial", range(40))
def test_no_label_pattern_gives_nan_or_an_infinite_gradient(trial):
    n, num_classes = trial % 7, 3
    labels = torch.randint(0, 6, (n,))
    embeddings = torch.randn(n, 4) * 10.0 ** torch.randint(-3, 4, (n, 1))
    if n > 1 and trial % 3 == 0:
        embeddings[1] = embeddings[0]
    if n and trial % 4 == 0:
        embeddings[0] = 0
    embeddings.requires_grad_()
    W = torch.randn(num_classes, 4, requires_grad=True)
    annotated = labels < num_classes
    pseudo = ~annotated
    same = labels[:, None] == labels[None]
    pairs = pseudo[:, None] & pseudo[None] & ~torch.eye(n, dtype=torch.bool)
    similarity = functional.basis_similarity(embeddings, W)
    batch = [functional.pair_moments(similarity, mask & pairs) for mask in (same, ~same)]
    running = [functional.update_moments(moments(0.3, 0.1), m, 0.99) for m in batch]
    losses = [
        functional.basis_cross_entropy(embeddings[annotated], W, labels[annotated], 16.0).sum(),
        functional.similarity_distribution_loss(*batch, margin=0.5, variance_weight=1.0),
        functional.similarity_distribution_loss(*running, margin=0.5, variance_weight=1.0),
        functional.pair_cross_entropy(similarity, same & pairs, ~same & pairs, *batch),
        functional.pair_cross_entropy(similarity, same & pairs, ~same & pairs, *running),
    ]
    for loss in losses:
        assert loss.isfinite()
    sum(losses).backward()
    assert embeddings.grad.isfinite().all()
    assert W.grad.isfinite().all()


def test_softplus_oracle_agrees_with_torch():
    values = torch.linspace(-50, 50, 11).double()
    assert [reference.softplus(x) for x in rows(values)] == close(rows(F.softplus(values)), abs=1e-6)
