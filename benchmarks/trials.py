"""What the scripts that train share: arguments, runs at once, and teachers that several students have."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from writing import test

from pml_slade.running.loading import load_config
from pml_slade.running.rows import Result
from pml_slade.running.run import Run
from pml_slade.running.settings import Config


def arguments(description: str | None, name: str, results: Path) -> argparse.ArgumentParser:
    """A parser of what all scripts on Omniglot take.

    Args:
        description: for people.
        name: of the script's folder of runs.
        results: file that it writes to by default.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("omniglot", type=Path, help="folder of Omniglot")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as in pml-slade train")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or auto")
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="folder for the runs")
    parser.add_argument("--results", type=Path, default=results, help="file the results are written to")
    return parser


def run_config(
    args: argparse.Namespace,
    presets: Sequence[str],
    settings: Sequence[str],
    rows: Sequence[str],
    seed: int,
    output: Path,
    teacher: Path | None = None,
) -> Config:
    """Settings of a run: those of presets, its own, and what was said on the command line.

    Args:
        args: the script's.
        presets: of the data and of the method.
        settings: KEY=VALUE.
        rows: to train.
        seed: of the run.
        output: its folder.
        teacher: the run whose teacher it takes, if any.
    """
    fixed = [f"rows={json.dumps(list(rows))}", f"seed={seed}", f"output={output}", f"device={args.device}"]
    if teacher is not None:
        fixed.append(f"teacher.run={teacher}")
    look = "data.check_duplicates=false"  # once is enough, and `pml-slade train` does it
    return load_config(list(presets), [*settings, *args.overrides, *fixed, look])


def in_parallel(jobs: int, job: Callable[[Any], Any], tasks: Iterable[Any]) -> list[Any]:
    """Do a job for each task, some at once, each in one thread."""
    with ProcessPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(job, tasks))


def of_the_teacher(settings: Sequence[str]) -> tuple[str, ...]:
    """Those settings that a teacher depends on."""
    return tuple(s for s in settings if not s.startswith(("student.", "methods.")))


def measure(pipeline: Run, row: str, title: str) -> float:
    """Train a row; its MAP@R on the test classes of the pipeline's splits."""
    score = map_at_r(pipeline.run(), row)
    print(f"{title}, seed {pipeline.config.seed}: {score:.1f}", flush=True)
    return score


def map_at_r(results: Iterable[Result], row: str) -> float:
    """A row's MAP@R on the test classes."""
    return test(next(result for result in results if result.row == row))["MAP@R"]
