"""STML against loops over sets of neighbours."""

import math

import pytest
import torch
from reference import euclidean, norm, rows

from pml_slade.losses import SelfTaughtLoss
from pml_slade.losses.self_taught_loss import (
    contextual_similarity,
    pairwise_distances,
    relaxed_contrastive_loss,
    semantic_similarity,
)

DTYPES = [torch.float16, torch.float32, torch.float64]
SIZES = [(2, 10), (5, 10), (8, 1), (8, 2), (8, 3), (8, 8), (24, 5), (40, 10)]

in_every_size = pytest.mark.parametrize(("n", "k"), SIZES)
in_every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# The oracles: sets of indices, one equation after the other.


def all_distances(points):
    return [[euclidean(u, v) for v in points] for u in points]


def ranked(distances, i):
    """All samples from the nearest on, i itself first."""
    return sorted(range(len(distances)), key=lambda j: (j != i, distances[i][j]))


def contextual(distances, k):
    n = len(distances)
    k = min(k, n)
    nearest = [ranked(distances, i)[:k] for i in range(n)]
    reciprocal = [{j for j in nearest[i] if i in nearest[j]} for i in range(n)]
    overlap = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in reciprocal[i]:
            overlap[i][j] = len(reciprocal[i] & reciprocal[j]) / len(reciprocal[i])
    expanded = [[0.0] * n for _ in range(n)]
    for i in range(n):
        half = nearest[i][: max(round(k / 2), 1)]
        for j in range(n):
            expanded[i][j] = sum(overlap[h][j] for h in half) / len(half)
    return [[(expanded[i][j] + expanded[j][i]) / 2 for j in range(n)] for i in range(n)]


def semantic(teacher, k, sigma):
    units = [[x / norm(z) for x in z] for z in teacher]
    distances = all_distances(units)
    context = contextual(distances, k)
    n = len(teacher)
    return [
        [(math.exp(-(distances[i][j] ** 2) / sigma) + context[i][j]) / 2 for j in range(n)] for i in range(n)
    ]


def relaxed_contrastive(distances, w, delta):
    n, total = len(distances), 0.0
    for i in range(n):
        mean = sum(distances[i]) / n
        for j in range(n):
            if i != j:
                d = distances[i][j] / mean
                total += w[i][j] * d**2 + (1 - w[i][j]) * max(delta - d, 0.0) ** 2
    return total / n


def assert_same(got, expected):
    torch.testing.assert_close(got.double(), torch.tensor(expected, dtype=torch.double), rtol=1e-4, atol=1e-5)


# Values


@in_every_size
@in_every_dtype
def test_contextual_similarity_is_that_of_the_loops(n, k, dtype):
    points = torch.randn(n, 4).to(dtype)
    assert_same(
        contextual_similarity(pairwise_distances(points), k), contextual(all_distances(rows(points)), k)
    )


@in_every_size
@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_semantic_similarity_is_that_of_the_loops(n, k, sigma):
    teacher = torch.randn(n, 4)
    assert_same(semantic_similarity(teacher, k, sigma), semantic(rows(teacher), k, sigma))


@pytest.mark.parametrize("n", [2, 3, 9])
@pytest.mark.parametrize("delta", [0.9, 1.0, 2.5])
@in_every_dtype
def test_relaxed_contrastive_loss_is_that_of_the_loops(n, delta, dtype):
    student, w = torch.randn(n, 4).to(dtype), torch.rand(n, n).double()
    got = relaxed_contrastive_loss(pairwise_distances(student), w, delta)
    assert_same(got, relaxed_contrastive(all_distances(rows(student)), rows(w), delta))


@in_every_size
@in_every_dtype
def test_the_loss_is_that_of_the_loops(n, k, dtype):
    student, teacher = torch.randn(n, 4).to(dtype), torch.randn(n, 6).to(dtype)
    expected = relaxed_contrastive(all_distances(rows(student)), semantic(rows(teacher), k, 2.0), 0.9)
    assert_same(SelfTaughtLoss(k, sigma=2.0, delta=0.9)(student, teacher), expected)


def test_the_students_length_counts_unless_it_is_normalised():
    student, teacher = torch.randn(8, 4), torch.randn(8, 4)
    longer = student * (torch.rand(8, 1) + 0.5)
    plain, unit = SelfTaughtLoss(4), SelfTaughtLoss(4, normalize_student=True)
    assert (plain(longer, teacher) - plain(student, teacher)).abs() > 1e-3
    torch.testing.assert_close(unit(longer, teacher), unit(student, teacher))
    torch.testing.assert_close(
        unit(student, teacher), plain(student / student.norm(dim=1, keepdim=True), teacher)
    )


