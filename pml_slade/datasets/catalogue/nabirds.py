"""NABirds: North American birds, the pool of CUB-200-2011 in the paper."""

from __future__ import annotations

from pathlib import Path

from .base import CatalogueDataset, Counts, Source
from .reading import Listing, read_lists


class NABirds(CatalogueDataset):
    """NABirds (Van Horn et al., CVPR 2015): 48,562 images of 555 kinds of North American birds.

    A class is a species, or a sex, age or morph of one; classes.txt names 1,011 of them, of which those
    with images count. There is no retrieval protocol: the halves are our convention.

    Args:
        root: The folder that holds nabirds, or that folder.
        split: `"train"`, `"test"` or `"all"`.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        complete: Whether all of it must be there.
        exclude: Names of classes of which no image is wanted, as `CUB200(root, "test").classes`.
        download: Not possible: its owners ask for a name and consent.

    Raises:
        DataError: The data set is missing, incomplete or damaged.
        ConfigError: `split`, `exclude` or `mode` cannot be used.

    Examples:
        >>> NABirds("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: NABirds: root 'no/such/folder' holds no 'nabirds'; download ...
    """

    source = Source(
        address="https://dl.allaboutbirds.org/nabirds",
        files="nabirds.tar.gz",
        folders=("nabirds",),
        markers=("hierarchy.txt",),
        archives={"nabirds.tar.gz": "df21a9e4db349a14e2b08adfd45873bd"},
    )
    counts = Counts(images=(48_562,), classes=555)

    def _read(self, base: Path) -> Listing:
        return read_lists(base)
