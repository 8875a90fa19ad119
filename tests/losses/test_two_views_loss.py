"""TwoViewsLoss against a loop, in whatever generation of PML is installed."""

import math

import pytest
import torch
from pytorch_metric_learning import losses
from reference import cosine, rows

from pml_slade.losses import TwoViewsLoss

WRAPPER = getattr(losses, "SelfSupervisedLoss", None)
needs_wrapper = pytest.mark.skipif(WRAPPER is None, reason="SelfSupervisedLoss came with 2.x")


def nt_xent(first, second, temperature):
    """Each view against its partner, among all views but itself."""
    views, n = first + second, len(first)
    terms = []
    for i, view in enumerate(views):
        logits = {j: cosine(view, views[j]) / temperature for j in range(2 * n) if j != i}
        largest = max(logits.values())
        log_sum = largest + math.log(sum(math.exp(x - largest) for x in logits.values()))
        terms.append(log_sum - logits[(i + n) % (2 * n)])
    return sum(terms) / len(terms)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_loss_is_that_of_the_loop(n, temperature, dtype):
    first, second = torch.randn(2, n, 5, dtype=dtype)
    loss = TwoViewsLoss(temperature)(torch.cat([first, second]))
    assert loss.item() == pytest.approx(nt_xent(rows(first), rows(second), temperature), rel=1e-4)


@needs_wrapper
def test_the_loss_is_that_of_pmls_wrapper():
    first, second = torch.randn(2, 6, 5)
    expected = WRAPPER(losses.NTXentLoss(temperature=0.1))(first, second)
    torch.testing.assert_close(TwoViewsLoss()(torch.cat([first, second])), expected)


@needs_wrapper
def test_a_pml_without_the_wrapper_gives_the_same(monkeypatch):
    embeddings = torch.randn(12, 5)
    expected = TwoViewsLoss()(embeddings)
    monkeypatch.delattr(losses, "SelfSupervisedLoss")
    loss = TwoViewsLoss()
    assert loss.wrapped is None
    torch.testing.assert_close(loss(embeddings), expected)


def test_labels_and_tuples_that_trainers_pass_change_nothing():
    embeddings, loss = torch.randn(8, 5), TwoViewsLoss()
    pairs = tuple(torch.tensor([i]) for i in range(4))
    assert loss(embeddings, torch.zeros(8), pairs) == loss(embeddings)


def test_the_order_of_images_and_of_views_does_not_matter():
    first, second = torch.randn(2, 6, 5)
    loss, order = TwoViewsLoss(), torch.randperm(6)
    expected = loss(torch.cat([first, second]))
    torch.testing.assert_close(loss(torch.cat([second, first])), expected)
    torch.testing.assert_close(loss(torch.cat([first[order], second[order]])), expected)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_cost_nothing(n):
    embeddings = torch.randn(2 * n, 5, requires_grad=True)
    loss = TwoViewsLoss()(embeddings)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_embeddings_have_a_finite_gradient(value):
    embeddings = torch.full((6, 4), value, requires_grad=True)
    loss = TwoViewsLoss()(embeddings)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5), rel=1e-5)
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 4), (1, 4), (4,), (2, 2, 2)], ids=str)
def test_embeddings_that_are_not_two_views_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(2n, d\).*two views"):
        TwoViewsLoss()(torch.zeros(shape))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        TwoViewsLoss(temperature)
