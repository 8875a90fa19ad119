"""What a pool of photographs is worth, with a pretrained trunk; writes docs/results.md.

    python benchmarks/photographs.py FOLDER --weights FILE

FOLDER holds the folders birds (CUB-200), flowers (Oxford Flowers 102) and cars (Cars-196), each with a folder
of photographs a class, FILE the trunk's weights. Classes are sorted by name, and the last half is the test.
Of the first half, shuffled by the seed, two fifths are labeled and three fifths are the pool; a fifth of the
labeled classes validates. --development leaves the last half alone: the seed draws a third of the first half
to score on, and splits the rest. What was stopped goes on with the same command. A table has all rows and
seeds that were trained by then, so that some rows may have more seeds than others.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
from trials import in_parallel
from writing import RESULTS, gained, machine, plus_minus, put_section, test

from pml_slade.averages import mean_of_models
from pml_slade.checkpoints import write_json_atomic
from pml_slade.clustering import smooth, suggest_num_neighbours
from pml_slade.clustering.neighbours import nearest_others
from pml_slade.clustering.trust import NEAREST
from pml_slade.datasets.folders import open_images
from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.splits import Splits
from pml_slade.evaluation import evaluate, interval
from pml_slade.methods import METHODS
from pml_slade.presets import BEST, PAPER
from pml_slade.reports.tables import cell, markdown
from pml_slade.running.loading import load_config
from pml_slade.running.pool import PoolFacts, read_kept
from pml_slade.running.rows import Result
from pml_slade.running.run import Run
from pml_slade.running.workshop import Models

SETS = {"birds": "Birds (CUB-200)", "flowers": "Flowers (Oxford 102)", "cars": "Cars (Cars-196)"}
TRUST = "neighbours.json"
POOLS = {
    "whole": "the pool's classes, whole",
    "open": "half of each labeled class is in the pool, too, unlabeled",
    "mixed": "two thirds of the pool are other photographs",
}
WITHOUT = ("start", "teacher", "control")
BEFORE = {row: f"{row}_before" for row in ("control", "slade", "oracle")}
"""Students before the mean of their weights is taken, see `student.soup`."""
PEERS = ("memory", "mean_teacher", "self_supervised", "self_taught", "pseudo", "iterated", "neighbours")
PRESETS = {
    BEST: (*WITHOUT, *PEERS, "slade", "oracle"),
    PAPER: (*WITHOUT, "pseudo", "basis", "slade", "oracle"),
}
"""Their rows; those of the paper are its ablation of components."""
LABELED, VALIDATION, DEVELOPMENT = 2 / 5, 1 / 5, 1 / 3
Trial = tuple[str, str, int]
"""Set, pool, seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds birds, flowers, cars")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as in pml-slade train")
    parser.add_argument("--weights", type=Path, required=True, help="of the trunk")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=["whole"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--preset", choices=PRESETS, default=BEST, help="paper: its components on photographs"
    )
    parser.add_argument("--rows", nargs="+", choices=METHODS, help="default: those of the preset")
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--development", action="store_true", help="score on classes of the first half")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/photographs"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file the results are written to")
    args = parser.parse_args()
    args.rows = args.rows or list(PRESETS[args.preset])
    trials = [(name, pool, seed) for name in args.sets for pool in args.pools for seed in args.seeds]
    in_parallel(args.jobs, partial(train, args), trials)
    for name in args.sets:
        for pool in args.pools:
            text = section(args, name, pool)
            print(text, flush=True)
            if not args.development:
                put_section(args.results, " ".join(["photographs", name, pool, *_named(args)]), text)


def train(args: argparse.Namespace, trial: Trial) -> None:
    """Train the rows of a run that are not trained yet."""
    name, pool, seed = trial
    settings = [
        *("data.kind=given", f"data.image_size={args.size}", "data.check_duplicates=false"),
        *(f"model.weights={args.weights}", f"model.features={args.runs / 'features'}"),
        *(f"rows={json.dumps(args.rows)}", f"seed={seed}", f"output={folder(args, trial)}"),
        *("data.workers=1", f"device={args.device}", *args.overrides),
    ]
    splits = split(args.folder, name, pool, seed, args.development)
    run = Run(load_config(args.preset, settings), progress=False, splits=splits)
    results = run.run()
    if run.config.student.soup:
        measure_students(run, {result.row: result for result in results})
    if any(method.uses_pool for method in run.config.chosen):
        measure_trust(run)
    scores = ", ".join(f"{result.row} {test(result)['MAP@R']:.2f}" for result in results)
    print(f"{name}, {pool}, seed {seed}: {scores}", flush=True)


def measure_students(run: Run, results: dict[str, Result]) -> None:
    """Measure students before means are taken: a bound and a control should be as good as they can be."""
    for row, before in BEFORE.items():
        file = run.folder / before / "result.json"
        if row not in results or not {"teacher", "control"} <= results.keys() or file.exists():
            continue
        models = _student(run, results, row)
        of_test, of_validation = (
            None if part is None else evaluate(run.shop.embed(models, part), part.known_labels())
            for part in (run.splits.test, run.splits.validation)
        )
        title = results[row].title + ", before the mean"
        result = replace(results[row], row=before, title=title, test=of_test, validation=of_validation)
        write_json_atomic(file, asdict(result))


