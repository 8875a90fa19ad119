"""What powerful-benchmarker asks for the objects of a run: one API parser per trainer, named after it."""

from __future__ import annotations

import copy
import json
import logging
from operator import attrgetter, itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from powerful_benchmarker import api_parsers as theirs
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from ..checkpoints import write_array_atomic, write_json_atomic
from ..clustering import suggest_num_clusters
from ..datasets import ImageDataset, PseudoLabelDataset
from ..exceptions import ConfigError, DataError
from ..pretraining import MultiCrop
from .checks import OWN_KEYS, check_settings
from .datasets import AsDicts
from .experiments import find_experiment, load_best

logger = logging.getLogger("pml_slade")


class _Mended:
    """What all our API parsers add to powerful-benchmarker's.

    Settings are checked before anything is written; each fold starts from the best model of that fold where
    `initial_experiment` (its trunk) or `teacher` (all of it) name one; errors keep their message; schedulers
    are there in every fold.
    """

    starts_from: ClassVar[dict[str, tuple[str, ...]]] = {
        "initial_experiment": ("trunk",),
        "teacher": ("trunk", "embedder"),
    }
    """Settings that name an experiment, and the models that are taken from it."""
    reads: ClassVar[frozenset[str]] = frozenset({"initial_experiment", "teacher", "pool"})
    """Settings of ours that mean something here; the pool belongs to the data, whatever is trained."""

    args: Any
    models: Any
    pytorch_getter: Any
    factories: Any
    device: Any
    experiment_folder: str
    is_training: Any
    all_kwargs: Any

    def __init__(self, args: Any, **kwargs: Any) -> None:
        for key, default in OWN_KEYS.items():
            if not hasattr(args, key):
                setattr(args, key, default)
        # powerful-benchmarker writes into the settings as it builds; what it saves must be what was given.
        for key in ("transforms", "optimizers"):
            if not isinstance(getattr(args, key, None), dict):
                raise ConfigError(f"{key}: missing from the YAML tree.")
            setattr(args, key, copy.deepcopy(getattr(args, key)))
        super().__init__(args, **kwargs)  # type: ignore[call-arg]

    def run(self) -> Any:
        """Check, then run."""
        check_settings(self.args, self.pytorch_getter)
        for key in OWN_KEYS.keys() - self.reads:
            if getattr(self.args, key) != OWN_KEYS[key]:
                raise ConfigError(f"{key}: nothing reads it with trainer {next(iter(self.args.trainer))}.")
        if self.is_training():
            self.transforms = self.get_transforms()
            self.split_manager = self.get_split_manager()
            self.check()
        return super().run()  # type: ignore[misc]

    def check(self) -> None:
        """Refuse what cannot work, before anything is written."""
        for key, names in self.starts_from.items():
            if getattr(self.args, key) is None:
                continue
            models = self.get_model()
            for fold in self.split_manager.split_scheme_names:
                self._load(key, {name: models[name] for name in names}, fold)

    def get_transforms(self, **kwargs: Any) -> Any:
        """Made once."""
        if not hasattr(self, "transforms"):
            self.transforms = super().get_transforms(**kwargs)  # type: ignore[misc]
        return self.transforms

    def get_split_manager(self, **kwargs: Any) -> Any:
        """Made once."""
        if not hasattr(self, "split_manager"):
            self.split_manager = super().get_split_manager(**kwargs)  # type: ignore[misc]
        return self.split_manager

    def get_optimizers(self, **kwargs: Any) -> Any:
        """Made from a copy of the settings: the schedulers are taken out of them on the way."""
        given = self.args.optimizers
        self.args.optimizers = copy.deepcopy(given)
        try:
            optimizers, schedulers, clippers = super().get_optimizers(**kwargs)  # type: ignore[misc]
            # They come by optimizer, and PML's trainers know them by their own names only.
            return optimizers, {k: v for made in schedulers.values() for k, v in made.items()}, clippers
        finally:
            self.args.optimizers = given

    def set_curr_folders(self) -> None:
        """Turn to a fold."""
        super().set_curr_folders()  # type: ignore[misc]
        logger.info("%s: fold %s", self.args.experiment_name, self.split_manager.curr_split_scheme_name)

    def get_model(self, **kwargs: Any) -> Any:
        """Make the models of a fold; in training they start where the settings say."""
        models = super().get_model(**kwargs)  # type: ignore[misc]
        for key, names in self.starts_from.items():
            if self.is_training() and getattr(self.args, key) is not None:
                self._load(key, {name: models[name] for name in names}, self._fold())
        return models

    def _fold(self) -> str:
        return str(self.split_manager.curr_split_scheme_name)

    def _load(self, key: str, models: Any, fold: str) -> None:
        experiment = find_experiment(key, str(getattr(self.args, key)), Path(self.experiment_folder))
        load_best(key, experiment, fold, models)

    def run_train_or_eval(self) -> Any:
        """As theirs, which raises a bare ValueError in place of one that says what is wrong."""
        try:
            return super().run_train_or_eval()  # type: ignore[misc]
        except ValueError as error:
            if not error.args and isinstance(error.__context__, ValueError):
                raise error.__context__ from None
            raise


