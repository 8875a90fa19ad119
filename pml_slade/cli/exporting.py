"""The command that writes a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import ModelFile, Quiet, start_log


def export(
    model: ModelFile,
    to: Annotated[Literal["onnx", "torchscript"], typer.Option(help="Format of the file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Images to check the file on: a folder, or a CSV. [default: random pixels]"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the model as ONNX or TorchScript, and check it: its embeddings are those of the original."""
    start_log(quiet)
    from ..api import load
    from ..exporting import description_file
    from ..exporting import export as write

    difference = write(load(model, "cpu", workers=0), output, to, images)
    typer.echo(
        f"{output}: its embeddings are within {difference:.0e} of the original's; {description_file(output)} "
        "says what it takes"
    )
