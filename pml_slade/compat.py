"""The one place that knows which generation of pytorch-metric-learning is installed.

powerful-benchmarker pins 0.9.92 (2020), everybody else uses 2.x. What differs between them, and nothing
else, is here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import tqdm

PML_VERSION = version("pytorch-metric-learning")
LEGACY = PML_VERSION.startswith("0.")

if LEGACY:
    # 0.9.92 uses two aliases that numpy has dropped; no other may come back (np.bool breaks scipy).
    for _name, _type in {"int": int, "float": float}.items():
        if _name not in np.__dict__:
            setattr(np, _name, _type)

from pytorch_metric_learning import miners, trainers  # noqa: E402
from pytorch_metric_learning.trainers import base_trainer  # noqa: E402
from pytorch_metric_learning.utils import common_functions as c_f  # noqa: E402

BaseTupleMiner: Any = miners.BaseTupleMiner if LEGACY else miners.BaseMiner


class TrainerWithExtraKeys(trainers.BaseTrainer):
    """A PML trainer whose dictionaries may hold further keys, in both generations."""

    extra_loss_keys: tuple[str, ...] = ()
    extra_mining_keys: tuple[str, ...] = ()

    if LEGACY:

        def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
            self.dtype = dtype
            if kwargs.get("mining_funcs") is None:
                kwargs["mining_funcs"] = {}
            super().__init__(*args, **kwargs)

        def get_trunk_output(self, data: Any) -> Any:
            """Cast data to `dtype`, as 2.x does."""
            return self.models["trunk"](data.to(device=self.data_device, dtype=self.dtype))

    def modify_schema(self) -> None:
        """Allow the extra keys (2.x)."""
        self.schema["loss_funcs"].keys += list(self.extra_loss_keys)
        self.schema["loss_funcs"].important = ["metric_loss"]
        self.schema["mining_funcs"].keys += list(self.extra_mining_keys)

    def allowed_loss_funcs_keys(self) -> list[str]:
        """Allow the extra keys (0.9.92); what is left out is no cause for a warning there either."""
        return ["metric_loss", *(k for k in self.extra_loss_keys if k in self.loss_funcs)]

    def allowed_mining_funcs_keys(self) -> list[str]:
        """Allow the extra keys (0.9.92)."""
        return ["subset_batch_miner", "tuple_miner", *self.extra_mining_keys]


@contextmanager
def silent_epochs() -> Iterator[None]:
    """Keep PML's trainers from drawing a progress bar of their own for each epoch."""
    ours = SimpleNamespace(tqdm=partial(tqdm.tqdm, disable=True))
    theirs, base_trainer.tqdm = base_trainer.tqdm, ours
    try:
        with warnings.catch_warnings():
            # PML formats a loss that still has its graph for the bar.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
            yield
    finally:
        base_trainer.tqdm = theirs


@contextmanager
def train_loaders_by(make: Callable[[Any, int, Any, int, Any], Any]) -> Iterator[None]:
    """Let all trainers, PML's own and ours, read training images by other loaders than PML makes.

    Args:
        make: of the arguments of PML's ``get_train_dataloader``: dataset, batch_size, sampler, num_workers,
            collate_fn.
    """
    theirs, c_f.get_train_dataloader = c_f.get_train_dataloader, make
    try:
        yield
    finally:
        c_f.get_train_dataloader = theirs
