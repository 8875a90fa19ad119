"""From settings to objects."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from torch.optim.lr_scheduler import CosineAnnealingLR

from .config import Config, DataConfig, NamedConfig, PretrainingConfig, TrainingConfig
from .datasets.catalogue import CATALOGUE
from .datasets.duplicates import find_duplicates
from .datasets.folders import open_images
from .datasets.glyphs import glyphs_splits
from .datasets.images import ImageDataset
from .datasets.omniglot import omniglot_splits
from .datasets.splits import Splits, check_gallery, split_validation
from .datasets.transforms import batch_transforms, transforms
from .datasets.trunk_input import TrunkInput
from .exceptions import ConfigError, DataError
from .models import build_model, build_trunk, check_forward, trunk_input
from .models.trunks import shapes_alone
from .pretraining import lars

logger = logging.getLogger("pml_slade")

MIN_CLASSES_FOR_VALIDATION = 10


def build_device(config: Config) -> torch.device:
    """Return the device asked for; `auto` is the first GPU where there is one."""
    return find_device(config.device)


def find_device(name: str) -> torch.device:
    """Return a device by name.

    Examples:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def build_splits(config: Config) -> Splits:
    """Return labeled, unlabeled, validation and test images; transforms come later."""
    data = config.data
    if data.kind == "glyphs":
        return glyphs_splits(
            image_size=data.image_size, seed=config.seed, validation_fraction=data.validation_fraction
        )
    if data.kind == "omniglot":
        return omniglot_splits(
            data.root,
            labeled_alphabets=data.labeled_alphabets,
            seed=config.seed,
            validation_fraction=data.validation_fraction,
            image_size=data.image_size,
        )
    return _own_splits(data, config.seed)


def build_pretraining_images(config: Config) -> list[ImageDataset]:
    """Return labeled and unlabeled images, or those given; none that is held out of the labeled ones."""
    data = config.data
    if data.kind != "images" or (data.labeled is not None and data.unlabeled is not None):
        splits = build_splits(config)
        return [splits.labeled, splits.unlabeled]
    if data.labeled is not None:
        return [_labeled(data, config.seed)[0]]
    test, _ = _test(data)
    return [_unlabeled(data, test)]


def _own_splits(data: DataConfig, seed: int) -> Splits:
    labeled, validation = _labeled(data, seed)
    test, gallery = _test(data)
    unlabeled = _unlabeled(data, test, validation)
    name = str(data.labeled) if _is_named(data.labeled) else "images"
    return Splits(labeled, unlabeled, validation, test, name, gallery)


def _labeled(data: DataConfig, seed: int) -> tuple[ImageDataset, ImageDataset | None]:
    """Labeled images without the validation classes, and these."""
    assert data.labeled is not None  # Config has seen to it
    labeled = _open(data, "labeled", data.labeled, "train")
    if data.validation is not None:
        return labeled.relabel(), _open(data, "validation", data.validation, "test")
    fraction = data.validation_fraction
    if fraction and labeled.num_classes < MIN_CLASSES_FOR_VALIDATION:
        logger.warning(
            "data.labeled has %d classes, too few to keep some for validation: the last epoch is taken.",
            labeled.num_classes,
        )
        fraction = 0.0
    return split_validation(labeled, fraction, seed)


def _test(data: DataConfig) -> tuple[ImageDataset | None, ImageDataset | None]:
    """Test images and their gallery: by default the official ones of the labeled data set."""
    path = data.labeled if data.test is None and _is_named(data.labeled) else data.test
    if path is None:
        return None, None
    test = _open(data, "test", path, "test")
    if data.gallery is not None:
        return test, _open(data, "gallery", data.gallery, "gallery")
    official = _is_named(path) and "gallery" in CATALOGUE[str(path)].splits
    return test, _open(data, "gallery", path, "gallery") if official else None


def _unlabeled(data: DataConfig, *held_out: ImageDataset | None) -> ImageDataset:
    """The pool; where it is a named data set, without the classes of what is held out."""
    assert data.unlabeled is not None  # Config has seen to it
    names = {name for part in held_out if part is not None for name in part.classes or ()}
    exclude = names if data.exclude_held_out else ()
    return _open(data, "unlabeled", data.unlabeled, "all", exclude)


def _is_named(path: Path | None) -> bool:
    """Whether it is the name of a data set; a folder of that name right here wins."""
    return path is not None and str(path) in CATALOGUE and not path.exists()


