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
from typing import Any
from zlib import crc32

import numpy as np
import torch

from .. import processes
from ..averages import mean_of_models
from ..checkpoints import file_digest, write_atomic, write_json_atomic
from ..clustering import suggest_num_clusters
from ..datasets.draws import seed_everything
from ..datasets.features import FeatureViews
from ..datasets.fingerprints import digest
from ..datasets.images import ImageDataset
from ..datasets.splits import Splits, describe, shared_labels
from ..datasets.views import Views
from ..evaluation import map_at_r_by_class
from ..exceptions import CheckpointError, ConfigError, MachineError, SladeError
from ..faults import told
from ..locks import check_free, locked
from ..methods import Job, Method
from ..models import load_model, save_model
from . import data, pretraining
from .cards import write_card
from .frozen import build_feature_views, join, split
from .health import signs_of_pool
from .models import (
    build_models,
    check_model,
    embedding_model,
    identity_embedder,
    model_meta,
    starts_principal,
)
from .pool import PoolFacts, look_at_pool, pool_learned_from
from .rows import Inputs, Result, Row, check_run, clear_leftovers, keep_lists, list_parts, row_settings
from .settings import Config
from .stages import Metrics, Stage, Validation, check_space, run_stage
from .teachers import check_teacher_of, teacher_file
from .tracking import build_tracking
from .verdict import verdict

logger = logging.getLogger("pml_slade")

PACKAGES = ("pml-slade", "torch", "torchvision", "pytorch-metric-learning", "numpy")
NOT_TRAINED = "not trained yet"
FEW_PASSES = 3
"""Over labeled images, after which a teacher's neighbours among them are about as good as elsewhere."""
Models = dict[str, torch.nn.Module]


