"""Weights from files: read as data, never as code, and loaded whole or not at all."""

import argparse
import logging
import os
import pickle
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from pml_slade.exceptions import CheckpointError
from pml_slade.models.model_file import read_model_file

logger = logging.getLogger("pml_slade")

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher", "student")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.", "trunk.")
# What a module of Lightning usually calls its network; its losses and metrics are no part of that.
_NETWORKS = ("model.", "net.")
# MoCo v1 and v2, and v3: the encoder that is trained, beside its momentum copy, queue and predictor.
_BRANCHES = ("encoder_q.", "base_encoder.")
_HEADS = (
    *("fc.", "head.", "heads.", "head_dist.", "classifier.", "last_linear.", "embedder."),
    *("projection_head.", "projector.", "prediction_head.", "predictor.", "prototypes."),
    *("AuxLogits.", "aux1.", "aux2."),
)
_COUNTER = "num_batches_tracked"
_SHOWN = 5
# What torch, of now and of 2.1, says of a class or a function in the file.
_CODE = re.compile("GLOBAL|Unsupported class")


@dataclass(frozen=True)
class LoadReport:
    """What a weights file gave to a trunk.

    Attributes:
        loaded: keys that were loaded.
        missing: keys of the trunk that the file lacks.
        unexpected: keys of the file that the trunk lacks.
        mismatched: keys whose shapes differ, with both shapes.
        adapted: keys of `loaded` that were fitted: RGB kernels to other input channels, position embeddings
            and patches to another image size.

    Examples:
        >>> print(LoadReport(loaded=["a", "b"], unexpected=["fc.weight"]))
        2 loaded: a, b
        1 unexpected: fc.weight
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for kind, keys in vars(self).items():
            if keys:
                rest = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
                lines.append(f"{len(keys)} {kind}: {', '.join(keys[:_SHOWN])}{rest}")
        return "\n".join(lines) or "nothing"


def load_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state dict in a weights file.

    The dict is found inside the common wrappers ("state_dict", "model", "model_state_dict",
    "teacher", "student"), and a prefix that most keys carry is taken off, such as "module.", "backbone."
    or Lightning's "model.". Of MoCo's two encoders, the trained one is read: "encoder_q." or "base_encoder.".

    Args:
        path: a `.safetensors` file, or a `.pth`, `.pt`, `.bin`, `.tar` or `.ckpt` file of
            `torch.save`. A file that holds code is refused, not run; settings and learning rates
            that training scripts leave beside the weights are read as the data they are. A file of
            `save_model` is verified.

    Returns:
        The tensors by key, on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, holds code, or has no
            state dict.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pth"
        >>> torch.save({"state_dict": {"module.conv.weight": torch.zeros(2)}, "epoch": 3}, path)
        >>> load_state(path)
        {'conv.weight': tensor([0., 0.])}
    """
    return _stripped(read_state(Path(path)))[-1]


def load_trunk_weights(trunk: nn.Module, path: str | os.PathLike[str], strict: bool = True) -> LoadReport:
    """Load a weights file into a trunk, and say what was loaded.

    Keys of a head (`fc.`, `classifier.`, `projection_head.`, `prototypes.`, ...) that the trunk
    lacks are left out and reported. The first convolution of an RGB file is fitted to a trunk
    with other input channels: summed for one channel. A ViT's position embeddings are resampled to the
    trunk's image size, by the trunk's own library, which also reads the layouts of other authors that it
    knows. BN's batch counters may be missing, as old files lack them.

    Args:
        trunk: the module to load into.
        path: see `load_state`.
        strict: whether any other difference is an error. Without it, what fits is loaded, and the
            report is logged as a warning.

    Returns:
        What was loaded and what was not.

    Raises:
        CheckpointError: the file cannot be read, nothing in it fits, or, when strict, not
            everything fits. The trunk is then as it was.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.pth"
        >>> trunk = nn.Linear(2, 1)
        >>> torch.save({**trunk.state_dict(), "fc.bias": torch.zeros(1)}, path)
        >>> print(load_trunk_weights(trunk, path))
        2 loaded: weight, bias
        1 unexpected: fc.bias
    """
    own = trunk.state_dict()
    # Some trunks have an "encoder" of their own: the reading that fits most keys is the right one.
    state = max(_stripped(read_state(Path(path))), key=lambda state: len(own.keys() & state))
    report, fitting = _compare(trunk, own, state)
    if report.missing or report.mismatched:
        report, fitting = _fitted(trunk, own, state, report, fitting)
    foreign = [key for key in report.unexpected if not key.startswith(_HEADS)]
    usable = any(not key.endswith(_COUNTER) for key in report.loaded)
    if not usable and not report.mismatched:
        raise CheckpointError(
            f"Nothing in {path} fits the trunk. The file has keys such as "
            f"{', '.join(list(state)[:_SHOWN])}; the trunk has {', '.join(list(own)[:_SHOWN])}. "
            "Choose the trunk that the file was trained with."
        )
    if report.missing or report.mismatched or foreign:
        said = "; ".join(str(report).splitlines())
        if strict or not usable:
            part = ", or pass strict=False to load only what fits" if usable else ""
            raise CheckpointError(
                f"{path} does not fit the trunk ({said}). Choose the trunk that the file was trained "
                f"with{part}."
            )
        logger.warning("Loaded %s in part (%s)", path, said)
    trunk.load_state_dict(fitting, strict=False)
    return report


