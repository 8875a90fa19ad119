"""A trained model as a file that runs without this package: ONNX or TorchScript."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .api import Images, TrainedModel
from .checkpoints import write_atomic, write_json_atomic
from .exceptions import ConfigError
from .models import LoadedModel

Format = Literal["onnx", "torchscript"]
TOLERANCE = 1e-4
"""How far an embedding's values may be from the original's."""
CHECKED = 100
"""Images that an export is checked on, at most."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "images", "embeddings"


class UnitEmbeddings(nn.Module):
    """A model whose embeddings have unit length, as `TrainedModel.embed` gives them.

    Args:
        model: images to embeddings.

    Examples:
        >>> UnitEmbeddings(nn.Identity())(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, d) of (N, C, height, width)."""
        return F.normalize(self.model(images), dim=1)


def export(
    trained: TrainedModel, file: str | os.PathLike[str], to: Format, images: Images | None = None
) -> float:
    """Write a trained model as ONNX or TorchScript, with a description of its input beside it.

    The file maps `images`, float32 (N, C, side, side) for any N, to `embeddings`, (N, d) of unit length. How
    an image becomes such a tensor stands in a JSON file of the same name, and in the file itself.

    Args:
        trained: the model.
        file: to write.
        to: "onnx" or "torchscript".
        images: what the file is checked on, the first 100 of them; None: images of random pixels.

    Returns:
        The largest difference between its embeddings and the original's.

    Raises:
        ConfigError: another format; a package is missing; the model cannot be exported; its embeddings are
            not those of the original.
        DataError: images that cannot be used.
    """
    if to not in FORMATS:
        raise ConfigError(f"to must be one of {', '.join(FORMATS)}, got {to!r}.")
    inputs = example_inputs(trained, images)
    model = UnitEmbeddings(copy.deepcopy(trained.model).cpu()).eval()
    about = describe_input(trained)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing, about what was meant
        written = Path(folder, "model")
        run = FORMATS[to](model, inputs, written, about)
        difference = _largest_difference(model, run, inputs)
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"to={to}: the exported embeddings differ from the original's by {difference:.1e}, more than "
                f"{TOLERANCE}: this trunk cannot be exported so; try the other format."
            )
        write_atomic(file, written.read_bytes())
    write_json_atomic(description_file(file), about)
    return difference


def description_file(file: str | os.PathLike[str]) -> Path:
    """Where the description of an exported file's input stands.

    Examples:
        >>> description_file("birds.onnx").name
        'birds.onnx.json'
    """
    return Path(f"{os.fspath(file)}.json")


def describe_input(trained: TrainedModel) -> dict[str, Any]:
    """Say what the model takes and gives, and each step from an image to its input."""
    meta, side = trained.model.meta, trained.model.meta["image_size"]
    steps: list[dict[str, Any]] = [{"step": "mode", "mode": trained.mode}]
    if meta["transform"] == "small":
        steps.append({"step": "resize", "size": [side, side], "interpolation": "bicubic"})
        mean, std = [0.0] * len(trained.mode), [1.0] * len(trained.mode)
    else:
        steps += _of_photographs(trained.model, side)
        mean, std = list(trained.model.trunk_input.mean), list(trained.model.trunk_input.std)
    steps.append({"step": "scale", "from": [0, 255], "to": [0, 1]})
    steps.append({"step": "normalize", "mean": mean, "std": std})
    return {
        "input": {"name": INPUT, "shape": ["N", len(trained.mode), side, side], "type": "float32"},
        "output": {"name": OUTPUT, "shape": ["N", meta["embedding_size"]], "type": "float32", "length": 1},
        "transform": steps,
        "trunk": meta["trunk"],
    }


def _of_photographs(model: LoadedModel, side: int) -> list[dict[str, Any]]:
    expected = model.trunk_input
    resized = expected.resized(side)
    size: Any = {"size": [resized, resized]} if expected.squash else {"shorter_side": resized}
    return [
        {"step": "resize", **size, "interpolation": expected.interpolation},
        {"step": "center_crop", "size": [side, side]},
    ]


def example_inputs(trained: TrainedModel, images: Images | None) -> Tensor:
    """Return a batch of images as the model takes them, two at least.

    Args:
        trained: the model.
        images: of which the first 100 are taken; None: images of random pixels.
    """
    if images is None:
        side, channels = trained.model.meta["image_size"], len(trained.mode)
        pixels = np.random.default_rng(0).integers(0, 256, (8, side, side, channels), dtype=np.uint8)
        images = pixels if channels == 3 else pixels[..., 0]
    dataset = trained.open(images)
    chosen = [dataset[i % len(dataset)][0] for i in range(max(min(len(dataset), CHECKED), 2))]
    return torch.stack(chosen)


def _largest_difference(model: nn.Module, run: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """The largest difference of any value, for all images at once and for a single one."""
    return max(float((model(part) - run(part)).abs().max()) for part in (inputs, inputs[:1]))


def _onnx(model: nn.Module, inputs: Tensor, file: Path, about: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"to=onnx needs {', '.join(missing)}: pip install 'pml-slade[onnx]'.")
    import onnx
    import onnxruntime

    try:
        shapes = {"images": {0: torch.export.Dim("n")}}
        program: Any = torch.onnx.export(
            model, (inputs[:2],), input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=shapes,
            dynamo=True, verbose=False,
        )  # fmt: skip
    except Exception as error:  # of any part of torch's exporter
        raise ConfigError(f"to=onnx: torch cannot export this model: {error}") from error
    proto = program.model_proto
    for key, value in about.items():
        proto.metadata_props.append(onnx.StringStringEntryProto(key=key, value=json.dumps(value)))
    file.write_bytes(proto.SerializeToString())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _torchscript(
    model: nn.Module, inputs: Tensor, file: Path, about: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    try:
        traced = torch.jit.trace(model, inputs[:2])
    except Exception as error:  # of any module's code
        raise ConfigError(f"to=torchscript: torch cannot trace this model: {error}") from error
    torch.jit.save(traced, str(file), _extra_files={"description.json": json.dumps(about)})
    loaded: Callable[[Tensor], Tensor] = torch.jit.load(str(file))
    return loaded


FORMATS: dict[str, Callable[[nn.Module, Tensor, Path, dict[str, Any]], Callable[[Tensor], Tensor]]] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
}
