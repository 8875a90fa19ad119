"""What the scripts here share: numbers over seeds, and the pages that tables are written to."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import torch

from pml_slade.evaluation import interval
from pml_slade.running.rows import Result

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS, FINDINGS = ROOT / "docs" / "results.md", ROOT / "docs" / "findings.md"


def gained(over: Sequence[float], digits: int = 1) -> str:
    """Mean of differences, and half its interval where there is one."""
    return f"{mean(over):+.{digits}f}{plus_minus(over, digits)}"


def plus_minus(values: Sequence[float], digits: int = 1) -> str:
    """Half the interval, where there is one."""
    half = interval(values)
    return "" if half is None else f" ± {half:.{digits}f}"


def by_seed(over: Sequence[float]) -> str:
    """Differences of MAP@R: their mean, half its interval, and each."""
    each = ", ".join(f"{g:+.1f}" for g in over)
    return f"{mean(over):+.1f} MAP@R{plus_minus(over)} (by seed: {each})."


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


def put_section(file: Path, name: str, text: str) -> None:
    """Replace the section of that name, or append it; a new file begins with a heading."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n\n{text}\n\n{end}"
    heading = f"# {file.stem.capitalize()}\n\nEvery table here is what its command wrote.\n"
    old = (file.read_text() if file.exists() else "") or heading
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n{block}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(new)