def first_conv(trunk: nn.Module) -> tuple[str, nn.Conv2d]:
    """Find the convolution that meets the image.

    Args:
        trunk: a module whose first convolution, in the order of definition, is that one.

    Returns:
        The name of the convolution and the convolution.

    Raises:
        CheckpointError: the trunk has no convolution.

    Examples:
        >>> first_conv(nn.Sequential(nn.Conv2d(3, 8, 3)))[0]
        '0'
    """
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module
    raise CheckpointError("The trunk has no convolution to fit to the images' channels.")


def _compare(
    trunk: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[LoadReport, dict[str, Tensor]]:
    report = LoadReport(unexpected=[key for key in state if key not in own])
    fitting: dict[str, Tensor] = {}
    for key, wanted in own.items():
        if key not in state:
            if not key.endswith(_COUNTER):
                report.missing.append(key)
            continue
        value = state[key]
        if value.shape != wanted.shape and _is_rgb_version(trunk, key, value, wanted):
            value = adapt_input_conv(wanted.shape[1], value)
            report.adapted.append(key)
        if value.shape == wanted.shape:
            fitting[key] = value
            report.loaded.append(key)
        else:
            shapes = f"{tuple(value.shape)} in the file, {tuple(wanted.shape)} in the trunk"
            report.mismatched.append(f"{key} ({shapes})")
    return report, fitting


def _fitted(
    trunk: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    report: LoadReport,
    fitting: dict[str, Tensor],
) -> tuple[LoadReport, dict[str, Tensor]]:
    """What the trunk's own library makes of a state that does not fit: another size, or another layout."""
    if isinstance(trunk, VisionTransformer):
        fit: Any = lambda state, vit: interpolate_embeddings(vit.image_size, vit.patch_size, state)  # noqa: E731
    else:  # timm keeps it beside each family of models, and says nowhere else which one is meant
        fit = getattr(sys.modules.get(type(trunk).__module__), "checkpoint_filter_fn", None)
    try:
        fitted = fit(dict(state), trunk)
        theirs, values = _compare(trunk, own, fitted)
    except Exception:  # none there, or a layout that it does not know either: the report says what it is
        return report, fitting
    if len(theirs.loaded) <= len(report.loaded):
        return report, fitting
    theirs.adapted.extend(k for k in theirs.loaded if k in state and state[k].shape != values[k].shape)
    logger.info("resampled to the trunk's size: %s", ", ".join(theirs.adapted) or "nothing")
    return theirs, values


def _is_rgb_version(trunk: nn.Module, key: str, value: Tensor, wanted: Tensor) -> bool:
    return (
        value.ndim == 4
        and value.shape[1] == 3
        and value[:, 0].shape == wanted[:, 0].shape
        and key == f"{first_conv(trunk)[0]}.weight"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a weights file, with its keys as they are; else as `load_state`."""
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {path}; check the path.")
    if path.suffix == ".safetensors":
        content: Any = read_model_file(path)[1]
    elif path.suffix in TORCH_SUFFIXES:
        content = _read_torch(path)
    else:
        raise CheckpointError(
            f"{path} has the suffix {path.suffix!r}; weights are read from .safetensors and "
            f"{', '.join(TORCH_SUFFIXES)} files. Save the state dict as one of them."
        )
    return _unwrap(content, path)


def _read_torch(path: Path) -> Any:
    try:
        with _harmless_types():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _CODE.search(str(error)):
            raise CheckpointError(
                f"{path} is not a file of torch.save, or is damaged. Fetch it again."
            ) from error
        raise CheckpointError(
            f"{path} holds Python objects beside tensors, and reading them could run code. If you "
            "trust its source, load it with torch.load(..., weights_only=False) in a script of "
            "your own, and save its state dict alone."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} is empty, cut short or damaged ({reason}). Fetch it again.") from error


def _harmless_types() -> AbstractContextManager[Any]:
    """What the checkpoints of SwAV, DINO, MAE and others hold beside tensors: `args`, and numpy floats.

    torch before 2.6 cannot be told; there such a file is refused like one with code.
    """
    if torch.__version__ < "2.6":
        return nullcontext()
    scalar: Any = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [type(np.dtype(name)) for name in ("float64", "float32", "int64")]
    return torch.serialization.safe_globals([argparse.Namespace, np.dtype, *dtypes, *names])


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    found = content
    while isinstance(found, Mapping) and not any(isinstance(v, Tensor) for v in found.values()):
        found = next((found[k] for k in _WRAPPERS if isinstance(found.get(k), Mapping)), None)
    if not isinstance(found, Mapping):
        keys = f"the keys {list(content)[:_SHOWN]}" if isinstance(content, Mapping) else "no dict"
        raise CheckpointError(
            f"{path} has {keys} and no state dict, at its top or under {', '.join(_WRAPPERS)}. "
            "Save the state dict alone."
        )
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _stripped(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The state as it came, then with one more prefix taken off each time."""
    readings = [state]
    while (shorter := _strip_one(readings[-1])) is not None:
        readings.append(shorter)
    return readings


def _strip_one(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    for branch in _BRANCHES:
        if chosen := {k.removeprefix(branch): v for k, v in state.items() if k.startswith(branch)}:
            return chosen
    for network in _NETWORKS:
        chosen = {k.removeprefix(network): v for k, v in state.items() if k.startswith(network)}
        if 2 * len(chosen) > len(state):
            return chosen
    for prefix in _PREFIXES:
        carrying = sum(key.startswith(prefix) for key in state)
        shorter = {key.removeprefix(prefix): value for key, value in state.items()}
        # Fewer keys afterwards would mean that two became one.
        if 2 * carrying > len(state) and len(shorter) == len(state):
            return shorter
    return None
