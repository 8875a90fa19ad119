"""How each row of a comparison is trained: its PML trainer, on its data, from its settings.

Every row but the teacher starts from the teacher, takes the same number of steps, and sees the same number
of images in them:

- ``control``: the teacher trained on, on labeled images alone;
- ``memory``: as ``control``, with a cross-batch memory of labeled embeddings;
- ``mean_teacher``, ``self_supervised``, ``self_taught``: a loss on the pool that needs no clusters;
- ``pseudo``: ranks pseudo-labeled images, too, labeled by clustering, once;
- ``iterated``: as ``pseudo``, labeled anew on the schedule of ``slade``;
- ``basis``: as ``pseudo``, with a feature basis and its regulariser; ``slade`` without its miner;
- ``slade``: the whole method as configured;
- ``oracle``: as ``slade``, with the pool's true labels: the most that better pseudo-labels could give.

Eq. 3 classifies labeled images and needs no pool. All rows have it, so that a row shows what the pool adds;
``teacher.classifier=false`` leaves it to ``basis``, ``slade`` and ``oracle``, as in the paper's ablation.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.losses import MultipleLosses
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.utils.data import RandomSampler

from . import builders
from .averages import ModelAverage
from .checkpoints import write_array_atomic, write_json_atomic
from .clustering import suggest_num_clusters, suggest_num_neighbours
from .config import Config, TrainingConfig
from .datasets import PseudoLabelDataset
from .datasets.pseudo_label_dataset import LEFT_OUT
from .datasets.splits import Splits
from .exceptions import ConfigError, DataError
from .losses import ClusterBasisLoss, FeatureBasisLoss
from .miners import ThresholdPairMiner
from .peers import MeanTeacherLoss, Memory, MomentumTrainer, SelfTaughtLoss, SelfTaughtTrainer, TwoViewsLoss
from .trainers import SelfTrainingTrainer
from .trainers.pool_labeling import check_relabeling

logger = logging.getLogger("pml_slade")

SUPERVISED = ("teacher", "control", "memory")
WHOLE_BASIS = ("basis", "slade", "oracle")
MOMENTUM: dict[str, Any] = {"mean_teacher": MomentumTrainer, "self_taught": SelfTaughtTrainer}
PEERS = ("self_supervised", *MOMENTUM)

Models = dict[str, torch.nn.Module]
Losses = dict[str, torch.nn.Module]


@dataclass(frozen=True)
class Setup:
    """What all rows of a run share."""

    config: Config
    splits: Splits
    device: torch.device
    progress: bool = True

    def settings(self, row: str) -> TrainingConfig:
        """Settings of the stage that a row is."""
        return self.config.teacher if row == "teacher" else self.config.student

    def images_a_step(self, row: str) -> int:
        """Images a row sees in each step: the controls make up in labeled ones for the unlabeled."""
        settings = self.settings(row)
        if row == "teacher":
            return settings.batch_size
        return settings.batch_size + self.config.student.unlabeled_batch_size

    def images_per_class(self, row: str) -> int:
        """Of a labeled batch: as configured, or as many more as the controls' classes need to fill theirs."""
        configured = self.settings(row).images_per_class
        if row not in SUPERVISED[1:]:
            return configured
        size, classes = self.images_a_step(row), self.splits.labeled.num_classes
        return next(m for m in range(configured, size + 1) if size % m == 0 and classes * m >= size)


