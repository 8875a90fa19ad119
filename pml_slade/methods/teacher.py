"""The teacher: trained on labeled images, and what all other rows start from (SLADE, stage 2)."""

from __future__ import annotations

from typing import Any

from .method import Job
from .supervised import Supervised


class Teacher(Supervised):
    """The teacher."""

    title = "Teacher"
    stage = "teacher"
    is_teacher = True

    def images_a_step(self, job: Job) -> int:
        """Its batch."""
        return job.teacher.batch_size

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Its batch is checked with the settings themselves."""