class Run:
    """Trains and measures the rows of a config in one folder; the same config resumes it.

    Args:
        config: all settings.
        progress: show progress bars.
        splits: images of your own in place of those that `config.data` names.

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
        self.tracking = build_tracking(config, progress)
        check_model(config)
        splits = data.usable(splits or data.build_splits(config), config.data)
        self.views = data.build_views(config, splits)
        self.reading = data.build_runtime(config, progress)
        self.is_frozen = config.model.train != "all"
        # What a frozen part gives is read from mapped files: faster than other processes would send it.
        self.runtime = replace(self.reading, workers=0) if self.is_frozen else self.reading
        self._check()

    @property
    def splits(self) -> Splits:
        """The images."""
        return self.views.splits

    @cached_property
    def lists(self) -> dict[str, list[str]]:
        """The images of each part, a line each."""
        return list_parts(self.splits)

    @cached_property
    def signs(self) -> list[str]:
        """What speaks against the pool, for people."""
        return signs_of_pool(self.config, self.splits, self.lists)

    def run(self) -> list[Result]:
        """Train what is not trained yet; return a result per row, in the order of the rows.

        Raises:
            ConfigError: another run holds the folder, or has begun a row in it with other settings or images.
            MachineError: the disk is full, memory is out, and the like.
        """
        with told(str), locked(self.folder) if processes.is_first() else nullcontext():
            return self._run()

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
        check_space(self.folder, "the rows that are left", self._parts, sum(self._turns(m) for m in left))
        self._describe()
        clear_leftovers(self.folder)
        keep_lists(self.folder, self.lists)
        write_atomic(self.folder / "config.yaml", self.config.to_yaml().encode())

    def _end(self, results: list[Result]) -> None:
        """Write the run's model, and what it is."""
        best = self.folder / self.best(results).model
        load_model(best)  # verified before it is copied
        write_atomic(self.folder / "model.safetensors", best.read_bytes())
        write_card(self.folder, self.config, results, self.best(results))

    def _admit(self) -> None:
        for method in self.config.chosen:
            Row(self.folder, method.key).admit(self._inputs(method), self.lists)

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
        return self._embed(self._load(self.folder / model), images)

    def verdict(self, results: list[Result]) -> str:
        """What the results say of the pool, in a few sentences."""
        return verdict(results, self.config.chosen, PoolFacts.read(self.folder))

    @property
    def pool(self) -> ImageDataset:
        """The images of the pool that are learned from."""
        return self._learned.splits.unlabeled

    def job(self, method: Method, images: Views | None = None) -> Job:
        """What a method works with here.

        Args:
            method: of a row.
            images: what it learns from; None: all, as they are.
        """
        config, views = self.config, images or self.views
        facts = processes.once(lambda: PoolFacts.read(self.folder))
        labeled, pool = views.splits.labeled, views.splits.unlabeled
        suggested = suggest_num_clusters(len(pool), len(labeled) / labeled.num_classes)
        return Job(
            teacher=config.teacher,
            student=config.student,
            own=config.own(method),
            num_classes=labeled.num_classes,
            num_clusters=config.student.num_clusters or suggested,
            embedding_size=config.model.embedding_size,
            runtime=self.runtime,
            images=views,
            freeze_batchnorm=bool(config.model.freeze_batchnorm),
            knows_photographs=config.knows_photographs,
            epoch_steps=config.epoch_steps,
            seed=config.seed,
            trust=None if facts is None else facts.neighbours_right / 100,
        )

    @cached_property
    def teacher(self) -> Method:
        """The method that the others start from."""
        return next(method for method in self.config.chosen if method.is_teacher)

    def _check_place(self) -> None:
        check_run(self.folder, [method.key for method in self.config.chosen])
        check_free(self.folder)

    def _check(self) -> None:
        """Refuse what cannot work, before anything is trained or written."""
        data.check_batches(self.config, self.splits)
        data.check_evaluation(self.splits)
        run = self.config.teacher.run
        if run is not None:
            processes.once(lambda: check_teacher_of(run, self._inputs(self.teacher), self.lists))
        models = build_models(self.config)
        if self.is_frozen:
            models["trunk"] = split(self.config, models["trunk"]).last
        self._parts = list(models.values())
        processes.once(self._admit)
        for method in self.config.chosen:
            method.check(self.job(method), copy.deepcopy(models))
        if self.config.pretraining.steps and self.config.teacher.run is None:
            pretraining.check(self.config, self._pretraining_images, self.reading)

    @cached_property
    def trunk(self) -> torch.nn.Module:
        """The trunk that nothing trains here, as it came."""
        models = build_models(self.config, self._pretrained())
        return self.runtime.place(models["trunk"]).eval()

    @cached_property
    def feature_views(self) -> FeatureViews:
        """What the frozen part of the trunk makes of the images."""
        return build_feature_views(self.config, self.views, split(self.config, self.trunk), self.reading)

    def _inputs(self, method: Method) -> Inputs:
        """What a row would be made from now."""
        depends = ["labeled", "validation", "test", "gallery"]
        learns_from_pool = self.config.pretraining.steps or starts_principal(self.config)
        if method.uses_pool or (method.is_teacher and learns_from_pool):
            depends.append("unlabeled")
        images = {part: digest(self.lists[part]) for part in depends if part in self.lists}
        return Inputs(row_settings(self.config, method), images, self._start(method))

    def _start(self, method: Method) -> str | None:
        """Digest of the file that a row starts from, if any."""
        config = self.config
        if method.starts_from_teacher:
            file = self._model_file(self.teacher) if self._is_done(self.teacher) else None
        elif method.is_teacher and config.teacher.run is not None:
            file = teacher_file(config.teacher.run)
        elif config.pretraining.steps:
            file = pretraining.pretrained_file(config)
        else:
            return None
        return file_digest(file) if file is not None and file.exists() else NOT_TRAINED

    def _result(self, method: Method) -> Result:
        """Train and measure a row, unless that is done."""
        row = Row(self.folder, method.key)
        done = processes.once(lambda: self._done(method, row))
        if done is not None:
            return done
        borrowed = self.config.teacher.run if method.is_teacher else None
        pretrained = None if method.starts_from_teacher or borrowed else self._pretrained()
        processes.once(lambda: self._begin_row(method, row))
        try:
            if not method.trains:
                models = self._untrained(method)
            elif borrowed:
                models = self._borrow(method, borrowed)
            else:
                models = self._train(method, pretrained)
        except (CheckpointError, MachineError):
            raise
        except SladeError as error:
            if processes.is_first():
                row.fail(error)
            raise
        result = self._measure(method, models)
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
        row.admit(inputs, self.lists)
        model = str(self._model_file(method).relative_to(self.folder))
        ours = {"row": method.key, "title": method.title, "model": model}  # not what a file says
        return Result(**done | ours)

    def _begin_row(self, method: Method, row: Row) -> None:
        inputs = self._inputs(method)
        row.admit(inputs, self.lists)
        row.begin(inputs)

    def _borrow(self, method: Method, run: Path) -> Models:
        """Take the teacher of another run."""

        def copy_file() -> None:
            file = teacher_file(run)
            load_model(file)  # verified before it is copied
            write_atomic(self._model_file(method), file.read_bytes())

        processes.once(copy_file)
        return self._load(self._model_file(method))

    def _train(self, method: Method, pretrained: Path | None) -> Models:
        """Train a row in all its turns, but for those whose models are there already."""
        if method.uses_pool and method.starts_from_teacher:
            self._look_at_pool()
        for turn in range(1, self._turns(method) + 1):
            file = self._model_file(method, turn)
            if not processes.once(file.exists):
                learned = self._learn(method, turn, file.parent, self._start_of(method, turn, pretrained))
                if self.config.student.soup and method.starts_from_teacher:
                    learned = self._soup(method, turn, file.parent, learned)
                self._save(file, self._whole(learned), model_meta(self.config))
        return self._load(file)

    def _look_at_pool(self) -> None:
        """Say, once, how far neighbours in the pool can be trusted, by the teacher's embeddings."""
        of = processes.once(lambda: digest([self._of_pool, file_digest(self._model_file(self.teacher))]))
        if processes.once(lambda: PoolFacts.read(self.folder, of)) is not None:
            return
        teacher, known = self._load(self._model_file(self.teacher)), self._hardly_learned()
        pool, labeled = (self._embed(teacher, part.without_labels()) for part in (self.pool, known))
        how = {"whitening": self.config.student.whitening, "device": self.runtime.device}
        count, labels = len(self.splits.unlabeled), known.known_labels()
        processes.once(lambda: look_at_pool(self.folder, of, count, pool, labeled, labels, **how))

    def _hardly_learned(self) -> ImageDataset:
        """Images with labels that the teacher was not long trained on: there its neighbours are no better."""
        labeled, validation, stage = self.splits.labeled, self.splits.validation, self.config.teacher
        if validation is None or stage.steps * stage.batch_size <= FEW_PASSES * len(labeled):
            return labeled
        return validation

    def _learn(self, method: Method, turn: int, folder: Path, start: Models) -> Models:
        """Train one turn of a row, going on after the checkpoints in a folder."""
        stage = self._stage(method, turn, folder, start)
        run_stage(stage)
        return stage.models

    def _soup(self, method: Method, turn: int, folder: Path, learned: Models) -> Models:
        """The mean of a student's weights and of those that it started from, or that labels alone taught."""
        other, labels = self._start_of(method, turn), method.anchor
        if labels is not None:
            same = turn == 1 and processes.once(lambda: self._is_done(labels))  # it is the same training
            place = self._model_file(labels, turn).parent if same else folder / labels.key
            other = self._learn(labels, turn, place, other)
        return mean_of_models([other, learned], [1 - method.share, method.share])

    def _start_of(self, method: Method, turn: int, pretrained: Path | None = None) -> Models:
        """What a turn starts from."""
        if turn > 1:  # the student promoted
            return self._load(self._model_file(method, turn - 1))
        if method.starts_from_teacher:
            return self._load(self._model_file(self.teacher))
        return self._fresh(pretrained)

    def _is_done(self, method: Method) -> bool:
        """Whether a method is a row of this run that is done."""
        chosen = method.key in [other.key for other in self.config.chosen]
        return chosen and Row(self.folder, method.key).is_done_with(self._inputs(method))

    def _untrained(self, method: Method) -> Models:
        """The trunk as it came, its features as embeddings."""
        size: Any = self.trunk.output_size
        models = {"trunk": self.trunk, "embedder": identity_embedder(size)}
        meta = model_meta(self.config) | {"embedding_size": size, "hidden_sizes": []}
        self._save(self._model_file(method), models, meta)
        return self._load(self._model_file(method))

    def _whole(self, models: Models) -> Models:
        """Models as they are kept: what is frozen in its place."""
        return {**models, "trunk": join(self.trunk, models["trunk"])} if self.is_frozen else models

    def _turns(self, method: Method) -> int:
        return self.config.student.iterations if method.starts_from_teacher else 1

    def _stage(self, method: Method, turn: int, folder: Path, models: Models) -> Stage:
        config, turns, job = self.config, self._turns(method), self.job(method, self._learned)
        seed = int(
            np.random.SeedSequence([config.seed, crc32(method.key.encode()), turn]).generate_state(1)[0]
        )
        seed_everything(seed)
        trainer, average = method.build(job, models, folder)
        if method.starts_from_teacher or starts_principal(config):
            method.begin(job, trainer)
        stage = Stage(
            name=method.title + (f" {turn}/{turns}" if turns > 1 else ""),
            folder=folder,
            trainer=trainer,
            epochs=method.training(job).steps // trainer.iterations_per_epoch,
            seed=seed,
            validate=None,
            images_per_class=method.images_per_class(job),
            average=average,
            tolerance=config.tolerance,
            checkpoint_minutes=config.checkpoint_minutes,
            numerics=self.runtime.numerics,
            progress=self.runtime.progress,
            tracking=self.tracking,
        )
        if self.splits.validation is not None:
            stage.validate = lambda: self._validation(stage.models)
        return stage

    def _fresh(self, pretrained: Path | None) -> Models:
        """Models that nothing has trained here; the embedder may start at principal components."""
        models = build_models(self.config, pretrained)
        if self.is_frozen:
            models["trunk"] = self.runtime.place(split(self.config, models["trunk"]).last)
        if starts_principal(self.config):
            views = self._learned
            parts = (views.splits.labeled, views.splits.unlabeled.without_labels())
            found = [self.runtime.embed(views.plain(part), models["trunk"]) for part in parts]
            embedder: Any = models["embedder"]
            features = torch.from_numpy(np.concatenate(found))
            embedder.to("cpu").start_from(features, self.config.model.embedder_whitening)
        return models

    @property
    def _images(self) -> Views:
        return self.feature_views if self.is_frozen else self.views

    @cached_property
    def _of_pool(self) -> str:
        """Stands for the images that may be learned from, and for what sees them."""
        settings = self.config.model.model_dump_json(exclude={"features"}), str(self.config.data.image_size)
        leaves_out = str(self.config.data.leave_out_unlike)
        return digest([*settings, leaves_out, *self.lists["labeled"], *self.lists["unlabeled"]])

    @cached_property
    def _learned(self) -> Views:
        """What is learned from: of the pool, images that are like the labeled ones."""
        views = self._images
        if not self.config.data.leave_out_unlike:
            return views
        trunk = split(self.config, self.trunk).last if self.is_frozen else self.trunk
        fewest = self.config.student.unlabeled_batch_size
        trunk = self.runtime.place(trunk).eval()
        pool = pool_learned_from(self.folder, self._of_pool, views, trunk, self.runtime, fewest)
        return replace(views, splits=replace(views.splits, unlabeled=pool))

    def _pretrained(self) -> Path | None:
        """The file of the pretrained trunk, where the run has that stage; trained if it is not there."""
        config, validation = self.config, self.splits.validation
        if not config.pretraining.steps:
            return None

        def validate(trunk: torch.nn.Module) -> Metrics:
            assert validation is not None
            vectors = self.reading.quiet.embed(self.views.plain(validation), trunk)
            return self.runtime.evaluate(vectors, validation.known_labels())

        measured = None if validation is None else validate
        return pretraining.pretrain(config, self._pretraining_images, self.reading, self.tracking, measured)

    @property
    def _pretraining_images(self) -> pretraining.Images:
        return {"labeled": self.splits.labeled, "unlabeled": self.splits.unlabeled}

    def _measure(self, method: Method, models: Models) -> Result:
        splits = self.splits
        validation, by_class = (None, None) if splits.validation is None else self._validation(models)
        steps, images = self._effort(method)
        return Result(
            row=method.key,
            title=method.title,
            steps=steps,
            images=images,
            validation=validation,
            validation_classes=by_class,
            test=None if splits.test is None else self._evaluate(models, splits.test, splits.gallery),
            model=str(self._model_file(method).relative_to(self.folder)),
        )

    def _effort(self, method: Method) -> tuple[int, int]:
        """Steps of a row, and the training images in them; those of what it is averaged with count, too."""
        if not method.trains:
            return 0, 0
        job = self.job(method)
        steps = method.training(job).steps * self._turns(method)
        images = steps * method.images_a_step(job)
        if self.config.student.soup and method.anchor is not None:
            more_steps, more_images = self._effort(method.anchor)
            return steps + more_steps, images + more_images
        return steps, images

    def _validation(self, models: Models) -> Validation:
        """Figures on the validation classes, and MAP@R of each of them."""
        validation = self.splits.validation
        assert validation is not None
        embeddings, labels = self._embed(models, validation), validation.known_labels()
        device = self.runtime.device
        by_class = processes.once(lambda: map_at_r_by_class(embeddings, labels, device=device))
        return self.runtime.evaluate(embeddings, labels), by_class.round(4).tolist()

    def _evaluate(
        self, models: Models, queries: ImageDataset, gallery: ImageDataset | None = None
    ) -> Metrics:
        if gallery is None:
            return self.runtime.evaluate(self._embed(models, queries), queries.known_labels())
        labels, gallery_labels = shared_labels(queries, gallery)
        found = self._embed(models, queries), labels, self._embed(models, gallery), gallery_labels
        return self.runtime.evaluate(*found)

    def _embed(self, models: Models, images: ImageDataset) -> np.ndarray:
        return self.runtime.quiet.embed(self._images.plain(images), embedding_model(models))

    def _model_file(self, method: Method, turn: int | None = None) -> Path:
        turns, folder = self._turns(method), self.folder / method.key
        return (folder / f"turn-{turn or turns}" if turns > 1 else folder) / "model.safetensors"

    def _save(self, file: Path, models: Models, meta: dict[str, Any]) -> None:
        processes.once(lambda: save_model(file, models, meta))

    def _load(self, file: Path) -> Models:
        model = load_model(file, device=self.runtime.device)
        trunk = split(self.config, model.trunk).last if self.is_frozen else model.trunk
        return {"trunk": trunk, "embedder": model.embedder}

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
            "device": str(self.runtime.device),
            "threads": torch.get_num_threads(),
        }
        write_json_atomic(file, facts)


def _map_at_r(result: Result) -> float:
    assert result.validation is not None
    return result.validation["MAP@R"]
