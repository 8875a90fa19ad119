"""Does the pool help on photographs, with a pretrained trunk? Writes docs/photographs.md.

    python benchmarks/photographs.py FOLDER [FOLDER ...] --weights FILE

FOLDER holds a folder of photographs per class. As the paper splits: classes sorted by name, the last half is
the test. Of the first half, shuffled by the seed, two fifths are labeled and three fifths the pool; a fifth
of the labeled classes validates. --development scores on a third of the first half's classes in place of the
test, to choose settings on. The trunk is frozen, and its features are computed once: repeat the command, and
it resumes. Finished rows are not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np
from writing import ROOT, by_seed, machine, put_section, test

from pml_slade.datasets.folders import image_folder
from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.splits import Splits, split_validation
from pml_slade.reports.tables import cell, markdown
from pml_slade.running.loading import load_config
from pml_slade.running.run import Result, Run

PAGE = ROOT / "docs" / "photographs.md"
ROWS = (
    "start", "teacher", "control", "memory", "mean_teacher", "self_supervised", "self_taught", "pseudo",
    "iterated", "neighbours", "slade", "oracle",
)  # fmt: skip
WITHOUT_POOL = ("start", "teacher", "control")
HELD_OUT = 1 / 3
"""Of the first half's classes, with --development."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of class folders")
    parser.add_argument("--weights", type=Path, required=True, help="of the trunk")
    parser.add_argument("--trunk", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--development", action="store_true", help="score on classes of the first half")
    parser.add_argument(
        "--settings", nargs="*", default=[], metavar="KEY=VALUE", help="as in pml-slade train"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/photographs"), help="folder for the runs")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    for folder in args.folders:
        found = [train(args, folder, seed) for seed in args.seeds]
        text = section(args, folder, found)
        print(text, flush=True)
        if not args.development:
            put_section(PAGE, folder.name, text)


def train(args: argparse.Namespace, folder: Path, seed: int) -> dict[str, Result]:
    """Train the rows of a seed that are not trained yet."""
    part = "development" if args.development else "test"
    output = args.runs / part / folder.name / "-".join([str(seed), *args.settings])
    config = load_config(
        None,
        [
            f"model.trunk={args.trunk}", f"model.weights={args.weights}", "model.train=head",
            f"model.features={args.runs / 'features'}", f"data.image_size={args.size}",
            "teacher.steps=200", "student.steps=200", "epoch_steps=50", "teacher.lr=1e-3", "student.lr=1e-3",
            *args.settings, "data.kind=given", "data.check_duplicates=false", f"rows={json.dumps(args.rows)}",
            f"seed={seed}", f"output={output}", f"device={args.device}", "data.workers=0",
        ],
    )  # fmt: skip
    run = Run(config, progress=False, splits=split(image_folder(folder), seed, args.development))
    results = {result.row: result for result in run.run()}
    print(
        f"{folder.name}, seed {seed}: " + ", ".join(f"{r} {test(x)['MAP@R']:.1f}" for r, x in results.items())
    )
    return results


def split(images: ImageDataset, seed: int, development: bool) -> Splits:
    """The parts of a seed; the pool has its labels, for the oracle alone."""
    labels = images.known_labels()
    half = images.num_classes // 2
    shuffled = np.random.default_rng(seed).permutation(half)
    tested = np.arange(half, images.num_classes)
    if development:
        held_out = round(HELD_OUT * half)
        tested, shuffled = shuffled[:held_out], shuffled[held_out:]
    num_labeled = round(0.4 * len(shuffled))
    labeled, pool, tests = (
        images.subset(np.isin(labels, classes)).relabel()
        for classes in (shuffled[:num_labeled], shuffled[num_labeled:], tested)
    )
    trained, validation = split_validation(labeled, 0.2, seed)
    return Splits(trained, pool, validation, tests, "photographs")


def section(args: argparse.Namespace, folder: Path, found: list[dict[str, Result]]) -> str:
    """A line per row: test classes, and by seed what it gains over the best of the rows without a pool."""
    lines = []
    for row in found[0]:
        scores = [cell([test(run[row])[metric] for run in found]) for metric in ("MAP@R", "RP", "P@1")]
        over = [test(run[row])["MAP@R"] - best(run) for run in found]
        gain = "" if row in WITHOUT_POOL else by_seed(over).rstrip(".").replace(" MAP@R", "")
        lines.append([found[0][row].title, *scores, gain])
    bound = [test(run["oracle"])["MAP@R"] - best(run) for run in found] if "oracle" in found[0] else []
    share = f"The oracle gains {mean(bound):+.1f} over it." if bound else ""
    about = (
        f"`python benchmarks/photographs.py {folder.name} --weights FILE --size {args.size}"
        f"{''.join(f' --settings {s}' for s in args.settings)}`, seeds {args.seeds}: "
        f"{'development' if args.development else 'test'} classes, %, frozen {args.trunk}, 128-d head; mean "
        f"and half its 95 % interval. Over the best of start, teacher and control, by seed. {share}"
    )
    table = markdown(["row", "MAP@R", "RP", "P@1", "MAP@R over the best without a pool"], lines)
    return "\n\n".join([f"## {folder.name.capitalize()}", about, table, machine("timm", device=args.device)])


def best(run: dict[str, Result]) -> float:
    """MAP@R of the best row without a pool."""
    return max(test(run[row])["MAP@R"] for row in WITHOUT_POOL if row in run)


if __name__ == "__main__":
    main()
