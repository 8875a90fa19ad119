"""Consistency with a momentum teacher (Tarvainen & Valpola, NeurIPS 2017), brought to embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import EPS, at_least_float32


class MeanTeacherLoss(torch.nn.Module):
    """Mean squared distance between the student's and the teacher's unit embeddings, 2 - 2 cos.

    Section 2 of the paper takes the squared error between class probabilities. Retrieval has no fixed
    classes, so embeddings take their place, at unit length, as retrieval by cosine sees them.

    Examples:
        >>> MeanTeacherLoss()(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.eye(2).flip(0))
        tensor(2.)
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, 0-d; 0 for an empty batch.

        Args:
            student: embeddings of a batch, (n, d).
            teacher: the teacher's embeddings of the same images, (n, d); they get no gradient.

        Raises:
            ValueError: shapes that differ, or are not (n, d).
        """
        if student.ndim != 2 or student.shape != teacher.shape:
            raise ValueError(
                f"student and teacher must both have shape (n, d), got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)}; give both models the same images and embedding sizes."
            )
        student = F.normalize(at_least_float32(student), dim=1, eps=EPS)
        teacher = F.normalize(at_least_float32(teacher.detach()), dim=1, eps=EPS)
        return (student - teacher).square().sum() / max(len(student), 1)
