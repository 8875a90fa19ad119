"""The last layers: features to embedding."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pml_slade.exceptions import ConfigError, DataError

SMALLEST = 1e-6
"""Share of the largest variance below which features do not vary along a direction."""


class Embedder(nn.Module):
    """A linear layer, or an MLP with ReLU, from the trunk's features to the embedding.

    Features are first centred and scaled by what `start_from` measured, so that one learning rate fits the
    features of any trunk; until then they are taken as they come.

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
        self.center: Tensor
        self.scale: Tensor
        self.register_buffer("center", torch.zeros(input_size))
        self.register_buffer("scale", torch.ones(()))
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """Compute the embeddings, not normalised.

        Args:
            features: shape (N, input_size).

        Returns:
            Embeddings of shape (N, embedding_size).
        """
        return self.layers((features - self.center) * self.scale)

    @torch.no_grad()
    def start_from(self, features: Tensor, whitening: float = 0.5) -> None:
        """Let the embedding be the principal components of features (see `principal_start`).

        Args:
            features: of the trunk, shape (N, input_size).
            whitening: see `principal_start`.

        Raises:
            ConfigError: the embedder has hidden layers, or `whitening` is not in [0, 1].
            DataError: the features have another size, or cannot be used.

        Examples:
            >>> embedder = Embedder(8, 2)
            >>> features = torch.randn(50, 8)
            >>> embedder.start_from(features)
            >>> round(embedder(features).square().sum(1).mean().item(), 4)
            1.0
        """
        if len(self.layers) > 1:
            raise ConfigError(
                f"The embedder has {len(self.layers) // 2} hidden layers, and principal components are "
                "linear: pass hidden_sizes=() to start from them."
            )
        layer: Any = self.layers[0]
        if features.ndim != 2 or features.shape[1] != layer.in_features:
            raise DataError(f"features must be (N, {layer.in_features}), got {tuple(features.shape)}.")
        weight, bias = principal_start(features, layer.out_features, whitening)
        center = features.mean(0)
        scale = (features - center).square().sum(1).mean().rsqrt()
        self.center.copy_(center)
        self.scale.copy_(scale)
        layer.weight.copy_(weight / scale)
        layer.bias.copy_(bias + weight @ center)


def principal_start(features: Tensor, embedding_size: int, whitening: float = 0.5) -> tuple[Tensor, Tensor]:
    """Make the linear layer whose embedding is the first principal components of features.

    The embedding is the centred features projected on their principal directions, each divided by its
    standard deviation to the power `whitening`; then all is scaled so that the mean squared norm is 1. A
    trunk spreads what it learned over few strong directions. With some whitening, the weaker ones, which
    tell new classes apart, count more.

    Directions along which the features do not vary, as there are with fewer images than dimensions, are not
    divided but scaled as the strongest one: they add nothing to the embeddings of these features, and little
    to others'. Where the embedding has more dimensions than the features, it is turned into the larger space
    by an orthonormal matrix, so that every dimension is used and all distances are kept.

    Args:
        features: shape (N, D), at least two rows.
        embedding_size: number of embedding dimensions, E.
        whitening: 0 leaves the components as they are, 1 makes all deviations alike.

    Returns:
        The weight, (E, D), and the bias, (E,), in the features' dtype; the embedding is
        `features @ weight.T + bias`.

    Raises:
        ConfigError: `whitening` is not in [0, 1], or `embedding_size` is below 1.
        DataError: fewer than two rows, values that are not finite, or rows that are all alike.

    Examples:
        >>> features = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> weight, bias = principal_start(features, 2, whitening=1.0)
        >>> (features @ weight.T + bias).round(decimals=2)
        tensor([[ 1.,  0.],
                [-1.,  0.],
                [ 0.,  1.],
                [ 0., -1.]])
    """
    if not 0 <= whitening <= 1 or embedding_size < 1:
        raise ConfigError(
            f"whitening must be in [0, 1] and embedding_size at least 1, got {whitening!r} and "
            f"{embedding_size!r}."
        )
    if features.ndim != 2 or len(features) < 2 or not bool(torch.isfinite(features).all()):
        raise DataError(
            f"features must be (N, D), two rows or more, all finite, got {tuple(features.shape)}."
        )
    x = features.detach().cpu().double()  # some devices have no doubles
    mean = x.mean(0)
    variances, directions = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    variances, directions = variances.flip(0)[:embedding_size], directions.flip(1)[:, :embedding_size]
    varies = variances > SMALLEST * variances[0]
    if variances[0] <= torch.finfo(features.dtype).eps ** 2 * mean.square().sum():
        raise DataError("features are all alike, so they have no principal components.")
    scales = torch.where(varies, variances, variances[0]) ** (-whitening / 2)
    scales /= (variances * scales**2)[varies].sum().sqrt()
    # Of the two signs of a direction, the one whose largest coordinate is positive, on every machine.
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    weight = (directions * signs * scales).T
    if embedding_size > len(weight):
        generator = torch.Generator().manual_seed(0)
        square = torch.randn(embedding_size, len(weight), generator=generator, dtype=x.dtype)
        weight = torch.linalg.qr(square).Q @ weight
    return weight.to(features), -(weight @ mean).to(features)
