"""MeanTeacherLoss against a loop over cosines, and who gets its gradient."""

import pytest
import torch
from reference import cosine, rows

from pml_slade.losses import MeanTeacherLoss

DTYPES = [torch.float16, torch.float32, torch.float64]


def mean_teacher(student, teacher):
    return sum(2 - 2 * cosine(f, g) for f, g in zip(student, teacher)) / len(student)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_loss_is_that_of_the_loop(n, dtype):
    student, teacher = torch.randn(n, 5).to(dtype), torch.randn(n, 5).to(dtype)
    expected = mean_teacher(rows(student), rows(teacher))
    assert MeanTeacherLoss()(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_lengths_do_not_matter():
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    lengths = torch.rand(2, 6, 1) + 0.5
    loss = MeanTeacherLoss()
    torch.testing.assert_close(loss(student * lengths[0], teacher * lengths[1]), loss(student, teacher))


def test_the_order_of_the_batch_does_not_matter():
    student, teacher, order = torch.randn(6, 4), torch.randn(6, 4), torch.randperm(6)
    loss = MeanTeacherLoss()
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


def test_equal_embeddings_cost_nothing_and_opposite_ones_four():
    x = torch.randn(6, 4)
    assert MeanTeacherLoss()(x, x.clone()).item() == 0
    assert MeanTeacherLoss()(x, -x).item() == pytest.approx(4)


def test_the_gradient_flows_to_the_student_alone():
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    MeanTeacherLoss()(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("student", "teacher"),
    [(torch.zeros(3, 2), torch.ones(3, 2)), (torch.ones(3, 2), torch.ones(3, 2)), (torch.zeros(0, 2),) * 2],
    ids=["zero rows", "equal", "empty"],
)
def test_the_gradient_is_finite_where_formulas_divide_by_zero(student, teacher):
    student = student.clone().requires_grad_()
    loss = MeanTeacherLoss()(student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 4)), ((3,), (3,))], ids=str)
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match=r"shape \(n, d\)"):
        MeanTeacherLoss()(*map(torch.zeros, shapes))
