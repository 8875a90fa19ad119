"""Eq. 7 in parts, to see which of its sides it gains or loses by."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from pml_slade.methods import Job
from pml_slade.methods.slade import Slade, SladeConfig
from pml_slade.miners import ThresholdPairMiner

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


class PartlyMinedConfig(SladeConfig):
    """Settings of the row."""

    part: Literal["positives", "negatives", "agreeing"] = Field(
        "positives", description="of Eq. 7, that mines"
    )


class PartlyMined(Slade):
    """SLADE that mines by a part of Eq. 7."""

    title = "SLADE, mined in part"
    Settings = PartlyMinedConfig

    def pool_miners(self, job: Job, losses: Any) -> dict[str, Any]:
        """The part's."""
        return {"unlabeled_miner": PartMiner(job.own.part, losses["basis_loss"])}
