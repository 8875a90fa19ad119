"""From settings to models, and what their files say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..models import build_model
from .settings import Config


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
    )


def model_meta(config: Config) -> dict[str, Any]:
    """Return what is needed to rebuild the model and its transform from a file."""
    model, data = config.model, config.data
    return {
        "trunk": model.trunk,
        "embedding_size": model.embedding_size,
        "hidden_sizes": list(model.hidden_sizes),
        "in_channels": len(data.mode),
        "image_size": data.image_size,
        "mode": data.mode,
        "transform": data.transform,
    }


def embedding_model(models: dict[str, torch.nn.Module]) -> torch.nn.Module:
    """Trunk and embedder as one module, images to embeddings."""
    return torch.nn.Sequential(models["trunk"], models["embedder"])
