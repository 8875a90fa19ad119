"""What every trainer of ours asks of its optimizers."""

from __future__ import annotations

from typing import Any

from ..exceptions import ConfigError


def check_optimizers(trainer: Any) -> None:
    """Refuse a loss whose parameters no optimizer holds: they would silently never train.

    Args:
        trainer: a PML trainer, with `optimizers`, `loss_funcs` and `freeze_these`.

    Raises:
        ConfigError: names the loss.
    """
    trained = {id(p) for o in trainer.optimizers.values() for g in o.param_groups for p in g["params"]}
    for name, loss in trainer.loss_funcs.items():
        parameters = [p for p in loss.parameters() if p.requires_grad]
        if name in trainer.freeze_these or all(id(p) in trained for p in parameters):
            continue
        raise ConfigError(
            f"optimizers: no optimizer holds the parameters of {name} ({type(loss).__name__}), so they "
            f'would never train. Add "{name}_optimizer", or "{name}" to freeze_these.'
        )
