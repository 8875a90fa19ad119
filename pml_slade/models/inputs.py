"""What images a trunk takes: how its weights want them, and whether the network works at a size."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg
from torch import nn
from torchvision.models import get_model_weights

from pml_slade.datasets.trunk_input import TrunkInput
from pml_slade.exceptions import CheckpointError, ConfigError, SladeError
from pml_slade.models.model_file import read_model_meta
from pml_slade.models.trunks import resolve_trunk_name


def trunk_input(name: str, mode: str = "RGB", weights: str | os.PathLike[str] | None = None) -> TrunkInput:
    """Say what a trunk expects of photographs: normalisation, interpolation and crop.

    timm's come from its data config, crop included, so that evaluation is timm's own pipeline at the run's
    size. torchvision's come from its weights' enum, but for the crop, which stays the reality check's. For
    "convnet" and "bninception" (which converts for itself), and where a library says nothing, it is
    ImageNet's. Weights from a file are taken to want what the trunk's name says, so name the tag that they
    belong to, "timm/vit_small_patch16_224.dino" say; a model that `save_model` wrote says it itself.

    Args:
        name: see `resolve_trunk_name`.
        mode: `"RGB"`, or `"L"` for grey images, see `TrunkInput.of_mode`.
        weights: as `build_trunk` takes them.

    Raises:
        ConfigError: no library has the name.
        CheckpointError: `weights` is a file that is missing or damaged.

    Examples:
        >>> trunk_input("timm/tf_efficientnet_lite0").mean
        (0.5, 0.5, 0.5)
        >>> trunk_input("resnet50") == TrunkInput(size=224)
        True
        >>> trunk_input("resnet50", "L").std
        (0.226,)
    """
    if weights not in (None, "default") and (stored := _stored(Path(weights), mode)) is not None:
        return stored
    library, _, model = resolve_trunk_name(name).rpartition("/")
    known = {"timm": _of_timm, "torchvision": _of_torchvision}.get(library)
    found = known(model) if known else None
    return TrunkInput.usual(mode) if found is None else found.of_mode(mode)


def check_forward(
    models: Mapping[str, nn.Module], image_size: int, in_channels: int = 3, crops: Sequence[int] = ()
) -> None:
    """Run two images through a model, so that a size it refuses is found before anything is trained.

    Args:
        models: "trunk", and "embedder" if there is one. On the meta device nothing is computed.
        image_size: side of the images in pixels.
        in_channels: channels of the images.
        crops: sides of smaller crops that the same model must take, as SwAV's are.

    Raises:
        ConfigError: the model refuses a size; the message says what it takes, and the way out.

    Examples:
        >>> from pml_slade.models import build_model
        >>> check_forward(build_model("convnet", 8), image_size=8)
        Traceback (most recent call last):
        ...
        pml_slade.exceptions.ConfigError: data.image_size is 8, and the trunk ConvNet refuses ...
    """
    modes = [(module, module.training) for part in models.values() for module in part.modules()]
    weight = next(iter(models["trunk"].parameters()), torch.empty(0))
    try:
        for size in (image_size, *crops):
            images = torch.zeros(2, in_channels, size, size, device=weight.device, dtype=weight.dtype)
            with torch.no_grad():
                for part in models.values():
                    images = part.eval()(images)
    except torch.cuda.OutOfMemoryError:
        raise
    except (SladeError, AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"data.image_size is {image_size}, and the trunk {type(models['trunk']).__name__} refuses images "
            f"of {size} x {size} pixels: {reason.rstrip('.')}. {_way_out(models['trunk'], size, bool(crops))}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training


def _stored(path: Path, mode: str) -> TrunkInput | None:
    """What a model of ours was trained with; None for other files."""
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {path}; check the path.")
    meta = read_model_meta(path) if path.suffix == ".safetensors" else None
    if meta is None or meta.get("transform") == "small":
        return None
    try:
        stored = TrunkInput.from_meta(meta)
    except ConfigError as error:
        raise CheckpointError(f"{path} says of its input what cannot be: {error}.") from error
    return stored if len(stored.mean) == len(mode) else stored.of_mode(mode)


def _of_timm(model: str) -> TrunkInput | None:
    config = get_pretrained_cfg(model)
    if config is None:
        return None
    found = resolve_data_config(pretrained_cfg=config.to_dict())
    return TrunkInput(
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        interpolation=found["interpolation"],
        crop=found["crop_pct"],
        squash=found["crop_mode"] == "squash",
        size=found["input_size"][-1],
    )


def _of_torchvision(model: str) -> TrunkInput | None:
    weights = list(get_model_weights(model))
    if not weights:
        return None
    preset = get_model_weights(model)["DEFAULT"].transforms()
    return TrunkInput(
        tuple(preset.mean), tuple(preset.std), preset.interpolation.value, size=preset.crop_size[0]
    )


def _way_out(trunk: nn.Module, size: int, several: bool) -> str:
    """What the trunk takes, and how it takes another size, or several."""
    patches: Any = getattr(trunk, "patch_embed", None)
    own = _side(getattr(patches, "img_size", None) or getattr(trunk, "image_size", None))
    if own is None:
        return "Give larger images, or choose another model.trunk."
    step = _side(getattr(patches, "patch_size", None) or getattr(trunk, "patch_size", None)) or 1
    fitting = max(round(size / step), 1) * step
    known = inspect.signature(type(trunk).__init__).parameters
    options = [f"{{{key}: {fitting}}}" for key in ("img_size", "image_size") if key in known and not several]
    options += ["{dynamic_img_size: true}"] if "dynamic_img_size" in known else []
    ways = [f"give it data.image_size={own}"]
    if options:
        size_too = "" if fitting == size else f"data.image_size={fitting} and "
        ways.append(f"build it for others by {size_too}model.trunk_options={' or '.join(options)}")
    if several:
        ways.append("leave the small crops out by pretraining.num_local=0")
    return f"It takes {own} x {own}: {', or '.join(ways)}."


def _side(size: Any) -> int | None:
    """The first of two sides, or the only one."""
    return size[0] if isinstance(size, list | tuple) else size
