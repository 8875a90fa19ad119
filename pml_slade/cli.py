"""The command line: a thin front to the package."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from .builders import find_device
from .checkpoints import write_atomic
from .clustering import Method, suggest_num_neighbours
from .clustering import cluster as run_clustering
from .clustering import embed as run_embedding
from .config import Config, load_config, presets
from .datasets.folders import open_images
from .datasets.images import ImageDataset
from .datasets.pseudo_label_dataset import LEFT_OUT, first_of_item
from .datasets.splits import check_gallery, shared_labels
from .datasets.transforms import transforms
from .evaluation import evaluate as run_evaluation
from .exceptions import ConfigError, SladeError
from .models import LoadedModel, load_model
from .pipeline import Pipeline, Result
from .pretrain import run_pretraining
from .reports import benchmark as reports
from .reports.experiments import read_experiments
from .reports.paper import ABLATIONS
from .reports.tables import METRICS, markdown

app = typer.Typer(
    name="pml-slade",
    help="Self-training for metric learning: unlabeled images make retrieval embeddings better.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
PRETRAINING_STEPS = 5000
"""Of `pml-slade pretrain`, where the settings do not say."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results and warnings only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is going on.")]
ModelFile = Annotated[Path, typer.Argument(help="A run's folder, or its model.safetensors.")]
Images = Annotated[Path, typer.Argument(help="Folder of images, or a CSV list with a column path.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes the first GPU.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images at once.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Any setting, as student.lr=0.001."),
]
Sources = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", help=f"YAML file, or a preset: {', '.join(presets())}; may be repeated."),
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


@app.command()
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
    """Train a teacher and a student; the same command goes on where it was stopped."""
    given = {"data.labeled": labeled, "data.unlabeled": unlabeled, "data.test": test, "output": output}
    _run(_settings(config, overrides, given, print_config), quiet, verbose)


@app.command()
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
    """Train a trunk by SwAV on images alone, no labels read; the same command goes on where it was stopped.

    `train` with the same data, model and pretraining settings goes on in the same folder; elsewhere, give
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
    settings = _settings(config, overrides, given, print_config, fallback)
    _log(quiet, verbose)
    with _stoppable():
        file = run_pretraining(settings, progress=not quiet)
    typer.echo(f"trunk, projection head and prototypes: {file}; start from it with model.weights={file}")


@app.command()
def demo(
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The main job on letters that come with the package: learn Latin, retrieve other scripts."""
    given = {"seed": seed, "output": f"runs/demo-{seed}"}
    _run(load_config("glyphs", overrides, given), quiet, verbose)


@app.command()
def embed(
    model: ModelFile,
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help=".npz to write.")] = Path("embeddings.npz"),
    device: Device = "auto",
    batch_size: BatchSize = 128,
    quiet: Quiet = False,
) -> None:
    """Embed images: arrays `embeddings` (N, d), unit length, and `names` (N,)."""
    _log(quiet)
    dataset, vectors = _embed(model, images, False, device, batch_size, quiet)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        np.savez(file, embeddings=vectors, names=_names(dataset))
    typer.echo(f"{len(vectors)} embeddings of size {vectors.shape[1]} written to {output}")


