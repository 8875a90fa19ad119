"""The command line: a thin front to the package. Torch and its like are imported by what needs them."""

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import typer

from ..exceptions import SladeError
from ..faults import in_one_line, told
from . import checking, comparing, exporting, images, reporting, searching, settings, training
from .options import speaks

app = typer.Typer(
    name="pml-slade",
    help="Self-training for metric learning: unlabeled images make retrieval embeddings better.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train": (
        training.train,
        training.pretrain,
        training.demo,
        checking.check,
        settings.settings,
    ),
    "See what came of it": (reporting.report, images.evaluate),
    "Use a trained model": (
        searching.search,
        searching.index,
        searching.serve,
        images.embed,
        images.cluster,
        exporting.export,
    ),
}
COMPARE = "Compare experiments"
for group, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=group)(command)
app.command("table", rich_help_panel=COMPARE)(comparing.make_table)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    rich_help_panel=COMPARE,
)(comparing.benchmark)


@app.callback()
def options(version: training.Version = False) -> None:
    """Self-training for metric learning: unlabeled images make retrieval embeddings better."""


def main() -> None:
    """Run the command line; errors made for people come without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError):  # it is closed
                stream.reconfigure(
                    errors="backslashreplace"
                )  # names that a terminal cannot show are no errors
    sys.unraisablehook = _without_loaders
    warnings.filterwarnings("ignore", module="PIL")  # of what it can read all the same
    sys.path.insert(0, "")  # where methods of your own are looked for, as `python -m` does
    try:
        with told():
            app()
    except SladeError as error:
        if getattr(error, "untold", speaks()):  # of several processes, one tells what has happened
            typer.secho("error: ", fg="red", err=True, nl=False)
            typer.echo(in_one_line(str(error)), err=True)
        raise SystemExit(2) from None


def _without_loaders(unraisable: Any) -> None:
    """Say what went wrong unseen, but for torch's loaders, which stumble when they could not begin."""
    if "DataLoader" not in repr(unraisable.object):
        sys.__unraisablehook__(unraisable)
