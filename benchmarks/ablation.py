"""What each part of the presets is worth, on classes that no test looks at; writes docs/findings.md.

    python benchmarks/ablation.py FOLDER

FOLDER holds Omniglot in its official layout. Five of its background alphabets are labeled, ten are the
classes on which is measured, and the rest is the pool. What was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench_data import clutter, development
from trials import arguments, in_parallel, measure, of_the_teacher, run_config
from writing import FINDINGS, gained, machine, put_section

from pml_slade.reports.tables import cell, markdown
from pml_slade.running.run import Run


@dataclass(frozen=True)
class Variant:
    """A preset's row, with something changed.

    Attributes:
        title: what is changed, for people.
        preset: of the method.
        settings: that differ from it.
        row: that is trained, beside the teacher.
        useless: share of the pool that is replaced by images of no use.
        mined: part of Eq. 7 that mines, one of `mined.PARTS`, where it is not the whole.
    """

    title: str
    preset: str = "best"
    settings: tuple[str, ...] = ()
    row: str = "slade"
    useless: float = 0.0
    mined: str = ""


Trial = tuple[Variant, int]
"""And its seed."""
BOTH = ("teacher", "student")
VARIANTS = {
    "best": [
        Variant("the whole preset"),
        Variant("control", row="control"),
        Variant("oracle", row="oracle"),
        Variant("multi-similarity loss on the pool in place of clusters' vectors", row="iterated"),
        Variant("labeled once", settings=("student.relabel_every=0",)),
        Variant("no margin at the clusters' vectors", settings=("student.basis.cluster_margin=0",)),
        Variant("k-means", settings=("student.clustering=kmeans",)),
        Variant("no smoothing", settings=("student.smooth=false",)),
        Variant("no whitening", settings=("student.whitening=0",)),
        Variant(
            "k-means of embeddings as they are",
            settings=("student.clustering=kmeans", "student.smooth=false", "student.whitening=0"),
        ),
        Variant("mild augmentation", settings=("data.augmentation=mild",)),
        Variant("no average", settings=tuple(f"{stage}.average=null" for stage in BOTH)),
        Variant("best epoch in place of the last good one", settings=("tolerance=0",)),
        Variant("320 clusters", settings=("student.num_clusters=320",)),
        Variant("720 clusters", settings=("student.num_clusters=720",)),
    ],
    "paper": [
        Variant("the whole preset, Eq. 7 to the letter", "paper"),
        Variant("control", "paper", row="control"),
        Variant("plain pseudo-labels", "paper", row="pseudo"),
        Variant("positives of Eq. 7, negatives by pseudo-label", "paper", mined="positives"),
        Variant("negatives of Eq. 7, positives by pseudo-label", "paper", mined="negatives"),
        Variant("pairs of Eq. 7 that agree with pseudo-labels", "paper", mined="agreeing"),
        Variant("no mining", "paper", row="basis"),
        Variant("oracle, no mining", "paper", ("student.mining=none",), "oracle"),
        Variant("no mining, lambda2 = 1", "paper", ("student.basis_weight=1",), "basis"),
        Variant(
            "no mining, Eq. 6 to the letter", "paper", ("student.basis.straight_through=false",), "basis"
        ),
        Variant("no mining, Eq. 3 alone", "paper", ("student.basis.regularizer=null", "student.mining=none")),
        Variant("no mining, Local-CE", "paper", ("student.basis.regularizer=local_ce",), "basis"),
        Variant("no mining, Global-CE", "paper", ("student.basis.regularizer=global_ce",), "basis"),
        Variant("no mining, Eq. 3 of W f as it comes", "paper", ("student.basis.logit_scale=null",), "basis"),
    ],
    "useless": [
        Variant("the whole preset", useless=0.8),
        Variant("control", row="control", useless=0.8),
        Variant("oracle", row="oracle", useless=0.8),
        Variant("plain pseudo-labels", row="pseudo", useless=0.8),
    ],
}
TITLES = {
    "best": "What each part of the preset `best` is worth",
    "paper": "What each part of the preset `paper` is worth",
    "useless": "A pool of which 80 % are useless",
}


def main() -> None:
    parser = arguments(__doc__, "ablation", FINDINGS)
    parser.add_argument("--of", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    trials: list[Trial] = [(v, seed) for name in args.of for v in VARIANTS[name] for seed in args.seeds]
    in_parallel(args.jobs, partial(run, args), dict.fromkeys(map(teacher_of, trials)))
    scores = dict(zip(trials, in_parallel(args.jobs, partial(run, args), trials)))
    for name in args.of:
        found = [[scores[variant, seed] for seed in args.seeds] for variant in VARIANTS[name]]
        text = section(name, args.seeds, found, args.device)
        print(text)
        put_section(args.results, f"ablation {name}", text)


def teacher_of(trial: Trial) -> Trial:
    """The teacher that a variant starts from, as a variant; it reads no pool."""
    variant, seed = trial
    return Variant("teacher", variant.preset, of_the_teacher(variant.settings), "teacher"), seed


def run(args: argparse.Namespace, trial: Trial) -> float:
    """Train a variant from its teacher; its MAP@R on the development classes."""
    variant, seed = trial
    output = folder(args.runs, trial)
    teacher = None if variant.row == "teacher" else folder(args.runs, teacher_of(trial))
    splits = development(args.omniglot, seed)
    if variant.useless:
        splits = clutter(splits, variant.useless, seed)
    presets = ["omniglot", variant.preset]
    row, settings = variant.row, list(variant.settings)
    if variant.mined:
        row, settings = "mined.PartlyMined", [*settings, f"methods.partly_mined.part={variant.mined}"]
    config = run_config(args, presets, settings, [row], seed, output, teacher)
    pipeline = Run(config, progress=False, splits=splits)
    return measure(pipeline, config.chosen[-1].key, f"{variant.preset}, {variant.title}")


def folder(runs: Path, trial: Trial) -> Path:
    """Where a trial lies."""
    variant, seed = trial
    pool = f"useless-{variant.useless}" if variant.useless else "whole"
    parts = [variant.row, *variant.settings, *filter(None, [variant.mined])]
    return runs / variant.preset / pool / str(seed) / "-".join(parts)


def section(name: str, seeds: list[int], found: list[list[float]], device: str) -> str:
    """A line per variant, compared with the first by seed."""
    lines = []
    for variant, scores in zip(VARIANTS[name], found):
        over = [score - whole for score, whole in zip(scores, found[0])]
        shown = " ".join(f"`{setting}`" for setting in variant.settings)
        lines.append([variant.title, shown, cell(scores), "" if scores is found[0] else gained(over)])
    command = f"python benchmarks/ablation.py FOLDER --of {name} --seeds {' '.join(map(str, seeds))}"
    about = (
        f"`{command}`: MAP@R on ten alphabets of Omniglot's background set, five others labeled, the rest "
        "the pool; mean of the seeds and half its 95 % interval, and the difference to the first line by "
        "seed. Lines have one teacher where they do not change it."
    )
    table = markdown(["variant", "settings", "MAP@R", "to the first line"], lines)
    return "\n\n".join([f"## {TITLES[name]}", about, table, machine(device=device)])


if __name__ == "__main__":
    main()