def check(setup: Setup, rows: list[Any]) -> None:
    """Refuse what cannot work, before anything is trained.

    Raises:
        ConfigError: a loss, miner or optimizer that cannot be built; an oracle without true labels.
        DataError: batches that the classes or the pool cannot fill.
    """
    config = setup.config
    builders.check_batches(config, setup.splits)
    builders.check_evaluation(setup.splits)
    if "oracle" in rows and setup.splits.unlabeled.labels is None:
        raise ConfigError("rows: oracle needs the pool's true labels, and this pool has none.")
    if "oracle" in rows and (known := (_true_labels(setup) >= 0).sum()) < config.student.unlabeled_batch_size:
        raise DataError(
            f"rows: oracle has {known} images of true classes of two images or more, and no smaller than "
            f"clusters may be, fewer than student.unlabeled_batch_size={config.student.unlabeled_batch_size}."
        )
    models = builders.build_models(config)
    for row in rows:
        losses, _ = _losses_and_miners(setup, row)
        _optimizers(setup, row, models, losses)
        ranking = losses["metric_loss"]
        if row not in SUPERVISED and "unlabeled_metric_loss" not in losses and list(ranking.parameters()):
            raise ConfigError(
                f"student.loss: {config.student.loss.name} learns weights for the labeled classes and cannot "
                "rank pseudo-labels: give student.unlabeled_loss, for example {name: ContrastiveLoss}."
            )
        if every := _relabel_every(setup, row):
            check_relabeling(losses.get("unlabeled_metric_loss", ranking), every)


def build_trainer(setup: Setup, row: str, models: Models, folder: Path) -> tuple[Any, ModelAverage | None]:
    """Return the PML trainer of a row, and what follows its models, if anything.

    Pseudo-labels are made in training, and written to `folder`.
    """
    models = {name: model.to(setup.device) for name, model in models.items()}
    losses, miners = _losses_and_miners(setup, row)
    settings, data = setup.settings(row), setup.config.data
    average = None if settings.average is None else ModelAverage(models, settings.average)
    common: dict[str, Any] = {
        "models": models,
        "optimizers": _optimizers(setup, row, models, losses),
        "loss_funcs": {name: loss.to(setup.device) for name, loss in losses.items()},
        "mining_funcs": miners,
        "dataset": builders.with_transform(setup.splits.labeled, setup.config, train=True),
        "collate_fn": builders.build_collate(setup.config),
        "iterations_per_epoch": min(setup.config.epoch_steps, settings.steps),
        "data_device": setup.device,
        "freeze_trunk_batchnorm": setup.config.model.freeze_batchnorm,
        "dataloader_num_workers": data.num_workers,
    }
    if row in SUPERVISED:
        trainer = MetricLossOnly(batch_size=setup.images_a_step(row), **common)
    else:
        student = setup.config.student
        kind = MOMENTUM.get(row, SelfTrainingTrainer)
        trainer = kind(
            batch_size=student.batch_size,
            loss_weights=_loss_weights(setup, row, losses),
            basis_warmup=student.basis.warmup if row in WHOLE_BASIS else 0,
            teacher=None if average is None else average.models,
            **_pool(setup, row, folder),
            **common,
        )
    if settings.schedule == "cosine":
        trainer.lr_schedulers = builders.build_cosine_schedulers(trainer.optimizers, settings.steps)
    return trainer, average


def _losses_and_miners(setup: Setup, row: str) -> tuple[Losses, dict[str, Any]]:
    stage, settings, student = _stage(row), setup.settings(row), setup.config.student
    ranking = builders.build_loss(settings.loss, f"{stage}.loss", **_sizes(setup))
    basis = _basis(setup, row)
    miners: dict[str, Any] = {}
    if settings.miner is not None:
        miners["tuple_miner"] = builders.build_miner(settings.miner, f"{stage}.miner")
    if row == "memory":
        ranking = _with_memory(setup, ranking, miners.pop("tuple_miner", None))
    if row in SUPERVISED:
        if basis is not None:
            weights = {"ranking": 1.0, "basis": student.basis_weight}
            ranking = MultipleLosses({"ranking": ranking, "basis": basis}, weights=weights)
        return {"metric_loss": ranking}, miners
    losses: Losses = {"metric_loss": ranking}
    pool_loss = _pool_loss(setup, row, basis)
    if pool_loss is not None:
        losses["unlabeled_metric_loss"] = pool_loss
    if basis is not None:
        losses["basis_loss"] = basis
        if row in ("slade", "oracle") and student.mining == "eq7":
            miners["unlabeled_miner"] = ThresholdPairMiner(
                basis, basis, distance=basis.similarity, collect_stats=True
            )
    return losses, miners


