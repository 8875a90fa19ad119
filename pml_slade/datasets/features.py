"""Features of a frozen trunk, computed once for each image and kept in memory-mapped files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .. import processes
from ..checkpoints import as_size, free_space, write_array_atomic, write_json_atomic
from ..exceptions import ConfigError
from ..strangers import check_file, read_json
from .fingerprints import content_keys
from .images import NO_LABEL, ImageDataset
from .redrawing import CollateViews
from .views import Views

logger = logging.getLogger("pml_slade")

Extract = Callable[[ImageDataset], np.ndarray]
"""Images under a transform to features, (n, d)."""
Place = tuple[np.ndarray, int]
"""Where the features of an image stand: the array of a shard, (n, views, d), and a row of it."""


class FeatureStore:
    """Features of images by what the images hold, in a folder that many runs may share.

    Args:
        folder: of one trunk and one set of transforms.
        transforms: of each view.
        extract: computes the features of images under a transform.
        size: of the features of an image under one of them.
        shard: images whose features are written at a time.

    Examples:
        >>> import tempfile
        >>> images = ImageDataset(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), mode="L")
        >>> store = FeatureStore(Path(tempfile.mkdtemp()), [None], lambda part: np.ones((len(part), 3)), 3)
        >>> store.find(images)[1][0].shape
        (2, 1, 3)
    """

    def __init__(
        self, folder: Path, transforms: Sequence[Any], extract: Extract, size: int, shard: int = 1024
    ) -> None:
        self.folder, self.transforms, self.extract = folder, transforms, extract
        self.size, self.shard = size, shard
        self._places: dict[str, Place] = {}
        self._read: set[Path] = set()

    def find(self, images: ImageDataset) -> list[Place]:
        """Return where the features of each image stand; those that are not there yet are computed."""
        keys = content_keys(images)
        missing = processes.once(lambda: self._missing(keys))
        # Each shard is one process's: what augmentation draws in it does not depend on how many there are.
        for start in range(processes.rank() * self.shard, len(missing), processes.size() * self.shard):
            chosen = missing[start : start + self.shard]
            logger.info("features of images %d to %d of %d", start + 1, start + len(chosen), len(missing))
            part = images.without_labels().subset(chosen)
            with processes.alone():
                views = [self.extract(part.with_transform(t)).astype(np.float16) for t in self.transforms]
            self._write([keys[i] for i in chosen], np.stack(views, axis=1))
        processes.wait()
        self._read_shards()
        return [self._places[key] for key in keys]

    def _missing(self, keys: list[str]) -> list[int]:
        """Images whose features are not there yet."""
        self._read_shards()
        missing = [i for i, key in enumerate(keys) if key not in self._places]
        if missing:
            self.check_space(len(missing))
        return missing

    def check_space(self, images: int) -> None:
        """Refuse to compute what the disk cannot hold.

        Args:
            images: whose features are not there yet.

        Raises:
            ConfigError: says how much is needed, and the ways out.
        """
        needed = images * len(self.transforms) * self.size * np.dtype(np.float16).itemsize
        there, free = free_space(self.folder)
        if needed > free:
            raise ConfigError(
                f"model.features: what the frozen part of the trunk gives for {images} images takes "
                f"{as_size(needed)}, and {there} has {as_size(free)} free. Give a folder on another disk, "
                "fewer model.feature_views, model.train=head, or model.train=all, which keeps nothing."
            )

    def _write(self, keys: list[str], features: np.ndarray) -> None:
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        write_array_atomic(self.folder / f"{name}.npy", features)
        write_json_atomic(self.folder / f"{name}.json", keys)  # the last: it says that the features are there

    def _read_shards(self) -> None:
        for file in sorted(set(self.folder.glob("*.json")) - self._read):
            keys, features = read_shard(file, (len(self.transforms), self.size))
            self._places |= {key: (features, row) for row, key in enumerate(keys)}
            self._read.add(file)


def read_shard(file: Path, shape: tuple[int, int]) -> tuple[list[str], np.ndarray]:
    """The images of a shard, and their features, which stay in their file.

    Args:
        file: that lists the images.
        shape: of the features of one: views, and values of each.

    Raises:
        ConfigError: one of the two files is damaged.
    """
    try:
        keys = read_json(file)
        check_file(file.with_suffix(".npy"))
        features = np.load(file.with_suffix(".npy"), mmap_mode="r")
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("it must list images")
        if features.dtype != np.float16 or features.shape != (len(keys), *shape):
            raise ValueError(f"features of {features.dtype} {features.shape} for {len(keys)} images")
        return keys, features
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}); delete it, and its features are computed again."
        ) from None


class FeatureDataset(Dataset[tuple[Any, int]]):
    """Features in place of images: `(features, label)`, of a view drawn at random, or of two.

    Args:
        places: where the features of each image stand.
        labels: N class indices, or None.
        drawn: the views to draw from.
        count: views in an item; of two, the item's data is a list.
    """

    def __init__(
        self, places: Sequence[Place], labels: np.ndarray | None, drawn: range, count: int = 1
    ) -> None:
        self.places, self.labels, self.drawn, self.count = places, labels, drawn, count

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        features, row = self.places[index]
        views = [self._view(features[row]) for _ in range(self.count)]
        label = NO_LABEL if self.labels is None else int(self.labels[index])
        return (views[0] if self.count == 1 else views), label

    def _view(self, views: np.ndarray) -> torch.Tensor:
        number = int(torch.randint(len(self.drawn), ())) if len(self.drawn) > 1 else 0
        return torch.from_numpy(views[self.drawn[number]].astype(np.float32))


@dataclass(frozen=True)
class FeatureViews(Views):
    """Views of a run whose trunk is frozen: its features of the images, in place of the images.

    Attributes:
        store: has them under the transform of evaluation.
        augmented_store: has them under that of training, several times.
    """

    store: FeatureStore = field(kw_only=True)
    augmented_store: FeatureStore = field(kw_only=True)

    def plain(self, images: ImageDataset) -> Any:
        """The features of images under the transform of evaluation."""
        return FeatureDataset(self.store.find(images), images.labels, range(1))

    def augmented(self, images: ImageDataset, views: int = 1) -> Any:
        """The features of an augmented view of each image, drawn anew each time, or of two."""
        store = self.augmented_store
        return FeatureDataset(store.find(images), images.labels, range(len(store.transforms)), views)

    def collate(self, views: int = 1) -> Callable[[list[Any]], Any] | None:
        """What makes a training batch of items, or None for PyTorch's own."""
        return None if views == 1 else CollateViews(None, views)
