"""The pool as it is learned from: without images unlike the labeled ones; and how far it can be trusted."""

from __future__ import annotations

import base64
import csv
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import processes
from ..checkpoints import text_file_atomic, write_json_atomic
from ..clustering.likeness import Likeness
from ..clustering.trust import neighbours_right
from ..datasets.fingerprints import readable_names
from ..datasets.images import ImageDataset
from ..datasets.views import Views
from ..exceptions import CheckpointError, DataError
from ..runtime import Runtime
from .rows import read_fields

logger = logging.getLogger("pml_slade")

POOL, LEFT_OUT, TRUST = "pool.json", "left_out.csv", "trust.json"
BLOCK = 1 << 14
"""Images of the pool whose features are held at once."""
MOST = 0.5
"""Share of the pool from which on it is worth a warning that it is left out."""
OF_POOL: dict[str, tuple[type, ...]] = {"of": (str,), "images": (int,), "kept": (str,)}
OF_TRUST: dict[str, tuple[type, ...]] = {
    "of": (str,),
    "images": (int,),
    "learned_from": (int,),
    "neighbours_right": (float,),
}
"""What the two files hold. `of` stands for what they were made from: of others they are made anew. `kept` has
a bit for each image."""


@dataclass(frozen=True)
class PoolFacts:
    """What is known of a pool before a student learns from it.

    Attributes:
        of: stands for the images and the teacher.
        images: in it.
        learned_from: of these, that are like the labeled ones.
        neighbours_right: share of an image's nearest neighbours that are estimated to be of its class, in
            percent, see `neighbours_right`.
    """

    of: str
    images: int
    learned_from: int
    neighbours_right: float

    @classmethod
    def read(cls, run: Path, of: str | None = None) -> PoolFacts | None:
        """Read them from a run's folder; None before they are known.

        Args:
            run: its folder.
            of: what they should be of; None: whatever they are.

        Raises:
            CheckpointError: the file is damaged.
        """
        file = run / TRUST
        if not file.exists():
            return None
        found = cls(**read_fields(file, OF_TRUST))
        if not 0 <= found.neighbours_right <= 100:
            raise CheckpointError(
                f"{file} is damaged: neighbours_right is {found.neighbours_right}, and should be a "
                "percentage; delete it, and it is made again."
            )
        return found if of in (None, found.of) else None


def look_at_pool(
    run: Path, of: str, images: int, pool: np.ndarray, labeled: np.ndarray, labels: np.ndarray, **how: Any
) -> None:
    """Write down, and say, how far the neighbours that a teacher finds in the pool can be trusted.

    Args:
        run: its folder, which gets `trust.json`.
        of: see PoolFacts.
        images: in the whole pool.
        pool: embeddings of those that are learned from, (N, d).
        labeled: of the labeled images, (n, d).
        labels: their classes, (n,).
        how: see `neighbours_right`.
    """
    right = 100 * neighbours_right(pool, labeled, labels, **how)
    logger.info("about %.0f %% of an image's nearest neighbours in the pool are of its class", right)
    write_json_atomic(run / TRUST, asdict(PoolFacts(of, images, len(pool), round(right, 1))))


def pool_learned_from(
    run: Path, of: str, views: Views, trunk: torch.nn.Module, runtime: Runtime, fewest: int
) -> ImageDataset:
    """Return the images of the pool that are like the labeled ones, see `Likeness`.

    Args:
        run: its folder. It gets `pool.json`, which says which these are, and is read if it is there, and
            `left_out.csv`, with path and nearness of the others, the furthest first.
        of: stands for the images and the trunk.
        views: of the images.
        trunk: as it came, which says what is like what.
        runtime: to embed with.
        fewest: images that are of use.

    Raises:
        DataError: fewer are like the labeled ones.
    """
    pool = views.splits.unlabeled
    known = processes.once(lambda: read_kept(run, len(pool), of))
    if known is not None:
        return pool.subset(known)
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
    processes.once(lambda: _write_down(run, of, unlabeled, nearness, likeness.floor, fewest))
    return pool.subset(nearness >= likeness.floor)


def read_kept(run: Path, images: int, of: str | None = None) -> np.ndarray | None:
    """Return which images of a pool a run learns from, (n,) bool; None where no file says so.

    Args:
        run: its folder.
        images: of the whole pool.
        of: what the file should be of; None: whatever it is.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = run / POOL
    if not file.exists():
        return None
    found = read_fields(file, OF_POOL)
    if of not in (None, found["of"]):
        return None
    try:
        packed = np.frombuffer(base64.b64decode(found["kept"], validate=True), dtype=np.uint8)
    except ValueError:
        packed = np.zeros(0, dtype=np.uint8)
    kept = np.unpackbits(packed, count=images).astype(bool)
    if found["images"] != images or len(packed) != -(-images // 8) or not kept.any():
        raise CheckpointError(f"{file} is damaged, or of another pool; delete it, and it is made again.")
    return kept


def _write_down(
    run: Path, of: str, pool: ImageDataset, nearness: np.ndarray, floor: float, fewest: int
) -> None:
    """Say what is left out, and write it into a run's folder."""
    kept = nearness >= floor
    _tell(len(pool) - int(kept.sum()), len(pool), run / LEFT_OUT, fewest)
    _write_left_out(run / LEFT_OUT, pool, nearness, floor)
    packed = base64.b64encode(np.packbits(kept).tobytes()).decode()
    found = {"of": of, "images": len(pool), "kept": packed}
    write_json_atomic(run / POOL, found)  # the last: it says that all is there


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
