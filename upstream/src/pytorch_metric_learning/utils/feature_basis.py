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


def at_least_float32(x):
    """Return `x` in float32, or as it is when it is already wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unit(x):
    """Rows at unit length; the gradient of a zero row stays finite in half precision, too."""
    return F.normalize(x, dim=1, eps=EPS)


def basis_response(embeddings, basis):
    """Response r = W_a f of embeddings (n, d) to a feature basis (k, d), shape (n, k)."""
    embeddings = at_least_float32(embeddings)
    with torch.autocast(embeddings.device.type, enabled=False):
        return F.linear(embeddings, basis.to(embeddings))


def basis_logits(embeddings, basis, logit_scale=None):
    """Logits of Eq. 3, the basis response as a classifier has it.

    Args:
        embeddings: (n, d).
        basis: (k, d), one row per class.
        logit_scale: None takes W_a f as it comes, which is Eq. 3 to the letter. A number takes that many
            times the cosine between f and each row of W_a, so that growing norms are no way to lower
            the loss, and a random W_a is no shock to the student.

    Returns:
        Logits, shape (n, k).
    """
    if logit_scale is not None:
        embeddings = logit_scale * _unit(at_least_float32(embeddings))
        basis = _unit(basis)
    return basis_response(embeddings, basis)


def basis_cross_entropy(embeddings, basis, labels, logit_scale=None):
    """Cross-entropy of the basis response against the true classes, Eq. 3, one value per sample.

    Args:
        embeddings: (n, d).
        basis: (k, d), one row per class.
        labels: (n,), integers in [0, k).
        logit_scale: see `basis_logits`.

    Returns:
        Losses, shape (n,).
    """
    return F.cross_entropy(
        basis_logits(embeddings, basis, logit_scale), labels, reduction="none"
    )


def basis_similarity(embeddings, basis, ref_emb=None):
    """Similarity s(x_i, x_j) = cos(W_a f_i, W_a f_j), Eq. 4.

    Args:
        embeddings: (n, d).
        basis: (k, d).
        ref_emb: (m, d), or None to compare the embeddings with themselves.

    Returns:
        Cosines, shape (n, m).
    """
    query = _unit(basis_response(embeddings, basis))
    ref = query if ref_emb is None else _unit(basis_response(ref_emb, basis))
    with torch.autocast(query.device.type, enabled=False):
        return query @ ref.t()


def pair_moments(similarity, mask):
    """Mean and (population) variance of the masked similarities: one batch's Gaussian of Eq. 5.

    A batch that overflowed, as mixed precision meets now and then, counts as not seen: it must not spoil
    the statistics of all that follow.

    Args:
        similarity: (n, m).
        mask: (n, m), boolean.

    Returns:
        Moments; mean and variance are 0 where the mask is empty, and `seen` is false there.
    """
    count = mask.sum()
    usable = (count > 0) & torch.where(mask, similarity, 0.0).isfinite().all()
    mask = mask & usable
    share = count.clamp(min=1).to(similarity)
    mean = torch.where(mask, similarity, 0.0).sum() / share
    var = torch.where(mask, similarity - mean, 0.0).square().sum() / share
    return Moments(mean, var, usable)


def update_moments(running, batch, momentum, straight_through=True):
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
    """

    def blend(old, now):
        beta = torch.where(
            running.seen, torch.full_like(now, momentum), torch.zeros_like(now)
        )
        value = (1 - beta) * now + beta * old
        if straight_through:
            value = value.detach() + (now - now.detach())
        return torch.where(batch.seen, value, old.to(value))

    return Moments(
        blend(running.mean, batch.mean),
        blend(running.var, batch.var),
        running.seen | batch.seen,
    )


def similarity_distribution_loss(pos, neg, margin, variance_weight):
    """L_SD, Eq. 5: keep the two Gaussians `margin` apart and narrow.

    Args:
        pos: similarities of pairs with the same pseudo-label, (mu+, v+).
        neg: similarities of the other pairs, (mu-, v-).
        margin: m.
        variance_weight: lambda_v.

    Returns:
        The loss, 0-d.
    """
    return F.relu(neg.mean - pos.mean + margin) + variance_weight * (pos.var + neg.var)


def pair_cross_entropy(similarity, pos_mask, neg_mask, pos, neg):
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
    """
    middle = (pos.mean + neg.mean).detach() / 2
    spread = ((pos.var + neg.var).detach() / 2 + EPS).sqrt()
    logits = (similarity - middle) / spread
    agree = pair_moments(F.softplus(-logits), pos_mask).mean
    differ = pair_moments(F.softplus(logits), neg_mask).mean
    return (agree + differ) / 2


def threshold_masks(similarity, pos_threshold, neg_threshold):
    """Mined pairs, Eq. 7: P = {s >= T1}, N = {s <= T2}.

    Args:
        similarity: (n, m).
        pos_threshold: T1.
        neg_threshold: T2.

    Returns:
        Boolean masks of P and N, each (n, m).
    """
    return similarity >= pos_threshold, similarity <= neg_threshold
