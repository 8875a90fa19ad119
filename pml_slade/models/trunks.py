"""Trunks by name: ours, torchvision's, timm's and BN-Inception, all without their classifier."""

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.models import adapt_input_conv, get_pretrained_cfg
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model, get_model_weights, list_models

from pml_slade.exceptions import CheckpointError, ConfigError, SladeError
from pml_slade.models.bninception import as_trunk, import_bninception
from pml_slade.models.convnet import ConvNet
from pml_slade.models.embedder import Embedder
from pml_slade.models.model_file import read_model_meta
from pml_slade.models.options import check_options
from pml_slade.models.weights import first_conv, load_trunk_weights

_INCEPTIONS = ("googlenet", "inception_v3")
_HEADS = ("fc", "classifier", "head", "heads")
_OTHERS = ("convnet", "pretrainedmodels/bninception")
"""Of the last library only what timm lacks. The name is known without it, so that it can be asked for."""
_TAG = re.compile(r"[\w.-]+")


def trunk_names() -> list[str]:
    """List every name that `build_trunk` takes, in the order in which bare names resolve.

    Returns:
        "convnet", then "torchvision/...", then "timm/...", then "pretrainedmodels/bninception".

    Examples:
        >>> trunk_names()[0]
        'convnet'
        >>> "torchvision/resnet50" in trunk_names()
        True
    """
    theirs = [f"torchvision/{name}" for name in list_models(module=torchvision.models)]
    timms = [f"timm/{name}" for name in timm.list_models()]
    first, last = _OTHERS
    return [first, *theirs, *timms, last]


def resolve_trunk_name(name: str) -> str:
    """Find the full name of a trunk: a bare name is ours, else torchvision's, else timm's.

    Args:
        name: "convnet", "resnet50", "torchvision/resnet50", "timm/resnet50.a1_in1k", "bninception", ...

    Returns:
        "convnet", "torchvision/<name>", "timm/<name>" or "pretrainedmodels/bninception".

    Raises:
        ConfigError: no library has the name; the nearest ones are listed.

    Examples:
        >>> resolve_trunk_name("resnet50")
        'torchvision/resnet50'
    """
    for candidate in (name, f"torchvision/{name}", f"timm/{name}", f"pretrainedmodels/{name}"):
        stem, dot, tag = candidate.partition(".")
        if _is_known(stem) and (not dot or (stem.startswith("timm/") and _TAG.fullmatch(tag))):
            return candidate
    bare = name.rsplit("/", 1)[-1]
    every = dict.fromkeys(full.rsplit("/", 1)[-1] for full in trunk_names())
    nearest = difflib.get_close_matches(bare, every, n=5, cutoff=0.5)
    raise ConfigError(
        f"There is no trunk {name!r}. Nearest: {', '.join(nearest) or 'none'}. Pass 'convnet', or "
        "a name of torchvision or timm, such as 'resnet50', 'torchvision/resnet50' or "
        "'timm/resnet50', or 'bninception'."
    )


def _is_known(name: str) -> bool:
    """Whether it is one of `trunk_names`; to list them all takes longer than to build most trunks."""
    library, _, model = name.rpartition("/")
    if library == "timm":
        return bool(timm.is_model(model))
    if library == "torchvision":
        return model in list_models(module=torchvision.models)
    return name in _OTHERS


def named_trunk(weights: Path) -> str | None:
    """Return the trunk that a file of weights says it is of, or is named after; None if it tells neither.

    Examples:
        >>> named_trunk(Path("weights/tf_efficientnet_lite0.safetensors"))
        'timm/tf_efficientnet_lite0'
        >>> named_trunk(Path("best.pth"))
    """
    if weights.suffix == ".safetensors" and weights.is_file():
        meta = read_model_meta(weights)
        if meta is not None and isinstance(meta.get("trunk"), str):
            return str(meta["trunk"])
    try:
        return resolve_trunk_name(weights.stem)
    except ConfigError:
        return None


