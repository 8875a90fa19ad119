"""Which loss on the pool pays on photographs: a head on a frozen trunk's features, minutes on a CPU.

    python benchmarks/frozen_features.py FOLDER --weights FILE --seeds 0 1 2 3

FOLDER holds a folder of images per class. The trunk's features of several views of each image are computed
once and kept in --cache: repeat the command, and it resumes. The seed draws a third of the first half of the
classes, sorted by name, to score on, and splits the rest: two fifths labeled, three fifths the pool. --test
splits the whole first half and scores on the last half instead: look at it once. Each row after the teacher
starts from the teacher and takes as many steps on as many images, each step on one view of each image.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_metric_learning.losses import ContrastiveLoss, MultiSimilarityLoss
from safetensors.torch import load_file
from torch import Tensor
from torchvision import transforms as T

from pml_slade.clustering import (
    class_means,
    cluster,
    smooth,
    suggest_num_clusters,
    suggest_num_neighbours,
    unit_rows,
    whiten,
)
from pml_slade.evaluation import evaluate
from pml_slade.losses import ClusterBasisLoss, FeatureBasisLoss

BATCH, RELABEL, SIZE, DIRECTIONS = 64, 100, 128, 384
PoolLoss = Callable[[Tensor, Tensor], Tensor]
"""Embeddings of pool images, and which images they are, to a loss."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="of class folders")
    parser.add_argument("--trunk", default="tf_efficientnet_lite0", help="a name of timm's")
    parser.add_argument("--weights", type=Path, required=True, help="of the trunk, .safetensors")
    parser.add_argument("--size", type=int, default=96, help="pixels a side")
    parser.add_argument("--views", type=int, default=6, help="of each image; the first is the centre")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument(
        "--steps", type=int, default=200, help="of each row after the teacher, which has half"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--test", action="store_true", help="score on the last half of the classes")
    parser.add_argument("--cache", type=Path, default=Path("runs/features"), help="folder for features")
    args = parser.parse_args()
    features, labels, half = all_views(args)
    scores: dict[str, list[float]] = {}
    for seed in args.seeds:
        for row, score in compare(args, features, labels, half, seed).items():
            scores.setdefault(row, []).append(score)
        print(f"seed {seed}: " + ", ".join(f"{row} {s[-1]:.2f}" for row, s in scores.items()), flush=True)
    print(table(scores))


def all_views(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, int]:
    """Features (views, images, d) of unit length, classes, and how many classes are the first half.

    The last half has its centre view alone, in each row of the views, and only for --test.
    """
    classes = sorted(p for p in args.folder.iterdir() if p.is_dir())
    half = len(classes) // 2
    first, labels = list_files(classes[:half])
    features = np.stack([cached_view(args, first, "first", view) for view in range(args.views)])
    if not args.test:
        return features, labels, half
    last, more = list_files(classes[half:])
    centre = np.broadcast_to(cached_view(args, last, "last", 0), (args.views, len(last), features.shape[2]))
    return np.concatenate([features, centre], axis=1), np.concatenate([labels, more + half]), half


def list_files(folders: list[Path]) -> tuple[list[Path], np.ndarray]:
    """Image files of these classes, and which class each is of."""
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())]
    return [file for file, _ in files], np.array([label for _, label in files])


def cached_view(args: argparse.Namespace, files: list[Path], half: str, view: int) -> np.ndarray:
    """Features (images, d), from the cache where they are there."""
    digest = hashlib.sha256(args.weights.read_bytes()).hexdigest()[:12]
    kept = args.cache / f"{args.folder.name}-{half}-{args.trunk}-{digest}-{args.size}px-view{view}.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        model = pretrained(args)
        torch.manual_seed(99 + view)
        partial = kept.with_suffix(".partial.npy")
        np.save(partial, embed_files(model, files, view_transforms(model, args.size)[min(view, 1)]))
        partial.replace(kept)
    return unit_rows(np.load(kept).astype(np.float32))