def measure_trust(run: Run) -> None:
    """Write down how many of the nearest neighbours in the pool are right, as estimated and truly."""
    file = run.folder / TRUST
    if file.exists():
        return
    teacher = run.training(run.teacher).file
    run.shop.look_at_pool(teacher)
    estimated = PoolFacts.read(run.folder)
    assert estimated is not None
    embeddings = run.shop.embed(run.shop.load(teacher), run.pool)
    labeled, labels = run.splits.labeled, run.pool.known_labels()
    k = suggest_num_neighbours(len(labeled), labeled.num_classes)
    near, _ = nearest_others(smooth(embeddings, k, whitening=run.config.student.whitening), NEAREST)
    true = 100 * float((labels[near] == labels[:, None]).mean())
    write_json_atomic(file, {"estimated": estimated.neighbours_right, "true": true})


def _student(run: Run, results: dict[str, Result], row: str) -> Models:
    """The student of a row: its model is the mean of this one and of what it is averaged with."""
    share, model = METHODS[row].share, run.shop.load(run.folder / results[row].model)
    with_it = run.shop.load(run.folder / results["teacher"].model)
    if row != "control":
        with_it = _student(run, results, "control")
    return mean_of_models([with_it, model], [1 - 1 / share, 1 / share])


def folder(args: argparse.Namespace, trial: Trial) -> Path:
    """Where a run lies."""
    kind = "-".join(["development" if args.development else "test", *_named(args)])
    path: Path = args.runs / kind / trial[0] / trial[1] / str(trial[2])
    return path


def _named(args: argparse.Namespace) -> list[str]:
    """The preset, where it is not the usual one."""
    return [] if args.preset == BEST else [args.preset]


def split(root: Path, name: str, pool: str, seed: int, development: bool = False) -> Splits:
    """The parts of a set.

    Args:
        root: holds the sets.
        name: of the set.
        pool: one of POOLS.
        seed: draws classes and images.
        development: score on classes of the first half.
    """
    images = open_images(root / name, mode="RGB")
    rng = np.random.default_rng(seed)
    half = images.num_classes // 2
    first, scored = rng.permutation(half), np.arange(half, images.num_classes)
    if development:
        scored, first = np.split(first, [round(DEVELOPMENT * half)])
    labeled, unlabeled = np.split(first, [round(LABELED * len(first))])
    validation, labeled = np.split(labeled, [max(round(VALIDATION * len(labeled)), 2)])
    parts = {"unlabeled": _of(images, unlabeled), "labeled": _of(images, labeled)}
    if pool == "open":
        parts["labeled"], left = _halves(parts["labeled"], rng)
        parts["unlabeled"] = _join(parts["unlabeled"], left)
    elif pool == "mixed":
        others = [open_images(root / other, mode="RGB") for other in SETS if other != name]
        parts["unlabeled"] = _mixed(parts["unlabeled"], others, rng)
    return Splits(**parts, validation=_of(images, validation), test=_of(images, scored), name=name)


def _of(images: ImageDataset, classes: np.ndarray) -> ImageDataset:
    return images.subset(np.flatnonzero(np.isin(images.known_labels(), classes))).relabel()


