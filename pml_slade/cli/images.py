"""Commands that use a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import BatchSize, Device, Images, ModelFile, Quiet, Workers, console, say, speaks, start_log
from .outputs import EMBEDDING_WRITERS, check_output, write_embeddings, write_table
from .sharding import missing_shards, shard_name

if TYPE_CHECKING:
    from ..api import TrainedModel
    from ..datasets import ImageDataset


def embed(
    model: ModelFile,
    images: Images,
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"{', '.join(EMBEDDING_WRITERS)} to write.")
    ] = Path("embeddings.npz"),
    shard: Annotated[
        int | None,
        typer.Option(
            min=1, help="Write a file for each so many images, NAME-00000.npz and so on; repeat to resume."
        ),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Embed images: `embeddings` (N, d) of unit length and `names` (N,); as .csv, a line an image."""
    check_output(output, EMBEDDING_WRITERS)
    start_log(quiet)
    from .. import processes
    from ..api import load

    with processes.joined():
        trained = load(model, device, workers, not quiet)
        dataset = trained.open(images)
        if shard is None:
            vectors = trained.embed(dataset, batch_size)
            processes.once(lambda: write_embeddings(output, vectors, dataset.names()))
            say(f"{len(vectors)} embeddings of size {vectors.shape[1]} written to {output}")
            return
        size = shard
        missing = processes.once(lambda: missing_shards(output, dataset, size, trained.digest))
        for file, positions in missing:
            _embed_shard(trained, dataset.subset(positions), file, batch_size)
        count = len(range(0, len(dataset), shard))
    say(f"{len(dataset)} embeddings written to {count} shards {shard_name(output, 0)}, ...")
    if len(missing) < count:
        say(f"{count - len(missing)} of them were there already")


def _embed_shard(trained: TrainedModel, images: ImageDataset, file: Path, batch_size: int | None) -> None:
    from ..processes import is_first

    vectors = trained.embed(images, batch_size)
    if is_first():
        write_embeddings(file, vectors, images.names())


def evaluate(
    model: ModelFile,
    images: Annotated[Path, typer.Argument(help="Labeled: folder root/class/image, or a CSV.")],
    gallery: Annotated[
        Path | None,
        typer.Option(help="Search in these labeled images; default: among the images themselves."),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """MAP@R, R-precision and P@1 on labeled images."""
    start_log(quiet)
    from rich.table import Table
    from rich.text import Text

    from .. import processes
    from ..api import load
    from ..reports.tables import METRICS

    with processes.joined():
        trained = load(model, device, workers, not quiet)
        queries = trained.open(images, labeled=True)
        found = None if gallery is None else trained.open(gallery, labeled=True)
        result = trained.evaluate(queries, found, batch_size)
    if not speaks():
        return
    table = Table("images", "classes", *METRICS, title=Text(f"retrieval by {model}"))
    table.add_row(str(len(queries)), str(queries.num_classes), *(f"{result[m]:.1f}" for m in METRICS))
    console().print(table)


def cluster(
    model: ModelFile,
    images: Images,
    num_clusters: Annotated[int, typer.Option("--num-clusters", "-k", min=1)],
    output: Annotated[Path, typer.Option("--output", "-o", help=".csv to write.")] = Path("clusters.csv"),
    method: Annotated[
        Literal["ward", "kmeans"],
        typer.Option(help="ward, of embeddings averaged with their neighbours, or kmeans."),
    ] = "ward",
    seed: Annotated[int, typer.Option(min=0, help="Of kmeans.")] = 0,
    min_cluster_size: Annotated[
        int, typer.Option(min=1, help="Images of smaller clusters are left out.")
    ] = 1,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Cluster images as training does: a CSV of path,label, which `train` reads as labeled images."""
    check_output(output, [".csv"])
    start_log(quiet)
    from ..api import load
    from ..clustering import Clustering
    from ..datasets.pseudo_label_dataset import LEFT_OUT

    trained = load(model, device, workers, not quiet)
    dataset = trained.open(images)
    where = str(trained.runtime.device)
    how = Clustering(method=method, seed=seed, min_cluster_size=min_cluster_size, device=where)
    clusters = how(trained.embed(dataset, batch_size), num_clusters)
    kept = (
        [Path(name).absolute(), label]
        for name, label in zip(dataset.names(), clusters.labels)
        if label != LEFT_OUT
    )
    write_table(output, ["path", "label"], kept)
    typer.echo(f"{clusters}; written to {output}")
