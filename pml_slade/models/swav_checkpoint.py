"""SwAV checkpoints in the layout in which its authors publish theirs: trunk, projection head, prototypes."""

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models import clean_state_dict
from torch import Tensor, nn

from pml_slade.checkpoints import write_atomic
from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.models.saving import unwrapped
from pml_slade.models.weights import TORCH_SUFFIXES, read_state

_HEAD, _PROTOTYPES = "projection_head.", "prototypes."
_LINEAR = {"weight", "bias"}
_LAYERS = {f"{layer}.{key}" for layer in (0, 1, 3) for key in _LINEAR} | {"1.running_mean", "1.running_var"}
_OPTIONAL = {"1.num_batches_tracked"}


class SwAVCheckpoint(NamedTuple):
    """The state dicts in a SwAV checkpoint.

    Attributes:
        trunk: of the trunk.
        head: of the projection head, as `swav_head` builds it; None where the file has none.
        prototypes: {"weight": (num_prototypes, out_size)}; None where the file has none.

    Examples:
        >>> SwAVCheckpoint({}, swav_head(8, 6, 4).state_dict(), None).head_sizes
        (8, 6, 4)
    """

    trunk: dict[str, Tensor]
    head: dict[str, Tensor] | None
    prototypes: dict[str, Tensor] | None

    @property
    def head_sizes(self) -> tuple[int, int, int] | None:
        """What `swav_head` needs to build the head: in_size, hidden_size (0: linear) and out_size."""
        if self.head is None:
            return None
        first, last = (self.head.get("0.weight"), self.head.get("3.weight"))
        if first is None or last is None:
            out_size, in_size = self.head["weight"].shape
            return in_size, 0, out_size
        return first.shape[1], first.shape[0], last.shape[0]


def swav_head(in_size: int, hidden_size: int | None, out_size: int) -> nn.Module:
    """Build SwAV's projection head, layer by layer as its authors do (Caron et al., Sec. 3.3).

    Args:
        in_size: number of features, the trunk's `output_size`.
        hidden_size: size of the hidden layer; None or 0 makes the head linear.
        out_size: size of the embeddings that meet the prototypes.

    Returns:
        Linear, BatchNorm1d, ReLU, Linear; or one Linear. Its `embedding_size` is `out_size`.

    Raises:
        ConfigError: a size is too small.

    Examples:
        >>> swav_head(2048, 2048, 128)(torch.zeros(2, 2048)).shape
        torch.Size([2, 128])
        >>> swav_head(512, 0, 128)
        Linear(in_features=512, out_features=128, bias=True)
    """
    hidden = hidden_size or 0
    if min(in_size, out_size) < 1 or hidden < 0:
        raise ConfigError(
            f"in_size, hidden_size and out_size are {in_size}, {hidden_size} and {out_size}; pass 1 or "
            "more, and 0 for hidden_size to have no hidden layer."
        )
    head: Any = nn.Linear(in_size, out_size)
    if hidden:
        head = nn.Sequential(
            nn.Linear(in_size, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out_size),
        )
    head.embedding_size = out_size
    return head


def load_swav_checkpoint(path: str | os.PathLike[str]) -> SwAVCheckpoint:
    """Read a SwAV checkpoint: the authors', of either kind, or one of `save_swav_checkpoint`.

    To start a trunk alone, `load_trunk_weights` and the `weights` of `build_trunk` take the same file.

    Args:
        path: `swav_800ep_pretrain.pth.tar` say; or a checkpoint of a training, with epoch and optimizer.

    Returns:
        The state dicts of its parts.

    Raises:
        CheckpointError: the file cannot be read (see `load_state`), has no trunk, or its head and
            prototypes are not SwAV's or do not fit each other.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "swav.pth.tar"
        >>> state = {"conv1.weight": torch.zeros(1), "prototypes.weight": torch.zeros(30, 16)}
        >>> torch.save({f"module.{key}": value for key, value in state.items()}, path)
        >>> load_swav_checkpoint(path).prototypes["weight"].shape
        torch.Size([30, 16])
    """
    state = clean_state_dict(read_state(Path(path)))  # what DataParallel and torch.compile put before keys
    head, prototypes = _part(state, _HEAD), _part(state, _PROTOTYPES)
    trunk = {key: value for key, value in state.items() if not key.startswith((_HEAD, _PROTOTYPES))}
    checkpoint = SwAVCheckpoint(trunk, head or None, prototypes or None)
    if fault := _fault(checkpoint):
        raise CheckpointError(f"{path} is no SwAV checkpoint as its authors write them: {fault}.")
    return checkpoint