def pretrained(args: argparse.Namespace) -> torch.nn.Module:
    model = timm.create_model(args.trunk, num_classes=0)
    model.load_state_dict(load_file(args.weights))
    return model.eval().to(memory_format=torch.channels_last)


def view_transforms(model: torch.nn.Module, size: int) -> list[T.Compose]:
    """The centre, then random views, normalised as the trunk's authors do."""
    expected = timm.data.resolve_data_config({}, model=model)
    how = T.InterpolationMode(expected["interpolation"])
    after = [T.ToTensor(), T.Normalize(expected["mean"], expected["std"])]
    centre = [T.Resize(size, how), T.CenterCrop(size)]
    random = [
        T.RandomResizedCrop(size, (0.3, 1.0), interpolation=how),
        T.RandomHorizontalFlip(),
        T.ColorJitter(0.3, 0.3, 0.3, 0.05),
    ]
    return [T.Compose(centre + after), T.Compose(random + after)]


@torch.no_grad()
def embed_files(model: torch.nn.Module, files: list[Path], transform: T.Compose) -> np.ndarray:
    parts = []
    for start in range(0, len(files), BATCH):
        images = [transform(Image.open(file).convert("RGB")) for file in files[start : start + BATCH]]
        parts.append(model(torch.stack(images).to(memory_format=torch.channels_last)).numpy())
    return np.concatenate(parts).astype(np.float16)


@dataclass
class Split:
    """Features along principal directions of labeled images and pool, labels, and where a head starts."""

    labeled: Tensor
    labels: np.ndarray
    pool: Tensor
    pool_labels: np.ndarray
    scored: np.ndarray
    scored_labels: np.ndarray
    start: Tensor

    @property
    def num_clusters(self) -> int:
        """As many images a cluster as a labeled class has."""
        return suggest_num_clusters(self.pool.shape[1], len(self.labels) / (self.labels.max() + 1))

    def score(self, head: Tensor) -> float:
        """MAP@R with this head."""
        return evaluate(self.scored @ head.numpy(), self.scored_labels)["MAP@R"]


def make_split(features: np.ndarray, labels: np.ndarray, half: int, seed: int, test: bool) -> Split:
    """Draw the classes, and put features along principal directions of labeled images and pool."""
    drawn = np.random.default_rng(seed).permutation(half)
    held_out = 0 if test else len(drawn) // 3
    scored, rest = drawn[:held_out], drawn[held_out:]
    if test:
        scored = np.arange(half, labels.max() + 1)
    num_labeled = round(0.4 * len(rest))
    L, U, S = (np.flatnonzero(np.isin(labels, c)) for c in (rest[:num_labeled], rest[num_labeled:], scored))
    fit = features[0][np.concatenate([L, U])]
    centre, (variances, directions) = fit.mean(0), np.linalg.eigh(np.cov(fit.T))
    variances, directions = variances[: -DIRECTIONS - 1 : -1], directions[:, : -DIRECTIONS - 1 : -1]
    seen = ((features - centre) @ (directions / variances.sum() ** 0.5)).astype(np.float32)
    start = np.zeros((DIRECTIONS, SIZE), np.float32)
    np.fill_diagonal(start, variances[:SIZE] ** -0.25)  # half whitened
    start /= np.linalg.norm(seen[0] @ start, axis=1).mean()
    names = [np.unique(labels[i], return_inverse=True)[1] for i in (L, U, S)]
    as_tensor = torch.from_numpy
    return Split(
        as_tensor(seen[:, L]),
        names[0],
        as_tensor(seen[:, U]),
        names[1],
        seen[0, S],
        names[2],
        as_tensor(start),
    )


