"""How long a stage takes, and when its next checkpoint is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("pml_slade")

STEPS = 10
"""Before the estimate. The first of them, in which things warm up, is not counted."""


class Clock:
    """Says when a checkpoint is due and, after ten steps, how long the others take.

    Args:
        name: of the stage, for people.
        minutes: between checkpoints.
    """

    def __init__(self, name: str, minutes: float) -> None:
        self.name, self.minutes = name, minutes
        self._saved = self._began = time.monotonic()
        self._validating = 0.0
        self._done = 0

    def is_due(self) -> bool:
        """Whether the last checkpoint is too long ago."""
        return time.monotonic() - self._saved >= 60 * self.minutes

    def save(self) -> None:
        """Note that a checkpoint was written."""
        self._saved = time.monotonic()

    @contextmanager
    def validation(self) -> Iterator[None]:
        """Note how long a validation takes."""
        began = time.monotonic()
        yield
        self._validating = time.monotonic() - began

    def step(self, steps: int, validations: int) -> None:
        """Count a step.

        Args:
            steps: that are left.
            validations: likewise.
        """
        self._done += 1
        if self._done == 1:
            self._began = time.monotonic()
        if self._done == STEPS:
            seconds = (time.monotonic() - self._began) / (STEPS - 1)
            whole = steps * seconds + validations * self._validating
            counted = f"{steps:,} steps" + (f" and {validations:,} validations" if self._validating else "")
            logger.info("%s: %s take about %s", self.name, counted, duration(whole))


def duration(seconds: float) -> str:
    """Return a length of time as people say it.

    Examples:
        >>> [duration(s) for s in (0.4, 75, 6000, 200_000)]
        ['1 s', '75 s', '100 min', '56 h']
    """
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 120 * size:
            return f"{max(seconds / size, 1):.0f} {unit}"
    return f"{seconds / 3600:.0f} h"
