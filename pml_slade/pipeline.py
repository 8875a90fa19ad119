"""The whole run: teacher -> pseudo-labels -> student -> promote, and the controls beside it."""

from __future__ import annotations

import difflib
import io
import json
import logging
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pytorch_metric_learning.trainers import MetricLossOnly

from . import builders
from .checkpoints import write_atomic, write_json_atomic
from .clustering import embed, suggest_num_clusters
from .config import ROWS, Config
from .datasets import PseudoLabelDataset
from .datasets.images import ImageDataset
from .datasets.pseudo_label_dataset import first_of_item
from .datasets.splits import Splits, describe
from .evaluation import evaluate
from .exceptions import ConfigError
from .losses import FeatureBasisLoss
from .miners import ThresholdPairMiner
from .models import load_model, save_model
from .stages import Metrics, Stage, run_stage, seed_everything
from .trainers import SelfTrainingTrainer

logger = logging.getLogger("pml_slade")

Models = dict[str, torch.nn.Module]

MAY_CHANGE = ("output", "rows", "device")


@dataclass(frozen=True)
class Result:
    """What one row came to.

    Attributes:
        row: key of `config.ROWS`.
        title: for people.
        steps: optimizer steps, those of the teacher it started from not counted.
        images: training images seen in them.
        validation: MAP@R, RP, P@1 on the validation classes in percent, or None.
        test: likewise on the test classes.
        model: file of the final models.
    """

    row: str
    title: str
    steps: int
    images: int
    validation: Metrics | None
    test: Metrics | None
    model: str


