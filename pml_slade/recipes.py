"""How each row of a comparison is trained: its PML trainer, on its data, from its settings.

Every row but the teacher starts from the teacher, takes the same number of steps, and sees the same number
of images in them:

- ``control``: the teacher trained on, on labeled images alone;
- ``pseudo``: ranks pseudo-labeled images, too, labeled by clustering;
- ``slade``: has the whole feature basis, with its regulariser on the pool, and its miner if asked;
- ``oracle``: as ``slade``, with the pool's true labels: the most that better pseudo-labels could give.

Eq. 3 classifies labeled images and needs no pool. All rows have it, so that a row shows what the pool adds to
the row above; ``teacher.classifier=false`` leaves it to ``slade`` and ``oracle``, as in the paper's ablation.
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

from . import builders
from .checkpoints import write_array_atomic, write_json_atomic
from .clustering import suggest_num_clusters
from .config import Config, TrainingConfig
from .datasets import PseudoLabelDataset
from .datasets.images import ImageDataset
from .datasets.splits import Splits
from .exceptions import ConfigError
from .losses import FeatureBasisLoss
from .miners import ThresholdPairMiner
from .trainers import SelfTrainingTrainer

logger = logging.getLogger("pml_slade")

SUPERVISED = ("teacher", "control")
WHOLE_BASIS = ("slade", "oracle")

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
        together = settings.batch_size + self.config.student.unlabeled_batch_size
        if row not in SUPERVISED:
            return together
        return min(together, self.splits.labeled.num_classes * settings.images_per_class)


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


def build_trainer(setup: Setup, row: str, models: Models, folder: Path) -> Any:
    """Return the PML trainer of a row; pseudo-labels are made here, or read from `folder`."""
    models = {name: model.to(setup.device) for name, model in models.items()}
    losses, miners = _losses_and_miners(setup, row)
    settings = setup.settings(row)
    common: dict[str, Any] = {
        "models": models,
        "optimizers": _optimizers(setup, row, models, losses),
        "loss_funcs": {name: loss.to(setup.device) for name, loss in losses.items()},
        "mining_funcs": miners,
        "dataset": builders.with_transform(setup.splits.labeled, setup.config.data, train=True),
        "iterations_per_epoch": min(setup.config.epoch_steps, settings.steps),
        "data_device": setup.device,
        "freeze_trunk_batchnorm": setup.config.model.freeze_batchnorm,
        "dataloader_num_workers": setup.config.data.num_workers,
    }
    if row in SUPERVISED:
        _warn_of_fewer_images(setup, row)
        trainer = MetricLossOnly(batch_size=setup.images_a_step(row), **common)
    else:
        student = setup.config.student
        trainer = SelfTrainingTrainer(
            batch_size=student.batch_size,
            unlabeled_batch_size=student.unlabeled_batch_size,
            unlabeled_dataset=_pool(setup, row, models, folder),
            loss_weights=_loss_weights(setup, losses),
            basis_warmup=student.basis.warmup if "basis_loss" in losses else 0,
            **common,
        )
    if settings.schedule == "cosine":
        trainer.lr_schedulers = builders.build_cosine_schedulers(trainer.optimizers, settings.steps)
    return trainer


def _warn_of_fewer_images(setup: Setup, row: str) -> None:
    seen, fair = setup.images_a_step(row), setup.images_a_step("slade")
    if row == "control" and seen < fair:
        logger.warning(
            "control: the labeled classes fill batches of %d images, not %d: it sees fewer images.",
            seen,
            fair,
        )


def _losses_and_miners(setup: Setup, row: str) -> tuple[Losses, dict[str, Any]]:
    stage, settings, student = _stage(row), setup.settings(row), setup.config.student
    ranking = builders.build_loss(settings.loss, f"{stage}.loss", **_sizes(setup))
    basis = _basis(setup, row)
    miners: dict[str, Any] = {}
    if settings.miner is not None:
        miners["tuple_miner"] = builders.build_miner(settings.miner, f"{stage}.miner")
    if row in SUPERVISED:
        if basis is not None:
            weights = {"ranking": 1.0, "basis": student.basis_weight}
            ranking = MultipleLosses({"ranking": ranking, "basis": basis}, weights=weights)
        return {"metric_loss": ranking}, miners
    losses: Losses = {"metric_loss": ranking}
    if student.unlabeled_loss is not None:
        losses["unlabeled_metric_loss"] = builders.build_loss(
            student.unlabeled_loss, "student.unlabeled_loss"
        )
    if basis is not None:
        losses["basis_loss"] = basis
        if row in WHOLE_BASIS and student.mining == "eq7":
            miners["unlabeled_miner"] = ThresholdPairMiner(
                basis, basis, distance=basis.similarity, collect_stats=True
            )
    return losses, miners


def _basis(setup: Setup, row: str) -> FeatureBasisLoss | None:
    """The whole basis, Eq. 3 alone, or nothing, as the row has it."""
    if row not in WHOLE_BASIS and not setup.config.teacher.classifier:
        return None
    settings = setup.config.student.basis.model_dump(exclude={"lr", "warmup"})
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
    others = [p for p in part.parameters() if all(p is not W for W in bases)]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": bases, "lr": setup.config.student.basis.lr},
    ]
    return [group for group in groups if group["params"]]


def _loss_weights(setup: Setup, losses: Losses) -> dict[str, float]:
    student = setup.config.student
    weights = {"unlabeled_metric_loss": student.unlabeled_weight}
    if "basis_loss" in losses:
        weights["basis_loss"] = student.basis_weight
    return weights


def _pool(setup: Setup, row: str, models: Models, folder: Path) -> PseudoLabelDataset:
    """Label the pool, or read the labels that an interrupted run has written."""
    pool, offset = setup.splits.unlabeled, setup.splits.labeled.num_classes
    training = builders.with_transform(pool.without_labels(), setup.config.data, train=True)
    if row == "oracle":
        return PseudoLabelDataset(training, pool.known_labels(), offset)
    file = folder / "pseudo_labels.npy"
    if not file.exists():
        labeled = _cluster(setup, training, models, offset)
        write_json_atomic(folder / "clusters.json", {"summary": str(labeled.clusters)})
        write_array_atomic(file, labeled.pseudo_labels)
    return PseudoLabelDataset(training, np.load(file), offset)


def _cluster(setup: Setup, training: ImageDataset, models: Models, offset: int) -> PseudoLabelDataset:
    config, labeled = setup.config, setup.splits.labeled
    k = config.student.num_clusters or suggest_num_clusters(len(training), len(labeled) / labeled.num_classes)
    return PseudoLabelDataset.from_teacher(
        training,
        embedding_model(models),
        k,
        offset,
        embed_dataset=builders.with_transform(training, config.data, train=False),
        num_workers=config.data.num_workers,
        progress=setup.progress,
        seed=config.seed,
        min_cluster_size=config.student.min_cluster_size,
    )


def embedding_model(models: Models) -> torch.nn.Module:
    """Trunk and embedder as one module, images to embeddings."""
    return torch.nn.Sequential(models["trunk"], models["embedder"])
