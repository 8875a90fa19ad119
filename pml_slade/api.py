"""Training and a trained model in a few lines of Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import processes
from .checkpoints import file_digest
from .datasets.adapting import as_images
from .datasets.fingerprints import content_keys
from .datasets.folders import open_images
from .datasets.images import ImageDataset
from .datasets.splits import Splits, check_gallery, shared_labels
from .datasets.tables import TABLE_SUFFIXES
from .datasets.transforms import transforms
from .exceptions import ConfigError, DataError
from .models import LoadedModel, load_model
from .pages.report import write_report
from .running.data import hold_out
from .running.loading import load_config
from .running.rows import Result
from .running.run import Run
from .running.settings import Config
from .runtime import Runtime, cpu_workers
from .searching import ImageIndex, Match

logger = logging.getLogger("pml_slade")

PathLike = str | os.PathLike[str]
Images = PathLike | Sequence[Any] | np.ndarray | ImageDataset


class TrainedModel:
    """A trained model with the transform that it was trained for: images to embeddings.

    Args:
        model: as `load_model` gives it.
        runtime: device and loader processes.
        digest: of the model's file, by which an index knows its model; None: not known.

    Attributes:
        model: the torch module, (N, C, H, W) to (N, d).
        transform: of evaluation, PIL image to tensor.
        mode: "RGB" or "L", what images are converted to.

    Raises:
        ConfigError: the file does not say how images are prepared.
    """

    def __init__(self, model: LoadedModel, runtime: Runtime, digest: str | None = None) -> None:
        meta = model.meta
        if missing := [key for key in ("transform", "image_size", "mode") if key not in meta]:
            raise ConfigError(
                f"model: its file does not say {missing}: it was not written by `pml-slade train`."
            )
        self.model = model
        self.runtime = runtime
        self.digest = digest
        self.mode: str = meta["mode"]
        self.transform = transforms(
            meta["transform"], meta["image_size"], self.mode, trunk_input=model.trunk_input
        )

    def open(self, images: Images, labeled: bool = False) -> ImageDataset:
        """Return images as a data set under the model's transform.

        Args:
            images: a folder or a CSV list, a list of paths or PIL images, a uint8 array (N, H, W) or
                (N, H, W, 3), or a data set of images.
            labeled: whether a folder's or list's class labels are wanted.

        Raises:
            DataError: images that cannot be used.
        """
        if isinstance(images, (str, os.PathLike)):
            path = Path(images)
            if path.is_file() and path.suffix.lower() not in (*TABLE_SUFFIXES, ".tar"):
                return ImageDataset([path], transform=self.transform, mode=self.mode)
            return open_images(path, self.transform, mode=self.mode, labeled=labeled)
        return as_images(images, self.mode).with_transform(self.transform)

    def embed(self, images: Images, batch_size: int | None = None) -> np.ndarray:
        """Return the embeddings of images, float32 (N, d) of unit length.

        Args:
            images: see `open`.
            batch_size: images at once; default as suits the device.
        """
        vectors = self.runtime.embed(self.open(images), self.model, batch_size)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def evaluate(
        self, images: Images, gallery: Images | None = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """Return MAP@R, RP and P@1 in percent on labeled images.

        Args:
            images: queries, see `open`.
            gallery: what they are searched in; None: among themselves.
            batch_size: images at once; default as suits the device.

        Raises:
            DataError: images without labels, or among which nothing can be retrieved.
        """
        queries = self.open(images, labeled=True)
        if gallery is None:
            return self.runtime.evaluate(self.embed(queries, batch_size), queries.known_labels())
        found = self.open(gallery, labeled=True)
        check_gallery(queries, found)
        labels, others = shared_labels(queries, found)
        vectors = self.embed(queries, batch_size), self.embed(found, batch_size)
        return self.runtime.evaluate(vectors[0], labels, vectors[1], others)

    def index(
        self, images: Images, known: ImageIndex | None = None, batch_size: int | None = None
    ) -> ImageIndex:
        """Return an index of images, to search in.

        Args:
            images: see `open`.
            known: an index whose images are kept: those that are in both, with the same content, are not
                embedded again, and those whose file is gone are left out.
            batch_size: images at once; default as suits the device.

        Raises:
            DataError: images that cannot be used; `known` was made with another model, or `images` are not
                files and `known` is given.
        """
        dataset = self.open(images)
        names, contents = _absolute(dataset), content_keys(dataset)
        if known is None:
            return ImageIndex.of(names, self.embed(dataset, batch_size), self.digest, contents)
        self.check_index(known)
        if names[0].startswith("#"):
            raise DataError("images: only files can be added to an index: images in memory have no names.")
        kept = known.without_changed(dict(zip(names, contents)))
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        new = sorted(first[name] for name in first.keys() - set(kept.names))
        if not new:
            return kept
        added = self.embed(dataset.subset(new), batch_size)
        return kept.extended([names[i] for i in new], added, [contents[i] for i in new])

    def check_index(self, index: ImageIndex) -> None:
        """Refuse an index that another model made.

        Raises:
            DataError: its vectors are those of another model.
        """
        if index.model != self.digest:
            raise DataError(
                "index: it was made with another model; make it again with this one, in another folder."
            )

    def search(
        self, queries: Images, images: Images | ImageIndex, k: int = 10, batch_size: int | None = None
    ) -> list[list[Match]]:
        """Find the images that look most like each query.

        Args:
            queries: see `open`; the file of one image will do.
            images: what to search in, see `open`; or an index, from `index` or `ImageIndex.load`. A query
                that is one of them, the same file, is not found itself.
            k: how many to find for each query, at most.
            batch_size: images at once; default as suits the device.

        Returns:
            For each query its matches, the nearest first.

        Raises:
            ConfigError: k below 1.
            DataError: images that cannot be used; the index was made with another model.
        """
        found = images if isinstance(images, ImageIndex) else self.index(images, batch_size=batch_size)
        self.check_index(found)
        asked = self.open(queries)
        own = [name if queries is images or name[0] != "#" else None for name in _absolute(asked)]
        return found.search(self.embed(asked, batch_size), k, own)


@dataclass(frozen=True)
class Trained:
    """What `train` came to.

    Attributes:
        folder: of the run.
        results: one per row, in their order.
        best: the row whose model is the run's.
        verdict: what they say of the pool, in a few sentences.
        report: the page on the run, where one was written.
    """

    folder: Path
    results: list[Result]
    best: Result
    verdict: str = ""
    report: Path | None = None

    def model(self, row: str | None = None, device: str = "auto") -> TrainedModel:
        """Return the model of a row, by default the run's."""
        if row is None:
            return load(self.folder, device)
        known = {result.row: result.model for result in self.results}
        if row not in known:
            raise ConfigError(f"row: this run has no {row!r}; it has {', '.join(known)}.")
        return load(self.folder / known[row], device)

    def __getitem__(self, row: str) -> Result:
        for result in self.results:
            if result.row == row:
                return result
        raise KeyError(row)


