"""Pairs chosen by how similar they are, Eq. 7."""

from typing import Protocol, runtime_checkable

import torch

from ..distances import CosineSimilarity
from ..utils.feature_basis import threshold_masks
from .base_miner import BaseMiner


@runtime_checkable
class HasThresholds(Protocol):
    """Anything that knows (T1, T2), such as a FeatureBasisLoss."""

    def thresholds(self):
        """(T1, T2) of Eq. 7, or None while there are none."""


class ThresholdPairMiner(BaseMiner):
    """Mines P = {s >= T1} and N = {s <= T2} (SLADE, Eq. 7), without labels unless asked.

    With a FeatureBasisLoss `basis`, ``ThresholdPairMiner(basis, basis, distance=basis.similarity)`` is
    Eq. 7 with T1 = mu+ and T2 = mu-, read anew at each call. With a distance that is not inverted
    (smaller is more similar) the comparisons turn round.

    ``pos_threshold`` and ``neg_threshold`` are recordable: the numbers used last, None before the first.

    A call gives PML's ``(anchor1, positive, anchor2, negative)``: pairs in both directions, no sample with
    itself, no pair in both sets. It gives four empty tensors while there are no usable thresholds.

    Args:
        pos_threshold: T1, a number or an object with ``thresholds()``.
        neg_threshold: T2, likewise.
        distance: a PML distance; default CosineSimilarity.
        use_labels: keep only the pairs that agree with the labels.
        kwargs: see PML's miners.

    Raises:
        ValueError: fixed thresholds that overlap; ``use_labels`` without labels.
    """

    def __init__(
        self,
        pos_threshold,
        neg_threshold,
        distance=None,
        use_labels=False,
        **kwargs,
    ):
        super().__init__(distance=distance, **kwargs)
        # A tuple keeps a loss that is given here from becoming a submodule of this miner.
        self._sources = tuple(
            _as_source(name, value)
            for name, value in (
                ("pos_threshold", pos_threshold),
                ("neg_threshold", neg_threshold),
            )
        )
        self.pos_threshold, self.neg_threshold = (
            source if isinstance(source, float) else None for source in self._sources
        )
        self.use_labels = use_labels
        fixed = [s for s in self._sources if isinstance(s, float)]
        if len(fixed) == 2 and self._overlap(*fixed):
            order = "above" if self.distance.is_inverted else "below"
            raise ValueError(
                f"pos_threshold={pos_threshold} and neg_threshold={neg_threshold} overlap: with "
                f"{type(self.distance).__name__} pos_threshold must lie {order} neg_threshold."
            )
        self.add_to_recordable_attributes(
            list_of_names=["pos_threshold", "neg_threshold"], is_stat=False
        )

    def get_default_distance(self):
        """Cosine similarity."""
        return CosineSimilarity()

    def forward(
        self,
        embeddings,
        labels=None,
        ref_emb=None,
        ref_labels=None,
    ):
        """Mine pairs among `embeddings` (n, d), or between them and `ref_emb` (m, d)."""
        if self.use_labels and (
            labels is None or (ref_emb is not None and ref_labels is None)
        ):
            raise ValueError(
                "use_labels=True needs labels (and ref_labels where ref_emb is given)."
            )
        if labels is None:
            labels = torch.zeros(
                len(embeddings), dtype=torch.long, device=embeddings.device
            )
        if ref_emb is not None and ref_labels is None:
            ref_labels = torch.zeros(
                len(ref_emb), dtype=torch.long, device=ref_emb.device
            )
        pairs = super().forward(embeddings, labels, ref_emb, ref_labels)
        return pairs

    def mine(self, embeddings, labels, ref_emb, ref_labels):
        """Return the index tuple; PML calls this without gradients."""
        ref_emb = embeddings if ref_emb is None else ref_emb
        ref_labels = labels if ref_labels is None else ref_labels
        thresholds = self.current_thresholds()
        if thresholds is None:
            empty = torch.empty(0, dtype=torch.long, device=embeddings.device)
            return empty, empty.clone(), empty.clone(), empty.clone()
        self.pos_threshold, self.neg_threshold = thresholds
        sign = 1 if self.distance.is_inverted else -1
        similarity = sign * self.distance(embeddings, ref_emb)
        positive, negative = threshold_masks(
            similarity, *(sign * t for t in thresholds)
        )  # Eq. 7
        if ref_emb is embeddings:
            # A distance may round s_ij and s_ji differently; a pair counts when both are in.
            positive = (positive & positive.t()).fill_diagonal_(False)
            negative = (negative & negative.t()).fill_diagonal_(False)
        negative &= (
            ~positive
        )  # thresholds may coincide in the precision of the similarities
        if self.use_labels:
            agree = labels[:, None] == ref_labels[None]
            positive, negative = positive & agree, negative & ~agree
        (a1, p), (a2, n) = torch.where(positive), torch.where(negative)
        return a1, p, a2, n

    def current_thresholds(self):
        """(T1, T2) as they stand now, or None while they are not usable."""
        values = []
        for side, source in enumerate(self._sources):
            if isinstance(source, float):
                values.append(source)
            elif (pair := source.thresholds()) is not None:
                values.append(float(pair[side]))
        if len(values) < 2 or self._overlap(*values):
            return None
        return values[0], values[1]

    def _overlap(self, pos_threshold, neg_threshold):
        # Written so that NaN overlaps, too.
        if self.distance.is_inverted:
            return not pos_threshold > neg_threshold
        return not pos_threshold < neg_threshold


def _as_source(name, value):
    if isinstance(value, HasThresholds):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be a number or an object with a thresholds() method, got {value!r}."
        ) from None
