"""Batch norm over the rows of all processes. PyTorch's SyncBatchNorm runs on GPUs alone, and not in models of
timm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.overrides import TorchFunctionMode

from . import processes
from .functional import at_least_float32


@contextmanager
def joint_batch_norm() -> Iterator[None]:
    """Let every batch norm in training mode take its statistics over the rows of all processes."""
    if processes.size() == 1:
        yield
        return
    with _JointBatchNorm():
        yield


class _JointBatchNorm(TorchFunctionMode):
    """Stands between models and `F.batch_norm`, which all kinds of batch norm call."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        joint = batch_norm if func is F.batch_norm else func
        return joint(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, in training over the rows of all processes, of which each must have as many."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = input.numel() // input.shape[1] * processes.size()
    mean, var = _moments(input.detach())
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean), momentum)
        running_var.lerp_((var * count / (count - 1)).to(running_var), momentum)
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    normalized: Tensor = _Normalize.apply(input, weight, bias, mean, var, eps, count)
    return normalized


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, (C,), in float32 at least, over the rows of all processes."""
    own = torch.stack(torch.var_mean(at_least_float32(x), _others(x), correction=0))
    parts = [torch.empty_like(own) for _ in range(processes.size())]
    distributed.all_gather(parts, own)
    var, mean = torch.stack(parts, dim=1)
    whole = mean.mean(0)
    return whole, (var + (mean - whole) ** 2).mean(0)


def _others(x: Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [i for i in range(x.ndim) if i != 1]


class _Normalize(torch.autograd.Function):
    """Normalises rows by moments that depend on the rows of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, count: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.count = eps, count
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, var = ctx.saved_tensors
        # As if mean and variance were constants; the gradients of weight and bias are those of own rows.
        by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        totals = torch.stack([by_weight, by_bias])
        distributed.all_reduce(totals)
        scale = weight * torch.rsqrt(var + ctx.eps) / ctx.count
        # What goes through the mean and the variance is linear in x.
        through = F.batch_norm(x, mean, var, totals[0] * scale, totals[1] * scale, False, 0.0, ctx.eps)
        return by_x - through, by_weight, by_bias, None, None, None, None
