"""The equations of SLADE (Duan et al., CVPR 2021) as pure functions of tensors.

Equation numbers are the paper's. Similarities and their statistics are computed in float32 at least:
the variance of cosines close to 1 is lost in half precision.

Pairs are given as boolean masks over a similarity matrix, so that nothing here waits for the device.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


class Moments(NamedTuple):
    """Mean and variance of a set of similarities, and whether the set held anything (0-d tensors)."""

    mean: Tensor
    var: Tensor
    seen: Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is when it is already wider.

    Examples:
        >>> at_least_float32(torch.zeros(1, dtype=torch.float16)).dtype
        torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unit(x: Tensor) -> Tensor:
    """Rows at unit length; the gradient of a zero row stays finite in half precision, too."""
    return F.normalize(x, dim=1, eps=EPS)


def ranking_loss(pos_dist: Tensor, neg_dist: Tensor, pos_margin: float, neg_margin: float) -> Tensor:
    """Contrastive ranking loss, Eq. 1: summed hinge over positive and negative pairs.

    Args:
        pos_dist: distances of positive pairs, any shape.
        neg_dist: distances of negative pairs, any shape.
        pos_margin: positives closer than this cost nothing.
        neg_margin: negatives farther than this cost nothing.

    Returns:
        The loss, 0-d.

    Examples:
        >>> ranking_loss(torch.tensor([0.2, 0.5]), torch.tensor([0.4, 2.0]), 0.3, 1.0)
        tensor(0.8000)
    """
    return F.relu(pos_dist - pos_margin).sum() + F.relu(neg_margin - neg_dist).sum()


def basis_response(embeddings: Tensor, basis: Tensor) -> Tensor:
    """Response r = W_a f of embeddings (n, d) to a feature basis (k, d), shape (n, k).

    Examples:
        >>> basis_response(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[1., 3.]])
    """
    embeddings = at_least_float32(embeddings)
    with torch.autocast(embeddings.device.type, enabled=False):
        return F.linear(embeddings, basis.to(embeddings))


def basis_logits(embeddings: Tensor, basis: Tensor, logit_scale: float | None = None) -> Tensor:
    """Logits of Eq. 3, the basis response as a classifier has it.

    Args:
        embeddings: (n, d).
        basis: (k, d), one row per class.
        logit_scale: None takes W_a f as it comes, which is Eq. 3 to the letter. A number takes that many
            times the cosine between f and each row of W_a, so that growing norms are no way to lower
            the loss, and a random W_a is no shock to the student.

    Returns:
        Logits, shape (n, k).

    Examples:
        >>> basis_logits(torch.tensor([[0.0, 2.0]]), torch.eye(2), logit_scale=16.0)
        tensor([[ 0., 16.]])
    """
    if logit_scale is not None:
        embeddings = logit_scale * _unit(at_least_float32(embeddings))
        basis = _unit(basis)
    return basis_response(embeddings, basis)


def basis_cross_entropy(
    embeddings: Tensor, basis: Tensor, labels: Tensor, logit_scale: float | None = None
) -> Tensor:
    """Cross-entropy of the basis response against the true classes, Eq. 3, one value per sample.

    Args:
        embeddings: (n, d).
        basis: (k, d), one row per class.
        labels: (n,), integers in [0, k).
        logit_scale: see `basis_logits`.

    Returns:
        Losses, shape (n,).

    Examples:
        >>> basis_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.eye(2), torch.tensor([0]))
        tensor([0.6931])
    """
    return F.cross_entropy(basis_logits(embeddings, basis, logit_scale), labels, reduction="none")


def basis_similarity(embeddings: Tensor, basis: Tensor, ref_emb: Tensor | None = None) -> Tensor:
    """Similarity s(x_i, x_j) = cos(W_a f_i, W_a f_j), Eq. 4.

    Args:
        embeddings: (n, d).
        basis: (k, d).
        ref_emb: (m, d), or None to compare the embeddings with themselves.

    Returns:
        Cosines, shape (n, m).

    Examples:
        >>> basis_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.ones(1, 2))
        tensor([[1., 1.],
                [1., 1.]])
    """
    query = _unit(basis_response(embeddings, basis))
    ref = query if ref_emb is None else _unit(basis_response(ref_emb, basis))
    with torch.autocast(query.device.type, enabled=False):
        return query @ ref.t()


def pair_moments(similarity: Tensor, mask: Tensor) -> Moments:
    """Mean and (population) variance of the masked similarities: one batch's Gaussian of Eq. 5.

    A batch that overflowed, as mixed precision meets now and then, counts as not seen: it must not spoil
    the statistics of all that follow.

    Args:
        similarity: (n, m).
        mask: (n, m), boolean.

    Returns:
        Moments; mean and variance are 0 where the mask is empty, and `seen` is false there.

    Examples:
        >>> pair_moments(torch.tensor([[0.0, 1.0]]), torch.tensor([[True, True]]))
        Moments(mean=tensor(0.5000), var=tensor(0.2500), seen=tensor(True))
    """
    count = mask.sum()
    usable = (count > 0) & torch.where(mask, similarity, 0.0).isfinite().all()
    mask = mask & usable
    share = count.clamp(min=1).to(similarity)
    mean = torch.where(mask, similarity, 0.0).sum() / share
    var = torch.where(mask, similarity - mean, 0.0).square().sum() / share
    return Moments(mean, var, usable)


def update_moments(
    running: Moments, batch: Moments, momentum: float, straight_through: bool = True
) -> Moments:
    """Global statistics, Eq. 6: (1 - momentum) * batch + momentum * running.

    The first batch seen is taken whole; a batch without such pairs leaves the running value.

    Args:
        running: what was seen before; carries no gradient.
        batch: this batch's moments.
        momentum: weight of the running value, beta in the paper.
        straight_through: Eq. 6 as it stands lets only (1 - momentum) of the gradient through, 1 % for
            0.99. True keeps its value and gives the batch statistics the whole gradient.

    Returns:
        The updated moments, with gradient to the batch's.

    Examples:
        >>> old = Moments(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(True))
        >>> new = Moments(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(True))
        >>> update_moments(old, new, 0.9).mean
        tensor(0.1000)
    """

    def blend(old: Tensor, now: Tensor) -> Tensor:
        beta = torch.where(running.seen, torch.full_like(now, momentum), torch.zeros_like(now))
        value = (1 - beta) * now + beta * old
        if straight_through:
            value = value.detach() + (now - now.detach())
        return torch.where(batch.seen, value, old.to(value))

    return Moments(blend(running.mean, batch.mean), blend(running.var, batch.var), running.seen | batch.seen)


def similarity_distribution_loss(pos: Moments, neg: Moments, margin: float, variance_weight: float) -> Tensor:
    """L_SD, Eq. 5: keep the two Gaussians `margin` apart and narrow.

    Args:
        pos: similarities of pairs with the same pseudo-label, (mu+, v+).
        neg: similarities of the other pairs, (mu-, v-).
        margin: m.
        variance_weight: lambda_v.

    Returns:
        The loss, 0-d.

    Examples:
        >>> t = torch.tensor
        >>> pos, neg = Moments(t(0.8), t(0.1), t(True)), Moments(t(0.5), t(0.2), t(True))
        >>> similarity_distribution_loss(pos, neg, margin=0.5, variance_weight=1.0)
        tensor(0.5000)
    """
    return F.relu(neg.mean - pos.mean + margin) + variance_weight * (pos.var + neg.var)


def pair_cross_entropy(
    similarity: Tensor, pos_mask: Tensor, neg_mask: Tensor, pos: Moments, neg: Moments
) -> Tensor:
    """Binary cross-entropy between pair similarity and pseudo-label agreement (Local-CE, Global-CE).

    The paper names these two regularisers and gives results only; this is our reading. A similarity
    becomes a logit by its distance from the point between mu+ and mu-, in units of the pooled standard
    deviation; positive and negative pairs weigh the same. Moments of the batch give Local-CE, running
    ones Global-CE; they calibrate and get no gradient.

    Args:
        similarity: (n, m).
        pos_mask: pairs whose pseudo-labels agree, (n, m).
        neg_mask: pairs whose pseudo-labels differ, (n, m).
        pos: moments of agreeing pairs.
        neg: moments of the others.

    Returns:
        The loss, 0-d.

    Examples:
        >>> t = torch.tensor
        >>> pos, neg = Moments(t(1.0), t(0.25), t(True)), Moments(t(0.0), t(0.25), t(True))
        >>> yes, no = torch.tensor([[True, False]]), torch.tensor([[False, True]])
        >>> pair_cross_entropy(torch.tensor([[0.5, 0.5]]), yes, no, pos, neg)
        tensor(0.6931)
    """
    middle = (pos.mean + neg.mean).detach() / 2
    spread = ((pos.var + neg.var).detach() / 2 + EPS).sqrt()
    logits = (similarity - middle) / spread
    agree = pair_moments(F.softplus(-logits), pos_mask).mean
    differ = pair_moments(F.softplus(logits), neg_mask).mean
    return (agree + differ) / 2


def threshold_masks(similarity: Tensor, pos_threshold: float, neg_threshold: float) -> tuple[Tensor, Tensor]:
    """Mined pairs, Eq. 7: P = {s >= T1}, N = {s <= T2}.

    Args:
        similarity: (n, m).
        pos_threshold: T1.
        neg_threshold: T2.

    Returns:
        Boolean masks of P and N, each (n, m).

    Examples:
        >>> threshold_masks(torch.tensor([[0.9, 0.5, 0.1]]), 0.8, 0.2)
        (tensor([[ True, False, False]]), tensor([[False, False,  True]]))
    """
    return similarity >= pos_threshold, similarity <= neg_threshold
