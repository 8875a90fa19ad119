"""Runs in services that keep records: Weights & Biases and MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from .rows import flat

PROJECT = "pml_slade"
"""Project of Weights & Biases and experiment of MLflow, unless their own variables name another."""
LONGEST_NAME = 128
"""Characters in Weights & Biases."""


class About(NamedTuple):
    """What a service is told about a row.

    Attributes:
        row: its title.
        run: folder of the run that it belongs to.
        settings: of this run.
        quiet: let the service print nothing.
    """

    row: str
    run: str
    settings: dict[str, Any]
    quiet: bool


class Service(Protocol):
    """A run in a service."""

    id: str
    """Its name there."""
    last: int
    """The last epoch that it holds."""

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """Send the figures of an epoch."""

    def close(self, complete: bool) -> None:
        """End it; `complete` tells whether the row was trained to its end."""


class WandbRun:
    """A run in Weights & Biases."""

    def __init__(self, about: About, known: str | None) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        import wandb

        self.id = known or uuid4().hex
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=f"{about.run}: {about.row}"[-LONGEST_NAME:],
            group=about.run[-LONGEST_NAME:],
            config=about.settings,
            id=self.id,
            resume="allow",
            settings=wandb.Settings(console="off", silent=about.quiet),
        )
        self.last = int(self.run.step) - 1

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """Send the figures of an epoch."""
        self.run.log(figures, step=epoch, commit=True)

    def close(self, complete: bool) -> None:
        """End it; one that is not complete counts as failed there."""
        self.run.finish(exit_code=int(not complete))


class MlflowRun:
    """A run in MLflow."""

    def __init__(self, about: About, known: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to its makers
        from mlflow import MlflowClient

        self.client = MlflowClient()
        self.id = known or self._begin(about)
        self.client.update_run(self.id, status="RUNNING")
        self.last = int(self.client.get_run(self.id).data.metrics.get("epoch", 0))

    def _begin(self, about: About) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        run_id: str = self.client.create_run(experiment, run_name=f"{about.run}: {about.row}").info.run_id
        for key, value in flat(about.settings).items():
            self.client.log_param(run_id, key, value)
        return run_id

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """Send the figures of an epoch; "@" is not allowed in a name there."""
        for name, value in figures.items():
            self.client.log_metric(self.id, name.replace("@", "_at_"), value, step=epoch)

    def close(self, complete: bool) -> None:
        """End it; one that is not complete counts as killed there."""
        self.client.set_terminated(self.id, "FINISHED" if complete else "KILLED")


SERVICES: dict[str, Callable[[About, str | None], Service]] = {"wandb": WandbRun, "mlflow": MlflowRun}
REMEDY = {
    "wandb": "Log in with `wandb login`, set WANDB_MODE=offline",
    "mlflow": "Set MLFLOW_TRACKING_URI to a server that answers or a file that can be written",
}
"""What to do if a service fails."""
