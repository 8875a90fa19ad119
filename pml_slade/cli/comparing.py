"""Commands that compare experiments of powerful-benchmarker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import console

ABLATIONS = ("initialisation",)


def make_table(
    experiments: Annotated[
        list[Path],
        typer.Argument(
            metavar="EXPERIMENT",
            help="Folders of powerful-benchmarker's experiments, or folders that hold several. "
            "Reproductions are found beside them.",
        ),
    ],
    ablation: Annotated[
        str | None,
        typer.Option(
            help="One of the paper's: initialisation, components, regulariser, k; default: the results table."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write to, too: .md, .csv and .tex, for the ablation k the curve as .png.",
        ),
    ] = None,
) -> None:
    """Tables of benchmark experiments beside the paper's numbers, one for each dataset.

    Printed as Markdown where the output is no terminal. Without --output nothing is written.
    """
    from ..reports import benchmark as reports
    from ..reports.experiments import read_experiments

    screen = console()
    for members in reports.by_dataset(read_experiments(experiments)).values():
        if ablation is None:
            grid = reports.results_table(members)
        else:
            grid = reports.ablation_table(ablation, members)
        if screen.is_terminal:
            grid.show(screen)
        else:
            typer.echo(f"{grid.markdown()}\n")
        if output is not None:
            written = reports.write_tables(members, output, ablation)
            typer.echo(f"written: {', '.join(map(str, written))}", err=True)


def benchmark(context: typer.Context) -> None:
    """Train and test under powerful-benchmarker, by its own flags (needs the extra `benchmarker`)."""
    from ..benchmarker import main as run_benchmark

    run_benchmark(context.args)
