"""What a checkpoint of a stage may hold, whoever wrote it: looked at before anything of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import CheckpointError

NUMBERS = (bool, int, float)


def check_like(found: Any, own: Any, where: str = "state", whole: bool = False) -> None:
    """Make sure that a state has no other keys, types and shapes than another one.

    It may lack some, which an older torch did not write. What the other one does not have yet, an empty list,
    an empty dict or None, may hold plain values.

    Args:
        found: from a file.
        own: of the same thing as it is now.
        where: for messages.
        whole: it may lack nothing.

    Raises:
        CheckpointError: says where they differ.

    Examples:
        >>> check_like({"steps": 3}, {"steps": 0})
        >>> check_like({"steps": "3"}, {"steps": 0})
        Traceback (most recent call last):
        pml_slade.exceptions.CheckpointError: state['steps'] is a str, not a int
    """
    if isinstance(own, Tensor):
        same = isinstance(found, Tensor) and found.dtype == own.dtype
        grows = same and not own.numel() and found.ndim == own.ndim  # as a queue does
        if not same or (found.shape != own.shape and not grows):
            raise CheckpointError(f"{where} is {_told(found)}, not {_told(own)}")
    elif own is None or (isinstance(own, Mapping | list | tuple) and not own):
        if own is not None and not isinstance(found, Mapping if isinstance(own, Mapping) else list | tuple):
            raise CheckpointError(f"{where} is {_told(found)}, not {_told(own)}")
        _check_plain(found, where)
    elif isinstance(own, Mapping):
        if not isinstance(found, Mapping):
            raise CheckpointError(f"{where} is {_told(found)}, not {_told(own)}")
        if wrong := [key for key in found if key not in own] or [k for k in own if whole and k not in found]:
            raise CheckpointError(f"{where} differs in {', '.join(map(str, wrong)):.100}")
        for key, value in found.items():
            check_like(value, own[key], f"{where}[{key!r}]", whole)
    elif isinstance(own, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(own):
            raise CheckpointError(f"{where} is {_told(found)}, not {_told(own)}")
        for i, value in enumerate(own):
            check_like(found[i], value, f"{where}[{i}]", whole)
    elif isinstance(own, NUMBERS):
        if not isinstance(found, NUMBERS):
            raise CheckpointError(f"{where} is {_told(found)}, not {_told(own)}")
    elif type(found) is not type(own):
        raise CheckpointError(f"{where} is {_told(found)}, not {_told(own)}")


def check_optimizer(found: Any, optimizer: Any, where: str) -> None:
    """Make sure that what an optimizer keeps of each parameter fits the parameter.

    Raises:
        CheckpointError: says what does not.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, kept in found["state"].items():
        if number not in range(len(parameters)) or not isinstance(kept, Mapping):
            raise CheckpointError(f"{where} keeps something of parameter {number!r:.20}, which there is not")
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.numel() != 1 and value.shape != parameters[number].shape:
                raise CheckpointError(f"{where} keeps {name} of {_told(value)} of parameter {number}")
            if not isinstance(value, Tensor | bool | int | float | None):
                raise CheckpointError(f"{where} keeps {name} of parameter {number}: {_told(value)}")


def check_history(found: Any) -> None:
    """Make sure that it lists numbers by name, of an epoch each.

    Raises:
        CheckpointError: it does not.
    """
    rows = found if isinstance(found, list) else [None]
    if not all(isinstance(row, dict) and "epoch" in row and _are_numbers(row) for row in rows):
        raise CheckpointError("its history must list numbers of epochs")


def check_best(found: Any, models: Mapping[str, nn.Module]) -> None:
    """Make sure that it is a score, figures by class, an epoch and weights of these models, or nothing yet.

    Raises:
        CheckpointError: it is something else.
    """
    if found is not None:
        states = {key: part.state_dict() for key, part in models.items()}
        classes = torch.zeros(0, dtype=torch.float64)
        own = {"score": 0.0, "classes": classes, "epoch": 0, "models": states}
        check_like(found, own, "best", whole=True)


def _are_numbers(row: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, int | float) for key, value in row.items())


def _check_plain(found: Any, where: str) -> None:
    """Numbers, words, tensors that have their values, and lists and dicts of these."""
    if isinstance(found, Tensor):
        if found.numel() * found.element_size() > found.untyped_storage().nbytes():
            raise CheckpointError(f"{where} is {_told(found)}, and has fewer values")
    elif isinstance(found, Mapping):
        for key, value in found.items():
            _check_plain(value, f"{where}[{key!r:.20}]")
    elif isinstance(found, list | tuple):
        for i, value in enumerate(found):
            _check_plain(value, f"{where}[{i}]")


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, list(value)[:5]))}"
    return f"a {type(value).__name__}"
