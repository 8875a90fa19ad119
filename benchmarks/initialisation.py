"""What a SwAV start is worth: ablation 1 of the paper on drawings, written into docs/results.md.

    python benchmarks/initialisation.py omniglot data.root=FOLDER --seeds 0 1 2

Each seed is trained from a random start and from SwAV on its labeled and unlabeled images, with as many
supervised steps. What was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import os
import shlex
from functools import partial
from pathlib import Path

from trials import in_parallel
from writing import RESULTS, by_seed, machine, put_section, test

from pml_slade.reports.tables import METRICS, cell, markdown
from pml_slade.running.loading import load_config
from pml_slade.running.pretraining import pretrained_file, run_pretraining
from pml_slade.running.rows import Result
from pml_slade.running.run import Run
from pml_slade.running.settings import Config

ROWS = ("teacher", "control", "slade")
STARTS = ("random", "SwAV")
ABOUT = """\
Test classes, %; mean of {seeds} seeds and half its 95 % interval (Student's t). Runs of one seed differ in
their start and learning rate alone. SwAV is {steps:,} steps of {images} images on labeled and unlabeled
images, no label read, its last epoch taken. Of the learning rates {lrs}, for teacher and student
alike, each start has the one whose teacher did best on the validation classes of seed {first}: {chosen}.
"Steps" counts supervised ones, those of the teacher included; which epoch is kept is decided on validation
classes."""

Task = tuple[str, int, float]
"""Start, seed and learning rate."""
Runs = dict[str, list[dict[str, Result]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("preset", choices=["glyphs", "omniglot"])
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE, as in pml-slade train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lrs", type=float, nargs="+", default=[0.003, 0.001, 0.0003, 0.0001, 0.00003])
    parser.add_argument("--steps", type=int, default=1500, help="of SwAV")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file the table is written to")
    args = parser.parse_args()
    in_parallel(args.jobs, partial(pretrain, args), args.seeds)
    tried: list[Task] = [(start, args.seeds[0], lr) for start in STARTS for lr in args.lrs]
    teachers = in_parallel(args.jobs, partial(train, args, ["teacher"]), tried)
    tuning = dict(zip(tried, map(validation, teachers)))
    chosen = {start: max((t for t in tried if t[0] == start), key=tuning.__getitem__)[2] for start in STARTS}
    tasks = [(start, seed, chosen[start]) for start in STARTS for seed in args.seeds]
    results = dict(zip(tasks, in_parallel(args.jobs, partial(train, args, list(ROWS)), tasks)))
    runs = {start: [results[task] for task in tasks if task[0] == start] for start in STARTS}
    text = section(args, tuning, chosen, runs)
    print(text)
    put_section(args.results, f"initialisation {args.preset}", text)


def swav_config(args: argparse.Namespace, seed: int) -> Config:
    """Settings of the SwAV that rows of a seed start from."""
    output = args.runs / f"{args.preset}-swav-{args.steps}-{seed}"
    settings = [f"seed={seed}", f"output={output}", f"pretraining.steps={args.steps}", "rows=[]"]
    return load_config(args.preset, [*args.overrides, *settings])


def pretrain(args: argparse.Namespace, seed: int) -> None:
    """SwAV on the images of a seed."""
    run_pretraining(swav_config(args, seed), progress=False)
    print(f"SwAV, seed {seed} done", flush=True)


def train(args: argparse.Namespace, rows: list[str], task: Task) -> dict[str, Result]:
    """Rows of one start, seed and learning rate."""
    start, seed, lr = task
    output = args.runs / f"{args.preset}-{start}-{lr}-{seed}"
    weights = "null" if start == "random" else pretrained_file(swav_config(args, seed))
    settings = [f"seed={seed}", f"output={output}", f"model.weights={weights}", f"rows=[{', '.join(rows)}]"]
    settings += [f"{stage}.lr={lr}" for stage in ("teacher", "student")]
    config = load_config(args.preset, [*args.overrides, *settings])
    done = {result.row: result for result in Run(config, progress=False).run()}
    print(f"{start} start, seed {seed}, learning rate {lr}: {', '.join(done)} done", flush=True)
    return done


def validation(results: dict[str, Result]) -> float:
    """MAP@R of the teacher on the validation classes, which choose the learning rate."""
    scores = results["teacher"].validation
    if scores is None:
        raise SystemExit("there are no validation classes to choose the learning rate on.")
    return scores["MAP@R"]


def section(args: argparse.Namespace, tuning: dict[Task, float], chosen: dict[str, float], runs: Runs) -> str:
    """The table with what it takes to get it again."""
    shown = [o for o in args.overrides if not o.startswith("data.root=")]
    root = ["data.root=FOLDER"] if args.preset == "omniglot" else []
    options = ["--seeds", *args.seeds, "--lrs", *args.lrs, "--steps", args.steps]
    command = ["python", "benchmarks/initialisation.py", args.preset, *root, *shown, *map(str, options)]
    about = ABOUT.format(
        seeds=len(args.seeds),
        steps=args.steps,
        images=load_config(args.preset, args.overrides).pretraining.batch_size,
        lrs=", ".join(map(str, args.lrs)),
        first=args.seeds[0],
        chosen=", ".join(f"{lr} from the {start} start{_at_edge(args, lr)}" for start, lr in chosen.items()),
    )
    return "\n\n".join(
        [
            f"## {', '.join([args.preset.capitalize(), *shown])}: random start or SwAV",
            f"`{shlex.join(command)}`",
            about,
            table(runs),
            gains(runs),
            "\n".join(
                f"- Validation MAP@R of the teacher by learning rate, {start} start, seed {args.seeds[0]}: "
                + ", ".join(f"{lr}: {score:.1f}" for (s, _, lr), score in tuning.items() if s == start)
                for start in STARTS
            ),
            machine("lightly"),
        ]
    )


def _at_edge(args: argparse.Namespace, lr: float) -> str:
    return " (the edge of what was tried)" if lr in (min(args.lrs), max(args.lrs)) else ""


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
        pairs[f"SLADE over the control, {start} start"] = ((start, "slade"), (start, "control"))
    return "\n".join(f"- {title}: {_over(runs, *pair)}" for title, pair in pairs.items())


def _over(runs: Runs, above: tuple[str, str], below: tuple[str, str]) -> str:
    scores = [[test(seed[row])["MAP@R"] for seed in runs[start]] for start, row in (above, below)]
    return by_seed([a - b for a, b in zip(*scores)])


if __name__ == "__main__":
    main()
