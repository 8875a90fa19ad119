"""Self-Taught Metric Learning without Labels (Kim, Kim, Cho & Kwak, CVPR 2022, arXiv 2205.01903).

A momentum teacher says how similar two samples of a batch are, by their distance and by the neighbours
that they share; the student's distances follow. Where the paper leaves something open, its authors' code
(github.com/tjddus9597/STML-CVPR22) decides: a sample is its own first neighbour, the student's embeddings
keep their length, and a sample makes no pair with itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_int
from ..functional import EPS, at_least_float32


def pairwise_distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances between the rows of (n, d), shape (n, n); the gradient at distance 0 is 0.

    Examples:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    x = at_least_float32(embeddings)
    # By matrix products small distances would drown in rounding.
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def contextual_similarity(distances: Tensor, num_neighbours: int) -> Tensor:
    """Similarity w^C by shared neighbours, Section 3 of the paper.

    Neighbours are k-reciprocal: R(i) holds those j among the k nearest of i that have i among their k
    nearest. Two samples are as similar as their sets overlap, |R(i) & R(j)| / |R(i)| for j in R(i) and 0
    elsewhere. Query expansion averages that over the k/2 nearest of i, then both directions are averaged.

    Args:
        distances: (n, n), of a batch to itself.
        num_neighbours: k, the sample itself included; n where the batch has fewer.

    Returns:
        Similarities in [0, 1], symmetric, shape (n, n).

    Examples:
        >>> points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> contextual_similarity(pairwise_distances(points), num_neighbours=2)
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.],
                [0., 0., 1., 1.],
                [0., 0., 1., 1.]])
    """
    k = min(num_neighbours, len(distances))
    itself_first = distances.detach().clone().fill_diagonal_(-1)  # before its duplicates, too
    nearest = itself_first.topk(k, largest=False).indices
    neighbours = torch.zeros_like(itself_first).scatter_(1, nearest, 1.0)
    reciprocal = neighbours * neighbours.t()
    with torch.autocast(distances.device.type, enabled=False):
        shared = reciprocal @ reciprocal
    overlap = reciprocal * shared / reciprocal.sum(1, keepdim=True)
    expanded = overlap[nearest[:, : max(round(k / 2), 1)]].mean(1)
    return (expanded + expanded.t()) / 2


def semantic_similarity(teacher: Tensor, num_neighbours: int, sigma: float) -> Tensor:
    """Contextualised semantic similarity w = (w^P + w^C) / 2 of the teacher's unit embeddings.

    w^P = exp(-||z_i - z_j||^2 / sigma) looks at the pair alone, w^C at its neighbours.

    Args:
        teacher: (n, d), of any length; brought to unit length here.
        num_neighbours: k, see `contextual_similarity`.
        sigma: bandwidth of w^P.

    Returns:
        Similarities in [0, 1], symmetric and without gradient, shape (n, n).

    Examples:
        >>> semantic_similarity(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), num_neighbours=1, sigma=2.0)
        tensor([[1.0000, 0.1839],
                [0.1839, 1.0000]])
    """
    distances = pairwise_distances(F.normalize(at_least_float32(teacher.detach()), dim=1, eps=EPS))
    pairwise = torch.exp(-distances.square() / sigma)
    return (pairwise + contextual_similarity(distances, num_neighbours)) / 2


def relaxed_contrastive_loss(distances: Tensor, similarity: Tensor, delta: float) -> Tensor:
    """Contrastive loss on relative distances with similarities for labels.

    (1/n) sum_ij w_ij d_ij^2 + (1 - w_ij) [delta - d_ij]_+^2 over i != j, where d_ij is the distance
    divided by the mean distance of row i (the sample itself counted), gradient included.

    Args:
        distances: the student's, (n, n).
        similarity: w, (n, n).
        delta: margin, in mean distances.

    Returns:
        The loss, 0-d. The authors' code divides by n (n - 1), so that its value is n - 1 times smaller.

    Examples:
        >>> distances = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
        >>> relaxed_contrastive_loss(distances, torch.ones(2, 2), delta=1.0)
        tensor(4.)
        >>> relaxed_contrastive_loss(distances, torch.zeros(2, 2), delta=3.0)
        tensor(1.)
    """
    relative = distances / distances.mean(1, keepdim=True).clamp(min=EPS)
    pull = similarity * relative.square()
    push = (1 - similarity) * F.relu(delta - relative).square()
    itself = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    return (pull + push).masked_fill(itself, 0.0).sum() / max(len(distances), 1)


class SelfTaughtLoss(torch.nn.Module):
    """The relaxed contrastive loss of STML against a momentum teacher.

    The paper trains a second, larger embedding head next to the one in use, takes the teacher's
    similarities from that head, and adds a KL divergence between the two. Head and divergence are left
    out: the teacher's embedding is what we compare, so the student has one head, as in every other method.
    Nor are two views of an image forced to be neighbours, as the authors' code does.

    Args:
        num_neighbours: k, the sample itself included; 10 is the authors' 5 per query in two views.
        sigma: bandwidth of the pairwise similarity; 3 in the authors' commands for every dataset.
        delta: margin in mean distances; the authors' commands take 1, and 0.9 for SOP.
        normalize_student: bring the student's embeddings to unit length, too. The authors do not, and
            relative distances do not ask for it.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> student, teacher = torch.randn(12, 4, requires_grad=True), torch.randn(12, 4)
        >>> SelfTaughtLoss(num_neighbours=4)(student, teacher).shape
        torch.Size([])
    """

    def __init__(
        self,
        num_neighbours: int = 10,
        sigma: float = 3.0,
        delta: float = 1.0,
        normalize_student: bool = False,
    ) -> None:
        check_int("num_neighbours", num_neighbours, at_least=1)
        for name, value in (("sigma", sigma), ("delta", delta)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}.")
        super().__init__()
        self.num_neighbours = num_neighbours
        self.sigma = sigma
        self.delta = delta
        self.normalize_student = normalize_student

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, 0-d; 0 for fewer than two samples.

        Args:
            student: embeddings of a batch, (n, d).
            teacher: the teacher's embeddings of the same images, (n, d'); they get no gradient.

        Raises:
            ValueError: batches of different sizes, or not two-dimensional.
        """
        if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
            raise ValueError(
                f"student and teacher must hold embeddings (n, d) of the same n images, got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}."
            )
        student = at_least_float32(student)
        if self.normalize_student:
            student = F.normalize(student, dim=1, eps=EPS)
        similarity = semantic_similarity(teacher, self.num_neighbours, self.sigma)
        return relaxed_contrastive_loss(pairwise_distances(student), similarity.to(student), self.delta)
