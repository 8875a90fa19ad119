"""The feature basis and what trains it."""

import torch

from ..distances import BasisSimilarity
from ..utils import feature_basis as functional
from ..utils import loss_and_miner_utils as lmu
from ..utils.feature_basis import Moments
from .base_metric_loss_function import BaseMetricLossFunction
from .mixins import WeightRegularizerMixin

REGULARIZERS = ("sd", "local_ce", "global_ce", None)


class FeatureBasisLoss(WeightRegularizerMixin, BaseMetricLossFunction):
    """Learns the feature basis W_a of SLADE: L_Basis = L_CE + L_SD (Eq. 2).

    A joint batch goes in. Labels in ``[0, num_classes)`` are annotated and feed the cross-entropy of
    Eq. 3. Labels ``>= num_classes`` are pseudo-labels, and the pairs among those samples feed the
    regulariser. A batch without one of the two kinds contributes zero for it.

    Args:
        num_classes: number of annotated classes, and of basis vectors.
        embedding_size: d.
        regularizer: ``"sd"`` (Eq. 5), ``"local_ce"``, ``"global_ce"`` (our reading of the paper's
            ablation, see `functional.pair_cross_entropy`), or None.
        margin: m of Eq. 5.
        variance_weight: lambda_v of Eq. 5.
        momentum: weight of the running value in Eq. 6, in [0, 1).
        logit_scale: Eq. 3 on so many times the cosines; None: on W_a f as it comes.
        straight_through: give the batch the whole gradient of Eq. 6 (default), or the (1 - momentum)
            that the equation literally leaves.
        kwargs: see PML's WeightRegularizerMixin and BaseMetricLossFunction.

    Attributes:
        W: the basis, parameter of shape (num_classes, embedding_size). It needs its own optimizer.
        pos_mean, pos_var, neg_mean, neg_var: running statistics (Eq. 6), float32 buffers.
        pos_batches, neg_batches: how many batches these have seen.

    Default reducer: MeanReducer. It gets ``ce_loss`` per annotated sample, and the regulariser
    (``sd_loss``, ``local_ce_loss`` or ``global_ce_loss``) already reduced.

    Raises:
        ValueError: an argument out of range; embeddings of another size; negative labels.
    """

    _annotated = None

    def __init__(
        self,
        num_classes,
        embedding_size,
        regularizer="sd",
        margin=0.5,
        variance_weight=1.0,
        momentum=0.99,
        logit_scale=16.0,
        straight_through=True,
        **kwargs,
    ):
        for name, size in (
            ("num_classes", num_classes),
            ("embedding_size", embedding_size),
        ):
            if int(size) != size or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}.")
        if regularizer not in REGULARIZERS:
            raise ValueError(
                f"regularizer must be one of {REGULARIZERS}, got {regularizer!r}."
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum!r}.")
        if logit_scale is not None and not logit_scale > 0:
            raise ValueError(
                f"logit_scale must be positive or None, got {logit_scale!r}."
            )
        self.regularizer = (
            regularizer  # names the sub-losses, which super().__init__ asks for
        )
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.margin = margin
        self.variance_weight = variance_weight
        self.momentum = momentum
        self.logit_scale = logit_scale
        self.straight_through = straight_through
        self.W = torch.nn.Parameter(torch.empty(num_classes, embedding_size))
        self.weight_init_func(self.W)
        for side in ("pos", "neg"):
            self.register_buffer(f"{side}_mean", torch.zeros(()))
            self.register_buffer(f"{side}_var", torch.zeros(()))
            self.register_buffer(f"{side}_batches", torch.zeros((), dtype=torch.long))
        self.add_to_recordable_attributes(
            list_of_names=[
                "num_classes",
                "embedding_size",
                "margin",
                "variance_weight",
                "momentum",
            ],
            is_stat=False,
        )
        self.add_to_recordable_attributes(
            list_of_names=["mu_pos", "mu_neg", "var_pos", "var_neg"], is_stat=True
        )

    @torch.no_grad()
    def start_from(self, means):
        """Let each class's vector start at the mean of its embeddings (Qi et al., CVPR 2018).

        Random vectors first turn embeddings that are good already, as those of a pretrained trunk are.

        Args:
            means: (num_classes, embedding_size).

        Raises:
            ValueError: another shape.
        """
        if means.shape != self.W.shape:
            raise ValueError(
                f"means must have shape {tuple(self.W.shape)}, got {tuple(means.shape)}."
            )
        self.W.copy_(means)

    @property
    def similarity(self):
        """The similarity of Eq. 4 as a PML distance over this very basis."""
        return BasisSimilarity(self.W)

    def thresholds(self):
        """(T1, T2) = (mu+, mu-) of Eq. 7, or None while nothing was seen or mu+ <= mu-."""
        pos, neg = self._running("pos"), self._running("neg")
        if not (pos.seen and neg.seen and pos.mean > neg.mean):
            return None
        return pos.mean.item(), neg.mean.item()

    def forward(self, embeddings, labels=None, *args, **kwargs):
        """Compute the loss; see PML's BaseMetricLossFunction for the arguments.

        Labels are looked at where they are: those on the host cost no wait for the device.
        """
        self._annotated = self._find_annotated(embeddings, labels)
        try:
            loss = super().forward(embeddings, labels, *args, **kwargs)
        finally:
            self._annotated = None
        return loss

    def compute_loss(
        self,
        embeddings,
        labels,
        indices_tuple=None,
        ref_emb=None,
        ref_labels=None,
    ):
        """Return the sub-losses for PML's reducers.

        `indices_tuple` and `ref_emb` concern the regulariser's pairs alone; Eq. 3 always takes every
        annotated sample.
        """
        annotated = (
            self._annotated
            if self._annotated is not None
            else self._find_annotated(embeddings, labels)
        )
        loss_dict, labels = self.zero_losses(), labels.long()
        if len(annotated) > 0:
            loss_dict["ce_loss"] = {
                "losses": functional.basis_cross_entropy(  # Eq. 3
                    embeddings[annotated], self.W, labels[annotated], self.logit_scale
                ),
                "indices": annotated,
                "reduction_type": "element",
            }
        if self.regularizer is not None and len(annotated) < len(labels):
            ref_emb = embeddings if ref_emb is None else ref_emb
            ref_labels = labels if ref_labels is None else ref_labels
            loss_dict[f"{self.regularizer}_loss"]["losses"] = self._regularize(
                functional.basis_similarity(embeddings, self.W, ref_emb),  # Eq. 4
                *self._pair_masks(
                    labels, ref_labels, ref_emb is embeddings, indices_tuple
                ),
            )
        self.add_weight_regularization_to_loss_dict(loss_dict, self.W)
        return loss_dict

    def _regularize(self, similarity, pos_mask, neg_mask):
        batch = [
            functional.pair_moments(similarity, mask) for mask in (pos_mask, neg_mask)
        ]
        updated = [
            functional.update_moments(  # Eq. 6
                self._running(side), moments, self.momentum, self.straight_through
            )
            for side, moments in zip(("pos", "neg"), batch)
        ]
        if self.training:
            self._store("pos", updated[0], batch[0].seen)
            self._store("neg", updated[1], batch[1].seen)
        used = batch if self.regularizer == "local_ce" else updated
        if self.regularizer == "sd":
            loss = functional.similarity_distribution_loss(  # Eq. 5
                used[0], used[1], self.margin, self.variance_weight
            )
        else:
            loss = functional.pair_cross_entropy(
                similarity, pos_mask, neg_mask, used[0], used[1]
            )
        known = used[0].seen & used[1].seen & (batch[0].seen | batch[1].seen)
        return torch.where(known, loss, torch.zeros_like(loss))

    def _pair_masks(self, labels, ref_labels, same, indices_tuple):
        pseudo = (labels >= self.num_classes)[:, None] & (
            ref_labels >= self.num_classes
        )[None]
        if indices_tuple is None:
            agree = labels[:, None] == ref_labels[None]
            differ = ~agree
            if same:
                agree.fill_diagonal_(False)
            return agree & pseudo, differ & pseudo
        a1, p, a2, n = lmu.convert_to_pairs(indices_tuple, labels)
        pos_mask, neg_mask = torch.zeros_like(pseudo), torch.zeros_like(pseudo)
        pos_mask[a1, p] = True
        neg_mask[a2, n] = True
        return pos_mask & pseudo, neg_mask & pseudo

    def _running(self, side):
        return Moments(
            getattr(self, f"{side}_mean"),
            getattr(self, f"{side}_var"),
            getattr(self, f"{side}_batches") > 0,
        )

    @torch.no_grad()
    def _store(self, side, moments, seen):
        getattr(self, f"{side}_mean").copy_(moments.mean)
        getattr(self, f"{side}_var").copy_(moments.var)
        getattr(self, f"{side}_batches").add_(seen)
        if self.collect_stats:
            setattr(self, f"mu_{side}", moments.mean.item())
            setattr(self, f"var_{side}", moments.var.item())

    def _find_annotated(self, embeddings, labels):
        """Positions of annotated samples, on the device of the embeddings, after a look at all labels."""
        if labels is None:
            raise ValueError(
                "labels are required: annotated ones and pseudo-labels in one tensor."
            )
        if embeddings.shape[1] != self.embedding_size:
            raise ValueError(
                f"embeddings have size {embeddings.shape[1]}, but this loss was made with "
                f"embedding_size={self.embedding_size}."
            )
        if len(labels) and labels.min() < 0:
            raise ValueError(
                f"labels must not be negative, got {labels.min().item()}; leave samples without a "
                "label out of the batch."
            )
        annotated = torch.where(labels < self.num_classes)[0]
        return annotated.to(embeddings.device, non_blocking=True)

    def _sub_loss_names(self):
        return ["ce_loss", *([f"{self.regularizer}_loss"] if self.regularizer else [])]
