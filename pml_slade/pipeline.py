"""The whole run: teacher -> pseudo-labels -> student -> promote, and the controls beside it."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from . import builders, recipes
from .checkpoints import write_atomic, write_json_atomic
from .clustering import embed
from .config import ROWS, Config
from .datasets.images import ImageDataset
from .datasets.pseudo_label_dataset import first_of_item
from .datasets.splits import Splits, describe, shared_labels
from .evaluation import evaluate
from .exceptions import ConfigError
from .models import load_model, save_model
from .pretrain import build_trainer, pretrain, pretrained_file
from .recipes import Models
from .runs import begin, check_folder
from .stages import Metrics, Stage, run_stage, seed_everything

logger = logging.getLogger("pml_slade")

PACKAGES = ("pml-slade", "torch", "torchvision", "pytorch-metric-learning", "numpy")


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
        model: file of the final models, relative to the run's folder.
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

    Args:
        config: all settings. See `recipes` for what the rows are.
        progress: show progress bars.
        splits: images of your own in place of those that `config.data` names.

    Raises:
        ConfigError: the folder holds a run with other settings; settings that do not fit.
        DataError: images that cannot be used.
    """

    def __init__(self, config: Config, progress: bool = True, splits: Splits | None = None) -> None:
        if not config.rows:
            raise ConfigError("rows is empty: name some, or run `pml-slade pretrain` to pretrain alone.")
        self.config = config
        self.folder = check_folder(config)
        builders.check_model(config)
        self.setup = recipes.Setup(
            config, splits or builders.build_splits(config), builders.build_device(config), progress
        )
        recipes.check(self.setup, list(config.rows))
        if config.pretraining.steps and not pretrained_file(config).exists():
            build_trainer(config, self._pretraining_images(), self.setup.device)

    def run(self) -> list[Result]:
        """Train what is not trained yet, and return a result per row, in the order of `config.ROWS`."""
        self._describe()
        begin(self.config)
        results = []
        for row in (row for row in ROWS if row in self.config.rows):
            results.append(self._row(row))
            write_json_atomic(self.folder / "results.json", [asdict(r) for r in results])
        best = "slade" if "slade" in self.config.rows else results[-1].row
        write_atomic(self.folder / "model.safetensors", self._model_file(best).read_bytes())
        return results

    def _row(self, row: str) -> Result:
        done = self.folder / row / "result.json"
        if done.exists():
            return Result(**json.loads(done.read_text()))
        for turn in range(1, self._turns(row) + 1):
            models = self._train(row, turn)
        result = self._measure(row, models)
        write_json_atomic(done, asdict(result))
        return result

    def _turns(self, row: str) -> int:
        return 1 if row == "teacher" else self.config.student.iterations

    def _train(self, row: str, turn: int) -> Models:
        """Train one turn of a row, unless its model is there already."""
        file = self._model_file(row, turn)
        if not file.exists():
            stage = self._stage(row, turn, file.parent)
            run_stage(stage)
            save_model(file, stage.models, builders.model_meta(self.config))
        return self._load(file)

    def _stage(self, row: str, turn: int, folder: Path) -> Stage:
        config = self.config
        if row == "teacher":
            models = builders.build_models(config, self._pretrained())
        else:  # the teacher, and then the student promoted
            models = self._load(self._model_file("teacher") if turn == 1 else self._model_file(row, turn - 1))
        seed = int(np.random.SeedSequence([config.seed, crc32(row.encode()), turn]).generate_state(1)[0])
        seed_everything(seed)
        trainer, average = recipes.build_trainer(self.setup, row, models, folder)
        stage = Stage(
            name=ROWS[row] + (f" {turn}/{self._turns(row)}" if self._turns(row) > 1 else ""),
            folder=folder,
            trainer=trainer,
            epochs=self.setup.settings(row).steps // trainer.iterations_per_epoch,
            seed=seed,
            validate=None,
            images_per_class=self.setup.images_per_class(row),
            average=average,
            tolerance=config.tolerance,
            progress=self.setup.progress,
        )
        validation = self.setup.splits.validation
        if validation is not None:
            stage.validate = lambda: self._evaluate(stage.models, validation)
        return stage

    def _pretrained(self) -> Path | None:
        """The file of the pretrained trunk, where the run has that stage."""
        if not self.config.pretraining.steps:
            return None
        validation = self.setup.splits.validation

        def validate(trunk: torch.nn.Module) -> Metrics:
            assert validation is not None
            return self._evaluate({"trunk": trunk, "embedder": torch.nn.Identity()}, validation)

        return pretrain(
            self.config,
            self._pretraining_images(),
            self.setup.device,
            None if validation is None else validate,
            self.setup.progress,
        )

    def _pretraining_images(self) -> list[ImageDataset]:
        return [self.setup.splits.labeled, self.setup.splits.unlabeled]

    def _measure(self, row: str, models: Models) -> Result:
        steps = self.setup.settings(row).steps * self._turns(row)
        splits = self.setup.splits
        return Result(
            row=row,
            title=ROWS[row],
            steps=steps,
            images=steps * self.setup.images_a_step(row),
            validation=None if splits.validation is None else self._evaluate(models, splits.validation),
            test=None if splits.test is None else self._evaluate(models, splits.test, splits.gallery),
            model=str(self._model_file(row).relative_to(self.folder)),
        )

    def _evaluate(
        self, models: Models, queries: ImageDataset, gallery: ImageDataset | None = None
    ) -> Metrics:
        if gallery is None:
            return evaluate(self._embed(models, queries), queries.known_labels())
        labels, gallery_labels = shared_labels(queries, gallery)
        return evaluate(self._embed(models, queries), labels, self._embed(models, gallery), gallery_labels)

    def _embed(self, models: Models, dataset: ImageDataset) -> np.ndarray:
        return embed(
            builders.with_transform(dataset, self.config, train=False),
            recipes.embedding_model(models),
            data_getter=first_of_item,
            batch_size=256,
            device=self.setup.device,
            num_workers=self.config.data.num_workers,
            progress=False,
        )

    def _model_file(self, row: str, turn: int | None = None) -> Path:
        turns = self._turns(row)
        folder = self.folder / row
        if turns > 1:
            folder /= f"turn-{turn or turns}"
        return folder / "model.safetensors"

    def _load(self, file: Path) -> Models:
        model = load_model(file, device=self.setup.device)
        return {"trunk": model.trunk, "embedder": model.embedder}

    def _describe(self) -> None:
        """Write down, once, what this run works with."""
        file = self.folder / "environment.json"
        if file.exists():
            return
        look = self.config.data.check_duplicates
        duplicates = builders.report_duplicates(self.setup.splits) if look else "not looked for"
        facts = {
            "data": describe(self.setup.splits),
            "duplicates": duplicates,
            "versions": {name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "machine": platform.machine(),
            "seed": self.config.seed,
            "device": str(self.setup.device),
            "threads": torch.get_num_threads(),
        }
        write_json_atomic(file, facts)
