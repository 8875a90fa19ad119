"""The whole run: teacher -> pseudo-labels -> student -> promote, and the other rows beside it."""

from __future__ import annotations

import copy
import logging
import platform
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from .. import processes
from ..checkpoints import file_digest, write_atomic, write_json_atomic
from ..datasets.fingerprints import digest
from ..datasets.images import ImageDataset
from ..datasets.splits import Splits, describe
from ..exceptions import CheckpointError, ConfigError, MachineError, SladeError
from ..faults import told
from ..locks import check_free, locked
from ..methods import Method
from ..models import load_model
from . import data, pretraining
from .cards import write_card
from .frozen import split
from .health import signs_of_pool
from .models import build_models, check_model, starts_principal
from .pool import PoolFacts
from .rows import Inputs, Result, Row, check_run, clear_leftovers, keep_lists, row_settings
from .settings import Config
from .stages import check_space
from .teachers import check_teacher_of, teacher_file
from .tracking import build_tracking
from .training import Training
from .verdict import verdict
from .workshop import Workshop

logger = logging.getLogger("pml_slade")

PACKAGES = ("pml-slade", "torch", "torchvision", "pytorch-metric-learning", "numpy")
NOT_TRAINED = "not trained yet"


class Run:
    """Trains and measures the rows of a config in one folder; the same config resumes it.

    Args:
        config: all settings.
        progress: show progress bars.
        splits: images of your own in place of those that `config.data` names.

    Attributes:
        shop: what the rows share.

    Raises:
        ConfigError: settings that do not fit; a row was begun with other settings or images; another run
            holds the folder.
        DataError: images that cannot be used.
    """

    def __init__(self, config: Config, progress: bool = True, splits: Splits | None = None) -> None:
        if not config.rows:
            raise ConfigError("rows is empty: name some, or run `pml-slade pretrain` to pretrain alone.")
        self.config = config
        self.folder = Path(config.output)
        processes.once(self._check_place)
        tracking = build_tracking(config, progress)
        check_model(config)
        splits = data.usable(splits or data.build_splits(config), config.data)
        self.shop = Workshop(config, splits, progress, tracking)
        self._check()

    @property
    def splits(self) -> Splits:
        """The images."""
        return self.shop.splits

    @property
    def pool(self) -> ImageDataset:
        """The images of the pool that are learned from."""
        return self.shop.pool

    @cached_property
    def signs(self) -> list[str]:
        """What speaks against the pool, for people."""
        return signs_of_pool(self.config, self.splits, self.shop.lists)

    @cached_property
    def teacher(self) -> Method:
        """The method that the others start from."""
        return next(method for method in self.config.chosen if method.is_teacher)

    def training(self, method: Method) -> Training:
        """What trains a row."""
        return Training(self.shop, method, self.teacher, self._is_done)

    def run(self) -> list[Result]:
        """Train what is not trained yet; return a result per row, in the order of the rows.

        Raises:
            ConfigError: another run holds the folder, or has begun a row in it with other settings or images.
            MachineError: the disk is full, memory is out, and the like.
        """
        with told(str), locked(self.folder) if processes.is_first() else nullcontext():
            return self._run()

    def best(self, results: list[Result]) -> Result:
        """The row whose model is the run's: the one that validates best; without validation, the last one."""
        bounds = {method.key for method in self.config.chosen if method.is_bound}
        usable = [result for result in results if result.row not in bounds]
        validated = [result for result in usable if result.validation is not None]
        return max(validated, key=_map_at_r) if validated else usable[-1]

    def embed(self, model: str, images: ImageDataset) -> np.ndarray:
        """Return embeddings of images, (N, d), by a row that is done.

        Args:
            model: `Result.model` of the row.
            images: N of the splits.
        """
        return self.shop.embed(self.shop.load(self.folder / model), images)

    def verdict(self, results: list[Result]) -> str:
        """What the results say of the pool, in a few sentences."""
        return verdict(results, self.config.chosen, PoolFacts.read(self.folder))

    def _check_place(self) -> None:
        check_run(self.folder, [method.key for method in self.config.chosen])
        check_free(self.folder)

    def _check(self) -> None:
        """Refuse what cannot work, before anything is trained or written."""
        data.check_batches(self.config, self.splits)
        data.check_evaluation(self.splits)
        run = self.config.teacher.run
        if run is not None:
            processes.once(lambda: check_teacher_of(run, self._inputs(self.teacher), self.shop.lists))
        models = build_models(self.config)
        if self.shop.is_frozen:
            models["trunk"] = split(self.config, models["trunk"]).last
        self._parts = list(models.values())
        processes.once(self._admit)
        for method in self.config.chosen:
            method.check(self.shop.job(method), copy.deepcopy(models))
        if self.config.pretraining.steps and self.config.teacher.run is None:
            pretraining.check(self.config, self.shop.pretraining_images, self.shop.reading)

    def _admit(self) -> None:
        for method in self.config.chosen:
            Row(self.folder, method.key).admit(self._inputs(method), self.shop.lists)

    def _run(self) -> list[Result]:
        processes.once(self._begin)
        results = []
        for method in self.config.chosen:
            results.append(self._result(method))
            if processes.is_first():
                write_json_atomic(self.folder / "results.json", [asdict(r) for r in results])
        processes.once(lambda: self._end(results))
        return results

    def _begin(self) -> None:
        """Write down what the run works with."""
        self._admit()  # another run may have come first
        for sign in self.signs:
            logger.warning("%s", sign)
        left = [m for m in self.config.chosen if m.trains and not self._is_done(m)]
        turns = sum(self.training(method).turns for method in left)
        check_space(self.folder, "the rows that are left", self._parts, turns)
        self._describe()
        clear_leftovers(self.folder)
        keep_lists(self.folder, self.shop.lists)
        write_atomic(self.folder / "config.yaml", self.config.to_yaml().encode())

    def _describe(self) -> None:
        """Write down, once, what this run works with."""
        file = self.folder / "environment.json"
        if file.exists():
            return
        look = self.config.data.check_duplicates
        facts = {
            "data": describe(self.splits),
            "duplicates": data.report_duplicates(self.splits) if look else "not looked for",
            "warnings": self.signs,
            "versions": {name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "machine": platform.machine(),
            "seed": self.config.seed,
            "device": str(self.shop.runtime.device),
            "threads": torch.get_num_threads(),
        }
        write_json_atomic(file, facts)

    def _end(self, results: list[Result]) -> None:
        """Write the run's model, and what it is."""
        best = self.folder / self.best(results).model
        load_model(best)  # verified before it is copied
        write_atomic(self.folder / "model.safetensors", best.read_bytes())
        write_card(self.folder, self.config, results, self.best(results))

    def _inputs(self, method: Method) -> Inputs:
        """What a row would be made from now."""
        depends, lists = ["labeled", "validation", "test", "gallery"], self.shop.lists
        learns_from_pool = self.config.pretraining.steps or starts_principal(self.config)
        if method.uses_pool or (method.is_teacher and learns_from_pool):
            depends.append("unlabeled")
        images = {part: digest(lists[part]) for part in depends if part in lists}
        return Inputs(row_settings(self.config, method), images, self._start(method))

    def _start(self, method: Method) -> str | None:
        """Digest of the file that a row starts from, if any."""
        config = self.config
        if method.starts_from_teacher:
            file = self.training(self.teacher).file if self._is_done(self.teacher) else None
        elif method.is_teacher and config.teacher.run is not None:
            file = teacher_file(config.teacher.run)
        elif config.pretraining.steps:
            file = pretraining.pretrained_file(config)
        else:
            return None
        return file_digest(file) if file is not None and file.exists() else NOT_TRAINED

    def _is_done(self, method: Method) -> bool:
        """Whether a method is a row of this run that is done."""
        chosen = method.key in [other.key for other in self.config.chosen]
        return chosen and Row(self.folder, method.key).is_done_with(self._inputs(method))

    def _result(self, method: Method) -> Result:
        """Train and measure a row, unless that is done."""
        row = Row(self.folder, method.key)
        done = processes.once(lambda: self._done(method, row))
        if done is not None:
            return done
        borrowed = self.config.teacher.run if method.is_teacher else None
        pretrained = None if method.starts_from_teacher or borrowed else self.shop.pretrained()
        processes.once(lambda: self._begin_row(method, row))
        training = self.training(method)
        try:
            if not method.trains:
                self.shop.save_untrained(training.file)
            elif borrowed:
                _borrow(borrowed, training.file)
            else:
                training.run(pretrained)
        except (CheckpointError, MachineError):
            raise
        except SladeError as error:
            if processes.is_first():
                row.fail(error)
            raise
        result = self._measure(training)
        if borrowed:
            theirs = Row(borrowed, method.key).result() or {}
            result = replace(result, steps=theirs["steps"], images=theirs["images"])
        if processes.is_first():
            row.finish(asdict(result))
        return result

    def _done(self, method: Method, row: Row) -> Result | None:
        """The result of a row that is done."""
        done, inputs = row.result(), self._inputs(method)
        if done is None or not row.is_done_with(inputs):
            return None
        row.admit(inputs, self.shop.lists)
        ours = {"row": method.key, "title": method.title, "model": self._model(self.training(method))}
        return Result(**done | ours)  # not what a file says

    def _begin_row(self, method: Method, row: Row) -> None:
        inputs = self._inputs(method)
        row.admit(inputs, self.shop.lists)
        row.begin(inputs)

    def _measure(self, training: Training) -> Result:
        models, method = self.shop.load(training.file), training.method
        nothing = self.splits.validation is None
        validation, by_class = (None, None) if nothing else self.shop.validate(models)
        steps, images = training.effort()
        return Result(
            row=method.key,
            title=method.title,
            steps=steps,
            images=images,
            validation=validation,
            validation_classes=by_class,
            test=self.shop.test(models),
            model=self._model(training),
        )

    def _model(self, training: Training) -> str:
        return str(training.file.relative_to(self.folder))


def _borrow(run: Path, file: Path) -> None:
    """Take the teacher of another run."""

    def copy_file() -> None:
        theirs = teacher_file(run)
        load_model(theirs)  # verified before it is copied
        write_atomic(file, theirs.read_bytes())

    processes.once(copy_file)


def _map_at_r(result: Result) -> float:
    assert result.validation is not None
    return result.validation["MAP@R"]