def _halves(images: ImageDataset, rng: np.random.Generator) -> tuple[ImageDataset, ImageDataset]:
    """Two halves of each class."""
    labels = images.known_labels()
    shuffled = [rng.permutation(np.flatnonzero(labels == c)) for c in range(images.num_classes)]
    kept = np.concatenate([part[: (len(part) + 1) // 2] for part in shuffled])
    return images.subset(np.sort(kept)), images.subset(np.setdiff1d(np.arange(len(images)), kept))


def _mixed(pool: ImageDataset, others: Sequence[ImageDataset], rng: np.random.Generator) -> ImageDataset:
    """A pool and twice as many photographs of other sets, each of which is a class of its own."""
    share = 2 * len(pool) // len(others)
    for other in others:
        chosen = other.subset(np.sort(rng.choice(len(other), share, replace=False)))
        pool = _join(pool, ImageDataset(chosen.names(), np.arange(share), mode="RGB"))
    return pool


def _join(first: ImageDataset, second: ImageDataset) -> ImageDataset:
    """Both, the classes of the second numbered after those of the first."""
    labels = [first.known_labels(), second.known_labels() + first.num_classes]
    return ImageDataset([*first.names(), *second.names()], np.concatenate(labels), mode="RGB")


def section(args: argparse.Namespace, name: str, pool: str) -> str:
    """Everything about one set with one pool: of all rows and seeds that there are by now."""
    by_seed = {int(place.name): _results(place) for place in folder(args, (name, pool, 0)).parent.iterdir()}
    needed = set(WITHOUT).intersection(args.rows)
    seeds = sorted(seed for seed, run in by_seed.items() if needed <= run.keys())
    runs = [by_seed[seed] for seed in seeds]
    rows = [part for row in PRESETS[args.preset] for part in (row, BEFORE.get(row)) if part in _any(runs)]
    best = _best(runs, [*WITHOUT, BEFORE["control"]])
    bound = _best(runs, ["oracle", BEFORE["oracle"]])
    lines = [line(runs, row, best, bound) for row in rows]
    over = f"over {_plain(best)}"
    header = ["row", "MAP@R", "RP", "P@1", over, "ahead in", "share of oracle's gain", "validation"]
    scored = "development" if args.development else "test"
    about = (
        f"MAP@R and others on {scored} classes, %: mean of the seeds and half its 95 % interval (Student's "
        f"t). Pool: {POOLS[pool]}. {args.weights.stem} at {args.size} pixels. “Over {_plain(best)}”, the "
        "best of those without a pool by its mean, and the share of what true labels of the pool gain over "
        "it, by the better of the two oracles, are by seed."
    )
    title = f"## {SETS[name]}: {POOLS[pool]}" + ("" if args.preset == BEST else f", preset {args.preset}")
    shown = f"Seeds: {', '.join(map(str, seeds))}. {' '.join(args.overrides)}".strip()
    shown += trusted(args, name, pool, seeds)
    if pool == "mixed":
        shown += left_out(args, name, seeds)
    return "\n\n".join([title, about, shown, markdown(header, lines), machine("timm", device=args.device)])


def _any(runs: Sequence[dict[str, Result]]) -> set[str]:
    """Rows that some run has."""
    return {row for run in runs for row in run}


def _best(runs: Sequence[dict[str, Result]], rows: Sequence[str]) -> str:
    """Of the rows that all runs have, the one with the best mean; "" where there is none."""
    there = [row for row in rows if all(row in run for run in runs)]
    return max(there, key=lambda row: mean(scores(runs, row)), default="")


def _results(run: Path) -> dict[str, Result]:
    """By row, of the rows that are done."""
    return {file.parent.name: Result(**json.loads(file.read_text())) for file in run.glob("*/result.json")}


def trusted(args: argparse.Namespace, name: str, pool: str, seeds: Sequence[int]) -> str:
    """How many of the nearest neighbours in the pool are right."""
    files = [folder(args, (name, pool, seed)) / TRUST for seed in seeds]
    found = [json.loads(file.read_text()) for file in files if file.exists()]
    if not found:
        return ""
    estimated, true = (mean(each[key] for each in found) for key in ("estimated", "true"))
    return (
        f" Of an image's {NEAREST} nearest neighbours in the pool {true:.0f} % show its class by true "
        f"labels, {estimated:.0f} % as estimated from the labeled images."
    )


def left_out(args: argparse.Namespace, name: str, seeds: Sequence[int]) -> str:
    """What was taken to be unlike the labeled images, of the set's own and of the others."""
    own, others = [], []
    for seed in seeds:
        pool = split(args.folder, name, "mixed", seed, args.development).unlabeled
        known = read_kept(folder(args, (name, "mixed", seed)), len(pool))
        kept = np.ones(len(pool), dtype=bool) if known is None else known
        is_own = np.arange(len(pool)) < round(len(pool) / 3)
        own.append(100 * (~kept[is_own]).mean())
        others.append(100 * (~kept[~is_own]).mean())
    return (
        f" Left out as unlike the labeled images: {mean(own):.0f} % of the set's own, {mean(others):.0f} % "
        "of the others."
    )


def line(runs: Sequence[dict[str, Result]], row: str, best: str, bound: str) -> list[str]:
    """Of one row: means and intervals over the seeds that have it."""
    runs = [run for run in runs if row in run]
    figures = [cell([test(run[row])[m] for run in runs], 2) for m in ("MAP@R", "RP", "P@1")]
    over = [a - b for a, b in zip(scores(runs, row), scores(runs, best))]
    ahead = f"{sum(gain > 0 for gain in over)} of {len(over)}"
    validation = cell([(run[row].validation or {})["MAP@R"] for run in runs])
    known = bound and row not in (*WITHOUT, BEFORE["control"], "oracle", BEFORE["oracle"])
    share = _share(over, [a - b for a, b in zip(scores(runs, bound), scores(runs, best))]) if known else ""
    compared = ["", ""] if row == best else [gained(over, 2), ahead]
    return [runs[0][row].title, *figures, *compared, share, validation]


def _plain(row: str) -> str:
    return row.replace("_", " ")


def _share(gains: Sequence[float], bounds: Sequence[float]) -> str:
    """Of the oracle's gain; nothing where that may be chance, or is none in some seed."""
    if min(bounds) <= 0 or mean(bounds) <= (interval(bounds) or 0):
        return "–"
    shares = [100 * gain / bound for gain, bound in zip(gains, bounds)]
    return f"{round(mean(shares))} %{plus_minus(shares, 0)}"


def scores(runs: Sequence[dict[str, Result]], row: str) -> list[float]:
    """MAP@R of a row, by seed."""
    return [test(run[row])["MAP@R"] for run in runs]


if __name__ == "__main__":
    main()
