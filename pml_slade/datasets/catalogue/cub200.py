"""CUB-200-2011: 200 bird species."""

from __future__ import annotations

from pathlib import Path

from ...exceptions import DataError
from .base import CatalogueDataset, Counts, Source
from .reading import Listing, read_lists

DOWNLOADED = "cub2011"
"""The folder below `root` that a download goes to; powerful-benchmarker's own."""


class CUB200(CatalogueDataset):
    """Caltech-UCSD Birds 200-2011 (Wah et al., 2011): 200 bird species, 11,788 images.

    Train and test are the first and the last 100 species, as is usual in retrieval. `download=True` leaves
    the work to pytorch-metric-learning 2.x.

    Args:
        root: The folder that holds CUB_200_2011, or that folder.
        split: `"train"`, `"test"` or `"all"`.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        complete: Whether all of it must be there.
        exclude: Names of classes of which no image is wanted.
        download: Whether to fetch it into `root` if it is not there.

    Raises:
        DataError: The data set is missing, incomplete or damaged.
        ConfigError: `split`, `exclude` or `mode` cannot be used.

    Examples:
        >>> CUB200("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: CUB200: root 'no/such/folder' holds no 'CUB_200_2011'; download ...
    """

    source = Source(
        address="https://data.caltech.edu/records/65de6-vp158",
        files="CUB_200_2011.tgz",
        folders=("CUB_200_2011", f"{DOWNLOADED}/CUB_200_2011"),
        markers=("images.txt",),
        archives={"CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78"},
    )
    counts = Counts(images=(11_788,), classes=200)

    def _read(self, base: Path) -> Listing:
        return read_lists(base)

    def _download(self, root: Path) -> None:
        try:
            from pytorch_metric_learning.datasets import CUB
        except ImportError as error:
            raise DataError(
                "download=True needs pytorch-metric-learning 2.x, which fetches it; with an older one "
                f"download CUB_200_2011.tgz from {self.source.address} and unpack it in {str(root)!r}"
            ) from error
        target = root / DOWNLOADED
        try:
            CUB(str(target), download=True)
        except Exception as error:  # of the network, the disk or the archive
            raise DataError(
                f"it cannot be downloaded ({error}); remove {str(target)!r} and try again, or download "
                f"CUB_200_2011.tgz from {self.source.address} and unpack it in {str(root)!r}"
            ) from error
