"""Each image of a pool predicts its neighbours in the pool."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import EPS, at_least_float32

REMEMBERED = ("bank", "neighbours", "targets")
"""What a loss knows of the pool."""


class NeighbourLoss(torch.nn.Module):
    """Cross-entropy between the neighbours that an image had and those that its embedding has now.

    Ours. Clusters draw lines, and impure ones teach an image to be like strangers. Here each image has soft
    targets of its own: its nearest neighbours, by how near they were. Both distributions are over the whole
    pool, so that every step tells an image apart from all others.

    Neighbours may be wrong; that an image is itself is always right. So its embedding also tells which image
    of the pool it is, among those that are no neighbours of it. This keeps it near to where it was.

    Args:
        temperature: of the targets, in cosines: the lower, the fewer neighbours count.
        scale: of the cosines of the embedding, as `logit_scale` of a FeatureBasisLoss.
        num_neighbours: most neighbours of an image that are targets; whoever finds them reads it.
        own_weight: of telling which image it is; 0 leaves it out.

    Raises:
        ValueError: an argument that is not positive; for `own_weight`, one below 0.

    Examples:
        >>> loss = NeighbourLoss(num_neighbours=1)
        >>> pool = torch.eye(4).repeat_interleave(2, 0)
        >>> neighbours = torch.tensor([[1], [0], [3], [2], [5], [4], [7], [6]])
        >>> loss.remember(pool, neighbours, torch.ones(8, 1))
        >>> near, far = loss(pool[:1], torch.tensor([0])), loss(pool[2:3], torch.tensor([0]))
        >>> bool(near < far)
        True
    """

    def __init__(
        self,
        temperature: float = 0.1,
        scale: float = 16.0,
        num_neighbours: int = 100,
        own_weight: float = 0.6,
    ) -> None:
        for name, value in (
            ("temperature", temperature),
            ("scale", scale),
            ("num_neighbours", num_neighbours),
        ):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}.")
        if not own_weight >= 0:
            raise ValueError(f"own_weight must not be below 0, got {own_weight!r}.")
        super().__init__()
        self.temperature = temperature
        self.scale = scale
        self.num_neighbours = int(num_neighbours)
        self.own_weight = own_weight
        self.bank: Tensor | None = None

    def remember(self, embeddings: Tensor, neighbours: Tensor, cosines: Tensor) -> None:
        """Take the pool as it is now: what embeddings are compared with, and who is whose neighbour.

        Args:
            embeddings: of all images of the pool, (N, d).
            neighbours: positions of each image's neighbours, itself not among them, (N, k).
            cosines: how near they are, (N, k).

        Raises:
            ValueError: other shapes, or fewer than two images.
        """
        shapes = tuple(embeddings.shape), tuple(neighbours.shape), tuple(cosines.shape)
        if embeddings.ndim != 2 or len(embeddings) < 2 or neighbours.ndim != 2 or shapes[1] != shapes[2]:
            raise ValueError(
                "embeddings must be (N, d) of two images or more, neighbours and cosines (N, k), got "
                "{}, {} and {}.".format(*shapes)
            )
        if len(neighbours) != len(embeddings):
            raise ValueError(f"neighbours holds {len(neighbours)} rows for {len(embeddings)} embeddings.")
        self.bank = F.normalize(at_least_float32(embeddings.detach()), dim=1, eps=EPS)
        self.neighbours = neighbours
        self.targets = torch.softmax(at_least_float32(cosines) / self.temperature, dim=1)

    @property
    def memory(self) -> dict[str, Tensor] | None:
        """What `remember` keeps, by name; None before. It is no part of the state dict, as it is long."""
        return None if self.bank is None else {name: getattr(self, name) for name in REMEMBERED}

    @memory.setter
    def memory(self, memory: dict[str, Tensor] | None) -> None:
        for name in REMEMBERED:
            setattr(self, name, None if memory is None else memory[name])

    def forward(self, embeddings: Tensor, indices: Tensor) -> Tensor:
        """Return the loss, 0-d; 0 for an empty batch.

        Args:
            embeddings: of images of the pool, (n, d).
            indices: which images they are, (n,).

        Raises:
            ValueError: nothing was remembered yet, or shapes that do not match.
        """
        if self.bank is None:
            raise ValueError("remember has to be called before: there is no pool yet.")
        if embeddings.shape[1:] != self.bank.shape[1:] or len(embeddings) != len(indices):
            raise ValueError(
                f"embeddings must be (n, {self.bank.shape[1]}) with an index each, got "
                f"{tuple(embeddings.shape)} and {tuple(indices.shape)}."
            )
        embeddings = F.normalize(at_least_float32(embeddings), dim=1, eps=EPS)
        logits = self.scale * embeddings @ self.bank.T.to(embeddings.dtype)
        own, near = indices[:, None], self.neighbours[indices].long()
        of_neighbours = logits.scatter(1, own, -torch.inf).log_softmax(1).gather(1, near)
        likelihood = (self.targets[indices] * of_neighbours).sum()
        if self.own_weight:
            of_own = logits.scatter(1, near, -torch.inf).log_softmax(1).gather(1, own)
            likelihood = likelihood + self.own_weight * of_own.sum()
        return -likelihood / max(len(embeddings), 1)