def build_trunk(
    name: str,
    in_channels: int = 3,
    weights: str | os.PathLike[str] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a trunk that maps images to flat features.

    Args:
        name: see `resolve_trunk_name`.
        in_channels: channels of the images. Pretrained RGB kernels are summed for 1 channel.
        weights: None for random weights, "default" for the library's pretrained ones, or the path
            of a file (see `load_trunk_weights`).
        **options: go to the model's own constructor, such as `width=32` for "convnet" or
            `img_size=112` for a timm ViT; see `check_options` for what is let through. Weights of a ViT are
            resampled to its size.

    Returns:
        The trunk; it takes images of shape (N, in_channels, height, width), and its `output_size`
        is the number of features.

    Raises:
        ConfigError: the name, an option or `in_channels` cannot be used, "default" was asked of a
            trunk without pretrained weights, or the library of the trunk is not installed.
        CheckpointError: the weights cannot be downloaded, read, or do not fit.

    Examples:
        >>> build_trunk("convnet", in_channels=1, width=16).output_size
        256
    """
    if in_channels < 1:
        raise ConfigError(f"in_channels is {in_channels}; pass 1 or more.")
    full_name = resolve_trunk_name(name)
    library, _, model = full_name.rpartition("/")
    build = {
        "": _build_ours,
        "torchvision": _build_torchvision,
        "timm": _build_timm,
        "pretrainedmodels": _build_bninception,
    }[library]
    check_options(options)
    try:
        trunk = build(model, in_channels, weights == "default", options)
    except SladeError:
        raise
    except Exception as error:  # whatever a constructor says of options that it has not thought of
        if not options:
            raise
        raise ConfigError(f"The trunk_options {options} do not fit {full_name}: {error}") from error
    if weights is not None and weights != "default":
        load_trunk_weights(trunk, weights)
    return trunk


def build_model(
    trunk_name: str,
    embedding_size: int,
    in_channels: int = 3,
    weights: str | os.PathLike[str] | None = None,
    hidden_sizes: Sequence[int] = (),
    trunk_options: Mapping[str, Any] | None = None,
) -> dict[str, nn.Module]:
    """Build the `models` that a PML trainer takes.

    Args:
        trunk_name: see `resolve_trunk_name`.
        embedding_size: number of embedding dimensions.
        in_channels: channels of the images.
        weights: of the trunk, see `build_trunk`.
        hidden_sizes: sizes of the embedder's hidden layers.
        trunk_options: the options of `build_trunk`.

    Returns:
        {"trunk": ..., "embedder": ...}.

    Raises:
        ConfigError: see `build_trunk` and `Embedder`.
        CheckpointError: see `build_trunk`.

    Examples:
        >>> sorted(build_model("convnet", embedding_size=32, in_channels=1))
        ['embedder', 'trunk']
    """
    options = trunk_options or {}
    check_options(options)  # one that is called as an argument of build_trunk would be taken for that
    trunk = build_trunk(trunk_name, in_channels, weights, **options)
    output_size: Any = trunk.output_size
    return {"trunk": trunk, "embedder": Embedder(output_size, embedding_size, hidden_sizes)}


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Models built inside take no memory: their tensors have shapes and no values."""
    with torch.device("meta"), _RatesOnCpu():
        yield


class _RatesOnCpu(TorchFunctionMode):
    """Older timm reads drop rates, one a block, back from a `linspace`, which must have values for that."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = {"device": "cpu"} if function is torch.linspace else {}
        return function(*args, **{**place, **(kwargs or {})})


def _build_ours(model: str, in_channels: int, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    if pretrained:
        raise ConfigError(f"weights is 'default', and {model} has none; pass None or a path.")
    return ConvNet(in_channels, **options)


def _build_torchvision(
    model: str, in_channels: int, pretrained: bool, options: Mapping[str, Any]
) -> nn.Module:
    image_size = options.get("image_size", 224)
    if model in _INCEPTIONS and not pretrained:
        options = {"init_weights": True, **options}  # unset, it warns
    if pretrained:
        url = get_model_weights(model)["DEFAULT"].value.url
        if "image_size" in options:
            raise ConfigError(
                "trunk_options: torchvision's pretrained weights come with their own image_size. Leave it "
                f"out, or take a trunk of timm, such as timm/vit_base_patch16_224 with img_size={image_size}."
            )
        trunk = _download(lambda: get_model(model, weights="DEFAULT", **options), url)
    else:
        trunk = get_model(model, weights=None, **options)
    if model in _INCEPTIONS:
        for auxiliary in {"AuxLogits", "aux1", "aux2"} & dict(trunk.named_children()).keys():
            setattr(trunk, auxiliary, None)
        trunk.aux_logits = False  # type: ignore[assignment]
        # Pretrained or not, so that a saved model is the same one when it is rebuilt.
        trunk.transform_input = in_channels == 3  # type: ignore[assignment]
    _remove_head(trunk)
    if in_channels != 3:
        _replace_first_conv(trunk, in_channels, pretrained)
    return _with_output_size(trunk, (in_channels, image_size, image_size))


def _build_timm(model: str, in_channels: int, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    arguments = {"num_classes": 0, "in_chans": in_channels, **options}
    try:
        config = get_pretrained_cfg(model)
    except RuntimeError as error:
        raise ConfigError(f"timm refuses {model!r}: {error}") from error
    if pretrained:
        if config is None or not config.has_weights:
            raise ConfigError(f"weights is 'default', and timm/{model} has none; pass None.")
        source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        trunk = _download(lambda: timm.create_model(model, pretrained=True, **arguments), source)
    else:
        trunk = timm.create_model(model, **arguments)
    height, width = config.input_size[1:] if config is not None else (224, 224)
    if "img_size" in options:
        side = options["img_size"]
        height, width = (side, side) if isinstance(side, int) else side
    return _with_output_size(trunk, (in_channels, height, width))


def _build_bninception(
    model: str, in_channels: int, pretrained: bool, options: Mapping[str, Any]
) -> nn.Module:
    library = import_bninception()
    settings = library.pretrained_settings[model]["imagenet"]
    if pretrained:
        network = _download(lambda: library.bninception(pretrained="imagenet", **options), settings["url"])
    else:
        network = library.bninception(pretrained=None, **options)
    trunk = as_trunk(network, in_channels, tuple(settings["mean"]))
    return _with_output_size(trunk, (in_channels, 224, 224))


def _download(build: Callable[[], nn.Module], source: object) -> nn.Module:
    try:
        return build()
    except TypeError:
        raise
    except Exception as error:  # each library, and each version of it, fails in its own way
        raise CheckpointError(
            f"The pretrained weights could not be had from {source} ({error}). Fetch the file "
            "on a machine that can, and pass its path as weights."
        ) from error


def _remove_head(trunk: nn.Module) -> None:
    name, head = [(n, child) for n, child in trunk.named_children() if n in _HEADS][-1]
    if not isinstance(head, nn.Sequential):
        setattr(trunk, name, nn.Identity())
        if isinstance(getattr(trunk, "dropout", None), nn.Dropout):
            trunk.dropout = nn.Identity()
        return
    # Norms and hidden layers before the last one belong to the features; its dropout does not.
    last = max(i for i, layer in enumerate(head) if isinstance(layer, nn.Linear | nn.Conv2d))
    head[last] = nn.Identity()
    if last > 0 and isinstance(head[last - 1], nn.Dropout):
        head[last - 1] = nn.Identity()
    if last + 1 < len(head) and isinstance(head[last + 1], nn.ReLU):
        head[last + 1] = nn.Identity()


def _replace_first_conv(trunk: nn.Module, in_channels: int, pretrained: bool) -> None:
    name, old = first_conv(trunk)
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    if pretrained:
        state = old.state_dict()
        new.load_state_dict({**state, "weight": adapt_input_conv(in_channels, state["weight"])})
    parent, _, attribute = name.rpartition(".")
    setattr(trunk.get_submodule(parent), attribute, new)


def _with_output_size(trunk: nn.Module, image_shape: tuple[int, int, int]) -> nn.Module:
    """Set `output_size` from a forward on the meta device, which computes shapes alone."""
    tensors = [*trunk.named_parameters(), *trunk.named_buffers()]
    images = torch.empty(2, *image_shape, device="meta")
    trunk.eval()
    with torch.no_grad():
        features = functional_call(trunk, {k: v.to("meta") for k, v in tensors}, (images,))
    trunk.train()
    if features.ndim != 2:
        raise ConfigError(
            f"{type(trunk).__name__} gives features of the shape {tuple(features.shape[1:])}, not "
            "flat ones; choose another trunk."
        )
    trunk.output_size = features.shape[1]
    return trunk