def _with_memory(setup: Setup, ranking: torch.nn.Module, miner: Any) -> Memory:
    config = setup.config
    try:
        return Memory(ranking, config.model.embedding_size, config.peers.memory_size, miner)
    except Exception as error:
        raise ConfigError(
            f"rows: memory cannot go with student.loss={config.student.loss.name}: {error}"
        ) from None


def _pool_loss(setup: Setup, row: str, basis: FeatureBasisLoss | None) -> torch.nn.Module | None:
    """What the pool is trained with, or None for the ranking loss of the labeled images."""
    student, peers = setup.config.student, setup.config.peers
    if row == "mean_teacher":
        return MeanTeacherLoss()
    if row == "self_supervised":
        return TwoViewsLoss(peers.self_supervised_temperature)
    if row == "self_taught":
        # One view of each image: as many neighbours in the context as there are in a group.
        return SelfTaughtLoss(peers.self_taught_neighbours, normalize_student=True)
    if _classifies_clusters(setup, row):
        assert basis is not None
        return ClusterBasisLoss(basis, _most_clusters(setup, row), student.basis.cluster_margin)
    if student.unlabeled_loss is not None:
        return builders.build_loss(student.unlabeled_loss, "student.unlabeled_loss")
    if row in ("pseudo", "iterated") and peers.pseudo_loss is not None:
        return builders.build_loss(peers.pseudo_loss, "peers.pseudo_loss")
    return None


def _classifies_clusters(setup: Setup, row: str) -> bool:
    return row in WHOLE_BASIS and setup.config.student.basis.clusters


def _relabel_every(setup: Setup, row: str) -> int:
    return setup.config.student.relabel_every if row in ("iterated", "basis", "slade") else 0


def _most_clusters(setup: Setup, row: str) -> int:
    """Of the oracle, as many as the pool has classes."""
    if row == "oracle":
        return int(_true_labels(setup).max()) + 1
    return _num_clusters(setup)


def _num_clusters(setup: Setup) -> int:
    labeled, pool = setup.splits.labeled, setup.splits.unlabeled
    return setup.config.student.num_clusters or suggest_num_clusters(
        len(pool), len(labeled) / labeled.num_classes
    )


def _basis(setup: Setup, row: str) -> FeatureBasisLoss | None:
    """The whole basis, Eq. 3 alone, or nothing, as the row has it."""
    if row not in WHOLE_BASIS and not setup.config.teacher.classifier:
        return None
    settings = setup.config.student.basis.model_dump(exclude={"lr", "warmup", "clusters", "cluster_margin"})
    if row not in WHOLE_BASIS:
        settings["regularizer"] = None  # leaves Eq. 3
    return FeatureBasisLoss(**_sizes(setup), **settings)


def _sizes(setup: Setup) -> dict[str, Any]:
    return {
        "num_classes": setup.splits.labeled.num_classes,
        "embedding_size": setup.config.model.embedding_size,
    }


def _stage(row: str) -> str:
    return "teacher" if row == "teacher" else "student"


def _optimizers(setup: Setup, row: str, models: Models, losses: Losses) -> dict[str, torch.optim.Optimizer]:
    learning = models | {name: loss for name, loss in losses.items() if any(True for _ in loss.parameters())}
    settings, key = setup.settings(row), f"{_stage(row)}.optimizer"
    return {
        f"{name}_optimizer": builders.build_optimizer(settings, _groups(setup, part), key)
        for name, part in learning.items()
    }


def _groups(setup: Setup, part: torch.nn.Module) -> list[dict[str, Any]]:
    """Parameters of a part, a basis in it with its own learning rate."""
    bases = [m.W for m in part.modules() if isinstance(m, FeatureBasisLoss)]
    bases += [m.V for m in part.modules() if isinstance(m, ClusterBasisLoss)]
    others = [p for p in part.parameters() if all(p is not W for W in bases)]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": bases, "lr": setup.config.student.basis.lr},
    ]
    return [group for group in groups if group["params"]]


