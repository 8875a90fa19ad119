"""Where a report has its images and embeddings from: a run that has just ended, or the folder of one."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..datasets.fingerprints import digest, list_images
from ..datasets.images import ImageDataset
from ..datasets.splits import Splits
from ..exceptions import DataError
from ..models import load_model
from ..running.data import build_splits, build_views
from ..running.pool import read_kept
from ..running.rows import Row
from ..runtime import Runtime, cpu_workers
from .folder import RunFolder


class Source(Protocol):
    """Images of a run, and what its models make of them; a `Run` is one."""

    @property
    def splits(self) -> Splits:
        """The images."""

    @property
    def pool(self) -> ImageDataset:
        """The images of the pool that were learned from."""

    def embed(self, model: str, images: ImageDataset) -> np.ndarray:
        """Return embeddings, (N, d).

        Args:
            model: file of a row's model, relative to the run's folder.
            images: N of the splits.
        """


class SavedRun:
    """A run that ended some time ago: its images are read again, from where its settings say.

    Args:
        run: its folder.
        device: that computes.
        workers: processes that read images; None: one a CPU.
        batch_size: images at once; None: as suits the device.
        progress: show progress bars.

    Raises:
        ConfigError: the images came from Python, so that they cannot be read again.
        DataError: images that are gone, or have changed since the run was trained.
    """

    def __init__(
        self, run: RunFolder, device: str, workers: int | None, batch_size: int | None, progress: bool
    ) -> None:
        self.folder = run.folder
        self.runtime = Runtime.find(device, cpu_workers() if workers is None else workers, progress)
        self.batch_size = batch_size
        self.views = build_views(run.config, build_splits(run.config))
        self._check_images(run)

    @property
    def splits(self) -> Splits:
        """The images."""
        return self.views.splits

    @property
    def pool(self) -> ImageDataset:
        """The images of the pool that were learned from."""
        pool = self.splits.unlabeled
        kept = read_kept(self.folder, len(pool))
        return pool if kept is None else pool.subset(kept)

    def embed(self, model: str, images: ImageDataset) -> np.ndarray:
        """Return embeddings of images, see `Source`."""
        loaded = load_model(self.folder / model, self.runtime.device)
        return self.runtime.embed(self.views.plain(images), loaded, self.batch_size)

    def _check_images(self, run: RunFolder) -> None:
        """Refuse images that are not those that the rows were trained and measured on."""
        row = Row(run.folder, run.after["row"])
        known = row.inputs().images if row.begun else {}
        for part in (run.part, "gallery", "unlabeled"):
            images: ImageDataset | None = getattr(self.splits, part)
            if part in known and (images is None or digest(list_images(images)) != known[part]):
                raise DataError(f"the {part} images have changed since this run was trained.")
