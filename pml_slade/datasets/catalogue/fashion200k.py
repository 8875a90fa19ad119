"""Fashion-200k: clothes with descriptions, the pool of In-shop in the paper."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from ...exceptions import ConfigError, DataError
from .base import CatalogueDataset, Counts, Source, log_left_out, logger
from .reading import Listing, read_rows

LABELS = [
    f"labels/{category}_{part}_detect_all.txt"
    for category in ("dress", "jacket", "pants", "skirt", "top")
    for part in ("train", "test")
]


class Fashion200k(CatalogueDataset):
    """Fashion-200k (Han et al., ICCV 2017): pictures of women's clothes with the text of their product.

    An item, which is a class, is a product description, as retrieval work on it does. Items come in the
    order of the label files. There is no retrieval protocol: the halves are our convention.

    Args:
        root: The folder that holds fashion200k with labels and women, or that folder.
        split: `"train"`, `"test"` or `"all"`.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        complete: Whether all of it must be there.
        exclude: Descriptions of items of which no image is wanted.
        download: Not possible: no library fetches it.
        min_images: Items with fewer images are left out. The paper kept 1,045 items with 14,635 images by
            a rule that it does not publish; this one is ours.

    Raises:
        DataError: The data set is missing, incomplete or damaged.
        ConfigError: `split`, `min_images`, `exclude` or `mode` cannot be used.

    Examples:
        >>> Fashion200k("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: Fashion200k: root 'no/such/folder' holds no 'fashion200k'; ...
    """

    source = Source(
        address="https://github.com/xthan/fashion-200k",
        files="labels and women.tar.gz",
        folders=("fashion200k", "fashion-200k", "Fashion200k"),
        markers=("labels",),
        archives={"women.tar.gz": None},
    )
    counts = Counts(images=(201_838,), classes=None)

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "all",
        transform: Callable[[Image.Image], Any] | None = None,
        mode: str = "RGB",
        complete: bool = True,
        exclude: Iterable[str] = (),
        download: bool = False,
        min_images: int = 10,
    ) -> None:
        if min_images < 1:
            raise ConfigError(f"min_images must be at least 1, got {min_images}")
        self.min_images = min_images
        super().__init__(root, split, transform, mode, complete, exclude, download)

    def _read(self, base: Path) -> Listing:
        files = [base / label for label in LABELS]
        if not self.complete:
            files = [file for file in files if file.exists()] or files
        rows = [row for file in files for row in read_rows(file, "path score description", "\t").values()]
        found: dict[str, set[str]] = {}
        for path, _, description in rows:
            found.setdefault(path, set()).add(description)
        if len(found) < len(rows):
            logger.info("Fashion200k: %d images are listed twice", len(rows) - len(found))
        descriptions = {path: next(iter(texts)) for path, texts in found.items() if len(texts) == 1}
        if len(descriptions) < len(found):
            odd = len(found) - len(descriptions)
            logger.warning("Fashion200k: left out %d images with several descriptions", odd)
        items = {description: description for description in descriptions.values()}
        paths = [os.path.join(base, path) for path in descriptions]
        return Listing(paths, list(descriptions.values()), items, lines=len(rows))

    def _filter(self, listing: Listing) -> Listing:
        sizes = Counter(listing.ids)
        rest = listing.at(row for row, item in enumerate(listing.ids) if sizes[item] >= self.min_images)
        if not rest.paths:
            raise DataError(
                f"min_images={self.min_images} leaves no images; the largest item has {max(sizes.values())}"
            )
        log_left_out(self, f"have fewer than {self.min_images}", listing, rest)
        return rest
