"""From settings to models, and what their files say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..datasets.trunk_input import TrunkInput
from ..models import Embedder, build_model, build_trunk, check_forward, trunk_input
from ..models.trunks import shapes_alone
from .settings import Config


def build_trunk_input(config: Config) -> TrunkInput | None:
    """Return what the trunk expects of photographs; drawings are what they are."""
    model, data = config.model, config.data
    return trunk_input(model.trunk, data.mode, model.weights) if data.transform == "photo" else None


def check_model(config: Config) -> None:
    """Refuse a trunk, options or an image size that do not fit each other, before anything is read."""
    model, channels = config.model, len(config.data.mode)
    with shapes_alone():
        trunk = build_trunk(model.trunk, channels, **model.trunk_options)
    check_forward({"trunk": trunk}, config.data.image_size, channels)


def build_models(config: Config, weights: Path | None = None) -> dict[str, torch.nn.Module]:
    """Return a fresh trunk and embedder; the same seed gives the same weights.

    Args:
        config: all settings.
        weights: file that the trunk starts from, in place of `model.weights`.
    """
    torch.manual_seed(config.seed)
    model = config.model
    return build_model(
        model.trunk,
        model.embedding_size,
        in_channels=len(config.data.mode),
        weights=weights or model.weights,
        hidden_sizes=tuple(model.hidden_sizes),
        trunk_options=model.trunk_options,
    )


def starts_principal(config: Config) -> bool:
    """Whether the embedder starts at principal components: if asked for, or if the trunk has weights."""
    model = config.model
    if model.embedder_init != "auto":
        return model.embedder_init == "principal"
    return not model.hidden_sizes and (model.weights is not None or config.pretraining.steps > 0)


def identity_embedder(size: int) -> Embedder:
    """An embedder that leaves features as they are."""
    embedder = Embedder(size, size)
    with torch.no_grad():
        layer: Any = embedder.layers[0]
        layer.weight.copy_(torch.eye(size))
        layer.bias.zero_()
    return embedder


def model_meta(config: Config) -> dict[str, Any]:
    """Return what is needed to rebuild the model and its transform from a file."""
    model, data = config.model, config.data
    expected = build_trunk_input(config)
    return {
        "trunk": model.trunk,
        "trunk_options": dict(model.trunk_options),
        "embedding_size": model.embedding_size,
        "hidden_sizes": list(model.hidden_sizes),
        "in_channels": len(data.mode),
        "image_size": data.image_size,
        "mode": data.mode,
        "transform": data.transform,
        "input": None if expected is None else expected.as_meta(),
    }


def embedding_model(models: dict[str, torch.nn.Module]) -> torch.nn.Module:
    """Trunk and embedder as one module, images to embeddings."""
    return torch.nn.Sequential(models["trunk"], models["embedder"])