def _loss_weights(setup: Setup, row: str, losses: Losses) -> dict[str, float]:
    student, peers = setup.config.student, setup.config.peers
    own = getattr(peers, f"{row}_weight", None)
    weights = {"unlabeled_metric_loss": student.unlabeled_weight if own is None else own}
    if "basis_loss" in losses:
        weights["basis_loss"] = student.basis_weight
    return weights


def _pool(setup: Setup, row: str, folder: Path) -> dict[str, Any]:
    """Arguments of a SelfTrainingTrainer that concern the pool."""
    if row in PEERS:
        return _two_views(setup, row)
    config, pool = setup.config, setup.splits.unlabeled.without_labels()
    training = builders.with_transform(pool, config, train=True)
    by_clusters = _classifies_clusters(setup, row)  # and looks at no pairs
    arguments = {
        "unlabeled_dataset": training,
        "unlabeled_batch_size": config.student.unlabeled_batch_size,
        "unlabeled_images_per_class": None if by_clusters else config.student.images_per_class,
        "clustering_dataset": builders.with_transform(pool, config, train=False),
        "num_clusters": _num_clusters(setup),
        "cluster_kwargs": _clustering(setup),
        "relabel_every": _relabel_every(setup, row),
        "end_of_labeling_hook": lambda trainer: _write_labels(trainer.unlabeled_dataset, folder),
    }
    if row == "oracle":
        offset = setup.splits.labeled.num_classes
        arguments["unlabeled_dataset"] = PseudoLabelDataset(training, _true_labels(setup), offset)
    return arguments


def _two_views(setup: Setup, row: str) -> dict[str, Any]:
    """Likewise, of a peer without clusters: each image stands for itself, and is seen twice."""
    config, pool = setup.config, setup.splits.unlabeled.without_labels()
    views = builders.with_transform(pool, config, train=True, views=2)
    images = PseudoLabelDataset(views, np.arange(len(pool)), setup.splits.labeled.num_classes)
    size = config.student.unlabeled_batch_size
    arguments = {
        "unlabeled_dataset": images,
        "unlabeled_batch_size": size // 2 if row == "self_supervised" else size,  # it learns from both views
        "unlabeled_collate_fn": builders.build_collate(config, views=2),
    }
    if row == "self_taught":  # it draws nearest neighbours
        plain = builders.with_transform(pool, config, train=False)
        return arguments | {
            "clustering_dataset": plain,
            "cluster_kwargs": {"progress": setup.progress},
            "neighbours": config.peers.self_taught_neighbours,
        }
    return arguments | {"unlabeled_sampler": RandomSampler(images)}


def _true_labels(setup: Setup) -> np.ndarray:
    """The pool's, without classes smaller than clusters may be, or of one image, which matches nothing."""
    labels = setup.splits.unlabeled.known_labels()
    sizes = np.bincount(labels)
    kept = np.flatnonzero(sizes >= max(2, setup.config.student.min_cluster_size))
    renumber = np.full(len(sizes), LEFT_OUT)
    renumber[kept] = np.arange(len(kept))
    renumbered: np.ndarray = renumber[labels]
    return renumbered


def _clustering(setup: Setup) -> dict[str, Any]:
    student = setup.config.student
    neighbours = suggest_num_neighbours(len(setup.splits.unlabeled), _num_clusters(setup))
    return {
        "method": student.clustering,
        "whitening": student.whitening,
        "num_neighbours": neighbours if student.smooth else None,
        "seed": setup.config.seed,
        "min_cluster_size": student.min_cluster_size,
        "progress": setup.progress,
    }


def _write_labels(pool: PseudoLabelDataset, folder: Path) -> None:
    """For people: training goes on from the checkpoints alone."""
    write_json_atomic(folder / "clusters.json", {"summary": str(pool.clusters)})
    write_array_atomic(folder / "pseudo_labels.npy", pool.pseudo_labels)


def embedding_model(models: Models) -> torch.nn.Module:
    """Trunk and embedder as one module, images to embeddings."""
    return torch.nn.Sequential(models["trunk"], models["embedder"])