class Run:
    """A head in training, and the running average of its weights, which is scored and labels the pool."""

    def __init__(self, split: Split, args: argparse.Namespace, seed: int, before: Run | None = None) -> None:
        torch.manual_seed(seed)
        self.split, self.num_views = split, args.views
        self.random = np.random.default_rng(seed)
        self.head = torch.nn.Parameter((before.average if before else split.start).clone())
        self.average: Tensor = self.head.detach().clone()
        self.ranking = ContrastiveLoss(pos_margin=0.0, neg_margin=0.5)
        self.basis = FeatureBasisLoss(int(split.labels.max()) + 1, SIZE, regularizer=None)
        means = class_means((split.labeled[0] @ self.head).detach().numpy(), split.labels)
        self.basis.W.data = before.basis.W.detach().clone() if before else torch.from_numpy(means)
        self.clusters = ClusterBasisLoss(self.basis, len(split.pool[0]), margin=0.1)
        vectors = {"params": [self.basis.W, self.clusters.V], "lr": 3 * args.lr}
        self.optimizer = torch.optim.Adam([{"params": [self.head]}, vectors], lr=args.lr)
        self.steps_taken = 0

    def embed(self, images: Tensor, indices: np.ndarray) -> Tensor:
        """One view of each image, drawn at random."""
        return images[self.random.integers(0, self.num_views, len(indices)), indices] @ self.head

    def train(self, steps: int, num_labeled: int, pool_loss: PoolLoss | None, pool_batches: Iterator) -> Run:
        """Train on labeled images, and on pool images where there is a loss for them."""
        batches = grouped(self.split.labels, num_labeled, self.random)
        for _ in range(steps):
            chosen = next(batches)
            z, labels = self.embed(self.split.labeled, chosen), torch.from_numpy(self.split.labels[chosen])
            loss = self.ranking(z, labels) + self.basis(z, labels)
            if pool_loss is not None:
                chosen = next(pool_batches)
                loss = loss + pool_loss(self.embed(self.split.pool, chosen), torch.from_numpy(chosen))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.steps_taken += 1
            self.average.lerp_(self.head.detach(), max(0.01, 1 / (self.steps_taken + 1)))
        return self

    def pool_embeddings(self, views: int) -> np.ndarray:
        """Mean embedding of the pool's first views."""
        embeddings = [unit_rows((view @ self.average).numpy()) for view in self.split.pool[:views]]
        return unit_rows(np.mean(embeddings, axis=0))


