"""Each image of a pool predicts its neighbours: targets, logits, and what is refused."""

import pytest
import torch

from pml_slade.losses import NeighbourLoss


def remember(loss, pool, seen):
    """Hand a loss the neighbours by the cosine of what is seen."""
    seen = torch.nn.functional.normalize(seen.float(), dim=1)
    near = (seen @ seen.T).fill_diagonal_(-torch.inf).topk(min(loss.num_neighbours, len(seen) - 1))
    loss.remember(pool, near.indices, near.values)


def slow(loss, embeddings, indices, pool, seen):
    """The same, image by image and over the whole pool."""
    total = 0.0
    for z, i in zip(embeddings, indices.tolist()):
        others = [j for j in range(len(pool)) if j != i]
        near = torch.stack([torch.cosine_similarity(seen[i], seen[j], dim=0) for j in others])
        order = near.argsort(descending=True)[: loss.num_neighbours]
        targets = torch.softmax(near[order] / loss.temperature, 0)
        now = torch.stack([torch.cosine_similarity(z, pool[j], dim=0) for j in others])
        total -= (targets * torch.log_softmax(loss.scale * now, 0)[order]).sum()
        far = [j for j in range(len(pool)) if j not in {others[n] for n in order.tolist()}]
        now = torch.stack([torch.cosine_similarity(z, pool[j], dim=0) for j in far])
        total -= loss.own_weight * torch.log_softmax(loss.scale * now, 0)[far.index(i)]
    return total / len(embeddings)


@pytest.mark.parametrize("own_weight", [0.0, 0.25])
@pytest.mark.parametrize("num_neighbours", [1, 4, 50])
def test_it_is_the_cross_entropy_over_the_pool(num_neighbours, own_weight):
    loss = NeighbourLoss(0.2, 5.0, num_neighbours, own_weight)
    pool, seen, indices = torch.randn(12, 6), torch.randn(12, 3), torch.tensor([3, 0, 11])
    remember(loss, pool, seen)
    embeddings = torch.randn(3, 6)
    expected = slow(loss, embeddings, indices, pool, seen)
    assert loss(embeddings, indices).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_gradient_draws_an_image_to_its_neighbours():
    loss = NeighbourLoss()
    pool = torch.eye(3).repeat_interleave(2, 0)
    remember(loss, pool, pool)
    z = torch.nn.Parameter(torch.tensor([[0.4, 0.5, 0.5]]))
    loss(z, torch.tensor([0])).backward()
    assert z.grad[0, 0] < 0 < z.grad[0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_will_do(dtype):
    loss = NeighbourLoss()
    remember(loss, torch.randn(6, 4, dtype=dtype), torch.randn(6, 2, dtype=dtype))
    assert torch.isfinite(loss(torch.randn(2, 4, dtype=dtype), torch.tensor([1, 5])))


def test_an_empty_batch_gives_zero():
    loss = NeighbourLoss()
    remember(loss, torch.randn(6, 4), torch.randn(6, 4))
    assert loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == 0


@pytest.mark.parametrize("name", ["temperature", "scale", "num_neighbours"])
@pytest.mark.parametrize("value", [0, -1])
def test_an_argument_that_is_not_positive_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        NeighbourLoss(**{name: value})


def test_a_weight_below_0_is_refused():
    with pytest.raises(ValueError, match=r"own_weight must not be below 0, got -0\.1"):
        NeighbourLoss(own_weight=-0.1)


def test_a_model_in_float64_learns_from_a_pool_in_float32():
    loss = NeighbourLoss()
    remember(loss, torch.randn(6, 4), torch.randn(6, 4))
    assert loss(torch.randn(2, 4, dtype=torch.float64), torch.tensor([1, 5])).dtype == torch.float64


def test_what_does_not_fit_is_refused():
    loss = NeighbourLoss()
    with pytest.raises(ValueError, match="remember has to be called before"):
        loss(torch.randn(1, 4), torch.tensor([0]))
    for shapes in (((1, 4), (1, 1), (1, 1)), ((6, 4), (6, 2), (6, 3)), ((6, 4, 1), (6, 2), (6, 2))):
        embeddings, neighbours, cosines = (torch.ones(shape) for shape in shapes)
        with pytest.raises(ValueError, match=rf"two images or more.*got \({shapes[0][0]}, 4"):
            loss.remember(embeddings, neighbours.long(), cosines)
    with pytest.raises(ValueError, match="neighbours holds 5 rows for 6 embeddings"):
        loss.remember(torch.randn(6, 4), torch.zeros(5, 2).long(), torch.zeros(5, 2))
    remember(loss, torch.randn(6, 4), torch.randn(6, 4))
    with pytest.raises(ValueError, match=r"must be \(n, 4\) with an index each, got \(2, 3\)"):
        loss(torch.randn(2, 3), torch.tensor([0, 1]))
