"""Eq. 4 as a PML distance."""

from typing import Any

import torch
from pytorch_metric_learning.distances import BaseDistance
from torch import Tensor

from .. import functional


class BasisSimilarity(BaseDistance):
    """Cosine between responses to a feature basis, s(x_i, x_j) = cos(W_a f_i, W_a f_j) (SLADE, Eq. 4).

    Computed in float32 at least. The basis is shared, not copied: what a FeatureBasisLoss learns is seen
    here at once.

    Args:
        W: the feature basis, a parameter or tensor of shape (k, d).
        kwargs: see PML's BaseDistance.

    Raises:
        ValueError: `W` is not a matrix.

    Examples:
        >>> distance = BasisSimilarity(torch.eye(2))
        >>> distance(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(self, W: Tensor, **kwargs: Any) -> None:
        if not torch.is_tensor(W) or W.ndim != 2:
            got = tuple(W.shape) if torch.is_tensor(W) else type(W).__name__
            raise ValueError(f"W must be a tensor of shape (k, embedding_size), got {got}.")
        kwargs.setdefault("normalize_embeddings", False)
        super().__init__(is_inverted=True, **kwargs)
        if isinstance(W, torch.nn.Parameter):
            self.W = W
        else:
            self.register_buffer("W", W)

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Return the similarities of all pairs, shape (n, m)."""
        return functional.basis_similarity(query_emb, self.W, ref_emb)

    def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        """Return the similarity of row i with row i, shape (n,)."""
        return torch.nn.functional.cosine_similarity(
            functional.basis_response(query_emb, self.W),
            functional.basis_response(ref_emb, self.W),
        )
