"""Commands that train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    Labeled,
    Output,
    Overrides,
    PrintConfig,
    Quiet,
    Sources,
    Test,
    Unlabeled,
    Verbose,
    console,
    say,
    settings,
    speaks,
    start_log,
    stoppable,
)

if TYPE_CHECKING:
    from ..api import Trained
    from ..running.settings import Config

PRETRAINING_STEPS = 5000
"""Of `pml-slade pretrain`, where the settings do not say."""


def print_version(asked: bool) -> None:
    """Print the package's version, and stop."""
    if asked:
        from .. import __version__

        typer.echo(f"pml-slade {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop.")
]


def train(
    overrides: Overrides = None,
    config: Sources = None,
    labeled: Labeled = None,
    unlabeled: Unlabeled = None,
    test: Test = None,
    output: Output = None,
    print_config: PrintConfig = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a teacher and a student; repeat the command to resume it."""
    given = {"data.labeled": labeled, "data.unlabeled": unlabeled, "data.test": test, "output": output}
    _run(settings(config, overrides, given, print_config), quiet, verbose)


def pretrain(
    overrides: Overrides = None,
    config: Sources = None,
    labeled: Labeled = None,
    unlabeled: Unlabeled = None,
    test: Test = None,
    output: Output = None,
    print_config: PrintConfig = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a trunk by SwAV on images alone, no labels read; repeat the command to resume it.

    `train` with the same data, model and pretraining settings continues in the same folder; elsewhere, give
    the file that this writes as model.weights.
    """
    given: dict[str, Any] = {
        "data.labeled": labeled,
        "data.unlabeled": unlabeled,
        "data.test": test,
        "output": output,
        "rows": [],
    }
    fallback = {"pretraining.steps": PRETRAINING_STEPS}
    chosen = settings(config, overrides, given, print_config, fallback)
    start_log(quiet, verbose)
    from .. import processes
    from ..running.pretraining import run_pretraining

    with stoppable(), processes.joined():
        file = run_pretraining(chosen, progress=not quiet)
    say(f"trunk, projection head and prototypes: {file}; start from it with model.weights={file}")


def demo(
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The main job on letters that come with the package: learn Latin, retrieve other scripts."""
    given = {"seed": seed, "output": f"runs/demo-{seed}"}
    _run(settings(["glyphs"], overrides, given), quiet, verbose)


def _run(config: Config, quiet: bool, verbose: bool) -> None:
    start_log(quiet, verbose)
    from ..api import train_rows

    with stoppable():
        trained = train_rows(config, progress=not quiet)
    if speaks():
        _show(trained)


def _show(trained: Trained) -> None:
    """Print the end-of-run table and the verdict, and write them to the run's folder as Markdown."""
    from rich.table import Table

    from ..checkpoints import write_atomic
    from ..reports.tables import METRICS, markdown

    results = trained.results
    measured = "test" if results[-1].test else "validation"
    scores = [result.test or result.validation for result in results]
    table = Table("", "steps", "images seen", *METRICS, title=f"{measured} classes, %")
    rows = []
    for result, score in zip(results, scores):
        values = [f"{score[m]:.1f}" if score else "-" for m in METRICS]
        rows.append([result.title, f"{result.steps:,}", f"{result.images:,}", *values])
        table.add_row(*rows[-1])
    console().print(table)
    text = markdown([f"{measured} classes, %", "steps", "images seen", *METRICS], rows)
    page = f"{text}\n\n{trained.verdict}".rstrip()
    write_atomic(trained.folder / "results.md", f"{page}\n".encode())
    if trained.verdict:
        typer.echo(trained.verdict)
    typer.echo(f"models, records and this table: {trained.folder}")
    if trained.report:
        typer.echo(f"the report, to open in a browser: {trained.report}")
