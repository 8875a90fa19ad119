"""Cross-batch memory (Wang et al., CVPR 2020)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ..exceptions import ConfigError
from .method import Job
from .settings import Section
from .supervised import Supervised


class MemoryConfig(Section):
    """Settings of the memory."""

    size: int = Field(8192, ge=1, description="embeddings in the cross-batch memory")


class CrossBatchMemory(Supervised):
    """The control with a memory of labeled embeddings."""

    key = "memory"
    title = "Cross-batch memory"
    Settings = MemoryConfig

    def ranking_loss(self, job: Job) -> Any:
        """The ranking loss of pairs with the memory; the miner is the memory's."""
        from ..losses import Memory

        ranking, miner = super().ranking_loss(job), super().miners(job).get("tuple_miner")
        try:
            return Memory(ranking, job.embedding_size, job.own.size, miner)
        except Exception as error:
            raise ConfigError(
                f"rows: memory cannot go with student.loss={job.student.loss.name}: {error}"
            ) from None

    def miners(self, job: Job) -> dict[str, Any]:
        """None in the trainer."""
        return {}

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Refuse a memory that holds less than a batch."""
        super().check_settings(teacher, student, own)
        together = student.batch_size + student.unlabeled_batch_size
        if own.size < together:
            raise ValueError(
                f"methods.memory.size={own.size} must hold a batch of {together} images at least"
            )
