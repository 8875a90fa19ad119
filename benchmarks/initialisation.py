"""What a SwAV start is worth: ablation 1 of the paper on drawings, written into docs/results.md.

    python benchmarks/initialisation.py omniglot data.root=FOLDER --seeds 0 1 2

Each seed is run twice, with a random start and with SwAV on its labeled and unlabeled images before the
teacher; all that is supervised takes the same steps. What was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from compare import RESULTS, machine, put_section, run, test

from pml_slade.config import load_config
from pml_slade.pipeline import Result
from pml_slade.reports.tables import METRICS, cell, interval, markdown

ROWS = ("teacher", "control", "slade")
STARTS = ("random", "SwAV")
ABOUT = """\
Test classes, %; mean of {seeds} seeds and half its 95 % interval (Student's t). Runs of one seed differ in
their start alone: SwAV is {steps:,} steps of {images} images on labeled and unlabeled images, no label read,
its last epoch taken. "Steps" counts supervised ones, those of the teacher included; the best epoch is chosen
on validation classes, and the test classes are looked at once."""

Runs = dict[str, list[dict[str, Result]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("preset", help="glyphs or omniglot")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as in pml-slade train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500, help="of SwAV")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file the table is written to")
    args = parser.parse_args()
    rows = f"rows=[{', '.join(ROWS)}]"
    swav = {"random": [], "SwAV": [f"pretraining.steps={args.steps}"]}
    runs: Runs = {start: [] for start in STARTS}
    for seed in args.seeds:
        for start in STARTS:
            runs[start].append(run(args.preset, seed, args.runs, [*args.overrides, rows, *swav[start]]))
    text = section(args, runs)
    print(text)
    put_section(args.results, f"initialisation {args.preset}", text)


def section(args: argparse.Namespace, runs: Runs) -> str:
    """The table with what it takes to get it again."""
    shown = [o for o in args.overrides if not o.startswith("data.root=")]
    root = ["data.root=FOLDER"] if args.preset == "omniglot" else []
    steps, seeds = ["--steps", str(args.steps)], ["--seeds", *map(str, args.seeds)]
    command = ["python", "benchmarks/initialisation.py", args.preset, *root, *shown, *steps, *seeds]
    images = load_config(args.preset, args.overrides).pretraining.batch_size
    return "\n\n".join(
        [
            f"## {', '.join([args.preset.capitalize(), *shown])}: random start or SwAV",
            f"`{shlex.join(command)}`",
            ABOUT.format(seeds=len(args.seeds), steps=args.steps, images=images),
            table(runs),
            gains(runs),
            machine("lightly"),
        ]
    )


def table(runs: Runs) -> str:
    """Mean and interval on the test classes, a line per start and row; MAP@R by seed."""
    rows = []
    for start, seeds in runs.items():
        for row in ROWS:
            results = [seed[row] for seed in seeds]
            steps = results[0].steps + (0 if row == "teacher" else seeds[0]["teacher"].steps)
            rows.append([start, results[0].title, f"{steps:,}"])
            rows[-1] += [cell([test(r)[metric] for r in results]) for metric in METRICS]
            rows[-1].append(", ".join(f"{test(r)['MAP@R']:.1f}" for r in results))
    return markdown(["start", "row", "steps", *METRICS, "MAP@R by seed"], rows)


def gains(runs: Runs) -> str:
    """What SwAV adds to each row, and SLADE to each start."""
    titles = {row: result.title for row, result in runs["SwAV"][0].items()}
    pairs = {f"SwAV start over random start, {titles[row]}": (("SwAV", row), ("random", row)) for row in ROWS}
    for start in STARTS:
        pairs[f"SLADE over the teacher trained on, {start} start"] = ((start, "slade"), (start, "control"))
    return "\n".join(f"- {title}: {_over(runs, *pair)}" for title, pair in pairs.items())


def _over(runs: Runs, above: Sequence[str], below: Sequence[str]) -> str:
    scores = [[test(seed[row])["MAP@R"] for seed in runs[start]] for start, row in (above, below)]
    over = [a - b for a, b in zip(*scores)]
    half = interval(over)
    spread = "" if half is None else f" ± {half:.1f}"
    return f"{sum(over) / len(over):+.1f} MAP@R{spread} (by seed: {', '.join(f'{g:+.1f}' for g in over)})."


if __name__ == "__main__":
    main()
