"""Results as text that people read and paste."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from ..evaluation import interval

METRICS = ("MAP@R", "RP", "P@1")


def cell(values: Sequence[float], digits: int = 1) -> str:
    """Mean, with the half width of its 95 % interval where there is one.

    Examples:
        >>> cell([30.0]), cell([1.0, 2.0, 3.0]), cell([1.0, 2.0, 3.0], digits=2)
        ('30.0', '2.0 ± 2.5', '2.00 ± 2.48')
    """
    half = interval(values)
    return f"{mean(values):.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


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


MISSING = "–"
Cell = str | float | tuple[float, ...] | None
"""Text, a number, the values of several runs (shown as mean and interval), or nothing."""


@dataclass(frozen=True)
class Column:
    """A column of a `Grid`.

    Attributes:
        name: its heading.
        group: heading over it and its neighbours of the same group; "" for none.
        measured: its cells are the values of several runs.
        signed: its numbers are differences.
    """

    name: str
    group: str = ""
    measured: bool = False
    signed: bool = False

    @property
    def heading(self) -> str:
        """Group and name."""
        return f"{self.group} {self.name}".strip()

    def text(self, value: Cell) -> str:
        """A cell as people read it."""
        if value is None or value == ():
            return MISSING
        if isinstance(value, str):
            return value
        if isinstance(value, tuple):
            return cell(value, digits=2)
        return f"{value:+.2f}" if self.signed else f"{value:.2f}"


@dataclass(frozen=True)
class Grid:
    """A table with grouped columns, in every form that it is wanted in.

    Attributes:
        title: what it shows.
        columns: from left to right.
        names: of the rows, for those who read the CSV.
        rows: a cell per column.
        notes: sentences below it.

    Examples:
        >>> columns = (Column("method"), Column("RP", "ours", measured=True))
        >>> grid = Grid("Results", columns, ("t1",), (("Teacher", (1.0, 3.0)),))
        >>> print(grid.markdown())
        **Results**
        <BLANKLINE>
        | method | ours RP |
        | :-- | --: |
        | Teacher | 2.00 ± 12.71 |
        >>> print(grid.csv(), end="")
        experiment,method,ours RP mean,ours RP half interval,ours RP n
        t1,Teacher,2.0,12.7062,2
    """

    title: str
    columns: tuple[Column, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def texts(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[column.text(value) for column, value in zip(self.columns, row)] for row in self.rows]

    def markdown(self) -> str:
        """Title, table and notes."""
        rows = [[text.replace("|", "\\|") for text in row] for row in self.texts()]
        table = markdown([column.heading for column in self.columns], rows)
        return "\n\n".join([f"**{self.title}**", table, *self.notes])

    def csv(self) -> str:
        """Plain numbers; a measured column becomes mean, half interval and n."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        headings = [
            f"{column.heading}{part}"
            for column in self.columns
            for part in ((" mean", " half interval", " n") if column.measured else ("",))
        ]
        writer.writerow(["experiment", *headings])
        for name, row in zip(self.names, self.rows):
            writer.writerow([name, *(n for c, v in zip(self.columns, row) for n in _plain(c, v))])
        return file.getvalue()

    def latex(self) -> str:
        """A tabular for the package booktabs; title and notes are comments."""
        groups = [(name, len(list(members))) for name, members in groupby(c.group for c in self.columns)]
        over, rules, at = [], [], 1
        for name, width in groups:
            over.append(
                rf"\multicolumn{{{width}}}{{c}}{{{latex_escape(name)}}}" if name else "&" * (width - 1)
            )
            rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if name else []
            at += width
        grouped = [_latex_line(over), "".join(rules)] if rules else []
        lines = [
            *(f"% {' '.join(text.split())}" for text in (self.title, *self.notes)),
            rf"\begin{{tabular}}{{{''.join('r' if c.group else 'l' for c in self.columns)}}}",
            r"\toprule",
            *grouped,
            _latex_line(latex_escape(column.name) for column in self.columns),
            r"\midrule",
            *(_latex_line(latex_escape(text) for text in row) for row in self.texts()),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        """Print to a terminal; a group of columns at a time where it is too narrow for all."""
        whole = self._rich(lambda column: f"{column.group}\n{column.name}".strip())
        width = Measurement.get(console, console.options.update(max_width=10_000), whole).maximum
        narrow = (part._rich(lambda column: column.name) for part in self.by_group())
        for table in [whole] if width <= console.width else narrow:
            console.print(table)
        for note in self.notes:
            console.print(Text(note))

    def _rich(self, heading: Callable[[Column], str]) -> RichTable:
        table = RichTable(title=Text(self.title), title_justify="left")
        for column in self.columns:
            justify: Any = "right" if column.group else "left"
            table.add_column(heading(column), justify=justify, no_wrap=bool(column.group), overflow="fold")
        for row in self.texts():
            table.add_row(*map(Text, row))
        return table

    def by_group(self) -> list[Grid]:
        """A narrower grid per group: measured ones with the columns that follow, others with those before."""
        groups = list(dict.fromkeys(column.group for column in self.columns if column.group))
        first = next((i for i, column in enumerate(self.columns) if column.group), 0)
        return [self._part(group, first) for group in groups] or [self]

    def _part(self, group: str, first: int) -> Grid:
        measured = any(column.measured for column in self.columns if column.group == group)
        kept = [
            i
            for i, column in enumerate(self.columns)
            if i == 0 or column.group == group or (not column.group and (i > first) == measured)
        ]
        columns = tuple(self.columns[i] for i in kept)
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Grid(f"{self.title}: {group}", columns, self.names, rows)


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",  # after a line's end LaTeX would take it for an option
    "±": r"$\pm$",
    "–": "--",
    "¹": "$^1$",
    "²": "$^2$",
}


def latex_escape(text: str) -> str:
    """Text as LaTeX prints it; signed numbers are set as mathematics.

    Examples:
        >>> print(latex_escape("s2_k100: 95 %"), latex_escape("2.0 ± 0.5"), latex_escape("-0.51"))
        s2\\_k100: 95 \\% 2.0 $\\pm$ 0.5 $-0.51$
    """
    if re.fullmatch(r"[+-]\d+(\.\d+)?", text):
        return f"${text}$"
    return "".join(_LATEX.get(c, c) for c in text)


def _latex_line(cells: Any) -> str:
    return " & ".join(cells) + r" \\"


def _plain(column: Column, value: Cell) -> list[Any]:
    if column.measured:
        values = value if isinstance(value, tuple) else ()
        half = interval(values)
        center = round(mean(values), 4) if values else ""
        return [center, "" if half is None else round(half, 4), len(values)]
    return ["" if value is None else round(value, 4) if isinstance(value, float) else value]
