"""Signs that a pool is none: it has the labeled images, their classes, or too few images for its clusters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath

from ..clustering.health import few_points
from ..datasets.catalogue import CatalogueDataset
from ..datasets.images import ImageDataset
from ..datasets.splits import Splits, class_names
from .settings import Config

MOST = 0.5
"""Share of the pool from which it counts as the labeled images themselves."""
SHOWN = 3
HELD_OUT = ("validation", "test", "gallery")


def signs_of_pool(config: Config, splits: Splits, lists: Mapping[str, list[str]]) -> list[str]:
    """Say what speaks against the pool, each with its number and what to do.

    Args:
        config: all settings.
        splits: the images.
        lists: the images of each part, see `list_images`.
    """
    found = [_labeled_images(lists), *_named_classes(splits)]
    if config.student.num_clusters is not None:
        found.append(few_points(config.student.num_clusters, len(splits.unlabeled)))
    return [said for said in found if said is not None]


def _labeled_images(lists: Mapping[str, list[str]]) -> str | None:
    labeled = {_content(line) for line in lists["labeled"]}
    pool = [_content(line) for line in lists["unlabeled"]]
    shared = sum(content in labeled for content in pool)
    if not shared:
        return None
    if shared >= MOST * len(pool):
        return (
            f"{shared} of the pool's {len(pool)} images are labeled images: give data.unlabeled other ones, "
            "since these teach nothing once more."
        )
    return f"{shared} of the pool's {len(pool)} images are labeled, too: take them out of data.unlabeled."


def _content(line: str) -> tuple[str, ...]:
    """Size and checksum."""
    return tuple(line.split("\t", 3)[1:3])


def _named_classes(splits: Splits) -> list[str]:
    """Classes of other parts whose names folders of the pool have; named data sets are what they are."""
    if isinstance(splits.unlabeled, CatalogueDataset):
        return []
    names = _folders(splits.unlabeled)
    found = []
    for part in ("labeled", *HELD_OUT):
        images = getattr(splits, part)
        shared = sorted(names & class_names(images)) if images is not None else []
        if shared:
            shown = ", ".join(shared[:SHOWN]) + (", ..." if len(shared) > SHOWN else "")
            found.append(
                f"{len(shared)} folders of the pool have the names of {part} classes ({shown}): "
                + (
                    "the pool should show other classes, or its images of these be labeled."
                    if part == "labeled"
                    else f"if they are these classes, {part} figures are too good. Take them out of the pool."
                )
            )
    return found


def _folders(images: ImageDataset) -> set[str]:
    """Names of the folders of files below the one that holds them all."""
    if not images.are_files or not len(images):
        return set()
    parents = {os.path.dirname(name) for name in images.names()}
    common = os.path.commonpath(parents)
    relative = {PurePath(parent).relative_to(common).as_posix() for parent in parents} - {"."}
    return relative | {PurePath(name).name for name in relative}