class Pipeline:
    """Runs the rows of a config in one folder; the same config goes on where it was stopped.

    Every row but the teacher starts from the teacher, takes the same number of steps, and sees the same
    number of images in them:

    - ``control``: the teacher trained on, on labeled images alone;
    - ``pseudo``: pseudo-labels from clustering, no basis;
    - ``slade``: pseudo-labels and the feature basis;
    - ``oracle``: as ``pseudo``, with the pool's true labels.

    Args:
        config: all settings.
        progress: show progress bars.

    Raises:
        ConfigError: the folder holds a run with other settings; settings that do not fit.
        DataError: images that cannot be used.
    """

    def __init__(self, config: Config, progress: bool = True) -> None:
        self.config = config
        self.progress = progress
        self.folder = Path(config.output)
        _check_folder(self.folder, config)
        self.device = builders.build_device(config)
        self.splits: Splits = builders.build_splits(config)
        builders.check_batches(config, self.splits)
        if "oracle" in config.rows and self.splits.unlabeled.labels is None:
            raise ConfigError("rows: oracle needs the pool's true labels, and this pool has none.")
        self._build_losses(config.teacher)  # an unknown loss is refused now, not after the teacher
        self._build_losses(config.student)

    def run(self) -> list[Result]:
        """Train what is not trained yet, and return a result per row."""
        write_atomic(self.folder / "config.yaml", self.config.to_yaml().encode())
        self._describe()
        results = []
        for row in ROWS:
            if row in self.config.rows:
                results.append(self._row(row))
                write_json_atomic(self.folder / "results.json", [asdict(r) for r in results])
        best = "slade" if "slade" in self.config.rows else results[-1].row
        write_atomic(self.folder / "model.safetensors", self._model_file(best).read_bytes())
        return results

    def _row(self, row: str) -> Result:
        done = self.folder / row / "result.json"
        if done.exists():
            return Result(**json.loads(done.read_text()))
        chain = 1 if row == "teacher" else self.config.student.iterations
        for turn in range(1, chain + 1):
            models = self._train(row, turn)
        result = self._measure(row, models)
        write_json_atomic(done, asdict(result))
        return result

    def _train(self, row: str, turn: int) -> Models:
        """Train one turn of a row, unless its model is there already."""
        file = self._model_file(row, turn)
        if file.exists():
            return self._load(file)
        folder = file.parent
        stage = self._stage(row, turn, folder)
        run_stage(stage)
        models: Models = stage.trainer.models
        save_model(file, models, builders.model_meta(self.config))
        return models

    def _stage(self, row: str, turn: int, folder: Path) -> Stage:
        config = self.config
        training = config.teacher if row == "teacher" else config.student
        if row == "teacher":
            models = builders.build_models(config)
        else:
            models = self._load(self._model_file("teacher") if turn == 1 else self._model_file(row, turn - 1))
        models = {name: model.to(self.device) for name, model in models.items()}
        seed_everything(config.seed, list(ROWS).index(row), turn)
        if row in ("teacher", "control"):
            trainer = self._supervised(row, models)
        else:
            trainer = self._student(row, models, folder)
        self._schedule(trainer, training.schedule, training.steps)
        validation = self.splits.validation
        return Stage(
            name=ROWS[row] + (f" {turn}/{config.student.iterations}" if turn > 1 else ""),
            folder=folder,
            trainer=trainer,
            epochs=training.steps // trainer.iterations_per_epoch,
            seed=int(np.random.SeedSequence([config.seed, list(ROWS).index(row), turn]).generate_state(1)[0]),
            validate=None if validation is None else lambda: self._evaluate(models, validation),
            images_per_class=training.images_per_class,
            progress=self.progress,
        )

    def _supervised(self, row: str, models: Models) -> MetricLossOnly:
        config = self.config
        training = config.teacher if row == "teacher" else config.student
        batch_size = training.batch_size
        if row == "control":  # as many images a step as a student sees
            batch_size += config.student.unlabeled_batch_size
            batch_size = self._fillable(batch_size, training.images_per_class)
        losses, miners = self._build_losses(training)
        return MetricLossOnly(
            models=models,
            optimizers=self._optimizers(training, models, losses),
            batch_size=batch_size,
            loss_funcs=_moved(losses, self.device),
            mining_funcs=miners,
            dataset=builders.with_transform(self.splits.labeled, config.data, train=True),
            **self._trainer_settings(training.steps),
        )

    def _fillable(self, batch_size: int, images_per_class: int) -> int:
        most = self.splits.labeled.num_classes * images_per_class
        if batch_size > most:
            logger.warning(
                "control: %d labeled classes fill batches of %d images, not %d: it sees fewer images.",
                self.splits.labeled.num_classes, most, batch_size,
            )  # fmt: skip
        return min(batch_size, most)

    def _student(self, row: str, models: Models, folder: Path) -> SelfTrainingTrainer:
        config, student = self.config, self.config.student
        losses, miners = self._build_losses(student)
        if student.unlabeled_loss is not None:
            losses["unlabeled_metric_loss"] = builders.build_loss(
                student.unlabeled_loss, "student.unlabeled_loss"
            )
        if row == "slade":
            losses["basis_loss"] = self._build_basis()
            if student.mining == "eq7":
                basis = losses["basis_loss"]
                miners["unlabeled_miner"] = ThresholdPairMiner(
                    basis, basis, distance=basis.similarity, collect_stats=True
                )
        weights = {"unlabeled_metric_loss": student.unlabeled_weight, "basis_loss": student.basis_weight}
        return SelfTrainingTrainer(
            models=models,
            optimizers=self._optimizers(student, models, losses),
            batch_size=student.batch_size,
            loss_funcs=losses,
            mining_funcs=miners,
            loss_weights={k: w for k, w in weights.items() if k in losses or k == "unlabeled_metric_loss"},
            dataset=builders.with_transform(self.splits.labeled, config.data, train=True),
            unlabeled_dataset=self._pseudo_labels(row, models, folder),
            unlabeled_batch_size=student.unlabeled_batch_size,
            basis_warmup=student.basis.warmup if row == "slade" else 0,
            **self._trainer_settings(student.steps),
        )

    def _pseudo_labels(self, row: str, models: Models, folder: Path) -> PseudoLabelDataset:
        """Label the pool, or read the labels that an interrupted run has written."""
        pool = self.splits.unlabeled
        offset = self.splits.labeled.num_classes
        training_pool = builders.with_transform(pool.without_labels(), self.config.data, train=True)
        if row == "oracle":
            assert pool.labels is not None  # __init__ has seen to it
            return PseudoLabelDataset(training_pool, pool.labels, offset)
        file = folder / "pseudo_labels.npy"
        if not file.exists():
            labeled = self._cluster(training_pool, pool, models, offset)
            full = np.full(len(pool), -1, dtype=np.int64)
            full[labeled.indices] = labeled.labels - offset
            _save_array(file, full)
            write_json_atomic(folder / "clusters.json", {"summary": str(labeled.clusters)})
        return PseudoLabelDataset(training_pool, np.load(file), offset)

    def _cluster(
        self, training_pool: ImageDataset, pool: ImageDataset, models: Models, offset: int
    ) -> PseudoLabelDataset:
        student, labeled = self.config.student, self.splits.labeled
        k = student.num_clusters or suggest_num_clusters(len(pool), len(labeled) / labeled.num_classes)
        return PseudoLabelDataset.from_teacher(
            training_pool,
            _embedding_model(models),
            k,
            offset,
            embed_dataset=builders.with_transform(pool.without_labels(), self.config.data, train=False),
            num_workers=self.config.data.workers,
            progress=self.progress,
            seed=self.config.seed,
            min_cluster_size=student.min_cluster_size,
        )

    def _build_losses(self, training: Any) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
        name = "teacher" if training is self.config.teacher else "student"
        known = {
            "num_classes": self.splits.labeled.num_classes,
            "embedding_size": self.config.model.embedding_size,
        }
        losses = {"metric_loss": builders.build_loss(training.loss, f"{name}.loss", **known)}
        if training.miner is None:
            return losses, {}
        return losses, {"tuple_miner": builders.build_miner(training.miner, f"{name}.miner")}

    def _build_basis(self) -> FeatureBasisLoss:
        settings = self.config.student.basis.model_dump(exclude={"lr", "warmup"})
        return FeatureBasisLoss(
            num_classes=self.splits.labeled.num_classes,
            embedding_size=self.config.model.embedding_size,
            **settings,
        )

    def _optimizers(self, training: Any, models: Models, losses: dict[str, torch.nn.Module]) -> Any:
        basis_lr = self.config.student.basis.lr
        parts = models | {k: v for k, v in losses.items() if any(True for _ in v.parameters())}
        return {
            f"{name}_optimizer": builders.build_optimizer(
                training, part, lr=basis_lr if name == "basis_loss" else None
            )
            for name, part in parts.items()
        }

    def _trainer_settings(self, steps: int) -> dict[str, Any]:
        return {
            "iterations_per_epoch": min(self.config.epoch_steps, steps),
            "data_device": self.device,
            "dataloader_num_workers": self.config.data.workers,
        }

    def _schedule(self, trainer: Any, schedule: str, steps: int) -> None:
        if schedule == "cosine":
            trainer.lr_schedulers = {
                name.replace("_optimizer", "_scheduler_by_iteration"): (
                    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
                )
                for name, optimizer in trainer.optimizers.items()
            }

    def _measure(self, row: str, models: Models) -> Result:
        training = self.config.teacher if row == "teacher" else self.config.student
        chain = 1 if row == "teacher" else self.config.student.iterations
        images = training.batch_size
        if row != "teacher":
            images += self.config.student.unlabeled_batch_size
        if row == "control":
            images = self._fillable(images, training.images_per_class)
        validation, test = self.splits.validation, self.splits.test
        return Result(
            row=row,
            title=ROWS[row],
            steps=training.steps * chain,
            images=training.steps * chain * images,
            validation=None if validation is None else self._evaluate(models, validation),
            test=None if test is None else self._evaluate(models, test),
            model=str(self._model_file(row).relative_to(self.folder)),
        )

    def _evaluate(self, models: Models, dataset: ImageDataset) -> Metrics:
        data = builders.with_transform(dataset, self.config.data, train=False)
        embeddings = embed(
            data,
            _embedding_model(models),
            data_getter=first_of_item,
            batch_size=256,
            device=self.device,
            num_workers=self.config.data.workers,
            progress=False,
        )
        return evaluate(embeddings, data.known_labels())

    def _model_file(self, row: str, turn: int | None = None) -> Path:
        chain = 1 if row == "teacher" else self.config.student.iterations
        turn = chain if turn is None else turn
        return self.folder / row / (f"turn-{turn}" if chain > 1 else "") / "model.safetensors"

    def _load(self, file: Path) -> Models:
        model = load_model(file, device=self.device)
        return {"trunk": model.trunk, "embedder": model.embedder}

    def _describe(self) -> None:
        facts = self.folder / "environment.json"
        if facts.exists():
            return
        write_json_atomic(
            facts,
            {
                "data": describe(self.splits),
                "duplicates": builders.report_duplicates(self.splits)
                if self.config.data.check_duplicates
                else "not looked for",
                "versions": {
                    name: version(name)
                    for name in ("pml-slade", "torch", "torchvision", "pytorch-metric-learning", "numpy")
                },
                "python": platform.python_version(),
                "machine": platform.machine(),
                "device": str(self.device),
                "threads": torch.get_num_threads(),
            },
        )


def _embedding_model(models: Models) -> torch.nn.Module:
    return torch.nn.Sequential(models["trunk"], models["embedder"])


def _moved(losses: dict[str, torch.nn.Module], device: torch.device) -> dict[str, torch.nn.Module]:
    return {name: loss.to(device) for name, loss in losses.items()}


def _save_array(file: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomic(file, buffer.getvalue())


def _check_folder(folder: Path, config: Config) -> None:
    """Make sure that the folder was begun with the same settings; rows may be added, and folders moved."""
    file = folder / "config.yaml"
    if not file.exists():
        return
    before, after = (
        yaml.safe_dump({k: v for k, v in yaml.safe_load(text).items() if k not in MAY_CHANGE}).splitlines()
        for text in (file.read_text(), config.to_yaml())
    )
    if before != after:
        changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
        raise ConfigError(
            f"output: {folder} holds a run with other settings; give another output folder, or delete it. "
            "Changed:\n  " + "\n  ".join(changed)
        )
