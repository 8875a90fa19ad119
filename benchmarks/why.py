"""Why does it work: what the mined pairs, the similarities and the clusters are; writes docs/findings.md.

    python benchmarks/why.py FOLDER

FOLDER holds Omniglot in its official layout. Only its background alphabets are read: five are labeled, ten
are the classes on which is measured, and the rest is the pool, whose true labels the measuring alone reads.
After each epoch of a student, pool batches are drawn as for a loss on pairs, and measured under the
transform for evaluation. What was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_data import development
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor
from torch.utils.data import Subset, default_collate
from trials import arguments, in_parallel, map_at_r, run_config
from why_measures import (
    Numbers,
    Pairs,
    collect_pairs,
    draw_batches,
    measure_clusters,
    measure_gradients,
    measure_pairs,
    measure_similarities,
)
from why_plots import plot_clusters, plot_means, plot_pairs, plot_similarities
from why_section import Found, section
from writing import FINDINGS, put_section

from pml_slade.checkpoints import Checkpoints, write_json_atomic
from pml_slade.datasets.draws import seed_everything
from pml_slade.losses import FeatureBasisLoss
from pml_slade.methods import METHODS, Method
from pml_slade.methods.building import build_loss
from pml_slade.methods.settings import StudentConfig
from pml_slade.running.models import embedding_model
from pml_slade.running.run import Run
from pml_slade.running.settings import Config
from pml_slade.running.stages import Stage, Validation
from pml_slade.running.training import Training
from pml_slade.running.workshop import Models, Workshop

BATCHES, BATCH_SEED = 50, 2021
MEASURED = "why.json"


@dataclass(frozen=True)
class Student:
    """One of the students that are compared.

    Attributes:
        title: for people.
        preset: of the method; students of a preset have one teacher.
        row: that is trained.
        settings: that differ from the preset.
    """

    title: str
    preset: str
    row: str
    settings: tuple[str, ...] = ()


STUDENTS = {
    "paper-basis": Student("paper, no mining", "paper", "basis"),
    "paper-slade": Student("paper, Eq. 7", "paper", "slade"),
    "paper-literal": Student(
        "paper, no mining, literal Eq. 6", "paper", "basis", ("student.basis.straight_through=false",)
    ),
    "best-slade": Student("best, SLADE", "best", "slade"),
    "best-iterated": Student("best, iterated clustering", "best", "iterated"),
}
PRESETS = tuple(dict.fromkeys(student.preset for student in STUDENTS.values()))


def main() -> None:
    parser = arguments(__doc__, "why", FINDINGS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    in_parallel(args.jobs, partial(train_teacher, args), PRESETS)
    found = dict(zip(STUDENTS, in_parallel(args.jobs, partial(train_student, args), STUDENTS)))
    plot(found, settings(args, "paper", "basis", Path()), args.results.parent / "images")
    text = section(args.seed, BATCHES, found, args.device)
    print(text)
    put_section(args.results, "why", text)


def train_teacher(args: argparse.Namespace, preset: str) -> None:
    """Train the teacher of a preset's students."""
    config = settings(args, preset, "teacher", folder(args, f"{preset}-teacher"))
    Run(config, progress=False, splits=development(args.omniglot, args.seed)).run()
    print(f"done: teacher of {preset}", flush=True)


def train_student(args: argparse.Namespace, name: str) -> Found:
    """Train a student from its preset's teacher, measuring after each epoch."""
    student, output = STUDENTS[name], folder(args, name)
    teacher = folder(args, f"{student.preset}-teacher")
    config = settings(args, student.preset, student.row, output, student.settings, teacher)
    pipeline = WatchedRun(config, progress=False, splits=development(args.omniglot, args.seed))
    score = map_at_r(pipeline.run(), student.row)
    print(f"done: {student.title}: {score:.1f}", flush=True)
    return pipeline.found(student, score)


def settings(
    args: argparse.Namespace,
    preset: str,
    row: str,
    output: Path,
    further: Sequence[str] = (),
    teacher: Path | None = None,
) -> Config:
    """Settings of a run."""
    return run_config(args, ["omniglot", preset], further, [row], args.seed, output, teacher)


def folder(args: argparse.Namespace, name: str) -> Path:
    """Where a run lies."""
    path: Path = args.runs / str(args.seed) / name
    return path


class WatchedRun(Run):
    """A run that measures each student after each epoch, and writes that beside its checkpoints."""

    def found(self, student: Student, score: float) -> Found:
        """What was measured, and recorded, in the last turn of a row."""
        folder = self.training(METHODS[student.row]).file.parent
        saved = Checkpoints(folder / "checkpoints").load_latest()
        history = [] if saved is None else saved[1]["history"]
        return Found(student.title, json.loads((folder / MEASURED).read_text()), history, score)

    def training(self, method: Method) -> Training:
        """What trains a row, measured."""
        training = super().training(method)
        return WatchedTraining(training.shop, method, training.teacher, training.is_done)


