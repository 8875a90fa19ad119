"""What `why.py` measures of pairs, similarities and clusters, after each epoch of a student.

True labels of the pool are read here, and by nothing that trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

from pml_slade import functional
from pml_slade.datasets.draws import seed_everything
from pml_slade.losses import FeatureBasisLoss
from pml_slade.miners import ThresholdPairMiner

BINS = np.linspace(-1, 1, 51)
HARDEST = 0.1
Numbers = dict[str, Any]


class Pairs(NamedTuple):
    """The pairs of several batches one after another, each once and none of an image with itself.

    Attributes:
        cosine: of the embeddings, shape (p,).
        basis: Eq. 4, or None without a basis.
        pos_loss: what the ranking loss takes of the pair as a positive.
        neg_loss: likewise as a negative.
        match: true classes are the same.
        agree: pseudo-labels are the same.
        mined_pos: Eq. 7 takes it as a positive; None where there are no thresholds.
        mined_neg: likewise as a negative.
        batches: how many batches these are of.
    """

    cosine: np.ndarray
    basis: np.ndarray | None
    pos_loss: np.ndarray
    neg_loss: np.ndarray
    match: np.ndarray
    agree: np.ndarray
    mined_pos: np.ndarray | None
    mined_neg: np.ndarray | None
    batches: int


def draw_batches(labels: np.ndarray, size: int, per_class: int, count: int, seed: int) -> list[np.ndarray]:
    """Indices of batches drawn as a SelfTrainingTrainer draws them. It seeds PML's generator, as epochs do.

    Args:
        labels: (n,) pseudo-labels.
        size: images in a batch.
        per_class: of each pseudo-class in it; smaller ones repeat images. Where there are too few
            pseudo-classes for that, images are drawn at random.
        count: of batches.
        seed: of the generator.
    """
    seed_everything(seed)
    if size % per_class or per_class * len(np.unique(labels)) < size:
        return [torch.randperm(len(labels))[:size].numpy() for _ in range(count)]
    drawn = list(MPerClassSampler(labels, per_class, size, length_before_new_iter=count * size))
    return np.split(np.array(drawn), count)


def collect_pairs(
    embeddings: Tensor,
    true: np.ndarray,
    pseudo: np.ndarray,
    images: np.ndarray,
    batches: Sequence[np.ndarray],
    ranking: ContrastiveLoss,
    basis: FeatureBasisLoss | None,
) -> Pairs:
    """All pairs within the batches.

    Args:
        embeddings: (n, d).
        true: (n,) true classes.
        pseudo: (n,) pseudo-labels.
        images: (n,) numbers of the images, which may be there several times.
        batches: indices into these.
        ranking: whose margins say what a pair costs.
        basis: of Eq. 4; its running statistics are the thresholds of Eq. 7.
    """
    parts = [_of_batch(embeddings[b], true[b], pseudo[b], images[b], ranking, basis) for b in batches]
    joined: list[Any] = [None if column[0] is None else np.concatenate(column) for column in zip(*parts)]
    return Pairs._make([*joined, len(batches)])


@torch.no_grad()
def _of_batch(
    embeddings: Tensor,
    true: np.ndarray,
    pseudo: np.ndarray,
    images: np.ndarray,
    ranking: ContrastiveLoss,
    basis: FeatureBasisLoss | None,
) -> tuple[np.ndarray | None, ...]:
    i, j = np.triu_indices(len(images), 1)
    other = images[i] != images[j]
    i, j = i[other], j[other]
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    distance = ranking.distance(embeddings)
    similarity, mined = None, (None, None)
    if basis is not None:
        similarity = functional.basis_similarity(embeddings, basis.W).numpy()[i, j]  # Eq. 4
        if basis.thresholds() is not None:
            mined = tuple(mask[i, j] for mask in _mined(embeddings, basis))
    return (
        (unit @ unit.t()).numpy()[i, j],
        similarity,
        ranking.pos_calc(distance, ranking.pos_margin).numpy()[i, j],
        ranking.neg_calc(distance, ranking.neg_margin).numpy()[i, j],
        true[i] == true[j],
        pseudo[i] == pseudo[j],
        *mined,
    )


def _mined(embeddings: Tensor, basis: FeatureBasisLoss) -> Iterator[np.ndarray]:
    """Masks of the pairs that Eq. 7 takes as positives and as negatives, each (n, n)."""
    miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
    a1, p, a2, n = miner(embeddings)
    for rows, columns in ((a1, p), (a2, n)):
        mask = np.zeros((len(embeddings), len(embeddings)), dtype=bool)
        mask[rows, columns] = True
        yield mask


def measure_pairs(pairs: Pairs) -> Numbers:
    """`side` of the positives and of the negatives of each set of pairs that there is.

    Returns:
        pseudo: all pairs, by pseudo-label; mined: those that Eq. 7 mines; agreeing: those of them that agree
        with the pseudo-label.
    """
    chosen = {"pseudo": (pairs.agree, ~pairs.agree)}
    if pairs.mined_pos is not None and pairs.mined_neg is not None:
        chosen["mined"] = pairs.mined_pos, pairs.mined_neg
        chosen["agreeing"] = pairs.mined_pos & pairs.agree, pairs.mined_neg & ~pairs.agree
    match, cosine = pairs.match, pairs.cosine
    hard_pos, hard_neg = hardest(match, -cosine), hardest(~match, cosine)
    return {
        name: {
            "pos": side(positive, match, hard_pos, cosine, pairs.pos_loss, pairs.batches),
            "neg": side(negative, ~match, hard_neg, cosine, pairs.neg_loss, pairs.batches),
        }
        for name, (positive, negative) in chosen.items()
    }


def side(
    chosen: np.ndarray,
    right: np.ndarray,
    hard: np.ndarray,
    cosine: np.ndarray,
    loss: np.ndarray,
    batches: int,
) -> Numbers:
    """Of the pairs chosen as positives, or as negatives: how many, how right and how hard.

    Args:
        chosen: mask, (p,).
        right: which pairs truly are such.
        hard: indices of the hardest of these.
        cosine: of the pairs.
        loss: what a pair costs if it is chosen.
        batches: how many batches the pairs are of.

    Returns:
        number: a batch; share: of all pairs; precision, recall; hardest: share of the hardest tenth of the
        right ones that are chosen; cosine and loss: means of the chosen; active: share of the chosen that
        cost anything. Means and shares of nothing are None.
    """
    return {
        "number": float(chosen.sum() / batches),
        "share": _mean(chosen),
        "precision": _mean(right[chosen]),
        "recall": _mean(chosen[right]),
        "hardest": _mean(chosen[hard]),
        "cosine": _mean(cosine[chosen]),
        "loss": _mean(loss[chosen]),
        "active": _mean(loss[chosen] > 0),
    }


def hardest(right: np.ndarray, hardness: np.ndarray) -> np.ndarray:
    """Indices of the hardest tenth, rounded up, of the right ones."""
    order = np.flatnonzero(right)[np.argsort(-hardness[right], kind="stable")]
    return order[: int(np.ceil(HARDEST * len(order)))]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def measure_similarities(pairs: Pairs, basis: FeatureBasisLoss | None) -> Numbers:
    """How far cosine and Eq. 4 tell truly matching pairs from others, and the running means of Eq. 6."""
    found: Numbers = {"cosine": spread(pairs.cosine, pairs.match)}
    if pairs.basis is not None:
        found["basis"] = spread(pairs.basis, pairs.match)
    if basis is not None and int(basis.pos_batches) and int(basis.neg_batches):
        found |= {"mu_pos": float(basis.pos_mean), "mu_neg": float(basis.neg_mean)}
    return found


def spread(similarity: np.ndarray, match: np.ndarray) -> Numbers:
    """Means and histograms (counts over BINS) of matching pairs and of others, and the AUC between them."""
    parts = {"match": similarity[match], "other": similarity[~match]}
    return {
        "auc": float(roc_auc_score(match, similarity)) if 0 < match.sum() < len(match) else None,
        **{f"mean_{name}": _mean(part) for name, part in parts.items()},
        **{name: np.histogram(np.clip(part, -1, 1), BINS)[0].tolist() for name, part in parts.items()},
    }


def measure_clusters(true: np.ndarray, pseudo: np.ndarray) -> Numbers:
    """How well pseudo-labels agree with true classes; images that are left out (-1) are counted, no more."""
    kept = pseudo >= 0
    agreed = true[kept], pseudo[kept]
    table = contingency_matrix(*agreed)
    sizes = table.sum(0)
    return {
        "nmi": float(normalized_mutual_info_score(*agreed)),
        "purity": float(table.max(0).sum() / table.sum()),
        "ari": float(adjusted_rand_score(*agreed)),
        "clusters": len(sizes),
        "classes": len(np.unique(true)),
        "sizes": np.percentile(sizes, [0, 25, 50, 75, 100]).tolist(),
        "left_out": float(1 - kept.mean()),
    }


def measure_gradients(
    embeddings: Tensor,
    labels: Tensor,
    batches: Sequence[np.ndarray],
    ranking: ContrastiveLoss,
    basis: FeatureBasisLoss | None,
) -> Numbers:
    """Norms of the gradient with respect to a batch's embeddings, means over the batches.

    Of L_SD in both forms of Eq. 6, and of the ranking loss by pseudo-label; none of them times its weight
    in Eq. 9. Nothing where the basis has no statistics.

    Args:
        embeddings: (n, d).
        labels: (n,) pseudo-labels as the losses get them, beyond those of the labeled classes.
        batches: indices into these.
        ranking: the ranking loss.
        basis: the regulariser; its statistics stay as they are.
    """
    if basis is None or basis.regularizer is None or not int(basis.pos_batches):
        return {}
    forms: dict[str, torch.nn.Module] = {"ranking": ranking}
    for name, straight_through in (("straight_through", True), ("literal", False)):
        form = deepcopy(basis).eval()  # in eval mode it does not move its statistics
        form.straight_through = straight_through
        forms[name] = form
    return {
        name: float(np.mean([_gradient_norm(loss, embeddings[b], labels[b]) for b in batches]))
        for name, loss in forms.items()
    }


def _gradient_norm(loss: torch.nn.Module, embeddings: Tensor, labels: Tensor) -> float:
    inputs = embeddings.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(inputs, labels), inputs)
    return float(gradient.norm())