def load(
    run: PathLike, device: str = "auto", workers: int | None = None, progress: bool = False
) -> TrainedModel:
    """Load a trained model, with the transform that goes with it.

    Args:
        run: folder of a run or of one of its rows, or a model.safetensors.
        device: cpu, cuda, ...; auto takes the first GPU.
        workers: processes that read images; None: one a CPU for image files.
        progress: show progress bars.

    Raises:
        CheckpointError: no model, or a damaged one.
        ConfigError: no such device.

    Examples:
        >>> load("nowhere").embed("my/images")
        Traceback (most recent call last):
        pml_slade.exceptions.CheckpointError: There is no model file nowhere; ...
    """
    runtime = Runtime.find(device, cpu_workers() if workers is None else workers, progress)
    model = load_model(run, device=runtime.device)
    return TrainedModel(model, runtime, file_digest(_model_file(run)))


def train(
    labeled: Any = None,
    unlabeled: Any = None,
    test: Any = None,
    output: PathLike | None = None,
    *,
    validation: Any = None,
    gallery: Any = None,
    splits: Splits | None = None,
    config: str | PathLike | Sequence[str | PathLike] = (),
    progress: bool = True,
    **settings: Any,
) -> Trained:
    """Train a teacher and a student, and whatever `rows` names, as `pml-slade train` does.

    Args:
        labeled: a folder root/class/image, a CSV list, the name of a data set, or a data set of
            (PIL image, label).
        unlabeled: the pool: a folder, a list or a data set; its labels are not read.
        test: labeled images of other classes, measured once, at the end.
        output: folder of the run; repeat the call to resume it.
        validation: labeled images of further classes, to choose the epoch by; None: a fifth of
            the labeled ones.
        gallery: what the test images are searched in; None: among themselves.
        splits: all of these at once, in place of them.
        config: YAML files or presets, such as "glyphs" or ["omniglot", "paper"].
        progress: show progress bars.
        settings: any setting: ``seed=1``, a section as a dictionary, ``student={"steps": 500}``, or a dotted
            name, ``**{"student.steps": 500}``.

    Returns:
        The results, and the models by row.

    Raises:
        ConfigError: settings that do not fit, or that a row in the folder was not begun with.
        DataError: images that cannot be used.

    Examples:
        >>> train("my/labeled", "my/pool", student={"step": 5})
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: student.step: unknown key; did you mean student.steps?
    """
    images = {
        "labeled": labeled,
        "unlabeled": unlabeled,
        "test": test,
        "validation": validation,
        "gallery": gallery,
    }
    given = {name: value for name, value in images.items() if value is not None}
    handed_over = splits is not None or any(not isinstance(v, (str, os.PathLike)) for v in given.values())
    values = dict(settings)
    if output is not None:
        values["output"] = str(output)
    if handed_over:
        values["data.kind"] = "given"
    else:
        values |= {f"data.{name}": str(value) for name, value in given.items()}
    sources = [config] if isinstance(config, (str, os.PathLike)) else config
    chosen = load_config([os.fspath(source) for source in sources], None, values)
    if splits is not None and given:
        raise ConfigError(f"splits: give them, or {' and '.join(given)}, not both.")
    if handed_over and splits is None:
        splits = _splits(given, chosen)
    return train_rows(chosen, progress, splits)


