"""A trained model as one safetensors file that says itself how to rebuild it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
import torchvision
from torch import Tensor, nn

from pml_slade.datasets.trunk_input import TrunkInput
from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models.model_file import read_model_file, read_shapes, write_model_file
from pml_slade.models.options import check_options, count_of
from pml_slade.models.trunks import build_model, resolve_trunk_name, shapes_alone

_REQUIRED = ("trunk", "embedding_size", "in_channels")
_LONGEST_NAME = 200
_LARGEST_UNSAVED = 2**25
"""Values in tables that a network makes for itself, Swin's attention masks for one; real ones have 2**21."""


class LoadedModel(nn.Module):
    """A model from a file: a trunk, an embedder, and what is known about them.

    Args:
        trunk: maps images to features.
        embedder: maps features to embeddings.
        meta: what `save_model` was given, and the versions it was written with.

    Examples:
        >>> model = LoadedModel(nn.Flatten(), nn.Linear(4, 2), {})
        >>> model(torch.zeros(3, 1, 2, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, trunk: nn.Module, embedder: nn.Module, meta: dict[str, Any]) -> None:
        super().__init__()
        self.trunk = trunk
        self.embedder = embedder
        self.meta = meta

    @property
    def trunk_input(self) -> TrunkInput:
        """What its trunk was trained to expect of photographs: `meta["input"]`, or the usual."""
        return TrunkInput.from_meta(self.meta)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the embeddings, not normalised.

        Args:
            images: shape (N, in_channels, height, width).

        Returns:
            Embeddings of shape (N, embedding_size).
        """
        return self.embedder(self.trunk(images))


