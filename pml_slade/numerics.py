"""How models compute: precision, the layout of images in memory, compiled or not.

Nothing of it changes what is learned, beyond rounding. Losses and their statistics stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .exceptions import ConfigError
from .functional import at_least_float32

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """How models compute.

    Attributes:
        precision: "fp32", "tf32" (a GPU multiplies matrices of float32 by TF32), "bf16" or "fp16" (PyTorch's
            autocast), or "auto", see `on`.
        channels_last: images lie pixel by pixel in memory; None: where the model has convolutions.
        compiled: models are compiled before they are trained.

    Examples:
        >>> half = Numerics("bf16")
        >>> with half.computing(torch.device("cpu")):
        ...     torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """

    precision: str = "fp32"
    channels_last: bool | None = False
    compiled: bool = False

    def on(self, device: torch.device) -> Numerics:
        """Return what suits a device, where the precision is "auto": bf16 on a GPU that has it, else fp32.

        Raises:
            ConfigError: a precision that the device does not have.
        """
        has_half = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        if self.precision == "auto":
            return replace(self, precision="bf16" if has_half else "fp32")
        if self.precision == "tf32" and not has_half:
            raise ConfigError(f"precision: {device} has no tf32; give auto, fp32, bf16 or fp16.")
        return self

    @contextmanager
    def computing(self, device: torch.device) -> Iterator[None]:
        """Around a model's forward pass."""
        half = HALF.get(self.precision)
        autocast = nullcontext() if half is None else torch.autocast(device.type, half)
        with self.multiplying(), autocast:
            yield

    @contextmanager
    def multiplying(self) -> Iterator[None]:
        """Around forward and backward passes: what multiplies matrices of float32."""
        if self.precision != "tf32":
            yield
            return
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def place(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """Move a model to a device, and lay its convolutions out; their input then follows by itself."""
        chosen = is_convolutional(model) if self.channels_last is None else self.channels_last
        if chosen:
            model.to(memory_format=torch.channels_last)
        return model.to(device)

    def scaler(self, device: torch.device) -> Any:
        """Return what scales gradients that are too small for the precision, or None where none are."""
        if self.precision != "fp16":
            return None
        if hasattr(torch.amp, "GradScaler"):
            return torch.amp.GradScaler(device.type)
        return torch.cuda.amp.GradScaler()


def is_convolutional(model: torch.nn.Module) -> bool:
    """Whether convolutions over pixels are more than the first layer of a model.

    Examples:
        >>> from torch.nn import Conv2d, Linear, Sequential
        >>> is_convolutional(Sequential(Conv2d(3, 8, 16, 16), Linear(8, 8)))
        False
    """
    over_pixels = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and max(m.kernel_size) > 1]
    return len(over_pixels) > 1


def laid_out_for(model: torch.nn.Module, images: Tensor) -> Tensor:
    """Return images that lie in memory as a model's first convolution does."""
    weights = next((p for p in model.parameters() if p.ndim == 4), None)
    if images.ndim != 4 or weights is None or weights.is_contiguous():
        return images
    return images.contiguous(memory_format=torch.channels_last)


class Computing(torch.nn.Module):
    """A model that computes embeddings by some numerics, and gives them in float32 at least.

    Examples:
        >>> half = Computing(torch.nn.Linear(2, 2), Numerics("bf16"))
        >>> half(torch.ones(1, 2)).dtype
        torch.float32
    """

    def __init__(self, model: torch.nn.Module, numerics: Numerics) -> None:
        super().__init__()
        self.model, self.numerics = model, numerics

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of images."""
        with self.numerics.computing(images.device):
            return at_least_float32(self.model(laid_out_for(self.model, images)))
