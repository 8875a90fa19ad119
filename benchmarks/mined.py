"""Eq. 7 in parts, to see which of its sides it gains or loses by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pml_slade.miners import ThresholdPairMiner
from pml_slade.pipeline import Pipeline
from pml_slade.stages import Stage

PARTS = ("positives", "negatives", "agreeing")


class PartMiner(ThresholdPairMiner):
    """Takes one side of the pairs from Eq. 7 and the other by pseudo-label, or what both say.

    Args:
        part: "positives" or "negatives" are Eq. 7's, and a pair of them is not taken on the other side;
            "agreeing" takes the pairs of Eq. 7 that agree with the pseudo-labels.
        basis: a FeatureBasisLoss.
    """

    def __init__(self, part: str, basis: Any) -> None:
        if part not in PARTS:
            raise ValueError(f"part must be one of {PARTS}, got {part!r}.")
        agreeing = part == "agreeing"
        super().__init__(basis, basis, basis.similarity, use_labels=agreeing, collect_stats=True)
        self.part = part

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the index tuple of a batch within itself."""
        a1, p, a2, n = super().mine(embeddings, labels, ref_emb, ref_labels)
        if self.part == "agreeing" or self.current_thresholds() is None:
            return a1, p, a2, n
        same = labels[:, None] == labels
        if self.part == "positives":
            same[a1, p] = True
            a2, n = torch.where(~same)
        else:
            same[a2, n] = False
            a1, p = torch.where(same.fill_diagonal_(False))
        return a1, p, a2, n


class PartlyMinedPipeline(Pipeline):
    """A pipeline whose students mine by a part of Eq. 7, if they mine."""

    def __init__(self, part: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.part = part

    def _stage(self, row: str, turn: int, folder: Path) -> Stage:
        stage = super()._stage(row, turn, folder)
        miners = stage.trainer.mining_funcs
        if "unlabeled_miner" in miners:
            miners["unlabeled_miner"] = PartMiner(self.part, stage.trainer.loss_funcs["basis_loss"])
        return stage