def train_rows(config: Config, progress: bool = True, splits: Splits | None = None) -> Trained:
    """Train the rows of a config, and write the report; see `train`.

    Processes that torchrun started together share the work, and all return the same.

    Args:
        config: all settings.
        progress: show progress bars.
        splits: images of your own in place of those that `config.data` names.
    """
    with processes.joined():
        run = Run(config, progress, splits)
        results = run.run()
        report = processes.once(lambda: _report(run)) if config.report else None
    return Trained(run.folder, results, run.best(results), run.verdict(results), report)


def _report(run: Run) -> Path | None:
    """Write the report of a run that has ended. It is not worth the run: an error in it is a warning."""
    file = run.folder / "report.html"
    try:
        write_report(file, [run.folder], source=run)
    except Exception as error:
        logger.warning(
            "the run is complete, but its report could not be written: %s: %s", type(error).__name__, error
        )
        logger.debug("the report's error", exc_info=True)
        return None
    return file


def _model_file(run: PathLike) -> Path:
    path = Path(run)
    return path / "model.safetensors" if path.is_dir() else path


def _absolute(images: ImageDataset) -> list[str]:
    """Names of images: the absolute paths of files."""
    return [name if name.startswith("#") else os.path.abspath(name) for name in images.names()]


def _splits(given: dict[str, Any], config: Config) -> Splits:
    """Data sets, and folders among them, as the parts of one experiment."""
    if missing := [name for name in ("labeled", "unlabeled") if name not in given]:
        raise ConfigError(f"{' and '.join(missing)} missing: give folders or data sets of images.")
    mode = config.data.mode
    parts = {
        name: open_images(value, mode=mode, labeled=name != "unlabeled")
        if isinstance(value, (str, os.PathLike))
        else as_images(value, mode)
        for name, value in given.items()
    }
    labeled, validation = parts["labeled"].relabel(), parts.get("validation")
    if validation is None:
        labeled, validation = hold_out(labeled, config.data, config.seed)
    return Splits(labeled, parts["unlabeled"], validation, parts.get("test"), "images", parts.get("gallery"))
