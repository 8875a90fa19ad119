"""Choose the settings of our method and of its peers, each among as many; writes docs/findings.md.

    python benchmarks/tuning.py FOLDER

FOLDER holds Omniglot in its official layout. Only its background alphabets are read: five are labeled, ten
are the classes on which is chosen, and the rest is the pool. What was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import mean

from bench_data import development
from trials import arguments, in_parallel, measure, run_config
from writing import FINDINGS, machine, put_section

from pml_slade.methods import METHODS
from pml_slade.reports.tables import cell, markdown
from pml_slade.running.run import Run


def with_losses(row: str, tried: dict[str, tuple[float, ...]]) -> list[str]:
    """Settings of a row on pseudo-labels: each loss with each of its weights."""
    own = f"methods.{row}"
    return [f"{own}.loss.name={loss} {own}.weight={w}" for loss in tried for w in tried[loss]]


# Of contrastive loss, students on pseudo-labels had 4 as the best of 1, 2, 4 and 8.
TRIED = {
    "memory": [f"methods.memory.size={n}" for n in (128, 512, 2048, 8192)],
    "mean_teacher": [f"methods.mean_teacher.weight={w}" for w in (0.3, 1, 3, 10)],
    "self_supervised": [
        f"methods.self_supervised.weight={w} methods.self_supervised.temperature={t}"
        for w, t in ((1, 0.1), (3, 0.1), (10, 0.1), (3, 0.5))
    ],
    "self_taught": [f"methods.self_taught.weight={w}" for w in (1, 3, 10, 30)],
    "pseudo": with_losses(
        "pseudo",
        {"ContrastiveLoss": (4,), "NTXentLoss": (1, 2, 4), "MultiSimilarityLoss": (1, 4, 8, 16)},
    ),
    "iterated": with_losses("iterated", {"ContrastiveLoss": (0.5, 1, 2, 4), "MultiSimilarityLoss": (8, 16)}),
    "slade": [f"student.unlabeled_weight={w}" for w in (0.5, 1, 2, 4)],
}
Trial = tuple[str, str, int]
"""Row, settings, seed."""


def main() -> None:
    parser = arguments(__doc__, "tuning", FINDINGS)
    parser.add_argument("--rows", nargs="+", choices=TRIED, default=list(TRIED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    in_parallel(args.jobs, partial(run, args), [("teacher", "", seed) for seed in args.seeds])
    trials: list[Trial] = [(row, s, seed) for row in args.rows for s in TRIED[row] for seed in args.seeds]
    scores = dict(zip(trials, in_parallel(args.jobs, partial(run, args), trials)))
    text = section(args.seeds, scores, args.device)
    print(text)
    put_section(args.results, "tuning", text)


def run(args: argparse.Namespace, trial: Trial) -> float:
    """Train a row from the seed's teacher; its MAP@R on the development classes."""
    row, settings, seed = trial
    output = folder(args.runs, trial)
    teacher = None if row == "teacher" else folder(args.runs, ("teacher", "", seed))
    config = run_config(args, ["omniglot", "best"], settings.split(), [row], seed, output, teacher)
    pipeline = Run(config, progress=False, splits=development(args.omniglot, seed))
    return measure(pipeline, row, f"{row} {settings}")


def folder(runs: Path, trial: Trial) -> Path:
    """Where a trial lies."""
    row, settings, seed = trial
    return runs / str(seed) / "-".join([row, *settings.split()])


def section(seeds: list[int], scores: dict[Trial, float], device: str) -> str:
    """What was tried, and what it came to."""
    rows = dict.fromkeys(row for row, _, _ in scores)
    lines = []
    for row in rows:
        tried = {s: [scores[row, s, seed] for seed in seeds] for s in TRIED[row]}
        best = max(tried, key=lambda s: mean(tried[s]))
        for settings, found in tried.items():
            mark = " **chosen**" if settings == best else ""
            lines.append(
                [METHODS[row].title, f"`{settings}`{mark}", cell(found), *(f"{v:.1f}" for v in found)]
            )
    about = (
        "`python benchmarks/tuning.py FOLDER`: MAP@R on ten alphabets of Omniglot's background set, five "
        "others labeled, the rest the pool. Each row had four settings or more of its main weight or size to "
        "choose from, students on pseudo-labels of their loss, too; the best mean over seeds is its default. "
        "Where that was the largest weight, and clearly the best, the smallest made way for one larger "
        "still. Augmentation, averaging, classifier and teacher are the same for all. How "
        "the pool is clustered and learned from, which `iterated` and `slade` share or `slade` has alone, "
        "was chosen on the same classes besides: ablation.py has its parts."
    )
    table = markdown(["row", "settings", "MAP@R", *(f"seed {seed}" for seed in seeds)], lines)
    return "\n\n".join(["## What was tuned", about, table, machine(device=device)])


if __name__ == "__main__":
    main()