def save_model(
    path: str | os.PathLike[str], models: Mapping[str, nn.Module], meta: Mapping[str, Any]
) -> Path:
    """Write a trained model as one file that `load_model` rebuilds, atomically.

    Args:
        path: a `.safetensors` file, or a folder, in which it becomes `model.safetensors`.
        models: "trunk" and "embedder", as `build_model` gives them; others are not saved.
        meta: "trunk" (the name), "embedding_size" and "in_channels"; "hidden_sizes" and
            "trunk_options" where they were given to `build_model`; "input", what the trunk was trained to
            expect, as `TrunkInput.as_meta` gives it; and anything else that is JSON, such as "image_size",
            "mode" and "transform". Versions are added.

    Returns:
        The path of the file.

    Raises:
        ConfigError: `models` or `meta` lacks something, `meta` is not JSON, or `meta` describes
            another model than `models`.

    Examples:
        >>> import tempfile
        >>> models = build_model("convnet", embedding_size=8, in_channels=1)
        >>> meta = {"trunk": "convnet", "embedding_size": 8, "in_channels": 1, "image_size": 28}
        >>> path = save_model(tempfile.mkdtemp(), models, meta)
        >>> load_model(path).meta["image_size"]
        28
    """
    for argument, given, needed in (
        ("models", models, ("trunk", "embedder")),
        ("meta", meta, _REQUIRED),
    ):
        if lacking := [key for key in needed if key not in given]:
            raise ConfigError(f"{argument} lacks {', '.join(lacking)}; it has {', '.join(given)}.")
    full = {**meta, "trunk": resolve_trunk_name(meta["trunk"]), "versions": _versions()}
    tensors = {
        f"{part}.{key}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for part in ("trunk", "embedder")
        for key, value in unwrapped(models[part]).state_dict().items()
    }
    with shapes_alone():
        described = _build(full)
    if difference := state_difference(described, tensors):
        raise ConfigError(
            f"meta describes another model than models: {difference}. Pass the trunk's name, "
            "trunk_options, embedding_size, hidden_sizes and in_channels it was built with."
        )
    try:
        text = json.dumps(full)
    except TypeError as error:
        raise ConfigError(f"meta is not JSON: {error}. Pass strings, numbers, lists.") from error
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path / "model.safetensors"
    write_model_file(path, text, tensors)
    return path


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> LoadedModel:
    """Rebuild a model from the file that `save_model` wrote; nothing is downloaded or run.

    The file may be a stranger's: of what its header asks for, only what says how a network looks is let
    through (see `check_options`), and nothing is allocated before its shapes are those of the file's tensors.

    Args:
        path: the file, or the folder it is in.
        device: where the model goes.

    Returns:
        The model, in eval mode.

    Raises:
        CheckpointError: the file is missing, damaged, no model of this package, of a newer
            format, or needs a trunk that the installed libraries lack.

    Examples:
        >>> load_model("nowhere.safetensors")
        Traceback (most recent call last):
        ...
        pml_slade.exceptions.CheckpointError: There is no model file nowhere.safetensors; ...
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"There is no model file {path}; give a run's folder, or its model.safetensors."
        )
    meta, given = read_shapes(path)
    if meta is None:
        raise CheckpointError(
            f"{path} is not a model that save_model wrote. To start a trunk from it, pass it as "
            "weights to build_trunk."
        )
    _fill_in(given)
    try:
        _check_sizes(meta, given)
        TrunkInput.from_meta(meta)
        with shapes_alone():
            shapes = _build(meta)
        difference = state_difference(shapes, given)
        fits = not difference and _unsaved(shapes) <= _LARGEST_UNSAVED
        model = _build(meta) if fits else None
    except Exception as error:  # a header may hold anything, and libraries have not thought of it
        raise CheckpointError(
            f"{path} needs a model that cannot be built here: {error} It was written with "
            f"{meta.get('versions')}; install these versions."
        ) from error
    if model is None:
        raise CheckpointError(
            f"{path} does not fit the trunk {meta['trunk']} as it is built here: "
            f"{difference or 'tables far larger than its weights'}. "
            f"It was written with {meta.get('versions')}; install these versions."
        )
    tensors = read_model_file(path)[1]
    _fill_in(tensors)
    model.load_state_dict(tensors)
    return model.to(device).eval()


def _fill_in(tensors: dict[str, Tensor]) -> None:
    """Files of before know no center and no scale of features."""
    first = tensors.get("embedder.layers.0.weight")
    if first is not None and first.ndim == 2:
        tensors.setdefault("embedder.center", torch.zeros(first.shape[1]))
        tensors.setdefault("embedder.scale", torch.ones(()))


def _check_sizes(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse more layers than the file has tensors: building them, even without memory, might never end."""
    hidden = meta.get("hidden_sizes", ())
    sizes = [meta["embedding_size"], meta["in_channels"], *hidden]
    if (
        not isinstance(meta["trunk"], str)
        or len(meta["trunk"]) > _LONGEST_NAME
        or not all(type(size) is int for size in sizes)
    ):
        raise ConfigError(f"trunk must be a name and sizes whole numbers, got {str(meta)[:200]}.")
    options = meta.get("trunk_options") or {}
    check_options(options)
    asked = max(len(hidden), count_of(options))
    if asked > len(tensors):
        raise ConfigError(f"It asks for {asked} layers and has {len(tensors)} tensors.")


def _build(meta: Mapping[str, Any]) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):  # initial weights must not move the caller's seed
        models = build_model(
            meta["trunk"],
            meta["embedding_size"],
            meta["in_channels"],
            hidden_sizes=meta.get("hidden_sizes", ()),
            trunk_options=meta.get("trunk_options"),
        )
    return LoadedModel(models["trunk"], models["embedder"], dict(meta))


def _unsaved(model: nn.Module) -> int:
    """Number of values in the buffers that are no part of the state dict."""
    saved = model.state_dict().keys()
    return sum(buffer.numel() for name, buffer in model.named_buffers() if name not in saved)


def state_difference(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """The first keys whose tensors are not alike; empty where all are."""
    built = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    keys = [k for k in {**built, **given} if built.get(k) != given.get(k)]
    return ", ".join(f"{k} is {given.get(k)}, not {built.get(k)}" for k in keys[:3])


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(module, "_orig_mod", None) or (
            module.module
            if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
            else None
        )
        if inner is None:
            return module
        module = inner


def _versions() -> dict[str, str]:
    return {lib.__name__: lib.__version__ for lib in (torch, torchvision, timm, safetensors)}
