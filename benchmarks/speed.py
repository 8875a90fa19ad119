"""How time and memory grow with the pool: ours beside faiss alone and PML, each size ten times the last.

    python benchmarks/speed.py [--sizes 1000 10000 100000 1000000] [--parts evaluation k-means best]

Each measurement has a process of its own, on one thread or as many as OMP_NUM_THREADS says. Times are CPU
seconds, which other work beside changes little; a GPU is measured by the clock. Memory is the peak beyond the
embeddings that are given. The tables go into docs/performance.md, and so does what 100 million images would
take by the fitted exponents. What is measured is kept in a file: repeat the command to go on, and with other
parts or sizes to add them. speed_step.py and speed_processes.py measure training.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faiss
import numpy as np
import torch
from PIL import Image
from pool_embeddings import draw
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.metrics import normalized_mutual_info_score
from torch.utils.data import DataLoader
from writing import ROOT, machine, put_section

from pml_slade.checkpoints import write_json_atomic
from pml_slade.clustering import Clustering, neighbours
from pml_slade.datasets import ImageDataset, image_folder
from pml_slade.evaluation import evaluate

PAGE = ROOT / "docs" / "performance.md"
FAR, REACH = 100_000_000, 100
"""Images that the last table goes on to, and how many times the largest size measured that may be."""
PER_CLASS = 100
"""Images of a class, and of a cluster, about: faiss' own rule of thumb is 39 to 256."""
PER_FOLDER, LINKS = 1000, 50_000
ITERATIONS = 4
"""Of k-means, so that a million images take minutes. With more, what ours does beside counts for less."""
LONG = 7 * 24 * 60.0
"""Minutes; a week."""
Work = Callable[[], dict[str, Any]]
Prepare = Callable[[int, int, str], Work]
"""Of the number of images, the size of their embeddings, and a device."""


def of_evaluation(how: Callable[[np.ndarray, np.ndarray, str], Any]) -> Prepare:
    """Prepare an evaluation of as many images a class as Stanford Online Products has."""

    def prepare(images: int, size: int, device: str) -> Work:
        embeddings, labels = draw(images, max(2, round(images / 5.3)), size)
        return lambda: {"figures": how(embeddings, labels, device)}

    return prepare


def two_classes(how: Callable[[np.ndarray, np.ndarray, str], Any]) -> Prepare:
    """Prepare an evaluation in which each query wants half of all images."""

    def prepare(images: int, size: int, device: str) -> Work:
        embeddings, labels = draw(images, 2, min(size, 32))
        return lambda: {"figures": how(embeddings, labels, device)}

    return prepare


def ours(embeddings: np.ndarray, labels: np.ndarray, device: str) -> Any:
    """Our figures."""
    return evaluate(embeddings, labels, device=device)


def pml(embeddings: np.ndarray, labels: np.ndarray, device: str) -> Any:
    """PML's own figures."""
    names = ("mean_average_precision_at_r", "r_precision", "precision_at_1")
    where = torch.device(device)
    calculator = AccuracyCalculator(include=names, k="max_bin_count", device=where)
    return calculator.get_accuracy(embeddings, labels)


def search(embeddings: np.ndarray, labels: np.ndarray, device: str) -> Any:
    """The neighbours alone that figures are computed from."""
    index: Any = faiss.IndexFlatL2(embeddings.shape[1])
    if device != "cpu" and faiss.get_num_gpus():
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(embeddings)
    index.search(embeddings, int(np.bincount(labels).max()))


