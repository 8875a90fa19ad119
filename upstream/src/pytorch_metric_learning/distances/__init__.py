from .basis_similarity import BasisSimilarity
