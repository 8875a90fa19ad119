"""What several commands share: options, the log, and the way from options to settings."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..exceptions import ConfigError
from ..faults import in_one_line
from ..presets import preset_names
from ..stopping import Stopped, obeyed

if TYPE_CHECKING:
    from ..running.settings import Config

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results and warnings only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is going on.")]
ModelFile = Annotated[Path, typer.Argument(help="A run's folder, or its model.safetensors.")]
Images = Annotated[Path, typer.Argument(help="Folder of images, or a CSV list with a column path.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the first GPU.")]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Images at once. \\[default: 256 on a GPU, 64 on CPUs]", show_default=False),
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that read images. \\[default: one a CPU]", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Any setting, as student.lr=0.001."),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--config", "-c", help=f"YAML file, or a preset: {', '.join(preset_names())}; may be repeated."
    ),
]
Labeled = Annotated[
    Path | None,
    typer.Option(help="data.labeled: folder root/class/image, CSV of path,label, or a data set by name."),
]
Unlabeled = Annotated[
    Path | None, typer.Option(help="data.unlabeled: any folder of images, CSV of path, or a name.")
]
Test = Annotated[
    Path | None, typer.Option(help="data.test: labeled images of other classes; evaluated once.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.")]
PrintConfig = Annotated[bool, typer.Option(help="Print the resolved settings and stop.")]


def settings(
    sources: list[str] | None,
    overrides: list[str] | None,
    given: dict[str, Any],
    print_only: bool = False,
    fallback: dict[str, Any] | None = None,
) -> Config:
    """The settings of a command, or their print and the end."""
    from ..running.loading import load_config

    values = {key: value for key, value in given.items() if value is not None}
    config = load_config(sources, overrides, values, fallback)
    if print_only:
        typer.echo(config.to_yaml(), nl=False)
        raise typer.Exit
    return config


class OneLine(logging.Formatter):
    """Warnings may name files, whose names may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        """Format as usual, then escape what is no text."""
        said = super().format(record)
        return in_one_line(said) if record.levelno >= logging.WARNING else said


def start_log(quiet: bool, verbose: bool = False) -> None:
    """Write the package's log to standard error, as much of it as was asked for."""
    from rich.console import Console
    from rich.logging import RichHandler

    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other.")
    screen = Console(stderr=True)
    handler: logging.Handler = RichHandler(console=screen, show_path=False, show_time=False)
    if not screen.is_terminal:  # in a file, a message is a line
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    else:
        handler.setFormatter(OneLine())
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    if not speaks():  # what it meets the first process meets, too
        handler = logging.NullHandler()
    logger = logging.getLogger("pml_slade")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    if not logging.root.handlers:  # PML 0.9 would put one there that says everything once more
        others = logging.StreamHandler(sys.stderr)
        others.addFilter(lambda record: not record.name.startswith("pml_slade"))
        logging.root.addHandler(others)


def speaks() -> bool:
    """Whether this process prints: of several that torchrun started, the first one does."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a line, once."""
    if speaks():
        typer.echo(text)


def console() -> Any:
    """Where tables are printed: rich's console on standard output."""
    from rich.console import Console

    return Console()


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM or SIGHUP end a run with a line on how to resume it; exit code 128 + signal.

    In training, the step is finished and saved first; a second signal ends the run at once.
    """
    try:
        with obeyed():
            yield
    except KeyboardInterrupt as stop:
        place = getattr(stop, "resumes_at", "")
        where = f" ({place})" if place else ""
        typer.echo(f"stopped; repeat the command to resume from the last checkpoint{where}", err=True)
        raise typer.Exit(128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)) from None