def _open(data: DataConfig, key: str, path: Path, part: str, exclude: Iterable[str] = ()) -> ImageDataset:
    """A part of a named data set, or whatever lies at `path`; of `all`, labels are not asked for.

    Args:
        data: settings of the data.
        key: the setting that `path` comes from, for messages.
        path: folder, CSV or name.
        part: of a named data set, "train", "test", "gallery" or "all".
        exclude: classes left out of a named data set.
    """
    if not _is_named(path):
        near = difflib.get_close_matches(str(path).lower(), map(str.lower, CATALOGUE), n=1, cutoff=0.8)
        if near and not path.exists():
            name = next(n for n in CATALOGUE if n.lower() == near[0])
            raise DataError(f"data.{key}: there is no {path}; did you mean the data set {name}?")
        return open_images(path, mode=data.mode, labeled=part != "all")
    kind = CATALOGUE[str(path)]
    split = "query" if part == "test" and "query" in kind.splits else part
    if split not in kind.splits:
        raise DataError(f"data.{key}: {path} has no {part}; it has {', '.join(kind.splits)}.")
    logger.info("data.%s: %s of %s", key, split, path)
    return kind(data.root, split, mode=data.mode, complete=data.complete, exclude=exclude)


def report_duplicates(splits: Splits) -> str | None:
    """Look for test images in the pool, and say so; None where there is no test set."""
    if splits.test is None:
        return None
    reports = []
    for name, part in (("test", splits.test), ("gallery", splits.gallery)):
        if part is not None:
            logger.info("looking for images of the %s in the pool", name)
            reports.append(f"pool against {name}: {find_duplicates(splits.unlabeled, part)}")
            logger.info(reports[-1])
    return "; ".join(reports)


def with_transform(dataset: ImageDataset, config: Config, train: bool, views: int = 1) -> ImageDataset:
    """Return the dataset under the run's transform for training or for evaluation.

    What a batch goes through in training besides, `build_collate` has.
    """
    if train:
        return dataset.with_transform(_batch_transforms(config, views)[0])
    data = config.data
    expected = build_trunk_input(config)
    return dataset.with_transform(
        transforms(data.transform, data.image_size, data.mode, trunk_input=expected)
    )


def build_collate(config: Config, views: int = 1) -> Callable[[list[Any]], Any] | None:
    """Return what makes a training batch of items, or None for PyTorch's own."""
    return _batch_transforms(config, views)[1]


def _batch_transforms(config: Config, views: int) -> tuple[Any, Callable[[list[Any]], Any] | None]:
    data = config.data
    return batch_transforms(
        data.transform, data.image_size, data.mode, data.augmentation, views, build_trunk_input(config)
    )


def build_trunk_input(config: Config) -> TrunkInput | None:
    """Return what the trunk expects of photographs; drawings are what they are."""
    model, data = config.model, config.data
    return trunk_input(model.trunk, data.mode, model.weights) if data.transform == "photo" else None


def check_model(config: Config) -> None:
    """Refuse a trunk, options or an image size that do not fit each other, before anything is read."""
    model, channels = config.model, len(config.data.mode)
    with shapes_alone():
        trunk = build_trunk(model.trunk, channels, **model.trunk_options)
    check_forward({"trunk": trunk}, config.data.image_size, channels)


def build_models(config: Config, weights: Path | None = None) -> dict[str, torch.nn.Module]:
    """Return a fresh trunk and embedder; the same seed gives the same weights.

    Args:
        config: all settings.
        weights: file that the trunk starts from, in place of `model.weights`.
    """
    torch.manual_seed(config.seed)
    model = config.model
    return build_model(
        model.trunk,
        model.embedding_size,
        in_channels=len(config.data.mode),
        weights=weights or model.weights,
        hidden_sizes=tuple(model.hidden_sizes),
        trunk_options=model.trunk_options,
    )


def model_meta(config: Config) -> dict[str, Any]:
    """Return what is needed to rebuild the model and its transform from a file."""
    model, data = config.model, config.data
    expected = build_trunk_input(config)
    return {
        "trunk": model.trunk,
        "trunk_options": dict(model.trunk_options),
        "embedding_size": model.embedding_size,
        "hidden_sizes": list(model.hidden_sizes),
        "in_channels": len(data.mode),
        "image_size": data.image_size,
        "mode": data.mode,
        "transform": data.transform,
        "input": None if expected is None else expected.as_meta(),
    }


