"""The pool as it is learned from: without images unlike the labeled ones; and how far it can be trusted."""

from __future__ import annotations

import csv
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import processes
from ..checkpoints import text_file_atomic, write_array_atomic, write_json_atomic
from ..clustering.likeness import Likeness
from ..clustering.trust import neighbours_right
from ..datasets.fingerprints import readable_names
from ..datasets.images import ImageDataset
from ..datasets.views import Views
from ..exceptions import CheckpointError, DataError
from ..runtime import Runtime
from .rows import read_fields

logger = logging.getLogger("pml_slade")

KEPT, LEFT_OUT, FACTS = "pool.npy", "left_out.csv", "pool.json"
BLOCK = 1 << 14
"""Images of the pool whose features are held at once."""
MOST = 0.5
"""Share of the pool from which on it is worth a warning that it is left out."""


@dataclass(frozen=True)
class PoolFacts:
    """What is known of a pool before a student learns from it.

    Attributes:
        images: in it.
        learned_from: of these, that are like the labeled ones.
        neighbours_right: share of an image's nearest neighbours that are estimated to be of its class, in
            percent, see `neighbours_right`.
    """

    images: int
    learned_from: int
    neighbours_right: float

    @classmethod
    def read(cls, run: Path) -> PoolFacts | None:
        """Read them from a run's folder; None before they are known.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = run / FACTS
        kinds = {"images": (int,), "learned_from": (int,), "neighbours_right": (float,)}
        return cls(**read_fields(file, kinds)) if file.exists() else None


def look_at_pool(
    run: Path, images: int, pool: np.ndarray, labeled: np.ndarray, labels: np.ndarray, **how: Any
) -> None:
    """Write down, and say, how far the neighbours that a teacher finds in the pool can be trusted.

    Args:
        run: its folder, which gets `pool.json`.
        images: in the whole pool.
        pool: embeddings of those that are learned from, (N, d).
        labeled: of the labeled images, (n, d).
        labels: their classes, (n,).
        how: see `neighbours_right`.
    """
    right = 100 * neighbours_right(pool, labeled, labels, **how)
    logger.info("about %.0f %% of an image's nearest neighbours in the pool are of its class", right)
    write_json_atomic(run / FACTS, asdict(PoolFacts(images, len(pool), round(right, 1))))


def pool_learned_from(
    run: Path, views: Views, trunk: torch.nn.Module, runtime: Runtime, fewest: int
) -> ImageDataset:
    """Return the images of the pool that are like the labeled ones, see `Likeness`.

    Args:
        run: its folder. It gets `pool.npy`, positions of these images in the pool, which is read if it is
            there, and `left_out.csv`, path and nearness of the others, the furthest first.
        views: of the images.
        trunk: as it came, which says what is like what.
        runtime: to embed with.
        fewest: images that are of use.

    Raises:
        DataError: fewer are like the labeled ones.
    """
    pool = views.splits.unlabeled
    if processes.once((run / KEPT).exists):
        return pool.subset(processes.once(lambda: read_kept(run, len(pool))))
    labeled = views.splits.labeled
    if labeled.num_classes < 2:
        return pool
    of_labeled = runtime.embed(views.plain(labeled), trunk)
    likeness = Likeness(of_labeled, labeled.known_labels(), device=runtime.device)
    unlabeled = pool.without_labels()
    nearness = np.concatenate(
        [
            likeness.nearness(runtime.embed(views.plain(unlabeled.subset(block)), trunk))
            for block in np.split(np.arange(len(pool)), range(BLOCK, len(pool), BLOCK))
        ]
    )
    kept = np.flatnonzero(nearness >= likeness.floor)
    processes.once(lambda: _write_down(run, unlabeled, nearness, likeness.floor, fewest))
    return pool.subset(kept)


def read_kept(run: Path, images: int) -> np.ndarray:
    """Return positions of the images of a pool that a run learns from, (n,) int64.

    Args:
        run: its folder.
        images: of the whole pool; all of them are learned from where no file says otherwise.

    Raises:
        CheckpointError: the file is damaged, or of another pool.
    """
    file = run / KEPT
    if not file.exists():
        return np.arange(images)
    try:
        kept = np.array(np.load(file, mmap_mode="r"))
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); delete it, and it is made again.") from None
    rising = kept.ndim == 1 and kept.dtype == np.int64 and len(kept) > 0 and bool((np.diff(kept) > 0).all())
    if not rising or kept[0] < 0 or kept[-1] >= images:
        raise CheckpointError(
            f"{file} is damaged: it should hold rising positions in a pool of {images} images; "
            "delete it, and it is made again."
        )
    return kept


def _write_down(run: Path, pool: ImageDataset, nearness: np.ndarray, floor: float, fewest: int) -> None:
    """Say what is left out, and write it into a run's folder."""
    kept = np.flatnonzero(nearness >= floor)
    _tell(len(pool) - len(kept), len(pool), run / LEFT_OUT, fewest)
    _write_left_out(run / LEFT_OUT, pool, nearness, floor)
    write_array_atomic(run / KEPT, kept)  # the last: it says that all is there


def _tell(left_out: int, images: int, file: Path, fewest: int) -> None:
    if images - left_out < fewest:
        raise DataError(
            f"data.unlabeled: {images - left_out} of the pool's {images} images are like the labeled ones, "
            f"fewer than the {fewest} that a step takes: it shows other things. Give another pool, or "
            "data.leave_out_unlike=false to learn from all of it."
        )
    if left_out:
        logger.log(
            logging.WARNING if left_out > MOST * images else logging.INFO,
            "%d of the pool's %d images are unlike the labeled ones, and left out: %s lists them; "
            "data.leave_out_unlike=false keeps them.",
            left_out,
            images,
            file,
        )


def _write_left_out(file: Path, images: ImageDataset, nearness: np.ndarray, floor: float) -> None:
    names = readable_names(images)
    with text_file_atomic(file) as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["path", "nearness"])
        for i in np.argsort(nearness, kind="stable")[: int((nearness < floor).sum())].tolist():
            writer.writerow([names[i], f"{nearness[i]:.4f}"])
