"""Datasets: the pseudo-labeled pool, and images from folders, lists and known collections."""

from .catalogue import CATALOGUE, CUB200, Cars196, CompCars, Fashion200k, InShop, NABirds
from .duplicates import find_duplicates
from .folders import image_folder, open_images
from .glyphs import glyphs_splits
from .images import ImageDataset
from .omniglot import omniglot_splits
from .pseudo_label_dataset import PseudoLabelDataset
from .redrawing import Redraw
from .shards import image_shards
from .splits import Splits, split_classes
from .tables import image_csv
from .transforms import batch_transforms, transforms
from .trunk_input import TrunkInput

__all__ = [
    "CATALOGUE",
    "CUB200",
    "Cars196",
    "CompCars",
    "Fashion200k",
    "ImageDataset",
    "InShop",
    "NABirds",
    "PseudoLabelDataset",
    "Redraw",
    "Splits",
    "TrunkInput",
    "batch_transforms",
    "find_duplicates",
    "glyphs_splits",
    "image_csv",
    "image_folder",
    "image_shards",
    "omniglot_splits",
    "open_images",
    "split_classes",
    "transforms",
]
