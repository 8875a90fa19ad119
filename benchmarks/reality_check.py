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
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from pml_slade.benchmarker import rows, run
from pml_slade.exceptions import SladeError
from pml_slade.reports.experiments import read_experiment

Task = tuple[str, str]
"""An experiment, and the suffix of its reproduction."""


def main() -> None:
    args = _arguments()
    wanted = args.experiments or [*rows.ROWS, *rows.ABLATIONS]
    failed = run_all(args, _tasks(args.dataset, wanted, args.reproductions))
    for task in failed:
        print(f"failed: {''.join(task)}; see {_log(args, task)}")
    raise SystemExit(1 if failed else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", help=", ".join((*rows.DRAWINGS, *rows.PHOTOS)))
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
    # One thread each: the models are small, and threads of two processes would wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=spawn) as pool:
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


def _ready(dataset: str, task: Task, done: set[Task]) -> bool:
    name, suffix = task
    return all((needed, suffix) in done for needed in rows.needs(dataset, name))


def _is_finished(args: argparse.Namespace, task: Task) -> bool:
    try:
        run_ = read_experiment(_folder(args) / "".join(task)).runs[0]
    except SladeError:
        return False
    return run_.concatenated is not None


def _run(args: argparse.Namespace, task: Task) -> str | None:
    """Train and test one experiment in a worker, all that it prints in a file; return what went wrong."""
    name, suffix = task
    flags = rows.flags(args.dataset, name)
    flags[1] += suffix
    common = ["--root_experiment_folder", str(_folder(args)), "--dataset_root", args.dataset_root]
    _log(args, task).parent.mkdir(parents=True, exist_ok=True)
    with _log(args, task).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        logging.basicConfig(stream=log, format="%(asctime)s %(message)s", force=True)
        logging.getLogger("pml_slade").setLevel(logging.INFO)
        try:
            run([*flags, *common, "--test", "--quiet"])
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    return None


def _folder(args: argparse.Namespace) -> Path:
    return Path(args.folder) / str(args.dataset)


def _log(args: argparse.Namespace, task: Task) -> Path:
    return _folder(args) / "logs" / f"{''.join(task)}.txt"


if __name__ == "__main__":
    main()