def save_swav_checkpoint(
    path: str | os.PathLike[str],
    trunk: nn.Module,
    head: nn.Module | None = None,
    prototypes: nn.Module | Tensor | None = None,
) -> Path:
    """Write a SwAV checkpoint in the published layout, atomically; any SwAV code can read it.

    Args:
        path: a `.pth.tar`, `.pth`, `.pt`, `.bin` or `.ckpt` file.
        trunk: without a classifier, as `build_trunk` gives it.
        head: as `swav_head` builds it.
        prototypes: a tensor of shape (num_prototypes, out_size), or a module that has it as its only
            one: a Linear without bias, or lightly's SwaVPrototypes.

    Returns:
        The path of the file.

    Raises:
        ConfigError: the suffix is another, or head and prototypes are not SwAV's or do not fit each
            other.

    Examples:
        >>> import tempfile
        >>> prototypes = nn.Linear(16, 30, bias=False)
        >>> path = Path(tempfile.mkdtemp()) / "swav.pth.tar"
        >>> path = save_swav_checkpoint(path, nn.Conv2d(3, 8, 3), swav_head(8, 8, 16), prototypes)
        >>> load_swav_checkpoint(path).head_sizes
        (8, 8, 16)
    """
    path = Path(path)
    if path.suffix not in TORCH_SUFFIXES:
        raise ConfigError(
            f"path has the suffix {path.suffix!r}; pass one of {', '.join(TORCH_SUFFIXES)}, '.pth.tar' say."
        )
    checkpoint = SwAVCheckpoint(
        _state(trunk), None if head is None else _state(head), _prototype_state(prototypes)
    )
    if fault := _fault(checkpoint):
        raise ConfigError(f"This makes no SwAV checkpoint: {fault}.")
    published = {f"module.{key}": value for key, value in checkpoint.trunk.items()}
    for prefix, part in {_HEAD: checkpoint.head, _PROTOTYPES: checkpoint.prototypes}.items():
        published |= {f"module.{prefix}{key}": value for key, value in (part or {}).items()}
    content = io.BytesIO()
    torch.save(published, content)
    write_atomic(path, content.getvalue())
    return path


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _state(module: nn.Module) -> dict[str, Tensor]:
    # Copies: a view would take its whole storage into the file.
    return {key: value.detach().cpu().clone() for key, value in unwrapped(module).state_dict().items()}


def _prototype_state(prototypes: nn.Module | Tensor | None) -> dict[str, Tensor] | None:
    if prototypes is None or isinstance(prototypes, Tensor):
        return None if prototypes is None else {"weight": prototypes.detach().cpu().clone()}
    state = _state(prototypes)
    return {"weight": next(iter(state.values()))} if len(state) == 1 else state


def _fault(checkpoint: SwAVCheckpoint) -> str:
    """What makes these parts no SwAV; empty where nothing does."""
    trunk, head, prototypes = checkpoint
    if not trunk:
        return "it has no trunk"
    if head is not None and set(head) - _OPTIONAL not in (_LINEAR, _LAYERS):
        return f"the projection head has {', '.join(head)}; swav_head's has 0, 1 and 3, or one layer"
    if prototypes is None:
        return ""
    shapes = {key: tuple(value.shape) for key, value in prototypes.items()}
    if list(shapes) != ["weight"] or len(shapes["weight"]) != 2:
        return f"prototypes must be one weight of shape (num_prototypes, out_size), got {shapes}"
    sizes = checkpoint.head_sizes
    if sizes is not None and sizes[-1] != shapes["weight"][1]:
        return f"the projection head gives {sizes[-1]} values and the prototypes take {shapes['weight'][1]}"
    return ""
