"""Slow, obvious oracles: the paper's equations as loops over Python floats.

A set of pairs is a list of index pairs, the moments of a set are ``(mean, variance)``, or None for the
empty set. Nothing here is taken from the implementation.
"""

import math


def rows(tensor):
    """Return a tensor as (nested lists of) Python floats, exactly."""
    return tensor.detach().double().cpu().tolist()


def dot(u, v):
    return sum(a * b for a, b in zip(u, v))


def norm(u):
    return math.sqrt(dot(u, u))


def cosine(u, v):
    length = norm(u) * norm(v)
    return dot(u, v) / length if length > 0 else 0.0


def euclidean(u, v):
    return norm([a - b for a, b in zip(u, v)])


def ranking_loss(pos_dist, neg_dist, pos_margin, neg_margin):
    """Eq. 1."""
    total = 0.0
    for d in pos_dist:
        if d > pos_margin:
            total += d - pos_margin
    for d in neg_dist:
        if d < neg_margin:
            total += neg_margin - d
    return total


def basis_response(f, W):
    return [dot(w, f) for w in W]


def basis_cross_entropy(embeddings, W, labels, logit_scale=None):
    """Eq. 3, one value per sample; with a scale, on so many times the cosines."""
    losses = []
    for f, label in zip(embeddings, labels):
        logits = basis_response(f, W)
        if logit_scale is not None:
            logits = [logit_scale * cosine(f, w) for w in W]
        largest = max(logits)
        log_sum = largest + math.log(sum(math.exp(x - largest) for x in logits))
        losses.append(log_sum - logits[label])
    return losses


def basis_similarity(embeddings, W, ref_emb=None):
    """Eq. 4 for all pairs."""
    ref_emb = embeddings if ref_emb is None else ref_emb
    return [[cosine(basis_response(f, W), basis_response(g, W)) for g in ref_emb] for f in embeddings]


def pseudo_pairs(labels, num_classes, ref_labels=None):
    """Positive and negative pairs among the samples with pseudo-labels."""
    same_set = ref_labels is None
    ref_labels = labels if same_set else ref_labels
    positive, negative = [], []
    for i, a in enumerate(labels):
        for j, b in enumerate(ref_labels):
            if a < num_classes or b < num_classes or (same_set and i == j):
                continue
            (positive if a == b else negative).append((i, j))
    return positive, negative


def moments(values):
    """Mean and variance of Eq. 5's Gaussian, None for no values."""
    values = list(values)
    if not values:
        return None
    mean = sum(values) / len(values)
    return mean, sum((x - mean) ** 2 for x in values) / len(values)


def pair_moments(similarity, pairs):
    return moments(similarity[i][j] for i, j in pairs)


def update_moments(running, batch, momentum):
    """Eq. 6; what was never seen starts with its first batch."""
    if batch is None:
        return running
    if running is None:
        return batch
    return tuple((1 - momentum) * new + momentum * old for old, new in zip(running, batch))


def similarity_distribution_loss(pos, neg, margin, variance_weight):
    """Eq. 5."""
    hinge = neg[0] - pos[0] + margin
    return max(hinge, 0.0) + variance_weight * (pos[1] + neg[1])


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pair_cross_entropy(similarity, positive, negative, pos, neg, eps=1e-6):
    """Local-CE with moments of the batch, Global-CE with running ones."""
    middle = (pos[0] + neg[0]) / 2
    spread = math.sqrt((pos[1] + neg[1]) / 2 + eps)
    agree = [softplus(-(similarity[i][j] - middle) / spread) for i, j in positive]
    differ = [softplus((similarity[i][j] - middle) / spread) for i, j in negative]
    agree = sum(agree) / len(agree) if agree else 0.0
    differ = sum(differ) / len(differ) if differ else 0.0
    return (agree + differ) / 2


def threshold_pairs(similarity, pos_threshold, neg_threshold, same_set, inverted=True):
    """Eq. 7: mined positives and negatives, as sets. With distances the comparisons turn round."""
    positive, negative = set(), set()
    for i, row in enumerate(similarity):
        for j, s in enumerate(row):
            if same_set and i == j:
                continue
            if s >= pos_threshold if inverted else s <= pos_threshold:
                positive.add((i, j))
            if s <= neg_threshold if inverted else s >= neg_threshold:
                negative.add((i, j))
    return positive, negative


class FeatureBasis:
    """L_Basis, Eq. 2, batch after batch: mean of Eq. 3, and the regulariser."""

    def __init__(self, W, num_classes, regularizer, margin, variance_weight, momentum, logit_scale):
        self.W = W
        self.num_classes = num_classes
        self.regularizer = regularizer
        self.margin = margin
        self.variance_weight = variance_weight
        self.momentum = momentum
        self.logit_scale = logit_scale
        self.pos = self.neg = None

    def __call__(self, embeddings, labels, ref_emb=None, ref_labels=None, pairs=None):
        annotated = [i for i, label in enumerate(labels) if label < self.num_classes]
        ce = basis_cross_entropy(
            [embeddings[i] for i in annotated],
            self.W,
            [labels[i] for i in annotated],
            self.logit_scale,
        )
        mean_ce = sum(ce) / len(ce) if ce else 0.0
        if self.regularizer is None or len(annotated) == len(labels):
            return mean_ce, 0.0
        if pairs is None:
            pairs = pseudo_pairs(labels, self.num_classes, ref_labels)
        return mean_ce, self.regularize(basis_similarity(embeddings, self.W, ref_emb), *pairs)

    def regularize(self, similarity, positive, negative):
        batch = pair_moments(similarity, positive), pair_moments(similarity, negative)
        self.pos = update_moments(self.pos, batch[0], self.momentum)
        self.neg = update_moments(self.neg, batch[1], self.momentum)
        used = batch if self.regularizer == "local_ce" else (self.pos, self.neg)
        if None in used or batch == (None, None):
            return 0.0
        if self.regularizer == "sd":
            return similarity_distribution_loss(*used, self.margin, self.variance_weight)
        return pair_cross_entropy(similarity, positive, negative, *used)


def retrieval(query, labels, gallery=None, gallery_labels=None):
    """MAP@R, R-precision and P@1 by cosine, in percent; queries that match nothing do not count."""
    same_set = gallery is None
    if same_set:
        gallery, gallery_labels = query, labels
    found = {"MAP@R": [], "RP": [], "P@1": []}
    for i, (q, label) in enumerate(zip(query, labels)):
        others = [j for j in range(len(gallery)) if not (same_set and i == j)]
        ranked = sorted(others, key=lambda j: -cosine(q, gallery[j]))
        hits = [gallery_labels[j] == label for j in ranked]
        R = sum(hits)
        if R == 0:
            continue
        found["P@1"].append(hits[0])
        found["RP"].append(sum(hits[:R]) / R)
        found["MAP@R"].append(
            sum(sum(hits[: r + 1]) / (r + 1) for r in range(R) if hits[r]) / R,
        )
    return {name: 100 * sum(values) / len(values) for name, values in found.items()}
