"""Results as text that people read and paste."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from scipy.stats import t as student_t

METRICS = ("MAP@R", "RP", "P@1")


def interval(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Half width of the confidence interval of the mean (Student's t), or None for fewer than two values.

    Examples:
        >>> round(interval([1.0, 2.0, 3.0]), 2)
        2.48
    """
    n = len(values)
    if n < 2:
        return None
    center = mean(values)
    spread = (sum((v - center) ** 2 for v in values) / (n - 1)) ** 0.5
    return float(student_t.ppf((1 + confidence) / 2, n - 1) * spread / n**0.5)


def cell(values: Sequence[float]) -> str:
    """Mean, with the half width of its 95 % interval where there is one.

    Examples:
        >>> cell([30.0]), cell([1.0, 2.0, 3.0])
        ('30.0', '2.0 ± 2.5')
    """
    half = interval(values)
    return f"{mean(values):.1f}" + ("" if half is None else f" ± {half:.1f}")


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right.

    Examples:
        >>> print(markdown(["row", "MAP@R"], [["Teacher", "25.5"]]))
        | row | MAP@R |
        | :-- | --: |
        | Teacher | 25.5 |
    """
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)