def of_clustering(how: Callable[[np.ndarray, int, str], Any]) -> Prepare:
    """Prepare a clustering into as many clusters as there are classes, and what it is worth."""

    def prepare(images: int, size: int, device: str) -> Work:
        embeddings, classes = draw(images, max(2, images // PER_CLASS), size)

        def work() -> dict[str, Any]:
            found = how(embeddings, len(np.unique(classes)), device)
            return {"NMI": normalized_mutual_info_score(classes, found)}

        return work

    return prepare


def kmeans(embeddings: np.ndarray, k: int, device: str) -> np.ndarray:
    """Clusters by k-means as users call it, but for few iterations."""
    return Clustering.plain(niter=ITERATIONS, device=device)(embeddings, k).labels


def best(embeddings: np.ndarray, k: int, device: str) -> np.ndarray:
    """Clusters as the preset `best` makes them, none left out."""
    return Clustering(min_cluster_size=1, device=device)(embeddings, k).labels


def best_exactly(embeddings: np.ndarray, k: int, device: str) -> np.ndarray:
    """The same, where neighbours are looked for among all however many there are."""
    with patch.object(neighbours, "EXACT_ON_CPU", len(embeddings)):
        return best(embeddings, k, device)


def along_neighbours(embeddings: np.ndarray, k: int, device: str) -> np.ndarray:
    """The same, where each cluster merges with clusters of its neighbours alone."""
    return Clustering(min_cluster_size=1, max_ward_points=1, device=device)(embeddings, k).labels


def all_with_all(embeddings: np.ndarray, k: int, device: str) -> np.ndarray:
    """The same, where all clusters are compared with all."""
    most = len(embeddings)
    return Clustering(min_cluster_size=1, max_ward_points=most, device=device)(embeddings, k).labels


def kmeans_alone(embeddings: np.ndarray, k: int, device: str) -> np.ndarray:
    """Clusters by faiss alone, by the settings that ours has."""
    kmeans = faiss.Kmeans(
        embeddings.shape[1],
        k,
        niter=ITERATIONS,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(embeddings),
        gpu=device != "cpu" and faiss.get_num_gpus() > 0,
    )
    kmeans.train(embeddings)
    nearest: np.ndarray = kmeans.index.search(embeddings, 1)[1][:, 0]
    return nearest


def of_files(hold: Callable[[ImageDataset], Any]) -> Prepare:
    """Prepare an epoch of two loader processes over so many files, links to a few small images."""

    def prepare(images: int, size: int, device: str) -> Work:
        folder = tempfile.TemporaryDirectory()
        link_images(Path(folder.name), images)

        def work() -> dict[str, Any]:
            with folder:
                dataset = hold(image_folder(folder.name, to_tensor, labeled=False))
                loader = DataLoader(dataset, 256, num_workers=2, persistent_workers=True)
                passes = iter(loader)
                for _ in range(len(loader)):
                    next(passes)
                workers = [worker.pid for worker in passes._workers]  # type: ignore[attr-defined]
                return {"in all": sum(map(own_memory, (os.getpid(), *workers)))}

        return work

    return prepare


class Listed(torch.utils.data.Dataset[Any]):
    """Files by a list of strings, as most data sets hold them."""

    def __init__(self, images: ImageDataset) -> None:
        self.images, self.names = images, images.names()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        return ImageDataset([self.names[index]], transform=to_tensor)[0]


def to_tensor(image: Image.Image) -> torch.Tensor:
    """The smallest thing that a loader can make of an image."""
    return torch.tensor(image.getpixel((0, 0)))


def link_images(folder: Path, count: int) -> None:
    """Fill a folder with hard links to small images."""
    for number in range(count):
        if number % PER_FOLDER == 0:
            here = folder / f"{number // PER_FOLDER:06d}"
            here.mkdir()
        if number % LINKS == 0:  # a file has 65,000 links at most
            source = folder / f".{number}.png"
            Image.new("RGB", (8, 8)).save(source)
        os.link(source, here / f"{number:09d}.png")


def own_memory(process: int) -> int:
    """Bytes of a process, of what it shares with others its share (Linux)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@dataclass(frozen=True)
class Part:
    """What is measured side by side.

    Attributes:
        title: of the table.
        ways: what prepares the work of each way, ours first.
        most: images beyond which a way is left out, since it would take days or no memory suffices.
        shown: what is told of each way beside time and memory.
        sizes: numbers of images, in place of those that are asked for.
        on_gpu: whether a GPU can do it.
    """

    title: str
    ways: dict[str, Prepare]
    most: dict[str, int] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    on_gpu: bool = True


PARTS = {
    "evaluation": Part(
        "Evaluation, 5.3 images a class",
        {"ours": of_evaluation(ours), "search alone": of_evaluation(search), "PML": of_evaluation(pml)},
        {"PML": 20_000},
        sizes=(1_000, 10_000, 60_502, 100_000),
    ),
    "two-classes": Part(
        "Evaluation of 32 dimensions in two classes",
        {"ours": two_classes(ours), "PML": two_classes(pml)},
        {"PML": 6_000},
        sizes=(1_200, 4_000, 12_000),
    ),
    "k-means": Part(
        f"k-means of {ITERATIONS} iterations, 100 images a cluster",
        {
            "ours": of_clustering(kmeans),
            "faiss": of_clustering(kmeans_alone),
        },
        shown=("NMI",),
    ),
    "best": Part(
        "Clustering as the preset `best` does, 100 images a cluster",
        {"ours": of_clustering(best), "all compared": of_clustering(best_exactly)},
        {"all compared": 100_000},
        shown=("NMI",),
    ),
    "ward": Part(
        "Ward along neighbours, as beyond 20,000 images, and of all clusters with all",
        {"ours": of_clustering(along_neighbours), "all with all": of_clustering(all_with_all)},
        shown=("NMI",),
        sizes=(10_678, 50_000),
    ),
    "files": Part(
        "An epoch over image files with two loader processes",
        {"ours": of_files(lambda images: images), "list of strings": of_files(Listed)},
        shown=("in all",),
        on_gpu=False,
    ),
}


def measure(part: str, way: str, images: int, size: int, device: str) -> dict[str, Any]:
    """Do one thing in this process, and tell seconds, bytes beyond what was there, and what came out."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    work = PARTS[part].ways[way](images, size, device)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    began = clock()
    found = work()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": clock() - began, "memory": max(0, peak - before), **found}


def apart(*arguments: Any) -> dict[str, Any]:
    """`measure` in a process of its own, which begins as all others do; the last argument bounds its time."""
    *asked, seconds = arguments
    receiver, sender = Pipe(duplex=False)
    process = get_context("fork").Process(target=lambda: sender.send(measure(*asked)))
    process.start()
    sender.close()
    if not receiver.poll(seconds):
        process.kill()
        raise TimeoutError
    found: dict[str, Any] = receiver.recv()
    process.join()
    return found


class Kept:
    """What was measured before, in a file.

    Args:
        file: with all of it.
        until: when the last measurement may begin, and be stopped; by `time.monotonic`.
    """

    def __init__(self, file: Path, until: float) -> None:
        self.file, self.until = file, until
        self.values: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def get(self, how: Callable[..., Any], *arguments: Any) -> Any:
        """Return a value, which is measured and kept unless it is there; None: there was no time for it.

        Args:
            how: measures it, within so many seconds, its last argument.
            arguments: its others, by which the value is known.
        """
        key, left = " ".join(map(str, arguments)), self.until - time.monotonic()
        if key not in self.values and left > 0:
            try:
                self.values[key] = how(*arguments, left)
            except (TimeoutError, subprocess.TimeoutExpired):
                print(f"{key}: stopped, for want of time", file=sys.stderr, flush=True)
                return None
            print(f"{key}: {self.values[key]}", file=sys.stderr, flush=True)
            write_json_atomic(self.file, self.values)
        return self.values.get(key)


Rows = dict[int, dict[str, dict[str, Any]]]
"""Measurements of a part, by number of images and way."""


def measured(
    parts: Sequence[str], sizes: Sequence[int], size: int, device: str, kept: Kept
) -> dict[str, Rows]:
    """Measurements by part, the small sizes of all parts first; parts without any are left out."""
    rows: dict[str, Rows] = {part: {} for part in parts}
    for images in sorted({*sizes, *(images for part in parts for images in PARTS[part].sizes)}):
        for part in parts:
            if images not in (PARTS[part].sizes or sizes):
                continue
            for way in PARTS[part].ways:
                if images <= PARTS[part].most.get(way, images):
                    found = kept.get(apart, part, way, images, size, device)
                    if found is not None:
                        rows[part].setdefault(images, {})[way] = found
    return {part: found for part, found in rows.items() if found}


def exponent(rows: Rows, what: str) -> float:
    """By which power of the number of images ours grows, fitted to the largest three sizes."""
    sizes = [images for images in sorted(rows) if "ours" in rows[images]][-3:]
    if len(sizes) < 2:
        return float("nan")
    values = [max(rows[images]["ours"][what], 1e-9) for images in sizes]
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def table(part: Part, rows: Rows) -> str:
    """Times and memory of each way, and how many times another way's time ours takes."""
    ways = list(part.ways)
    head = ["images"]
    head += [f"{way}, {unit}" for way in ways for unit in ("s", "GiB")]
    head += [f"ours / {way}" for way in ways[1:]]
    head += [f"{name}, {way}" for name in part.shown for way in ways]
    lines = [head, ["---"] * len(head)]
    for images, found in rows.items():
        cells = [f"{images:,}"]
        for way in ways:
            one = found.get(way)
            cells += ["", ""] if one is None else [brief(one["seconds"]), f"{one['memory'] / 2**30:.2f}"]
        ours = found.get("ours")
        for way in ways[1:]:
            both = ours is not None and way in found
            cells.append(f"{ours['seconds'] / max(found[way]['seconds'], 1e-9):.2f}" if both and ours else "")
        cells += [shown(found[way][name]) if way in found else "" for name in part.shown for way in ways]
        lines.append(cells)
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if not grows(rows):
        return f"### {part.title}\n\n{text}"
    grown = f"Ours grows with the number of images to the power {exponent(rows, 'seconds'):.2f} in time"
    return f"### {part.title}\n\n{text}\n\n{grown} and {exponent(rows, 'memory'):.2f} in memory."


def brief(seconds: float) -> str:
    """Two digits, or whole seconds."""
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


def shown(value: float) -> str:
    """A share, or bytes."""
    return f"{value:.3f}" if value <= 1 else f"{value / 2**30:.2f} GiB"


def grows(rows: Rows) -> bool:
    """Whether ours was measured at three sizes, so that there is an exponent."""
    return sum("ours" in found for found in rows.values()) > 2


def far(parts: dict[str, Rows]) -> str:
    """What 100 million images would take."""
    lines = [["part", "from", "hours", "GiB beyond the embeddings"], ["---"] * 4]
    for name, rows in parts.items():
        largest = max((images for images in rows if "ours" in rows[images]), default=1)
        times = FAR / largest
        if times > REACH or not grows(rows):
            continue
        ours = rows[largest]["ours"]
        hours, memory = (
            ours[what] * times ** exponent(rows, what) / unit
            for what, unit in (("seconds", 3600), ("memory", 2**30))
        )
        lines.append([PARTS[name].title, f"{largest:,}", f"{hours:,.0f}", f"{memory:,.0f}"])
    if len(lines) == 2:
        return (
            f"### On paper: {FAR:,} images\n\nNot yet: exponents fitted below {FAR // REACH:,} images say "
            "little of so many. Measure more with `--sizes`."
        )
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"### On paper: {FAR:,} images\n\nBy the exponents above, from the largest size measured.\n\n{text}"
    )


def printed(script: str, *arguments: Any) -> str:
    """What a script beside this one prints; the last argument bounds its time."""
    *given, seconds = arguments
    command = [sys.executable, str(Path(__file__).with_name(script)), *given]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds)
    return done.stdout.strip()


