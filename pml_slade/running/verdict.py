"""What a run came to, in a few sentences that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation import interval
from ..methods import Method
from .pool import PoolFacts
from .rows import Result

MORE_CLASSES = "More validation classes (data.validation, data.validation_fraction) or other seeds can tell"
FEW_RIGHT = 30
"""Percent of neighbours that are right, below which a pool of photographs taught little."""


def verdict(results: Sequence[Result], methods: Sequence[Method], pool: PoolFacts | None = None) -> str:
    """Say how much the pool gained over the best row without it, how sure that is, and what to do.

    The gain is measured on validation classes. Its 95 % interval is that of the mean over these classes
    (Student's t), so it is about other classes of the same kind, for this seed.

    Args:
        results: of the rows of a run.
        methods: theirs.
        pool: what is known of it.

    Returns:
        A paragraph; empty where there is nothing to compare.
    """
    bounds = {method.key for method in methods if method.is_bound}
    of_the_pool = {method.key for method in methods if method.uses_pool}
    measured = [result for result in results if result.validation is not None]
    with_pool = [r for r in measured if r.row in of_the_pool - bounds]
    without = [r for r in measured if r.row not in of_the_pool | bounds]
    if not measured:
        return (
            "Nothing was held out to validate on, so nothing says whether the pool helped. Give "
            "data.validation a folder of labeled classes, or label ten classes or more."
        )
    if not with_pool or not without:
        return ""
    best, other = (max(rows, key=_score) for rows in (with_pool, without))
    gain, half = _gain(best, other)
    lines = [f"On {_classes(best)} validation classes {best.title} has {_score(best):.1f} MAP@R, and "]
    lines[0] += f"{other.title}, the best row without the pool, {_score(other):.1f}: {_written(gain, half)}."
    lines.append(_advice(gain, half, best, other))
    if pool is not None:
        lines.append(_trust(pool, gain > (half or 0)))
    bound = next((r for r in measured if r.row in bounds), None)
    if bound is not None and gain <= (half or 0):
        over, margin = _gain(bound, other)
        if over <= (margin or 0):
            lines.append(f"True labels of the pool would not have helped either ({_written(over, margin)}).")
        else:
            lines.append(f"True labels of the pool would have gained {_written(over, margin)}.")
    return " ".join(lines)


def _advice(gain: float, half: float | None, best: Result, other: Result) -> str:
    """What to do."""
    if half is None:
        return f"One class gives no interval. {MORE_CLASSES}."
    if gain > half:
        return f"The pool helped: take {best.title}."
    if gain < -half:
        return (
            f"The pool did not help here: take {other.title}, which is the run's model. What to try: a pool "
            "that looks more like the labeled images, larger images (data.image_size), a stronger trunk "
            "(model.trunk), another share of the pool's loss (student.unlabeled_weight), fewer steps "
            "(student.steps)."
        )
    return f"That can be chance. {MORE_CLASSES}. The run's model is the row that validates best."


def _trust(pool: PoolFacts, helped: bool) -> str:
    """How far the pool can be trusted."""
    right = pool.neighbours_right
    said = f"Of an image's nearest neighbours in the pool, about {right:.0f} % show its class"
    if right >= FEW_RIGHT or helped:
        return f"{said}."
    return f"{said}: so few teach little. A trunk that knows such images finds more."


def _gain(row: Result, other: Result) -> tuple[float, float | None]:
    """By how much a row is ahead, and the half width of its interval over classes."""
    pairs = zip(row.validation_classes or (), other.validation_classes or ())
    return _score(row) - _score(other), interval([a - b for a, b in pairs])


def _written(gain: float, half: float | None) -> str:
    return f"{gain:+.1f}" + ("" if half is None else f" ± {half:.1f}")


def _classes(row: Result) -> int:
    return len(row.validation_classes or ())


def _score(row: Result) -> float:
    assert row.validation is not None
    return row.validation["MAP@R"]
