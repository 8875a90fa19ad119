"""The start: the trunk before any training here."""

from __future__ import annotations

from typing import Any

from .method import Job, Method


class Start(Method):
    """The features of the trunk themselves: what training has to beat."""

    title = "Start (before training)"
    trains = False

    @property
    def starts_from_teacher(self) -> bool:
        """It starts from `model.weights`, and ends there."""
        return False

    def images_a_step(self, job: Job) -> int:
        """None."""
        return 0

    def trainer(self, job: Job, models: Any, average: Any, folder: Any) -> None:
        """None: nothing is trained."""

    def check(self, job: Job, models: Any) -> None:
        """Nothing is trained."""