def training(device: str, kept: Kept) -> str:
    """Tables of a step, and of two processes; these are measured on CPUs."""
    scripts: dict[str, tuple[str, ...]] = {"The step": ("speed_step.py", "--device", device)}
    if device == "cpu":
        scripts["Two processes"] = ("speed_processes.py",)
    tables = {title: kept.get(printed, *command) for title, command in scripts.items()}
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in tables.items() if text is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6], help="images")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all that the device computes")
    parser.add_argument("--dimension", type=int, default=512, help="of embeddings")
    parser.add_argument("--step", action=argparse.BooleanOptionalAction, default=True, help="training, too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--within", type=float, default=LONG, help="minutes; what is left is left out")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "speed.json", help="measurements so far")
    given = parser.parse_args()
    if given.parts is None:
        given.parts = [name for name, part in PARTS.items() if given.device == "cpu" or part.on_gpu]
    kept, device = Kept(given.kept, time.monotonic() + 60 * given.within), given.device
    steps = training(device, kept) if given.step else ""
    parts = measured(given.parts, given.sizes, given.dimension, device, kept)
    made = machine("faiss-gpu", "pytorch-metric-learning", device=device)
    where = "CPUs" if device == "cpu" else "a GPU"
    tables = [
        f"## On {where}\n\n{made} Embeddings have {given.dimension} dimensions.",
        steps,
        *(table(PARTS[name], rows) for name, rows in parts.items()),
    ]
    put_section(given.page, f"speed {device}", "\n\n".join(text for text in (*tables, far(parts)) if text))


if __name__ == "__main__":
    main()
