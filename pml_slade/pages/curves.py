"""Learning curves as shapes that a template draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 46, 24, 12, 34
COLOURS = 8
"""Of the style sheet, --c0 to --c7."""


@dataclass(frozen=True)
class Line:
    """What one row of one run came to, step by step.

    Attributes:
        title: of the row.
        colour: number of its colour.
        points: pairs of step and value.
    """

    title: str
    colour: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn, in pixels.

    Attributes:
        title: what it shows.
        paths: the path of each line and its colour.
        dots: x, y, colour and text of each point.
        across: x and text of the ticks of the steps.
        up: y and text of the ticks of the values.
        key: title and colour of each row.
    """

    title: str
    paths: list[tuple[str, int]]
    dots: list[tuple[float, float, int, str]]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]
    key: list[tuple[str, int]]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers that span a range.

    Examples:
        >>> ticks(3, 48)
        [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    """
    rough = (high - low) / most or abs(high) / most or 1.0
    unit = 10 ** math.floor(math.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{i * step:.10g}") for i in range(first, max(last, first + 1) + 1)]


def chart(title: str, lines: Sequence[Line]) -> Chart | None:
    """Lay out a chart; None where there is no point to draw.

    Examples:
        >>> drawn = chart("MAP@R", [Line("Teacher", 0, [(0, 10.0), (100, 20.0)])])
        >>> drawn.dots[1][3], drawn.key
        ('Teacher, step 100: 20', [('Teacher', 0)])
    """
    points = [point for line in lines for point in line.points if all(map(math.isfinite, point))]
    if not points:
        return None
    across = ticks(0, max(x for x, _ in points), 6)
    up = ticks(min(y for _, y in points), max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + (WIDTH - LEFT - RIGHT) * x / across[-1]
        down = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - up[0]) / (up[-1] - up[0])
        return round(right, 1), round(down, 1)

    paths, dots = [], []
    for line in lines:
        kept = [point for point in line.points if all(map(math.isfinite, point))]
        places = [place(*point) for point in kept]
        paths.append(("M" + " L".join(f"{x} {y}" for x, y in places), line.colour)) if places else None
        dots += [
            (x, y, line.colour, f"{line.title}, step {step:,.0f}: {value:.4g}")
            for (x, y), (step, value) in zip(places, kept)
        ]
    return Chart(
        title=title,
        paths=paths,
        dots=dots,
        across=[(place(x, up[0])[0], f"{x:,g}") for x in across],
        up=[(place(0, y)[1], f"{y:g}") for y in up],
        key=list(dict.fromkeys((line.title, line.colour) for line in lines)),
    )