@app.command()
def evaluate(
    model: ModelFile,
    images: Annotated[Path, typer.Argument(help="Labeled: folder root/class/image, or a CSV.")],
    gallery: Annotated[
        Path | None,
        typer.Option(help="Search in these labeled images; default: among the images themselves."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = 128,
    quiet: Quiet = False,
) -> None:
    """MAP@R, R-precision and P@1 on labeled images."""
    _log(quiet)
    queries, vectors = _embed(model, images, True, device, batch_size, quiet)
    labels = queries.known_labels()
    if gallery is None:
        result = run_evaluation(vectors, labels)
    else:
        found, reference = _embed(model, gallery, True, device, batch_size, quiet)
        check_gallery(queries, found)
        labels, others = shared_labels(queries, found)
        result = run_evaluation(vectors, labels, reference, others)
    table = Table("images", "classes", *METRICS, title=Text(f"retrieval by {model}"))
    table.add_row(str(len(labels)), str(len(np.unique(labels))), *(f"{result[m]:.1f}" for m in METRICS))
    console.print(table)


@app.command()
def cluster(
    model: ModelFile,
    images: Images,
    num_clusters: Annotated[int, typer.Option("--num-clusters", "-k", min=1)],
    output: Annotated[Path, typer.Option("--output", "-o", help=".csv to write.")] = Path("clusters.csv"),
    method: Annotated[
        Method, typer.Option(help="ward, of embeddings averaged with their neighbours, or kmeans.")
    ] = "ward",
    seed: Annotated[int, typer.Option(min=0, help="Of kmeans.")] = 0,
    min_cluster_size: Annotated[
        int, typer.Option(min=1, help="Images of smaller clusters are left out.")
    ] = 1,
    device: Device = "auto",
    batch_size: BatchSize = 128,
    quiet: Quiet = False,
) -> None:
    """Cluster images: a CSV of path,label, which `train` reads as labeled images."""
    _log(quiet)
    dataset, vectors = _embed(model, images, False, device, batch_size, quiet)
    clusters = run_clustering(
        vectors,
        num_clusters,
        method=method,
        num_neighbours=suggest_num_neighbours(len(vectors), num_clusters) if method == "ward" else None,
        seed=seed,
        min_cluster_size=min_cluster_size,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows(
            [Path(name).absolute(), label]
            for name, label in zip(_names(dataset), clusters.labels)
            if label != LEFT_OUT
        )
    typer.echo(f"{clusters}; written to {output}")


@app.command("table")
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
        str | None, typer.Option(help=f"One of {', '.join(ABLATIONS)}; default: the results table.")
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
    for members in reports.by_dataset(read_experiments(experiments)).values():
        if ablation is None:
            grid = reports.results_table(members)
        else:
            grid = reports.ablation_table(ablation, members)
        if console.is_terminal:
            grid.show(console)
        else:
            typer.echo(f"{grid.markdown()}\n")
        if output is not None:
            written = reports.write_tables(members, output, ablation)
            typer.echo(f"written: {', '.join(map(str, written))}", err=True)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def benchmark(context: typer.Context) -> None:
    """Train and test under powerful-benchmarker, by its own flags (needs the extra `benchmarker`)."""
    from .benchmarker import main as run_benchmark

    run_benchmark(context.args)


def main() -> None:
    """Run the command line; errors made for people come without a traceback."""
    try:
        app()
    except SladeError as error:
        typer.secho("error: ", fg="red", err=True, nl=False)
        typer.echo(str(error), err=True)
        raise SystemExit(2) from None


def _run(settings: Config, quiet: bool, verbose: bool) -> None:
    _log(quiet, verbose)
    pipeline = Pipeline(settings, progress=not quiet)
    with _stoppable():
        results = pipeline.run()
    _show(results, pipeline.folder)


@contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None


def _settings(
    sources: list[str] | None,
    overrides: list[str] | None,
    given: dict[str, Any],
    print_only: bool,
    fallback: dict[str, Any] | None = None,
) -> Config:
    """The settings of a command, or their print and the end."""
    values = {key: value for key, value in given.items() if value is not None}
    settings = load_config(sources, overrides, values, fallback)
    if print_only:
        typer.echo(settings.to_yaml(), nl=False)
        raise typer.Exit
    return settings


def _log(quiet: bool, verbose: bool = False) -> None:
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other.")
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logger = logging.getLogger("pml_slade")
    logger.handlers[:] = [handler]
    logger.setLevel(level)


def _show(results: list[Result], folder: Path) -> None:
    """Print the end-of-run table, and write it to the run's folder as Markdown."""
    measured = "test" if results[-1].test else "validation"
    scores = [result.test or result.validation for result in results]
    table = Table("", "steps", "images seen", *METRICS, title=f"{measured} classes, %")
    rows = []
    for result, score in zip(results, scores):
        values = [f"{score[m]:.1f}" if score else "-" for m in METRICS]
        rows.append([result.title, f"{result.steps:,}", f"{result.images:,}", *values])
        table.add_row(*rows[-1])
    console.print(table)
    text = markdown([f"{measured} classes, %", "steps", "images seen", *METRICS], rows)
    write_atomic(folder / "results.md", f"{text}\n".encode())
    typer.echo(f"models, records and this table: {folder}")


def _embed(
    model: Path, images: Path, labeled: bool, device: str, batch_size: int, quiet: bool
) -> tuple[ImageDataset, np.ndarray]:
    loaded: LoadedModel = load_model(model, device=find_device(device))
    meta: dict[str, Any] = loaded.meta
    missing = [key for key in ("transform", "image_size", "mode") if key not in meta]
    if missing:
        raise ConfigError(f"model: {model} does not say {missing}: it was not written by `pml-slade train`.")
    transform = transforms(
        meta["transform"], meta["image_size"], meta["mode"], trunk_input=loaded.trunk_input
    )
    dataset = open_images(images, transform, mode=meta["mode"], labeled=labeled)
    vectors = run_embedding(
        dataset, loaded, data_getter=first_of_item, batch_size=batch_size, progress=not quiet
    )
    return dataset, vectors


def _names(dataset: ImageDataset) -> list[str]:
    return [dataset.name(i) for i in range(len(dataset))]
