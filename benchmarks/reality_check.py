"""Run the paper's rows and ablations under powerful-benchmarker, and write their tables into docs/results.md.

    python benchmarks/reality_check.py omniglot --dataset-root FOLDER
    python benchmarks/reality_check.py glyphs t2 s2 --reproductions 0 --no-write

FOLDER holds images_background and images_evaluation, Omniglot's official layout. Without names, all 19 rows
and all ablations are run. What was stopped goes on with the same command; what is finished is not run again.
Needs the extra benchmarker.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import shlex
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from statistics import mean

import faiss
import pandas as pd
import torch
from writing import RESULTS, machine, put_section

from pml_slade.benchmarker import check_same_settings, rows, run
from pml_slade.evaluation import interval
from pml_slade.exceptions import SladeError
from pml_slade.reports.benchmark import ablation_table, results_table
from pml_slade.reports.experiments import (
    CONCATENATED,
    SEPARATED,
    Experiment,
    read_experiment,
    read_experiments,
)
from pml_slade.reports.paper import ABLATIONS, Ablation
from pml_slade.reports.tables import cell

ABOUT = """\
Class-disjoint 4-fold cross-validation on the labeled classes, run by powerful-benchmarker; the best epoch
of each fold is chosen on its validation classes. Every row takes 600 steps of 64 images a fold, a student
32 labeled and 32 unlabeled ones. A student starts where its teacher ended, which is our choice, so a
control takes as many more steps from there without the pool: "t1_on" is the control of T1. A student's gain
over that is what the pool and the basis give. SwAV rows start from a short SwAV: 300 steps on the pool and
300 more on pool and labeled images, its best epochs chosen on validation classes, too. Losses have the
arguments in benchmarker_configs. Each run has its own teachers and starts. All rows share one trunk here,
so that Contrastive and T1, MS+Miner and T3, and the two Proxy-Anchors are the same and differ by chance
alone. "Run by run" compares each run of a student with the run of the same number that it started from."""
Task = tuple[str, str]
"""An experiment, and the suffix of its reproduction."""


def main() -> None:
    args = _arguments()
    wanted = args.experiments or [*rows.ROWS, *rows.CONTROLS, *rows.ABLATIONS]
    failed = run_all(args, _tasks(args.dataset, wanted, args.reproductions))
    for task in failed:
        print(f"failed: {''.join(task)}; see {_log(args, task)}")
    for name, text in report(args, read_experiments([_folder(args)])):
        print(f"{text}\n")
        if not args.no_write:
            put_section(RESULTS, f"reality check {args.dataset} {name}", text)
    raise SystemExit(1 if failed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", choices=rows.DRAWINGS)
    parser.add_argument("experiments", nargs="*", help="rows and ablations; default all")
    parser.add_argument("--dataset-root", default="datasets")
    parser.add_argument("--reproductions", type=int, default=2, help="runs of each besides the first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="experiments at once")
    parser.add_argument("--folder", type=Path, default=Path("experiments"), help="for the experiments")
    parser.add_argument("--no-write", action="store_true", help="print the tables only")
    return parser.parse_args()


def _tasks(dataset: str, wanted: Iterable[str], reproductions: int) -> list[Task]:
    """All that is to be run, each after what it needs; the first runs of all come before any second."""
    ordered: list[str] = []

    def add(name: str) -> None:
        for needed in rows.needs(dataset, name):
            add(needed)
        if name not in ordered:
            ordered.append(name)

    for name in wanted:
        add(name)
    suffixes = ["", *(f"_reproduction{i}" for i in range(reproductions))]
    return [(name, suffix) for suffix in suffixes for name in ordered]


def run_all(args: argparse.Namespace, tasks: list[Task]) -> list[Task]:
    """Run tasks in worker processes as what they need is done; return those that failed."""
    done = {task for task in tasks if _is_finished(args, task)}
    waiting = [task for task in tasks if task not in done]
    failed: list[Task] = []
    running: dict[Future[str | None], Task] = {}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork"), _one_thread) as pool:
        while waiting or running:
            for task in [t for t in waiting if _ready(args.dataset, t, done)][: args.jobs - len(running)]:
                waiting.remove(task)
                running[pool.submit(_run, args, task)] = task
            if not running:
                return failed + waiting  # what they need has failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                error = future.result()
                (done.add if error is None else failed.append)(task)
                left = len(waiting) + len(running)
                print(
                    f"{time.strftime('%H:%M:%S')} {''.join(task)}: {error or 'done'}; {left} to go",
                    flush=True,
                )
    return failed


def _one_thread() -> None:
    """The models are small, and threads of two processes would wait for each other."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def _ready(dataset: str, task: Task, done: set[Task]) -> bool:
    name, suffix = task
    return all((needed, suffix) in done for needed in rows.needs(dataset, name))


def _is_finished(args: argparse.Namespace, task: Task) -> bool:
    try:
        runs = read_experiment(_folder(args) / task[0]).runs
    except SladeError:
        return False  # it has not begun
    if not any(each.name == "".join(task) and each.concatenated is not None for each in runs):
        return False
    check_same_settings(_flags(args, task))  # a table of several budgets would lie
    return True


def _run(args: argparse.Namespace, task: Task) -> str | None:
    """Train and test one experiment in a worker, all that it prints in a file; return what went wrong."""
    _log(args, task).parent.mkdir(parents=True, exist_ok=True)
    with _log(args, task).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        logging.basicConfig(stream=log, format="%(asctime)s %(message)s", force=True)
        logging.getLogger("pml_slade").setLevel(logging.INFO)
        try:
            run([*_flags(args, task), "--test", "--quiet"])
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    return None