class WatchedTraining(Training):
    """Training that measures a student after each epoch."""

    def stage(self, turn: int, folder: Path, models: Models) -> Stage:
        """What trains one turn, measured."""
        stage = super().stage(turn, folder, models)
        if not self.method.is_teacher and stage.validate is not None:
            stage.validate = partial(self._validate, stage, stage.validate)
        return stage

    def _validate(self, stage: Stage, validate: Callable[[], Validation]) -> Validation:
        found = validate()
        if stage.trainer.pool is None:  # before the first step
            return found
        file = stage.folder / MEASURED
        epoch = len(stage.history) + 1  # this one joins the history when it has been validated
        before = json.loads(file.read_text()) if file.exists() else []
        earlier = [e for e in before if e["epoch"] < epoch]  # a resumed stage may repeat its last epoch
        step = epoch * stage.trainer.iterations_per_epoch
        measured = {"epoch": epoch, "step": step, **measure(stage, self.shop)}
        write_json_atomic(file, [*earlier, measured])
        return found


def measure(stage: Stage, shop: Workshop) -> Numbers:
    """Measure a student as it stands, by the models that are validated: the averaged, if there are any."""
    student, pool = shop.config.student, stage.trainer.pool
    basis = deepcopy(stage.trainer.loss_funcs.get("basis_loss"))
    if basis is not None:
        basis.cpu()
    ranking, true = pool_ranking(student), shop.splits.unlabeled.known_labels()
    batches = draw_batches(
        pool.labels, student.unlabeled_batch_size, student.images_per_class, BATCHES, BATCH_SEED
    )
    seen, places = np.unique(np.concatenate(batches), return_inverse=True)
    at = np.split(places, np.cumsum([len(batch) for batch in batches])[:-1])
    embeddings, pseudo = embed_plainly(stage, shop, pool.indices[seen]), pool.labels[seen]
    pairs = collect_pairs(embeddings, true[pool.indices[seen]], pseudo, seen, at, ranking, basis)
    trained = pairs_as_trained(stage, student, true, batches, ranking, basis)
    of_pairs = measure_pairs(pairs)
    if "mined" in of_pairs:
        of_pairs["trained"] = measure_pairs(trained)["mined"]
    return {
        "pairs": of_pairs,
        "similarities": measure_similarities(pairs, basis),
        "clusters": measure_clusters(true, pool.pseudo_labels),
        "gradients": measure_gradients(embeddings, torch.from_numpy(pseudo), at, ranking, basis),
    }


def pool_ranking(student: StudentConfig) -> ContrastiveLoss:
    """The run's ranking loss of the pool, or what it would be."""
    ranking = build_loss(student.unlabeled_loss or student.loss, "student.loss")
    if not isinstance(ranking, ContrastiveLoss):
        kind = type(ranking).__name__
        raise SystemExit(f"student.loss: what a pair costs is asked of ContrastiveLoss, and this is {kind}")
    return ranking


def embed_plainly(stage: Stage, shop: Workshop, images: np.ndarray) -> Tensor:
    """Embeddings of pool images under the transform for evaluation, (n, d)."""
    pool = Subset(shop.views.plain(shop.splits.unlabeled.without_labels()), images.tolist())
    return torch.from_numpy(shop.runtime.quiet.embed(pool, embedding_model(stage.models)))


@torch.no_grad()
def pairs_as_trained(
    stage: Stage,
    student: StudentConfig,
    true: np.ndarray,
    batches: Sequence[np.ndarray],
    ranking: ContrastiveLoss,
    basis: FeatureBasisLoss | None,
) -> Pairs:
    """The pairs of the same batches as training sees them: distorted, and beside a labeled batch.

    Batch norm takes a batch's own statistics there, so that it matters what is in it. The running means of
    Eq. 6, thresholds of Eq. 7, come from such batches.
    """
    trainer = stage.trainer
    pool = trainer.pool
    collate = trainer.collate_fn or default_collate
    model = embedding_model(deepcopy(trainer.models))  # batch norm would go on counting
    labels, size = trainer.dataset.labels, student.batch_size
    beside = draw_batches(labels, size, student.images_per_class, len(batches), BATCH_SEED)
    seed_everything(BATCH_SEED)  # the next epoch seeds itself
    parts = []
    for labeled, unlabeled in zip(beside, batches):
        images = [
            collate([data[int(i)] for i in b])[0]
            for data, b in ((trainer.dataset, labeled), (pool, unlabeled))
        ]
        parts.append(model(torch.cat(images).to(trainer.data_device))[len(labeled) :].cpu().float())
    drawn = np.concatenate(batches)
    at = np.split(np.arange(len(drawn)), np.cumsum([len(batch) for batch in batches])[:-1])
    found = true[pool.indices[drawn]], pool.labels[drawn], drawn
    return collect_pairs(torch.cat(parts), *found, at, ranking, basis)


def plot(found: Mapping[str, Found], config: Config, images: Path) -> None:
    """All plots."""
    runs = {name: found[name].epochs for name in found}
    mining = STUDENTS["paper-slade"].title
    plot_pairs(mining, runs["paper-slade"], images / "why-pairs.svg")
    forms = {
        "whole gradient (straight-through)": runs["paper-basis"],
        "literal gradient": runs["paper-literal"],
    }
    plot_means(forms, config.student.basis.margin, images / "why-means.svg")
    plot_similarities(mining, runs["paper-slade"], images / "why-similarities.svg")
    plot_clusters({STUDENTS[name].title: runs[name] for name in runs}, images / "why-clusters.svg")


if __name__ == "__main__":
    main()
