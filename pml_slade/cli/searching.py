"""Commands that find images that look like others."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..exceptions import ConfigError
from ..stopping import calling
from .options import BatchSize, Device, Images, ModelFile, Quiet, Workers, console, start_log
from .outputs import check_place

if TYPE_CHECKING:
    from ..api import TrainedModel
    from ..searching import ImageIndex, Match

FORMATS = (".csv", ".json", ".html")


def index(
    model: ModelFile,
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("index"),
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Write an index of images, to search in; again, with these or other images, it adds what is new."""
    check_place(output, folder=True)
    start_log(quiet)
    from ..api import load
    from ..searching import NAMES, ImageIndex

    trained = load(model, device, workers, not quiet)
    known = ImageIndex.load(output) if (output / NAMES).exists() else None
    found = trained.index(images, known, batch_size)
    found.save(output)
    new = len(set(found.names) - set(known.names if known else ()))
    typer.echo(f"{len(found)} images in {output}, {new} of them new")


def search(
    model: ModelFile,
    queries: Annotated[list[Path], typer.Argument(metavar="QUERY...", help="Image files to search with.")],
    images: Annotated[
        Path | None,
        typer.Option("--in", help="Search in these images: a folder, or a CSV with a column path."),
    ] = None,
    index_folder: Annotated[
        Path | None, typer.Option("--index", help="Search in an index that `pml-slade index` wrote.")
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Images to find for each query.")] = 10,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .csv, .json or .html, a page of thumbnails."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Find the images that look most like others, with the cosine of their embeddings."""
    if (images is None) == (index_folder is None):
        raise ConfigError("--in FOLDER or --index INDEX: give one of them, to say where to search.")
    if output is not None and output.suffix.lower() not in FORMATS:
        raise ConfigError(f"--output {output}: the name must end with one of {', '.join(FORMATS)}.")
    if output is not None:
        check_place(output)
    for query in queries:
        if not query.is_file():
            what = "is a folder" if query.is_dir() else "does not exist"
            raise ConfigError(f"query {query} {what}; give image files, and where to search with --in.")
    start_log(quiet)
    from ..api import load

    trained = load(model, device, workers, not quiet)
    where: Path | ImageIndex | None = images
    if index_folder is not None:
        from ..searching import ImageIndex

        where = ImageIndex.load(index_folder)
    assert where is not None
    matches = trained.search([str(query) for query in queries], where, k, batch_size)
    if output is None:
        _show(queries, matches)
    else:
        _write(output, trained, queries, matches)
        typer.echo(f"{sum(map(len, matches))} matches of {len(queries)} queries written to {output}")


def serve(
    model: ModelFile,
    index_folder: Annotated[
        Path, typer.Argument(metavar="INDEX", help="Folder that `pml-slade index` wrote.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0: a free one.")] = 8000,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Open a page on this machine: drag a picture in, and see the images that look most like it."""
    start_log(quiet)
    from ..api import load
    from ..searching import ImageIndex
    from ..serving import build_app, build_server, open_port

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line for each picture
    app = build_app(load(model, device, workers=0), ImageIndex.load(index_folder))
    with open_port(port) as opened:
        server = build_server(app, opened)
        with calling(server.shutdown):  # between two requests
            typer.echo(f"open http://{server.host}:{server.port} in a browser; Ctrl-C stops the page")
            server.serve_forever()


def _show(queries: Sequence[Path], matches: Sequence[Sequence[Match]]) -> None:
    from rich.table import Table
    from rich.text import Text

    for query, found in zip(queries, matches):
        table = Table("rank", "score", "image", title=Text(str(query)), title_justify="left")
        for rank, match in enumerate(found, 1):
            table.add_row(str(rank), f"{match.score:.3f}", Text(match.name, overflow="fold"))
        console().print(table)


def _write(
    file: Path, trained: TrainedModel, queries: Sequence[Path], matches: Sequence[Sequence[Match]]
) -> None:
    from ..checkpoints import write_atomic

    if file.suffix.lower() == ".html":
        from ..pages.sheet import search_page

        text = search_page(trained.open([str(query) for query in queries]), matches, trained.mode)
    else:
        rows = [
            {"query": str(query), "rank": rank, "score": round(match.score, 6), "path": match.name}
            for query, found in zip(queries, matches)
            for rank, match in enumerate(found, 1)
        ]
        text = _csv(rows) if file.suffix.lower() == ".csv" else json.dumps(rows, indent=2) + "\n"
    write_atomic(file, text.encode("utf-8", "backslashreplace"))  # names may be any bytes


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["query", "rank", "score", "path"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