class BaseAPIParser(_Mended, theirs.BaseAPIParser):
    """For every trainer without one of its own."""


class APIMetricLossOnly(_Mended, theirs.BaseAPIParser):
    """For MetricLossOnly."""


class APITrainWithClassifier(_Mended, theirs.APITrainWithClassifier):
    """For TrainWithClassifier."""


class APICascadedEmbeddings(_Mended, theirs.APICascadedEmbeddings):
    """For CascadedEmbeddings."""


class APIDeepAdversarialMetricLearning(_Mended, theirs.APIDeepAdversarialMetricLearning):
    """For DeepAdversarialMetricLearning."""


class APIUnsupervisedEmbeddingsUsingAugmentations(
    _Mended, theirs.APIUnsupervisedEmbeddingsUsingAugmentations
):
    """For UnsupervisedEmbeddingsUsingAugmentations."""


class _WithPool(_Mended):
    """For trainers that take unlabeled images."""

    reads = _Mended.reads | {"pool_transforms"}

    def check(self) -> None:
        """The pool is there, too."""
        super().check()
        self.get_pool()

    def get_trainer(self, **kwargs: Any) -> Any:
        """A trainer, where something is to be trained: evaluation needs no pool."""
        if not self.is_training():
            return None
        trainer = super().get_trainer(**kwargs)  # type: ignore[misc]
        trainer.models = self.models  # not a copy: they are about to be wrapped for several GPUs
        return trainer

    def get_pool(self) -> ImageDataset:
        """The pool that the settings name, or the dataset's own; no labels, no transform."""
        if self.args.pool is None:
            dataset = self.split_manager.get_dataset("train", "train").dataset
            if not hasattr(dataset, "pool"):
                raise ConfigError(
                    f"pool: missing, and {type(dataset).__name__} has none of its own. Give one, for example "
                    "pool: {ImagePool: {path: folder}}."
                )
            return dataset.pool
        pool, arguments = self.pytorch_getter.get(
            "dataset", yaml_dict=self.args.pool, return_uninitialized=True
        )
        try:
            made = pool(**{"root": self.args.dataset_root, **arguments})
        except DataError as error:
            raise DataError(f"pool: {error}") from error
        if not hasattr(made, "pool"):
            raise ConfigError(f"pool: {pool.__name__} has no unlabeled images; ImagePool takes any folder.")
        return made.pool

    def pool_transform(self, use: str) -> Any:
        """The pool's transform for train or eval; by default that of the labeled images."""
        steps = (self.args.pool_transforms or {}).get(use)
        return self.transforms[use] if steps is None else self.make_transform(steps)

    def make_transform(self, steps: Any) -> Any:
        """A transform from its settings, as powerful-benchmarker makes those of the labeled images."""
        return self.factories["transform"].create(copy.deepcopy(steps), **self.all_kwargs("transforms"))


