"""The catalogue: published data sets, read from their official files."""

from .base import CatalogueDataset
from .cars196 import Cars196
from .compcars import CompCars
from .cub200 import CUB200
from .fashion200k import Fashion200k
from .in_shop import InShop
from .nabirds import NABirds

CATALOGUE: dict[str, type[CatalogueDataset]] = {
    loader.__name__: loader for loader in (CUB200, NABirds, Cars196, CompCars, InShop, Fashion200k)
}
"""The data sets by name."""

__all__ = [
    "CATALOGUE",
    "CUB200",
    "Cars196",
    "CatalogueDataset",
    "CompCars",
    "Fashion200k",
    "InShop",
    "NABirds",
]
