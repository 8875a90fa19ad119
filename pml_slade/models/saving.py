"""A trained model as one safetensors file that says itself how to rebuild it."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from pml_slade.checkpoints import write_atomic
from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models.trunks import build_model, resolve_trunk_name

_FORMAT = 1
_KEY = "pml_slade"
_REQUIRED = ("trunk", "embedding_size", "in_channels")


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
            "trunk_options" where they were given to `build_model`; and anything else that is JSON,
            such as "image_size", "mode" and "transform". Versions are added.

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
    if difference := state_difference(_rebuild(full), tensors):
        raise ConfigError(
            f"meta describes another model than models: {difference}. Pass the trunk's name, "
            "trunk_options, embedding_size, hidden_sizes and in_channels it was built with."
        )
    try:
        text = json.dumps(full)
    except TypeError as error:
        raise ConfigError(f"meta is not JSON: {error}. Pass strings, numbers, lists.") from error
    # One key: safetensors writes several in an order that changes from run to run.
    envelope = {"format_version": _FORMAT, "sha256": _digest(text, tensors), "meta": text}
    header = {_KEY: json.dumps(envelope)}
    path = Path(path)
    if path.suffix != ".safetensors":
        path = path / "model.safetensors"
    write_atomic(path, safetensors.torch.save(tensors, header))
    return path


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> LoadedModel:
    """Rebuild a model from the file that `save_model` wrote; nothing is downloaded or run.

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
        raise CheckpointError(f"There is no model file {path}; check the path.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}). Restore it from a copy."
        ) from error
    meta = _read_meta(path, header, tensors)
    try:
        model = _rebuild(meta)
    except (ConfigError, KeyError) as error:
        raise CheckpointError(
            f"{path} needs a model that cannot be built here: {error} It was written with "
            f"{meta.get('versions')}; install these versions."
        ) from error
    if difference := state_difference(model, tensors):
        raise CheckpointError(
            f"{path} does not fit the trunk {meta['trunk']} as it is built here: {difference}. "
            f"It was written with {meta.get('versions')}; install these versions."
        )
    model.load_state_dict(tensors)
    return model.to(device).eval()


def _read_meta(path: Path, header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        envelope = json.loads(header[_KEY])
        version, text = int(envelope["format_version"]), envelope["meta"]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path} is not a model that save_model wrote. To start a trunk from it, pass it as "
            "weights to build_trunk."
        ) from None
    if version > _FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, and this version of pml_slade reads up to {_FORMAT}. "
            "Upgrade pml_slade."
        )
    if envelope.get("sha256") != _digest(text, tensors):
        raise CheckpointError(f"{path} does not match its SHA-256. Restore it from a copy.")
    meta: dict[str, Any] = json.loads(text)
    return meta


def _rebuild(meta: Mapping[str, Any]) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):  # initial weights must not move the caller's seed
        models = build_model(
            meta["trunk"],
            meta["embedding_size"],
            meta["in_channels"],
            hidden_sizes=meta.get("hidden_sizes", ()),
            trunk_options=meta.get("trunk_options"),
        )
    return LoadedModel(models["trunk"], models["embedder"], dict(meta))


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


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    return {lib.__name__: lib.__version__ for lib in (torch, torchvision, timm, safetensors)}
