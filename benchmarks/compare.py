"""Run a preset over several seeds and write its table into docs/results.md.

    python benchmarks/compare.py glyphs --seeds 0 1 2 3 4
    python benchmarks/compare.py omniglot data.root=FOLDER --seeds 0 1 2

FOLDER holds images_background and images_evaluation, Omniglot's official layout. What was stopped goes on
with the same command; finished seeds are not run again.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from pml_slade.config import load_config
from pml_slade.pipeline import Pipeline, Result
from pml_slade.reports.tables import METRICS, cell, interval, markdown

ROOT = Path(__file__).parent.parent
HEADING = "# Results\n\nEvery table here is what its command wrote.\n"
RESULTS, README = ROOT / "docs" / "results.md", ROOT / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("preset", help="glyphs or omniglot")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as in pml-slade train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file the table is written to")
    args = parser.parse_args()
    runs = [run(args.preset, seed, args.runs, args.overrides) for seed in args.seeds]
    shown = [o for o in args.overrides if not o.startswith("data.root=")]
    text = section(args.preset, args.seeds, shown, runs)
    print(text)
    name = " ".join([args.preset, *shown])
    put_section(args.results, name, text)
    if f"<!-- begin {name} -->" in README.read_text():
        put_section(README, name, table(runs))


def run(preset: str, seed: int, folder: Path, overrides: Sequence[str]) -> dict[str, Result]:
    """One seed: labeled classes, weights and batches all depend on it."""
    settings = (o for o in overrides if not o.startswith(("data.root=", "rows=")))
    name = "-".join([preset, *settings, str(seed)])
    config = load_config(preset, [*overrides, f"seed={seed}", f"output={folder / name}"])
    return {result.row: result for result in Pipeline(config).run()}


def section(
    preset: str, seeds: Sequence[int], overrides: Sequence[str], runs: Sequence[dict[str, Result]]
) -> str:
    """The table with what it takes to get it again."""
    rows = list(runs[0])
    root = ["data.root=FOLDER"] if preset == "omniglot" else []
    numbers = ["--seeds", *map(str, seeds)]
    command = ["python", "benchmarks/compare.py", preset, *root, *overrides, *numbers]
    changed = [o for o in overrides if not o.startswith("rows=")]
    parts = [
        f"## {', '.join([preset.capitalize(), *changed])}",
        f"`{shlex.join(command)}`",
        f"Test classes, %; mean of {len(seeds)} seeds and half its 95 % interval (Student's t). Every row "
        "but the teacher starts from the teacher and sees as many images in as many steps. The best epoch is "
        "chosen on validation classes, held out of the labeled ones; the test classes are looked at once.",
        table(runs),
        "MAP@R by seed, and the validation classes' beside it:",
        markdown(
            ["row", *(f"seed {seed}" for seed in seeds), "validation"],
            [
                [runs[0][row].title]
                + [f"{test(r[row])['MAP@R']:.1f}" for r in runs]
                + [cell([(r[row].validation or {}).get("MAP@R", float("nan")) for r in runs])]
                for row in rows
            ],
        ),
        *gains(rows, runs),
        machine(),
    ]
    return "\n\n".join(parts)


def table(runs: Sequence[dict[str, Result]]) -> str:
    """Mean and interval on the test classes, a line per row."""
    return markdown(
        ["row", "steps", "images seen", *METRICS],
        [
            [result.title, f"{result.steps:,}", f"{result.images:,}"]
            + [cell([test(r[row])[m] for r in runs]) for m in METRICS]
            for row, result in runs[0].items()
        ],
    )


def gains(rows: Sequence[str], runs: Sequence[dict[str, Result]]) -> list[str]:
    """How far SLADE is above the control, and how much of the oracle's gain that is."""
    if not {"control", "slade"} <= set(rows):
        return []
    over = [test(r["slade"])["MAP@R"] - test(r["control"])["MAP@R"] for r in runs]
    text = f"SLADE over the teacher trained on: {by_seed(over)}"
    if "oracle" in rows:
        bound = [test(r["oracle"])["MAP@R"] - test(r["control"])["MAP@R"] for r in runs]
        text += f" That is {100 * sum(over) / sum(bound):.0f} % of what the pool's true labels give."
    return [text]


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


def machine(*packages: str) -> str:
    """What the numbers were made with."""
    device = "GPU" if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    versions = [f"{package} {version(package).split('+')[0]}" for package in ("torch", *packages)]
    return f"Made with {', '.join(versions)} on {platform.machine()}, {device}."


def put_section(file: Path, name: str, text: str) -> None:
    """Replace the section of that name, or append it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n\n{text}\n\n{end}"
    old = (file.read_text() if file.exists() else "") or HEADING
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n{block}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(new)


if __name__ == "__main__":
    main()
