"""Commands that show what a run came to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import BatchSize, Device, Quiet, Workers, start_log
from .outputs import check_place


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, such as one setting with several seeds."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write. \\[default: RUN/report.html]", show_default=False
        ),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Write a page about runs: table, curves, neighbours, hard classes, clusters and a map, in one file."""
    file = output or runs[0] / "report.html"
    check_place(file)
    start_log(quiet)
    from ..pages.report import write_report

    size = write_report(file, runs, device=device, workers=workers, batch_size=batch_size, progress=not quiet)
    typer.echo(f"report, {size / 1e6:.1f} MB: {file}")
