"""The last layers: features to embedding."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pml_slade.exceptions import ConfigError


class Embedder(nn.Module):
    """A linear layer, or an MLP with ReLU, from the trunk's features to the embedding.

    Args:
        input_size: number of features, the trunk's `output_size`.
        embedding_size: number of embedding dimensions.
        hidden_sizes: sizes of the hidden layers; none makes it linear.

    Raises:
        ConfigError: a size is below 1.

    Examples:
        >>> import torch
        >>> Embedder(512, 128)(torch.zeros(4, 512)).shape
        torch.Size([4, 128])
        >>> len(Embedder(512, 128, hidden_sizes=(1024,)).layers)
        3
    """

    def __init__(self, input_size: int, embedding_size: int, hidden_sizes: Sequence[int] = ()) -> None:
        super().__init__()
        sizes = [input_size, *hidden_sizes, embedding_size]
        if min(sizes) < 1:
            raise ConfigError(
                f"input_size, hidden_sizes and embedding_size are {input_size}, "
                f"{tuple(hidden_sizes)} and {embedding_size}; pass 1 or more for each."
            )
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
        self.embedding_size = embedding_size
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """Compute the embeddings, not normalised.

        Args:
            features: shape (N, input_size).

        Returns:
            Embeddings of shape (N, embedding_size).
        """
        return self.layers(features)