# What must not matter


def test_similarity_is_symmetric_and_between_0_and_1():
    w = semantic_similarity(torch.randn(30, 5), 6, 3.0)
    torch.testing.assert_close(w, w.t())
    assert w.min() >= 0
    assert w.max() <= 1


def test_permuting_the_teacher_permutes_its_similarities():
    teacher, order = torch.randn(20, 5), torch.randperm(20)
    w = semantic_similarity(teacher, 5, 3.0)
    torch.testing.assert_close(semantic_similarity(teacher[order], 5, 3.0), w[order][:, order])


def test_the_order_of_the_batch_does_not_matter():
    student, teacher, order = torch.randn(20, 5), torch.randn(20, 5), torch.randperm(20)
    loss = SelfTaughtLoss(5)
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


def test_scales_do_not_matter():
    student, teacher, loss = torch.randn(20, 5), torch.randn(20, 5), SelfTaughtLoss(5)
    lengths = torch.rand(20, 1) + 0.5
    torch.testing.assert_close(loss(3 * student, teacher * lengths), loss(student, teacher))


def test_samples_of_separate_clusters_share_no_context():
    centres = 10 * torch.eye(3).repeat_interleave(5, 0)
    w = contextual_similarity(pairwise_distances(centres + 0.1 * torch.rand(15, 3)), 5)
    same = torch.eye(3).repeat_interleave(5, 0).repeat_interleave(5, 1)
    torch.testing.assert_close(w, same)


# Gradients


def test_the_gradient_flows_to_the_student_alone():
    student, teacher = torch.randn(12, 4, requires_grad=True), torch.randn(12, 4, requires_grad=True)
    SelfTaughtLoss(4)(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_gradient_is_that_of_finite_differences():
    student = torch.randn(7, 3, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(7, 3, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda x: SelfTaughtLoss(3)(x, teacher), student)


def test_descent_brings_the_students_neighbours_to_those_of_the_teacher():
    teacher = torch.eye(4).repeat_interleave(4, 0) + 0.1 * torch.randn(16, 4)
    student = torch.randn(16, 4, requires_grad=True)
    optimizer, loss = torch.optim.Adam([student], lr=0.05), SelfTaughtLoss(4, sigma=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    nearest = pairwise_distances(student.detach()).topk(4, largest=False).indices // 4
    assert (nearest == torch.arange(16)[:, None] // 4).all()


@pytest.mark.parametrize("normalize_student", [False, True])
@pytest.mark.parametrize(
    "student",
    [torch.ones(6, 4), torch.zeros(6, 4), torch.eye(3, 4).repeat(2, 1), 1 + 1e-8 * torch.rand(6, 4).double()],
    ids=["identical", "zero", "duplicates", "nearly identical"],
)
def test_the_gradient_is_finite_at_distance_zero(student, normalize_student):
    student = student.clone().requires_grad_()
    loss = SelfTaughtLoss(3, normalize_student=normalize_student)(student, torch.randn(6, 4))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_teacher_that_has_collapsed_gives_finite_similarities(value):
    w = semantic_similarity(torch.full((6, 4), value), 3, 3.0)
    assert w.isfinite().all()
    assert (w.diagonal() > 0.5).all()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_cost_nothing(n):
    student = torch.randn(n, 4, requires_grad=True)
    loss = SelfTaughtLoss()(student, torch.randn(n, 4))
    loss.backward()
    assert loss.item() == 0
    assert student.grad.isfinite().all()


def test_under_autocast_the_value_is_that_of_full_precision():
    student, teacher, loss = torch.randn(20, 5), torch.randn(20, 5), SelfTaughtLoss(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(student, teacher)
    torch.testing.assert_close(got, loss(student, teacher))


# Errors


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3,), (3,)), ((3, 2), (3, 2, 1))], ids=str)
def test_batches_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="of the same n images"):
        SelfTaughtLoss()(*map(torch.zeros, shapes))


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_neighbours", 0), ("num_neighbours", 2.5), ("sigma", 0.0), ("sigma", math.nan), ("delta", -1.0)],
)
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be (positive|an integer of at least 1)"):
        SelfTaughtLoss(**{name: value})
