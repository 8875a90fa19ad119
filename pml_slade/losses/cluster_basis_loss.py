"""The feature basis, spanned by the pool's clusters, too."""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor

from .. import functional
from .feature_basis_loss import FeatureBasisLoss


class ClusterBasisLoss(BaseMetricLossFunction):
    """Classifies pseudo-labeled samples by a basis with a vector per class and per cluster.

    This is our extension of the paper: Eq. 3 for the pool. The vectors of the labeled classes are those of
    `basis`, so that a sample of the pool is told apart from these classes, too. Each cluster has one more
    vector.

    Give it to a SelfTrainingTrainer as ``unlabeled_metric_loss``, and the same basis as ``basis_loss``. The
    trainer starts each vector at the centroid of its cluster. When it relabels the pool, a cluster's vector
    starts at the mean of the vectors that its images had before.

    Args:
        basis: FeatureBasisLoss whose ``W``, ``num_classes`` and ``logit_scale`` are used. Gradients reach its
            ``W``.
        num_clusters: the largest number of clusters that can come.
        margin: margin by which the cosine to a sample's own vector must exceed the others (CosFace, Wang et
            al., CVPR 2018, Eq. 4). It needs a basis with a ``logit_scale``. The preset `best` takes 0.1.
        kwargs: see PML's BaseMetricLossFunction.

    Attributes:
        V: the clusters' vectors, a parameter of shape (num_clusters, embedding_size). It needs an optimizer,
            ``unlabeled_metric_loss_optimizer`` in a SelfTrainingTrainer.
        num_active: how many of the vectors stand for a cluster. The others take no part.

    Default reducer: MeanReducer. It gets ``loss`` per sample.

    Raises:
        ValueError: num_clusters below 1; a margin that is negative, not finite or without cosines;
            embeddings of another size; labels of no active cluster; pairs.

    Examples:
        >>> basis = FeatureBasisLoss(num_classes=3, embedding_size=8)
        >>> loss = ClusterBasisLoss(basis, num_clusters=4)
        >>> loss.start_from(torch.randn(2, 8))
        >>> loss(torch.randn(6, 8), torch.tensor([3, 3, 4, 4, 4, 3])).shape
        torch.Size([])
    """

    def __init__(
        self, basis: FeatureBasisLoss, num_clusters: int, margin: float = 0.0, **kwargs: Any
    ) -> None:
        if int(num_clusters) != num_clusters or num_clusters < 1:
            raise ValueError(f"num_clusters must be a positive integer, got {num_clusters!r}.")
        if not margin >= 0:
            raise ValueError(f"margin must not be negative, got {margin!r}.")
        if margin == float("inf"):
            raise ValueError("margin must be finite, got inf.")
        if margin and basis.logit_scale is None:
            raise ValueError(
                f"margin={margin} is of cosines, which a basis with logit_scale=None does not take: give "
                "the basis a logit_scale, or margin=0."
            )
        super().__init__(**kwargs)
        self._basis = (basis,)  # not a submodule: W has its optimizer where the basis itself is trained
        self.num_clusters = num_clusters
        self.margin = margin
        self.V = torch.nn.Parameter(torch.empty(num_clusters, basis.embedding_size))
        basis.weight_init_func(self.V)
        self.num_active = num_clusters
        self.add_to_recordable_attributes(list_of_names=["num_clusters"], is_stat=False)

    @property
    def basis(self) -> FeatureBasisLoss:
        """The basis that the vectors of the labeled classes come from."""
        return self._basis[0]

    @torch.no_grad()
    def start_from(self, centroids: Tensor) -> None:
        """Let each cluster's vector start at its centroid.

        Args:
            centroids: (k, d), a row per cluster, k at most num_clusters.

        Raises:
            ValueError: another shape.
        """
        k = len(centroids)
        if centroids.ndim != 2 or centroids.shape[1] != self.V.shape[1] or not 1 <= k <= self.num_clusters:
            raise ValueError(
                f"centroids must have shape (k, {self.V.shape[1]}) with k from 1 to {self.num_clusters}, got "
                f"{tuple(centroids.shape)}."
            )
        self.V[:k] = centroids.to(self.V)
        self.num_active = k

    def get_extra_state(self) -> dict[str, int]:
        """How many of the vectors stand for a cluster."""
        return {"num_active": self.num_active}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Go on with as many."""
        self.num_active = state["num_active"]

    def forward(self, embeddings: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss; see PML's BaseMetricLossFunction for the arguments.

        Labels are looked at where they are: those on the host cost no wait for the device.
        """
        if len(embeddings):
            self._check(embeddings, labels)
        loss: Tensor = super().forward(embeddings, labels, *args, **kwargs)
        return loss

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Return the loss of each sample."""
        if indices_tuple is not None or (ref_emb is not None and ref_emb is not embeddings):
            raise ValueError(
                "indices_tuple and ref_emb concern pairs, and this loss classifies samples: leave miners out."
            )
        if len(embeddings) == 0:
            return self.zero_losses()
        vectors = torch.cat([self.basis.W, self.V[: self.num_active]])
        scale = self.basis.logit_scale
        logits = functional.basis_logits(embeddings, vectors, scale)
        if scale is not None and self.margin:
            logits = logits - scale * self.margin * F.one_hot(labels.long(), len(vectors))
        losses = F.cross_entropy(logits, labels.long(), reduction="none")
        indices = torch.arange(len(embeddings), device=embeddings.device)
        return {"loss": {"losses": losses, "indices": indices, "reduction_type": "element"}}

    def _check(self, embeddings: Tensor, labels: Tensor) -> None:
        if embeddings.shape[1] != self.V.shape[1]:
            raise ValueError(
                f"embeddings have size {embeddings.shape[1]}, but the basis was made with "
                f"embedding_size={self.V.shape[1]}."
            )
        end = self.basis.num_classes + self.num_active
        if labels.min() < 0 or labels.max() >= end:
            raise ValueError(
                f"labels must be in [0, {end}), those of {self.basis.num_classes} classes and of "
                f"{self.num_active} clusters, got {labels.min().item()} to {labels.max().item()}."
            )
