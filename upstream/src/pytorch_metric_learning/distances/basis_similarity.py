"""Eq. 4 as a PML distance."""

import torch

from ..utils import feature_basis as functional
from .base_distance import BaseDistance


class BasisSimilarity(BaseDistance):
    """Cosine between responses to a feature basis, s(x_i, x_j) = cos(W_a f_i, W_a f_j) (SLADE, Eq. 4).

    Computed in float32 at least. The basis is shared, not copied: what a FeatureBasisLoss learns is seen
    here at once.

    Args:
        W: the feature basis, a parameter or tensor of shape (k, d).
        kwargs: see PML's BaseDistance.

    Raises:
        ValueError: `W` is not a matrix.
    """

    def __init__(self, W, **kwargs):
        if not torch.is_tensor(W) or W.ndim != 2:
            got = tuple(W.shape) if torch.is_tensor(W) else type(W).__name__
            raise ValueError(
                f"W must be a tensor of shape (k, embedding_size), got {got}."
            )
        kwargs.setdefault("normalize_embeddings", False)
        super().__init__(is_inverted=True, **kwargs)
        if isinstance(W, torch.nn.Parameter):
            self.W = W
        else:
            self.register_buffer("W", W)

    def compute_mat(self, query_emb, ref_emb):
        """Return the similarities of all pairs, shape (n, m)."""
        return functional.basis_similarity(query_emb, self.W, ref_emb)

    def pairwise_distance(self, query_emb, ref_emb):
        """Return the similarity of row i with row i, shape (n,)."""
        return torch.nn.functional.cosine_similarity(
            functional.basis_response(query_emb, self.W),
            functional.basis_response(ref_emb, self.W),
        )
