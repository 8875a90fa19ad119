"""Cross-batch memory (Wang et al., CVPR 2020) that goes on where it was stopped."""

from __future__ import annotations

from typing import Any

from pytorch_metric_learning.losses import CrossBatchMemory
from torch import Tensor

QUEUE = ("embedding_memory", "label_memory", "queue_idx", "has_been_filled")
"""What PML's CrossBatchMemory remembers; its own state dict lacks some of it, or all."""


class Memory(CrossBatchMemory):
    """PML's CrossBatchMemory with all of its queue in the state dict, in both generations of PML.

    Its arguments are CrossBatchMemory's. A miner belongs here, not into the trainer: PML 2.x takes pairs that
    a trainer mines for pairs with the memory.

    Examples:
        >>> import torch
        >>> from pytorch_metric_learning.losses import ContrastiveLoss
        >>> memory, other = (Memory(ContrastiveLoss(), embedding_size=2, memory_size=8) for _ in range(2))
        >>> _ = memory(torch.randn(4, 2), torch.tensor([0, 0, 1, 1]))
        >>> other.load_state_dict(memory.state_dict()); other.queue_idx
        <All keys matched successfully>
        4
    """

    def get_extra_state(self) -> dict[str, Any]:
        """What PML's state dict lacks."""
        return {name: getattr(self, name) for name in QUEUE}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name in QUEUE:
            value = state[name]
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)
