"""The file of a trained model: its tensors and what describes them, under one digest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pml_slade.checkpoints import write_atomic
from pml_slade.exceptions import CheckpointError
from pml_slade.strangers import check_file

_FORMAT = 1
_KEY = "pml_slade"


def write_model_file(path: Path, meta: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and their description, as JSON, into one safetensors file, atomically."""
    # One key: safetensors writes several in an order that changes from run to run.
    envelope = {"format_version": _FORMAT, "sha256": _digest(meta, tensors), "meta": meta}
    write_atomic(path, safetensors.torch.save(dict(tensors), {_KEY: json.dumps(envelope)}))


def _opened(path: Path) -> Any:
    check_file(path)
    return safetensors.safe_open(path, framework="pt")


def read_model_file(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Read a safetensors file; one of ours is verified.

    Returns:
        The description, None where the file is not one of `write_model_file`, and the tensors.

    Raises:
        CheckpointError: the file is damaged, no safetensors file, or of a newer format.
    """
    try:
        with _opened(path) as file:
            envelope = _envelope(path, file.metadata())
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if envelope is None:
        return None, tensors
    if envelope["sha256"] != _digest(envelope["meta"], tensors):
        raise CheckpointError(
            f"{path} does not match its SHA-256. Fetch it again, or restore it from a copy."
        )
    return json.loads(envelope["meta"]), tensors


def read_shapes(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Read the description, not verified, and tensors without values, for which no memory is needed."""
    try:
        with _opened(path) as file:
            envelope = _envelope(path, file.metadata())
            shapes = {
                key: torch.empty(file.get_slice(key).get_shape(), device="meta")
                for key in file.keys()  # noqa: SIM118
            }
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _damaged(path, error) from error
    return None if envelope is None else json.loads(envelope["meta"]), shapes


def read_model_meta(path: Path) -> dict[str, Any] | None:
    """Read the description alone, not verified; None where the file is not one of `write_model_file`."""
    try:
        with _opened(path) as file:
            envelope = _envelope(path, file.metadata())
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return None if envelope is None else json.loads(envelope["meta"])


def _envelope(path: Path, header: Mapping[str, str] | None) -> dict[str, Any] | None:
    """Format version, digest and description, which are then known to be what they should be."""
    if _KEY not in (header or {}):
        return None
    try:
        envelope = json.loads((header or {})[_KEY])
        version, described = int(envelope["format_version"]), json.loads(envelope["meta"])
        if not isinstance(described, dict) or "sha256" not in envelope:
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(
            f"{path} has a header that save_model did not write. Fetch it again, or restore it from a copy."
        ) from None
    if version > _FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, and this version of pml_slade reads up to {_FORMAT}. "
            "Upgrade pml_slade."
        )
    return envelope


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or not a safetensors file ({error}). Fetch it again, or restore it from a copy."
    )


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
