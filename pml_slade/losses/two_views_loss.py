"""Instance discrimination between two views of each image, by PML's own losses."""

from typing import Any

import torch
from pytorch_metric_learning import losses
from torch import Tensor


class TwoViewsLoss(torch.nn.Module):
    """NT-Xent between two views of each image (Chen et al., ICML 2020, Eq. 1).

    PML's NTXentLoss does the work, through PML's SelfSupervisedLoss where the installed PML has it
    (2.x), through labels that say the same on 0.9.92.

    Args:
        temperature: tau, positive.

    Raises:
        ValueError: a temperature that is not positive.

    Examples:
        >>> loss = TwoViewsLoss()
        >>> image = torch.eye(3)
        >>> loss(torch.cat([image, image])) < loss(torch.cat([image, image.roll(1, 0)]))
        tensor(True)
    """

    def __init__(self, temperature: float = 0.1) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature!r}.")
        super().__init__()
        self.temperature = temperature
        self.loss = losses.NTXentLoss(temperature=temperature)
        wrapper = getattr(losses, "SelfSupervisedLoss", None)
        self.wrapped = None if wrapper is None else wrapper(self.loss)

    def forward(self, embeddings: Tensor, labels: Tensor | None = None, indices_tuple: Any = None) -> Tensor:
        """Return the loss, 0-d; 0 for fewer than two images, which have no negatives.

        Args:
            embeddings: (2n, d): the first views of n images, then their second views in the same order.
            labels: not used; PML's trainers pass it. The order says which views belong together.
            indices_tuple: not used; PML's trainers pass it. Every pair counts.

        Raises:
            ValueError: embeddings that are not (2n, d).
        """
        if embeddings.ndim != 2 or len(embeddings) % 2:
            raise ValueError(
                f"embeddings must have shape (2n, d), first views and then second ones, got "
                f"{tuple(embeddings.shape)}; give two views of every image."
            )
        n = len(embeddings) // 2
        if n < 2:  # PML 0.9.92 breaks where there are no negatives
            return embeddings.sum() * 0
        if self.wrapped is not None:
            return self.wrapped(embeddings[:n], embeddings[n:])
        return self.loss(embeddings, torch.arange(n, device=embeddings.device).repeat(2))
