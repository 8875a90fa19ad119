"""A run whose trunk is frozen, whole or up to its last stages: what it gives is computed once, and takes the
place of the images."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets.draws import seed_everything
from ..datasets.features import FeatureStore, FeatureViews
from ..datasets.images import ImageDataset
from ..datasets.transforms import transforms
from ..datasets.views import Views
from ..exceptions import ConfigError
from ..models import SplitTrunk, split_trunk
from ..runtime import Runtime
from .settings import Config

MOST_IMAGES, MOST_VALUES = 1024, 2**26
"""Of a file of features: what a killed run loses at most."""


def split(config: Config, trunk: torch.nn.Module) -> SplitTrunk:
    """Return the part of a trunk that is frozen, and the one that is trained.

    Raises:
        ConfigError: it cannot be cut there.
    """
    where = config.model.train
    if where == "head":
        size: Any = trunk.output_size
        return SplitTrunk(trunk, torch.nn.Identity(), size)
    side, channels = config.data.image_size, len(config.data.mode)
    try:
        return split_trunk(trunk, (channels, side, side), None if where == "last" else where)
    except ConfigError as error:
        raise ConfigError(f"model.train={where}: {error}") from error


def join(trunk: torch.nn.Module, last: torch.nn.Module) -> torch.nn.Module:
    """Return a trunk with its last part as it was trained."""
    whole, state = copy.deepcopy(trunk), trunk.state_dict()
    trained = {name: value for name, value in last.state_dict().items() if name in state}
    whole.load_state_dict(state | trained)
    return whole


def build_feature_views(config: Config, views: Views, part: SplitTrunk, runtime: Runtime) -> FeatureViews:
    """Return the views of what a frozen part gives; they are computed when they are first asked for.

    Args:
        config: all settings.
        views: of the images.
        part: of the trunk.
        runtime: to compute them with.
    """
    kind, size, mode, expected = views.kind, views.image_size, views.mode, views.trunk_input
    plain = transforms(kind, size, mode, trunk_input=expected)
    augmented = transforms(kind, size, mode, True, views.strength, expected)

    exact = replace(runtime, numerics=replace(runtime.numerics, precision="fp32"))  # runs share them

    def extract(images: ImageDataset) -> np.ndarray:
        seed_everything(0, len(images))
        return exact.embed(images, part.first)

    def keep(each: list[Any]) -> FeatureStore:
        shard = max(16, min(MOST_IMAGES, MOST_VALUES // (part.size * len(each))))
        return FeatureStore(_folder(config, part, each), each, extract, part.size, shard)

    return FeatureViews(
        views.splits, kind, size, mode, views.strength, expected,
        store=keep([plain]), augmented_store=keep([augmented] * config.model.feature_views),
    )  # fmt: skip


def _folder(config: Config, part: SplitTrunk, each: Sequence[object]) -> Path:
    """The folder of one trunk, as its weights are, where it is cut, and of one set of transforms."""
    where = "" if config.model.train == "head" else f"{config.model.train} {part.size}"
    number = hashlib.sha256((repr(each) + where).encode())
    for name, value in part.first.state_dict().items():
        number.update(name.encode())
        number.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return config.model.features / f"{config.model.trunk.replace('/', '-')}-{number.hexdigest()[:16]}"
