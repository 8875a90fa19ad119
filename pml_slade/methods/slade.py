"""SLADE (Duan et al., CVPR 2021), as configured: the paper's, or what became of it here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .basis import WholeBasis
from .method import Job

if TYPE_CHECKING:
    from .method import Models


class Slade(WholeBasis):
    """The whole method."""

    title = "SLADE"

    def pool_miners(self, job: Job, losses: Models) -> dict[str, Any]:
        """Eq. 7, where it is asked for."""
        if job.student.mining != "eq7":
            return {}
        from ..miners import ThresholdPairMiner

        basis: Any = losses["basis_loss"]
        miner = ThresholdPairMiner(basis, basis, distance=basis.similarity, collect_stats=True)
        return {"unlabeled_miner": miner}