class APISelfTrainingTrainer(_WithPool, theirs.BaseAPIParser):
    """For SelfTrainingTrainer: the student is its fold's best teacher, which labels the pool."""

    reads = _WithPool.reads | {"num_clusters", "min_cluster_size"}

    def check(self) -> None:
        """There is a teacher, too."""
        if self.args.teacher is None:
            raise ConfigError("teacher: missing; name the experiment whose best models label the pool.")
        super().check()

    def get_mining_funcs(self, **kwargs: Any) -> Any:
        """Miners; an argument `basis_loss` or `basis_loss.similarity` stands for that object of the fold."""
        refer = {name: spec for name, spec in self.args.mining_funcs.items() if self._referring(spec)}
        others = {name: spec for name, spec in self.args.mining_funcs.items() if name not in refer}
        specs = {"named_specs": others, **self.all_kwargs("mining_funcs", kwargs)}
        made = self.factories["miner"].create(**specs) if others else {}
        losses = SimpleNamespace(**self.loss_funcs)
        for name, spec in refer.items():
            miner, arguments = self.pytorch_getter.get("miner", yaml_dict=spec, return_uninitialized=True)
            made[name] = miner(
                **{k: attrgetter(v)(losses) if self._is_reference(v) else v for k, v in arguments.items()}
            )
        return made

    def _referring(self, spec: Any) -> bool:
        return any(self._is_reference(v) for arguments in spec.values() for v in (arguments or {}).values())

    def _is_reference(self, value: Any) -> bool:
        return isinstance(value, str) and value.split(".")[0] in self.loss_funcs

    def default_kwargs_trainer(self) -> Any:
        """The arguments that the settings do not give."""
        return {**super().default_kwargs_trainer(), "unlabeled_dataset": self.get_pseudo_labeled_pool}

    def get_pseudo_labeled_pool(self) -> PseudoLabelDataset:
        """The pool as the fold's teacher labels it; a run that goes on reads what it wrote."""
        pool = self.get_pool().with_transform(self.pool_transform("train"))
        offset = self.split_manager.get_num_labels("train", "train")
        file = Path(self.model_folder).parent / "pseudo_labels.npy"
        self._check_same_labels(file.with_suffix(".json"), len(pool))
        if not file.exists():
            write_array_atomic(file, self._cluster(pool, offset).pseudo_labels)
        # The pool's items are pairs; the getter of powerful-benchmarker is for those of labeled datasets.
        return PseudoLabelDataset(pool, np.load(file), offset, data_getter=itemgetter(0))

    def _check_same_labels(self, note: Path, size: int) -> None:
        """Refuse to go on with pseudo-labels that were made otherwise; note how new ones are made."""
        keys = ("teacher", "num_clusters", "min_cluster_size", "pool_transforms")
        made = {**{key: getattr(self.args, key) for key in keys}, "images in the pool": size}
        if not note.exists():
            write_json_atomic(note, made)
        for key, before in json.loads(note.read_text(encoding="utf-8")).items():
            if made[key] != before:
                raise ConfigError(
                    f"{key}: the pseudo-labels of {self.args.experiment_name} were made with {before}, not "
                    f"{made[key]}: give the run another name."
                )

    def _cluster(self, pool: ImageDataset, offset: int) -> PseudoLabelDataset:
        labeled = len(self.split_manager.get_dataset("train", "train"))
        (trainer,) = self.args.trainer.values()
        return PseudoLabelDataset.from_teacher(
            pool,
            nn.Sequential(self.models["trunk"], self.models["embedder"]).to(self.device),
            self.args.num_clusters or suggest_num_clusters(len(pool), labeled / offset),
            offset,
            embed_dataset=pool.with_transform(self.pool_transform("eval")),
            num_workers=trainer.get("dataloader_num_workers", 0),
            progress=False,
            min_cluster_size=self.args.min_cluster_size,
        )


class APISwAVTrainer(_WithPool, theirs.BaseAPIParser):
    """For SwAVTrainer: views of the pool, and of the fold's training images without their labels."""

    reads = _Mended.reads | {"crops"}

    def check(self) -> None:
        """There are crops, too."""
        if not self.args.crops or "global" not in self.args.crops:
            raise ConfigError("crops: missing; give the transforms of the global crops of SwAV.")
        super().check()

    def default_kwargs_trainer(self) -> Any:
        """The arguments that the settings do not give; SwAV draws images at random."""
        given = {"dataset": self.get_views, "sampler": lambda: None}
        return {**super().default_kwargs_trainer(), **given}

    def training_assertions(self, trainer: Any) -> None:
        """None: it trains on views."""

    def get_views(self) -> Dataset[dict[str, Any]]:
        """Views of the images; `crops: pool_only` leaves the labeled ones out."""
        crops = self.args.crops
        made = {use: self.make_transform(crops[use]) for use in ("global", "local") if use in crops}
        views = MultiCrop(made["global"], made.get("local"), crops.get("num_local", 0))
        pool = AsDicts(self.get_pool().with_transform(views))
        if crops.get("pool_only", False):
            return pool
        labeled = self.split_manager.get_dataset("train", "train")
        images = copy.copy(labeled.dataset)
        images.transform = views
        return ConcatDataset([Subset(images, labeled.indices), pool])
