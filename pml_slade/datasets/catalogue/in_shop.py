"""DeepFashion In-shop: items of clothing, queries and a gallery."""

from __future__ import annotations

import os
from pathlib import Path

from ...exceptions import DataError
from .base import CatalogueDataset, Counts, Source
from .reading import Listing, read_rows, read_text

PARTITION = "Eval/list_eval_partition.txt"
SPLITS = {
    "train": {"train"},
    "query": {"query"},
    "gallery": {"gallery"},
    "test": {"query", "gallery"},
    "all": {"train", "query", "gallery"},
}


class InShop(CatalogueDataset):
    """In-shop Clothes Retrieval (DeepFashion, Liu et al., CVPR 2016): 52,712 images of 7,982 items.

    The official partition: 3,997 items to train on; of 3,985 others some images are queries, the rest the
    gallery to search in. An item has the same name in both, and the same label where all of it is there.

    Args:
        root: The folder that holds in_shop (or "In-shop Clothes Retrieval Benchmark") with Eval and Img,
            or that folder.
        split: `"train"`, `"query"`, `"gallery"`, `"test"` (query and gallery together) or `"all"`.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        complete: Whether all of it must be there.
        exclude: Names of items of which no image is wanted.
        download: Not possible: its owners give it out on request.

    Raises:
        DataError: The data set is missing, incomplete or damaged.
        ConfigError: `split`, `exclude` or `mode` cannot be used.

    Examples:
        >>> InShop("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: InShop: root 'no/such/folder' holds no 'in_shop'; download ...
    """

    source = Source(
        address="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        files="Eval/list_eval_partition.txt and Img/img.zip",
        folders=("in_shop", "In-shop Clothes Retrieval Benchmark"),
        markers=(PARTITION,),
        archives={"Img/img.zip": None},
        unpack="unzip '{file}' -d '{folder}/Img'",
    )
    counts = Counts(images=(52_712,), classes=7_982)
    splits = tuple(SPLITS)

    def _read(self, base: Path) -> Listing:
        file = base / PARTITION
        numbered = read_rows(file, "image_name item_id evaluation_status", skip=2)
        declared = read_text(file).split("\n", 1)[0].strip()
        if declared != str(len(numbered)):
            raise DataError(
                f"{str(file)!r}: line 1 says {declared!r} images, {len(numbered)} are listed; unpack it again"
            )
        items: dict[bool, set[str]] = {True: set(), False: set()}
        for number, (_, item, status) in numbered.items():
            if status not in SPLITS["all"]:
                raise DataError(f"{str(file)!r}, line {number}: unknown evaluation_status {status!r}")
            items[status == "train"].add(item)
        both = sorted(items[True] & items[False])
        if both:
            raise DataError(f"{str(file)!r}: {len(both)} items are in train and in test, e.g. {both[:3]}")
        files, ids, statuses = zip(*numbered.values())
        names = {item: item for item in sorted(set(ids))}
        return Listing([os.path.join(base, "Img", name) for name in files], ids, names, statuses)

    def _take(self, listing: Listing, split: str) -> Listing:
        statuses = listing.statuses or []
        taken = listing.at(row for row, status in enumerate(statuses) if status in SPLITS[split])
        if not taken.paths:
            raise DataError(f"split {split!r} holds no images; no line of {PARTITION} is of it")
        return taken
