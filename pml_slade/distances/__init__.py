"""Distances."""

from .basis_similarity import BasisSimilarity

__all__ = ["BasisSimilarity"]