def report(args: argparse.Namespace, experiments: list[Experiment]) -> Iterator[tuple[str, str]]:
    """The results table, then the ablations of which something was run; each with a name for its section."""
    shown = {**rows.ROWS, **rows.CONTROLS}
    setups = {name: _setup(row) for name, row in shown.items()}
    named = [e for e in experiments if e.name in shown]
    if not named:
        return
    table = results_table(named, setups)
    heading = f"## Reality check on {args.dataset.capitalize()}"
    pairs = [(f"s{i}", f"t{i}{on}") for i in range(1, 5) for on in ("", "_on")]
    gains = [_gain(experiments, *pair) for pair in pairs]
    parts = [
        heading,
        f"`{_command(args)}`",
        ABOUT,
        table.markdown(),
        "\n".join(f"- {g}" for g in gains if g),
        machine("pytorch-metric-learning", "powerful-benchmarker"),
    ]
    yield "results", "\n\n".join(parts)
    for name, ablation in ABLATIONS.items():
        if {e.name for e in experiments} >= {line.key for line in ablation.lines}:
            grid = ablation_table(_with_random_start(ablation), experiments)
            more = [_mined(_folder(args))] if name == "components" else []
            yield name, "\n\n".join([grid.markdown(), *filter(None, more)])


def _mined(folder: Path) -> str | None:
    """What Eq. 7 keeps of the pairs, and what that does to the loss on them."""
    kept = _records(folder, "s2", "unlabeled_miner_ThresholdPairMiner")
    losses = [_records(folder, name, "loss_histories") for name in ("s2", "s2_basis")]
    if kept is None or any(loss is None for loss in losses):
        return None
    positives, negatives = (kept[f"num_{side}_pairs"].mean() for side in ("pos", "neg"))
    mined, every = (loss["unlabeled_metric_loss"].mean() for loss in losses if loss is not None)
    return (
        f"Of the 992 pairs in a batch of 32 unlabeled images mining kept {positives:.0f} as positive and "
        f"{negatives:.0f} as negative, over all steps, folds and runs of S2; by pseudo-label they are 96 and "
        f"896. The loss on the pairs was {mined:.2f} with mining and {every:.2f} without."
    )


def _records(folder: Path, name: str, table: str) -> pd.DataFrame | None:
    """A table that every fold of an experiment and of its reproductions has recorded, in one."""
    files = sorted(folder.glob(f"{name}/*/saved_csvs/{table}.csv"))
    files += sorted(folder.glob(f"{name}_reproduction*/*/saved_csvs/{table}.csv"))
    return pd.concat(map(pd.read_csv, files)) if files else None


def _with_random_start(ablation: Ablation) -> Ablation:
    """The same, where what is ImageNet in the paper is called what it is on drawings."""
    titles = {"ImageNet": "random (paper: ImageNet)"}
    lines = [replace(line, title=titles.get(line.title, line.title)) for line in ablation.lines]
    return replace(ablation, lines=tuple(lines))


def _gain(experiments: list[Experiment], student: str, teacher: str) -> str | None:
    """How far a student is above its teacher's row, and whether the intervals are apart."""
    named = {e.name: e for e in experiments}
    if not {student, teacher} <= named.keys():
        return None
    said = []
    for part in (SEPARATED, CONCATENATED):
        above, below = (named[name].values(part, "MAP@R") for name in (student, teacher))
        if not above or not below:
            return None
        halves = [interval(values) for values in (above, below)]
        apart = ""
        if None not in halves:
            gap = abs(mean(above) - mean(below))
            apart = ", intervals " + ("apart" if gap > sum(h or 0 for h in halves) else "overlap")
            apart += f", run by run {cell(_differences(named[student], named[teacher], part), digits=2)}"
        said.append(f"{mean(above) - mean(below):+.2f} {part}{apart}")
    control, sep, _ = teacher.upper().partition("_ON")
    below_ = f"the control of {control}" if sep else control
    return f"{student.upper()} over {below_}, MAP@R: {'; '.join(said)}."


def _differences(student: Experiment, teacher: Experiment, part: str) -> list[float]:
    """MAP@R of each run of a student over the run of the same number that it started from."""
    scores = [
        {run.name.removeprefix(each.name): getattr(run, part) for run in each.runs}
        for each in (student, teacher)
    ]
    both = [suffix for suffix in scores[0] if scores[0][suffix] and scores[1].get(suffix)]
    return [scores[0][suffix]["MAP@R"] - scores[1][suffix]["MAP@R"] for suffix in both]


def _setup(row: rows.Row) -> tuple[str, str]:
    """Initialisation and architecture of a row on drawings, where SwAV is of our own."""
    start = "SwAV" if row.trunk == "resnet50_swav" else "random"
    return start, f"ConvNet/{2048 if row.wide else 512}"


def _command(args: argparse.Namespace) -> str:
    root = ["--dataset-root", "FOLDER"] if args.dataset != "glyphs" else []
    reproductions = [] if args.reproductions == 2 else ["--reproductions", str(args.reproductions)]
    command = [
        "python",
        "benchmarks/reality_check.py",
        args.dataset,
        *args.experiments,
        *root,
        *reproductions,
    ]
    return shlex.join(command)


def _flags(args: argparse.Namespace, task: Task) -> list[str]:
    flags = rows.flags(args.dataset, task[0])
    flags[1] += task[1]
    return [*flags, "--root_experiment_folder", str(_folder(args)), "--dataset_root", args.dataset_root]


def _folder(args: argparse.Namespace) -> Path:
    return Path(args.folder) / str(args.dataset)


def _log(args: argparse.Namespace, task: Task) -> Path:
    return _folder(args) / "logs" / f"{''.join(task)}.txt"


if __name__ == "__main__":
    main()
