"""What the scripts here share: numbers over seeds, and where tables are written."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pml_slade.pipeline import Result
from pml_slade.reports.tables import interval

ROOT = Path(__file__).parent.parent
HEADING = "# Results\n\nEvery table here is what its command wrote.\n"
RESULTS, README = ROOT / "docs" / "results.md", ROOT / "README.md"


def in_parallel(jobs: int, job: Callable[[Any], Any], tasks: Iterable[Any]) -> list[Any]:
    """Do a job for each task, some at once, each in one thread."""
    with ProcessPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(job, tasks))


def by_seed(over: Sequence[float]) -> str:
    """Differences of MAP@R: their mean, half its interval, and each."""
    half = interval(over)
    spread = "" if half is None else f" ± {half:.1f}"
    return f"{sum(over) / len(over):+.1f} MAP@R{spread} (by seed: {', '.join(f'{g:+.1f}' for g in over)})."


def test(result: Result) -> dict[str, float]:
    """Scores on the test classes, which both presets have."""
    if result.test is None:
        raise SystemExit(f"{result.title}: this data set has no test classes to compare on.")
    return result.test


def machine(*packages: str, device: str = "auto") -> str:
    """What the numbers were made with."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    hardware = "GPU" if on_gpu else f"{os.cpu_count()} CPU cores"
    versions = [f"{package} {version(package).split('+')[0]}" for package in ("torch", *packages)]
    return f"Made with {', '.join(versions)} on {platform.machine()}, {hardware}."


def put_section(file: Path, name: str, text: str, heading: str = HEADING) -> None:
    """Replace the section of that name, or append it; a new file begins with the heading."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n\n{text}\n\n{end}"
    old = (file.read_text() if file.exists() else "") or heading
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n{block}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(new)