def grouped(labels: np.ndarray, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches with two images of each of some classes, or more where the classes are too few."""
    members = [np.flatnonzero(labels == c) for c in range(labels.max() + 1)]
    each = 2
    while len(members) * each < size:
        each *= 2
    while True:
        order = random.permutation(len(members))
        for start in range(0, len(order) - size // each + 1, size // each):
            classes = [members[c] for c in order[start : start + size // each]]
            yield np.concatenate([random.choice(m, each, replace=len(m) < each) for m in classes])


def shuffled(known: np.ndarray, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        order = random.permutation(known)
        yield from order[: len(known) // size * size].reshape(-1, size)


def labeled_pool(run: Run, views: int, oracle: bool) -> np.ndarray:
    if oracle:
        return run.split.pool_labels
    k = run.split.num_clusters
    neighbours = suggest_num_neighbours(len(run.split.pool_labels), k)
    embeddings = run.pool_embeddings(views)
    clusters = cluster(
        embeddings, k, method="ward", whitening=0.5, num_neighbours=neighbours, min_cluster_size=2
    )
    return clusters.labels


def by_vectors(run: Run, views: int = 1, oracle: bool = False) -> tuple[PoolLoss, Iterator]:
    """The package's: a vector for each cluster, with a margin."""
    names = labeled_pool(run, views, oracle)
    run.clusters.start_from(torch.from_numpy(class_means((run.split.pool[0] @ run.average).numpy(), names)))
    targets = torch.from_numpy(names) + run.basis.num_classes
    known = np.flatnonzero(names >= 0)
    return lambda z, i: 2 * run.clusters(z, targets[i]), shuffled(known, BATCH // 2, run.random)


def by_pairs(run: Run, views: int = 1, oracle: bool = False) -> tuple[PoolLoss, Iterator]:
    """Multi-similarity loss on pseudo-labels."""
    names, rank = labeled_pool(run, views, oracle), MultiSimilarityLoss()
    targets = torch.from_numpy(names)
    return lambda z, i: 8 * rank(z, targets[i]), grouped(names, BATCH // 2, run.random)


def by_neighbours(
    run: Run, views: int | None = None, temperature: float = 0.1, scale: float = 16.0
) -> tuple[PoolLoss, Iterator]:
    """Each image predicts its neighbours in the pool, found by smoothed embeddings averaged over views."""
    views = views or run.num_views
    plain = run.pool_embeddings(views)
    smoothed = smooth(whiten(plain, 0.5), suggest_num_neighbours(len(plain), run.split.num_clusters))
    bank, seen = torch.from_numpy(plain), torch.from_numpy(smoothed)
    wanted = (seen @ seen.T / temperature).fill_diagonal_(-torch.inf).softmax(1)

    def loss(z: Tensor, i: Tensor) -> Tensor:
        logits = scale * F.normalize(z, dim=1) @ bank.T
        logits = logits.scatter(1, i[:, None], -1e4)  # an image is no neighbour of itself
        return 2 * F.cross_entropy(logits, wanted[i])

    return loss, shuffled(np.arange(len(plain)), BATCH // 2, run.random)


def by_both(run: Run) -> tuple[PoolLoss, Iterator]:
    """Half of `by_pairs` and all of `by_neighbours` on the same batches, all views of each."""
    pairs, batches = by_pairs(run, run.num_views)
    neighbours, _ = by_neighbours(run)
    return lambda z, i: pairs(z, i) / 2 + neighbours(z, i), batches


Recipe = Callable[[Run], tuple[PoolLoss, Iterator]]
ROWS: dict[str, Recipe] = {
    "vectors of clusters": by_vectors,
    "multi-similarity on clusters": by_pairs,
    "multi-similarity on clusters of all views": lambda run: by_pairs(run, run.num_views),
    "neighbours, one view": lambda run: by_neighbours(run, views=1),
    "neighbours, all views": by_neighbours,
    "neighbours, all views, sharper": lambda run: by_neighbours(run, temperature=0.05),
    "neighbours and multi-similarity, all views": by_both,
    "oracle, vectors": lambda run: by_vectors(run, oracle=True),
    "oracle, multi-similarity": lambda run: by_pairs(run, oracle=True),
}


def compare(
    args: argparse.Namespace, features: np.ndarray, labels: np.ndarray, half: int, seed: int
) -> dict[str, float]:
    """MAP@R of each row."""
    split = make_split(features, labels, half, seed, args.test)
    nothing: Iterator[np.ndarray] = iter(())
    teacher = Run(split, args, seed).train(args.steps // 2, BATCH // 2, None, nothing)
    control = Run(split, args, seed + 1, teacher).train(args.steps, BATCH, None, nothing)
    scores = {
        "start": split.score(split.start),
        "teacher": split.score(teacher.average),
        "control": split.score(control.average),
    }
    for row in args.rows:
        run = Run(split, args, seed + 1, teacher)
        for _ in range(0, args.steps, RELABEL):
            run.train(min(RELABEL, args.steps), BATCH // 2, *ROWS[row](run))
        scores[row] = split.score(run.average)
    return scores


def table(scores: dict[str, list[float]]) -> str:
    """MAP@R by row, its deviation over seeds, and what it gains over the best of the rows without a pool."""
    best = max(("start", "teacher", "control"), key=lambda row: mean(scores[row]))
    lines = [f"| row | MAP@R | over {best} | ahead in |", "| :-- | --: | --: | --: |"]
    for row, values in scores.items():
        over = [a - b for a, b in zip(values, scores[best])]
        spread = [f" ± {stdev(v):.2f}" if len(v) > 1 else "" for v in (values, over)]
        ahead = f"{sum(o > 0 for o in over)} of {len(over)}"
        lines.append(f"| {row} | {mean(values):.2f}{spread[0]} | {mean(over):+.2f}{spread[1]} | {ahead} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
