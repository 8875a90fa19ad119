"""Does the pool help, how much of what it could, and who does it best? Writes docs/results.md.

    python benchmarks/evidence.py FOLDER

FOLDER holds Omniglot in its official layout, images_background and images_evaluation. Each data set is run
with the preset "paper" and with "best", which the peers share; what was stopped goes on with the same
command, and finished rows are not run again. --tasks and --seeds take a part, and the table is of what is
there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from bench_data import clutter
from trials import arguments, in_parallel, run_config
from writing import README, RESULTS, by_seed, gained, machine, plus_minus, put_section, test

from pml_slade.methods import METHODS
from pml_slade.reports.tables import cell, markdown
from pml_slade.running.data import build_splits
from pml_slade.running.rows import Result
from pml_slade.running.run import Run
from pml_slade.running.settings import Config

PAPER = ("teacher", "control", "pseudo", "basis", "slade", "oracle")
PEERS = ("memory", "mean_teacher", "self_supervised", "self_taught", "pseudo", "iterated")
BEST = ("teacher", "control", *PEERS, "slade", "oracle")
USELESS = 0.8
ABOUT = """\
Test classes, in percent: mean over seeds and half its 95 % interval (Student's t). In each block, all rows
but the teacher start from the same teacher and take the same number of steps and images. Two views of an
image count as two images. Passes without a gradient, such as those that label the pool, are not counted.
Validation classes, held out of the labeled ones, decide which epoch is kept, by the rule of the preset.
"Over the control" and the share of the oracle's gain are computed by seed. The settings are those of the
presets, the same for all data sets. They were chosen on Omniglot's background alphabets (docs/findings.md).
Mean teacher compares embeddings, not class probabilities. Self-taught has one head and no divergence term."""
OMNIGLOT = """\
The alphabets that settings were chosen on are labeled or in the pool here. Each character was drawn 20
times. So the default, as many images a cluster as a labeled class has, gives the true number of classes."""
CLUTTERED = """\
As with five labeled alphabets, but useless images replace four fifths of the pool's classes: scribbles,
noise, textures, and drawings that are torn or laid over each other. Each of them is there once. The default
number of clusters is then about five times the number of classes in the pool."""
MINED = """\
There is no share here. The oracle of `paper` mines by Eq. 7, as its SLADE does, so a row that does not mine
can be better."""


@dataclass(frozen=True)
class Task:
    """A data set of the bench.

    Attributes:
        title: for people.
        about: what to know of it.
        preset: of the data.
        settings: that go with it.
        useless: share of the pool that is replaced by images of no use.
    """

    title: str
    about: str
    preset: str
    settings: tuple[str, ...] = ()
    useless: float = 0.0


TASKS = {
    "omniglot-5": Task("Omniglot, 5 labeled alphabets", OMNIGLOT, "omniglot"),
    "omniglot-2": Task("Omniglot, 2 labeled alphabets", OMNIGLOT, "omniglot", ("data.labeled_alphabets=2",)),
    "omniglot-10": Task(
        "Omniglot, 10 labeled alphabets", OMNIGLOT, "omniglot", ("data.labeled_alphabets=10",)
    ),
    "glyphs": Task(
        "Glyphs",
        "Some Latin letters are labeled; others and Greek ones are the pool, three more scripts the test.",
        "glyphs",
        ("teacher.steps=1500", "student.steps=1500"),
    ),
    "useless": Task(
        "Omniglot, 5 labeled alphabets, 80 % of the pool useless", CLUTTERED, "omniglot", useless=USELESS
    ),
}
Trial = tuple[str, str, int]
"""Task, preset of the method, seed."""
Results = dict[str, list[dict[str, Result]]]
"""By preset of the method: a dictionary per seed."""


def main() -> None:
    parser = arguments(__doc__, "evidence", RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--presets", nargs="+", choices=["paper", "best"], default=["best", "paper"])
    parser.add_argument("--rows", nargs="+", choices=list(METHODS), help="of those that the preset has here")
    args = parser.parse_args()
    runs: list[Trial] = [(t, p, seed) for t in args.tasks for p in args.presets for seed in args.seeds]
    in_parallel(args.jobs, partial(train, args), runs)
    for name in TASKS:
        found = finished(args.runs, name)
        if found:
            text = section(name, found, args.device)
            print(text, flush=True)
            put_section(args.results, f"evidence {name}", text)
            if "best" in found and args.results == RESULTS and f"<!-- begin {name} -->" in README.read_text():
                put_section(README, name, table(found["best"], BEST))


def train(args: argparse.Namespace, run: Trial) -> None:
    """Train the rows of a run that are not trained yet."""
    name, method, seed = run
    config = settings(args, run)
    splits = build_splits(config)
    if TASKS[name].useless:
        splits = clutter(splits, TASKS[name].useless, seed)
    Run(config, progress=False, splits=splits).run()
    print(f"done: {name}, {method}, seed {seed}", flush=True)


def settings(args: argparse.Namespace, run: Trial) -> Config:
    """Settings of a run."""
    name, method, seed = run
    task = TASKS[name]
    rows = [row for row in (PAPER if method == "paper" else BEST) if args.rows is None or row in args.rows]
    data = [f"data.root={args.omniglot}"] if task.preset == "omniglot" else []
    output = folder(args.runs, run)
    return run_config(args, [task.preset, method], [*task.settings, *data], rows, seed=seed, output=output)


def folder(runs: Path, run: Trial) -> Path:
    """Where a run lies."""
    name, method, seed = run
    return runs / name / method / str(seed)


def finished(runs: Path, name: str) -> Results:
    """What there is of a data set: per preset and seed, the rows that all seeds have."""
    found: Results = {}
    for method in ("paper", "best"):
        seeds = [
            {f.parent.name: Result(**json.loads(f.read_text())) for f in sorted(seed.glob("*/result.json"))}
            for seed in sorted((runs / name / method).glob("*"))
            if any(seed.glob("*/result.json"))
        ]
        shared = set.intersection(*map(set, seeds)) if seeds else set()
        if len(shared) > 1:
            found[method] = [{row: rows[row] for row in rows if row in shared} for rows in seeds]
    return found


def section(name: str, found: Results, device: str) -> str:
    """Everything about one data set."""
    task, parts = TASKS[name], []
    if runs := found.get("best"):
        parts += [f"Preset `best`, seeds: {len(runs)}.", table(runs, BEST)]
        parts += [*over_the_better(runs), *over_the_best_peer(runs)]
    if runs := found.get("paper"):
        parts += [f"Preset `paper`, seeds: {len(runs)}.", table(runs, PAPER, shares=False), MINED]
    return "\n\n".join([f"## {task.title}", task.about, ABOUT, *parts, machine(device=device)])


def table(runs: Sequence[dict[str, Result]], rows: Sequence[str], shares: bool = True) -> str:
    """A line per row that is there."""
    share = ["share of oracle's gain"] if shares else []
    return markdown(
        ["row", "images seen", "MAP@R", "RP", "P@1", "MAP@R over the control", *share, "validation"],
        [line(row, runs, shares) for row in rows if row in runs[0]],
    )


def line(row: str, runs: Sequence[dict[str, Result]], shares: bool) -> list[str]:
    """Of one row: means and intervals over seeds."""
    scores = [cell([test(run[row])[metric] for run in runs]) for metric in ("MAP@R", "RP", "P@1")]
    validation = cell([(run[row].validation or {}).get("MAP@R", float("nan")) for run in runs])
    images = " to ".join(f"{n:,}" for n in sorted({run[row].images for run in runs}))
    over = against_control(row, runs)
    return [runs[0][row].title, images, *scores, *(over if shares else over[:1]), validation]


def against_control(row: str, runs: Sequence[dict[str, Result]]) -> list[str]:
    """Gain over the control, and its share of the oracle's, by seed."""
    if row in ("teacher", "control") or "control" not in runs[0]:
        return ["", ""]
    over = gained([gain(run, row) for run in runs])
    return [over, "" if row == "oracle" or "oracle" not in runs[0] else share(runs, row, gain) or "–"]


def over_the_better(runs: Sequence[dict[str, Result]]) -> list[str]:
    """What SLADE gains where training on made the teacher worse: the start is the one to beat then."""
    if not {"teacher", "control", "slade", "oracle"} <= runs[0].keys():
        return []
    over = gained([gain_over_the_better(run, "slade") for run in runs])
    of_the_oracles = share(runs, "slade", gain_over_the_better)
    return [
        f"Over the better of the teacher and the control, by seed: SLADE {over} MAP@R"
        + (f", {of_the_oracles} of what the oracle gains over it." if of_the_oracles else ".")
    ]


def over_the_best_peer(runs: Sequence[dict[str, Result]]) -> list[str]:
    """What SLADE gains over the peer with the best mean."""
    peers = [row for row in PEERS if row in runs[0]]
    if not peers or "slade" not in runs[0]:
        return []
    best = max(peers, key=lambda row: mean(test(run[row])["MAP@R"] for run in runs))
    over = [test(run["slade"])["MAP@R"] - test(run[best])["MAP@R"] for run in runs]
    return [f"Over the best of its peers, {runs[0][best].title}: SLADE {by_seed(over)}"]


def share(
    runs: Sequence[dict[str, Result]], row: str, gain: Callable[[dict[str, Result], str], float]
) -> str:
    """Of the oracle's gain, by seed; nothing where it does not gain in each."""
    bounds = [gain(run, "oracle") for run in runs]
    if min(bounds) <= 0:
        return ""
    shares = [100 * gain(run, row) / bound for run, bound in zip(runs, bounds)]
    return f"{round(mean(shares))} %{plus_minus(shares, 0)}"


def gain(run: dict[str, Result], row: str) -> float:
    """MAP@R over the control."""
    return test(run[row])["MAP@R"] - test(run["control"])["MAP@R"]


def gain_over_the_better(run: dict[str, Result], row: str) -> float:
    """MAP@R over the teacher or the control, whichever is better."""
    return test(run[row])["MAP@R"] - max(test(run[start])["MAP@R"] for start in ("teacher", "control"))


if __name__ == "__main__":
    main()