def build_named(config: NamedConfig, module: ModuleType, key: str, **known: Any) -> torch.nn.Module:
    """Build a class of pytorch-metric-learning by name.

    Args:
        config: name and arguments.
        module: where to look.
        key: the setting's name, for messages.
        known: arguments that are given where the class asks for them (num_classes, embedding_size).

    Examples:
        >>> build_named(NamedConfig(name="ContrastiveLoss", neg_margin=0.5), losses, "loss").neg_margin
        0.5
    """
    names = [n for n in dir(module) if inspect.isclass(getattr(module, n))]
    if config.name not in names:
        near = difflib.get_close_matches(config.name, names, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{key}.name: {module.__name__} has no {config.name}; did you mean {near}?")
    kind = getattr(module, config.name)
    asked = inspect.signature(kind.__init__).parameters
    arguments = {k: v for k, v in known.items() if k in asked} | config.arguments
    try:
        built: torch.nn.Module = kind(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{key}: {config.name} refused {arguments}: {error}") from None
    return built


def build_loss(config: NamedConfig, key: str, **known: Any) -> torch.nn.Module:
    """Build a loss of pytorch-metric-learning."""
    return build_named(config, losses, key, **known)


def build_miner(config: NamedConfig, key: str) -> torch.nn.Module:
    """Build a miner of pytorch-metric-learning."""
    return build_named(config, miners, key)


def build_optimizer(
    stage: TrainingConfig | PretrainingConfig, groups: list[dict[str, Any]], key: str = "optimizer"
) -> torch.optim.Optimizer:
    """Build the stage's optimizer for parameter groups, of which each may bring an lr of its own."""
    optimizers = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
    }
    kind: Any = lars() if stage.optimizer == "LARS" else optimizers.get(stage.optimizer)
    if kind is None:
        near = difflib.get_close_matches(stage.optimizer, [*optimizers, "LARS"], n=1, cutoff=0.0)[0]
        raise ConfigError(f"{key}: torch.optim has no {stage.optimizer}; did you mean {near}?")
    arguments = {"lr": stage.learning_rate, "weight_decay": stage.weight_decay, **stage.further_arguments}
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {stage.optimizer} cannot be used here: {error}") from None
    return optimizer


def build_cosine_schedulers(
    optimizers: dict[str, torch.optim.Optimizer], steps: int, final_lr: float = 0.0
) -> dict[str, CosineAnnealingLR]:
    """Let each learning rate fall by a cosine, to `final_lr` after `steps`, step by step."""
    return {
        name.replace("_optimizer", "_scheduler_by_iteration"): CosineAnnealingLR(optimizer, steps, final_lr)
        for name, optimizer in optimizers.items()
    }


def check_batches(config: Config, splits: Splits) -> None:
    """Refuse batches that the labeled classes or the pool cannot fill, before anything is trained."""
    for name, stage in (("teacher", config.teacher), ("student", config.student)):
        needed = stage.batch_size // stage.images_per_class
        if splits.labeled.num_classes < needed:
            raise DataError(
                f"{name}.batch_size={stage.batch_size} with {name}.images_per_class={stage.images_per_class} "
                f"takes {needed} classes a batch, but {splits.labeled.num_classes} are labeled: lower "
                f"{name}.batch_size."
            )
    if len(splits.unlabeled) < config.student.unlabeled_batch_size:
        raise DataError(
            f"the pool has {len(splits.unlabeled)} images, fewer than "
            f"student.unlabeled_batch_size={config.student.unlabeled_batch_size}."
        )
    if (config.student.num_clusters or 0) > len(splits.unlabeled):
        raise DataError(
            f"student.num_clusters={config.student.num_clusters} is more than the pool's "
            f"{len(splits.unlabeled)} images."
        )


def check_evaluation(splits: Splits) -> None:
    """Refuse validation and test images among which nothing can be retrieved, before anything is trained."""
    alone = splits.test if splits.gallery is None else None
    for name, part in (("validation", splits.validation), ("test", alone)):
        if part is not None and np.unique(part.known_labels(), return_counts=True)[1].max() < 2:
            raise DataError(f"{name}: no class has two images, so nothing can be retrieved.")
    if splits.test is not None and splits.gallery is not None:
        check_gallery(splits.test, splits.gallery)
