"""The command that writes a model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..exceptions import ConfigError
from .options import ModelFile, Quiet, start_log
from .outputs import check_place


def export(
    model: ModelFile,
    to: Annotated[Literal["onnx", "torchscript", "hub"], typer.Option(help="Format.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; hub: folder.", show_default=False)
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Images to check the file on: a folder, or a CSV. \\[default: random pixels]"),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(help="hub: send the folder there, as me/birds. \\[default: nothing is sent]"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the model as ONNX, TorchScript or for the Hugging Face Hub, and check what was written."""
    if repo is not None and to != "hub":
        raise ConfigError(f"--repo {repo}: only --to hub sends something, got --to {to}.")
    check_place(output, folder=to == "hub")
    start_log(quiet)
    from ..api import load
    from ..exporting import description_file
    from ..exporting import export as write
    from ..hub import export_hub, upload

    if to == "hub":
        difference = export_hub(model, output, images)
        beside = "pml_slade.load reads it"
    else:
        difference = write(load(model, "cpu", workers=0), output, to, images)
        beside = f"{description_file(output)} says what it takes"
    typer.echo(f"{output}: its embeddings are within {difference:.0e} of the original's; {beside}")
    if repo is not None:
        typer.echo(f"sent: {upload(output, repo)}")
