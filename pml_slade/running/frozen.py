"""A run whose trunk is frozen: its features are computed once, and take the place of the images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..datasets.features import FeatureStore, FeatureViews
from ..datasets.images import ImageDataset
from ..datasets.transforms import transforms
from ..datasets.views import Views
from ..runtime import Runtime
from .settings import Config
from .stages import seed_everything


def build_feature_views(
    config: Config, views: Views, trunk: torch.nn.Module, runtime: Runtime
) -> FeatureViews:
    """Return the views of a frozen trunk's features; they are computed when they are first asked for.

    Args:
        config: all settings.
        views: of the images.
        trunk: images to features, (n, C, H, W) -> (n, d).
        runtime: to compute them with.
    """
    kind, size, mode, expected = views.kind, views.image_size, views.mode, views.trunk_input
    plain = transforms(kind, size, mode, trunk_input=expected)
    augmented = transforms(kind, size, mode, True, views.strength, expected)
    each = [plain, *[augmented] * config.model.feature_views]

    def extract(images: ImageDataset) -> np.ndarray:
        seed_everything(0, len(images))
        return runtime.embed(images, trunk)

    return FeatureViews(
        views.splits, kind, size, mode, views.strength, expected,
        store=FeatureStore(_folder(config, trunk, each), each, extract),
    )  # fmt: skip


def _folder(config: Config, trunk: torch.nn.Module, each: Sequence[object]) -> Path:
    """The folder of one trunk, as its weights are, and of one set of transforms."""
    number = hashlib.sha256(repr(each).encode())
    for name, value in trunk.state_dict().items():
        number.update(name.encode())
        number.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return config.model.features / f"{config.model.trunk.replace('/', '-')}-{number.hexdigest()[:16]}"
