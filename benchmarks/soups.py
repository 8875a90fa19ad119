"""What means of the weights of teacher, control and SLADE's student are worth; writes docs/findings.md.

    python benchmarks/soups.py FOLDER --weights FILE

FOLDER and FILE as for benchmarks/photographs.py. Measured on development classes: no test class is looked at.
If it was stopped, repeat the command.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from statistics import mean

from photographs import SETS, split
from trials import in_parallel
from writing import FINDINGS, machine, put_section

from pml_slade.averages import mean_of_models
from pml_slade.evaluation import evaluate
from pml_slade.reports.tables import markdown
from pml_slade.running.loading import load_config
from pml_slade.running.run import Run

STUDENTS = ("teacher", "control", "slade")
MIXES = {
    "teacher": (1, 0, 0),
    "control": (0, 1, 0),
    "½ teacher, ½ control": (1 / 2, 1 / 2, 0),
    "SLADE's student": (0, 0, 1),
    "½ teacher, ½ SLADE's": (1 / 2, 0, 1 / 2),
    "⅓ each": (1 / 3, 1 / 3, 1 / 3),
    "¼ teacher, ¼ control, ½ SLADE's": (1 / 4, 1 / 4, 1 / 2),
    "½ control, ½ SLADE's": (0, 1 / 2, 1 / 2),
    "⅓ control, ⅔ SLADE's": (0, 1 / 3, 2 / 3),
    "¼ control, ¾ SLADE's": (0, 1 / 4, 3 / 4),
}
"""Shares of the weights of the three."""
ABOUT = """\
MAP@R on development classes, in percent, and on validation classes in brackets; by set and seed. The three
models are trained once for each column, by the defaults for photographs with `{settings}`; rows are means of
their weights. {trunk} at {size} pixels."""
Trial = tuple[str, int]
"""Set and seed."""
Scores = dict[str, tuple[float, float]]
"""MAP@R of a mix, on development and on validation classes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds birds and flowers")
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as in pml-slade train")
    parser.add_argument("--weights", type=Path, required=True, help="of the trunk")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["birds", "flowers"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/soups"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=FINDINGS, help="file the table is written to")
    args = parser.parse_args()
    trials = [(name, seed) for name in args.sets for seed in args.seeds]
    text = section(args, dict(zip(trials, in_parallel(args.jobs, partial(measure, args), trials))))
    print(text, flush=True)
    put_section(args.results, "soups", text)


def measure(args: argparse.Namespace, trial: Trial) -> Scores:
    """Train the three models of a trial, unless that is done, and measure their means."""
    name, seed = trial
    settings = [
        *("data.kind=given", f"data.image_size={args.size}", "data.check_duplicates=false"),
        *(f"model.weights={args.weights}", f"model.features={args.runs / 'features'}"),
        *(f"rows={json.dumps(STUDENTS)}", f"seed={seed}", f"output={args.runs / name / str(seed)}"),
        *("student.soup=false", "report=false", f"device={args.device}", *args.overrides),
    ]
    splits = split(args.folder, name, "whole", seed, development=True)
    run = Run(load_config(None, settings), progress=False, splits=splits)
    models = [run.shop.load(run.folder / result.model) for result in run.run()]
    found = {}
    for mix, shares in MIXES.items():
        soup = mean_of_models(models, shares)
        parts = [part for part in (splits.test, splits.validation) if part is not None]
        of_test, of_validation = (
            evaluate(run.shop.embed(soup, part), part.known_labels())["MAP@R"] for part in parts
        )
        found[mix] = of_test, of_validation
    print(f"done: {name}, seed {seed}", flush=True)
    return found


def section(args: argparse.Namespace, found: dict[Trial, Scores]) -> str:
    """The table, and how it was made."""
    header = ["weights of", *(f"{name}, {seed}" for name, seed in found), "mean"]
    lines = [
        [mix, *(f"{found[t][mix][0]:.2f} ({found[t][mix][1]:.1f})" for t in found), _mean(found, mix)]
        for mix in MIXES
    ]
    settings = " ".join(["student.soup=false", *args.overrides])
    about = ABOUT.format(trunk=args.weights.stem, size=args.size, settings=settings)
    title = "## Photographs: means of weights"
    return "\n\n".join([title, about, markdown(header, lines), machine("timm", device=args.device)])


def _mean(found: dict[Trial, Scores], mix: str) -> str:
    scores = [scores[mix] for scores in found.values()]
    return f"{mean(s[0] for s in scores):.2f} ({mean(s[1] for s in scores):.1f})"


if __name__ == "__main__":
    main()
