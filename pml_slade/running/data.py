"""From settings to images, and what is looked at before any is trained on."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import processes
from ..datasets.catalogue import CATALOGUE
from ..datasets.duplicates import DuplicateReport, Thumbnails, common_mode, match
from ..datasets.folders import open_images
from ..datasets.glyphs import glyphs_splits
from ..datasets.images import ImageDataset
from ..datasets.looking import unreadable
from ..datasets.omniglot import omniglot_splits
from ..datasets.splits import Splits, check_gallery, parts, split_validation
from ..datasets.views import Views
from ..exceptions import ConfigError, DataError
from ..numerics import Numerics
from ..runtime import Runtime, cpu_workers
from .models import build_trunk_input
from .settings import Config, DataConfig

logger = logging.getLogger("pml_slade")

MIN_CLASSES_FOR_VALIDATION = 10
SHOWN = 10
"""Images that a message names."""
HELD_OUT = ("test", "gallery", "validation")
LEARNED = {"pool": "unlabeled", "labeled": "labeled"}
REMEDIES = {
    "pool": "Take these images out of the pool, or set data.leave_out_duplicates=true",
    "labeled": "Take these images out of data.labeled",
}
"""By part that is learned from."""


def build_runtime(config: Config, progress: bool = False) -> Runtime:
    """Device and loader processes: where images are decoded, one a CPU unless told otherwise, else none."""
    workers = config.data.workers
    if workers is None:
        workers = cpu_workers() if config.data.kind == "images" else 0
    numerics = Numerics(config.precision, config.channels_last, config.compile)
    return Runtime.find(config.device, workers, progress, numerics)


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
    if data.kind == "given":
        raise ConfigError(
            "data.kind=given: the images of this run came from Python: call pml_slade.train with them again."
        )
    return _own_splits(data, config.seed)


def build_pretraining_images(config: Config) -> dict[str, ImageDataset]:
    """Return labeled and unlabeled images by part, or those given; none that is held out of the labeled."""
    data = config.data
    if data.kind != "images" or (data.labeled is not None and data.unlabeled is not None):
        splits = usable(build_splits(config), data)
        return {"labeled": splits.labeled, "unlabeled": splits.unlabeled}
    if data.labeled is not None:
        return readable_images({"labeled": _labeled(data, config.seed)[0]}, data)
    test, _ = _test(data)
    return readable_images({"unlabeled": _unlabeled(data, test)}, data)


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
    return hold_out(labeled, data, seed)


def hold_out(labeled: ImageDataset, data: DataConfig, seed: int) -> tuple[ImageDataset, ImageDataset | None]:
    """Labeled images without the classes kept for validation, and these, where there are enough."""
    fraction = data.validation_fraction
    by_default = fraction == DataConfig.model_fields["validation_fraction"].default
    if fraction and by_default and labeled.num_classes < MIN_CLASSES_FOR_VALIDATION:
        logger.warning(
            "data.labeled has %d classes, too few (below %d) to keep some for validation: the last epoch is "
            "taken. Give data.validation, or a data.validation_fraction of your own.",
            labeled.num_classes,
            MIN_CLASSES_FOR_VALIDATION,
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
        try:
            return open_images(path, mode=data.mode, labeled=part != "all" or data.pool_labels)
        except DataError as error:
            raise DataError(f"data.{key}: {error}") from None
    kind = CATALOGUE[str(path)]
    split = "query" if part == "test" and "query" in kind.splits else part
    if split not in kind.splits:
        raise DataError(f"data.{key}: {path} has no {part}; it has {', '.join(kind.splits)}.")
    logger.info("data.%s: %s of %s", key, split, path)
    return kind(data.root, split, mode=data.mode, complete=data.complete, exclude=exclude)


def usable(splits: Splits, data: DataConfig) -> Splits:
    """Return the splits without what the settings leave out: images that cannot be read, and duplicates."""
    splits = readable(splits, data)
    return without_duplicates(splits) if data.leave_out_duplicates else splits


def readable(splits: Splits, data: DataConfig) -> Splits:
    """Return the splits without the images that cannot be read, if `data.unreadable` is skip.

    Raises:
        DataError: such images, or a part of which nothing is left.
    """
    found = readable_images(parts(splits), data)
    kept: dict[str, Any] = {n: images for n, images in found.items() if images is not getattr(splits, n)}
    if "labeled" in kept:
        kept["labeled"] = kept["labeled"].relabel()
    return replace(splits, **kept) if kept else splits


def readable_images(images: dict[str, ImageDataset], data: DataConfig) -> dict[str, ImageDataset]:
    """Return parts without the images that cannot be read, if `data.unreadable` is skip.

    Args:
        images: by part.
        data: settings of the data; "stop" looks at headers alone, "skip" decodes every image.

    Raises:
        DataError: such images, all of them in one message, or a part of which nothing is left.
    """
    skip = data.unreadable == "skip"
    bad = processes.once(lambda: {name: unreadable(part, decode=skip) for name, part in images.items()})
    named = [
        f"{name}: {images[name].name(i)} ({why})" for name, found in bad.items() for i, why in found.items()
    ]
    if not named:
        return images
    shown = "; ".join(named[:SHOWN]) + (f"; and {len(named) - SHOWN} more" if len(named) > SHOWN else "")
    total = sum(len(part) for part in images.values())
    if not skip:
        raise DataError(
            f"{len(named)} of {total} images cannot be read: {shown}. Replace them, or leave them out with "
            "data.unreadable=skip; `pml-slade check FOLDER` lists them all."
        )
    logger.warning("left out %d of %d images that cannot be read: %s", len(named), total, shown)
    kept = {name: np.setdiff1d(np.arange(len(part)), list(bad[name])) for name, part in images.items()}
    if empty := [name for name, positions in kept.items() if not len(positions)]:
        raise DataError(f"no image of {' and '.join(empty)} can be read: {shown}.")
    return {name: part.subset(kept[name]) if bad[name] else part for name, part in images.items()}


def report_duplicates(splits: Splits) -> str | None:
    """Look for held-out images in the pool and the labeled images, and say so; None: there are none."""
    reports = []
    for (name, held_out), report in _duplicates(splits, LEARNED).items():
        reports.append(f"{name} against {held_out}: {report}")
        remedy = f". {REMEDIES[name]}: figures come out too good." if report.pairs else ""
        logger.log(logging.WARNING if report.pairs else logging.INFO, reports[-1] + remedy)
    return "; ".join(reports) or None


def without_duplicates(splits: Splits) -> Splits:
    """Return the splits without the images of the pool that are held out, too, or nearly so.

    Raises:
        DataError: nothing of the pool is left.
    """
    left_out = processes.once(lambda: _in_held_out(splits))
    kept = np.setdiff1d(np.arange(len(splits.unlabeled)), list(left_out))
    if not len(kept):
        raise DataError("data.leave_out_duplicates: every image of the pool is a held-out image, too.")
    return replace(splits, unlabeled=splits.unlabeled.subset(kept)) if left_out else splits


def _in_held_out(splits: Splits) -> set[int]:
    """Images of the pool that are held out, too, by position; it is said how many there are."""
    left_out: set[int] = set()
    for (_, held_out), report in _duplicates(splits, {"pool": "unlabeled"}).items():
        if report.pairs:
            logger.warning("pool against %s: %s. These are left out of the pool.", held_out, report)
        left_out.update(report.indices.tolist())
    return left_out


def _duplicates(splits: Splits, learned: dict[str, str]) -> dict[tuple[str, str], DuplicateReport]:
    """Images of each part that is learned from which a held-out part has, too; each image is read once."""
    held_out = {name: part for name in HELD_OUT if (part := getattr(splits, name)) is not None}
    if not held_out:
        return {}
    sources = {name: getattr(splits, part) for name, part in learned.items()}
    logger.info("looking for images of %s in %s", ", ".join(held_out), " and ".join(sources))
    mode = common_mode([*sources.values(), *held_out.values()])
    theirs = {name: Thumbnails.of(part, mode) for name, part in held_out.items()}
    return {
        (name, other): match(ours, thumbnails)
        for name, ours in ((name, Thumbnails.of(part, mode)) for name, part in sources.items())
        for other, thumbnails in theirs.items()
    }


def build_views(config: Config, splits: Splits) -> Views:
    """The splits, and the views of their images that the settings ask for."""
    data = config.data
    expected = build_trunk_input(config)
    strength = data.augmentation or "strong"
    return Views(splits, data.transform, data.image_size, data.mode, strength, expected)


def check_batches(config: Config, splits: Splits) -> None:
    """Refuse batches that the pool cannot fill, before anything is trained."""
    found = []
    if len(splits.unlabeled) < config.student.unlabeled_batch_size:
        found.append(
            f"the pool has {len(splits.unlabeled)} images, fewer than "
            f"student.unlabeled_batch_size={config.student.unlabeled_batch_size}"
        )
    if (config.student.num_clusters or 0) > len(splits.unlabeled):
        found.append(
            f"student.num_clusters={config.student.num_clusters} is more than the pool's "
            f"{len(splits.unlabeled)} images"
        )
    if found:
        raise DataError("; ".join(found) + ".")
    for stage in sorted({method.stage for method in config.chosen if method.trains}):
        size = getattr(config, stage).batch_size
        if size > len(splits.labeled):
            logger.warning(
                "%s.batch_size=%d is more than the %d labeled images: each step sees some more than once. "
                "Lower it.",
                stage,
                size,
                len(splits.labeled),
            )


def check_evaluation(splits: Splits) -> None:
    """Refuse validation and test images among which nothing can be retrieved, before anything is trained."""
    if splits.validation is None and splits.test is None:
        logger.warning(
            "nothing will be measured: there are no validation and no test images. Give data.test, or "
            "data.validation, or more labeled classes."
        )
    alone = splits.test if splits.gallery is None else None
    for name, part in (("validation", splits.validation), ("test", alone)):
        if part is not None and np.unique(part.known_labels(), return_counts=True)[1].max() < 2:
            raise DataError(f"{name}: no class has two images, so nothing can be retrieved.")
    if splits.test is not None and splits.gallery is not None:
        check_gallery(splits.test, splits.gallery)
