"""Records of a run in Weights & Biases or MLflow while it trains: each row is a run there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..checkpoints import write_json_atomic
from ..exceptions import CheckpointError, ConfigError, MachineError
from .rows import NONE, read_fields
from .services import REMEDY, SERVICES, About, Service
from .settings import Config

logger = logging.getLogger("pml_slade")

FILE = "tracked.json"
"""In the folder of a row: its run in each service, so that a resumed row continues it."""
RUN_ID = re.compile("[0-9a-f]{32}")


@dataclass
class Tracking:
    """Where the records of a run go.

    Attributes:
        log_to: "tensorboard" (files in the folder of each row), "wandb" and "mlflow".
        run: folder of the run, its name there.
        settings: of the run.
        quiet: let nothing be printed.
    """

    log_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    run: str = "run"
    settings: dict[str, Any] = field(default_factory=dict)
    quiet: bool = True
    _reached: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Refuse what is not installed.

        Raises:
            ConfigError: names the package, and says how to install it.
        """
        for name in self.log_to:
            found = find_spec(name)
            if found is None or found.origin is None:  # a folder of this name, which wandb leaves behind
                raise ConfigError(f"log_to={name} needs {name}: pip install 'pml-slade[{name}]'.")

    def begin(self, row: str, folder: Path) -> list[Tracker]:
        """Begin, or continue, the runs of a row.

        Args:
            row: its title.
            folder: of the row.

        Raises:
            MachineError: a service cannot be reached, or refuses. If it was reached for an earlier row, that
                is a warning, and training continues without it.
        """
        ids, begun = _read_ids(folder / FILE), []
        about = About(row, self.run, self.settings, self.quiet)
        for name in [name for name in self.log_to if name in SERVICES]:
            try:
                service = SERVICES[name](about, ids[name])
            except Exception as error:
                if name not in self._reached:
                    raise MachineError(
                        f"log_to={name} fails ({_brief(error)}). {REMEDY[name]}, or leave {name} out."
                    ) from error
                _warn(row, name, error)
            else:
                self._reached.add(name)
                ids[name] = service.id
                begun.append(Tracker(row, name, service))
        if begun:
            write_json_atomic(folder / FILE, ids)
        return begun


class Tracker:
    """Sends the records of a row to a service; if that fails, training continues.

    Args:
        row: its title.
        name: of the service.
        service: its run there.
    """

    def __init__(self, row: str, name: str, service: Service) -> None:
        self.row, self.name, self.service = row, name, service
        self.failed = False

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """Send the figures of an epoch, unless they are there already."""
        if epoch > self.service.last:
            self._try(self.service.log, figures, epoch)

    def close(self, complete: bool) -> None:
        """End the run there."""
        self._try(self.service.close, complete)

    def _try(self, send: Callable[..., None], *what: Any) -> None:
        if self.failed:
            return
        try:
            send(*what)
        except Exception as error:
            self.failed = True
            _warn(self.row, self.name, error)


def build_tracking(config: Config, progress: bool) -> Tracking:
    """Return where a run's records go.

    Args:
        config: all settings.
        progress: let services print what they do.

    Raises:
        ConfigError: a package of `config.log_to` is not installed.
    """
    tracking = Tracking(list(config.log_to), str(config.output), config.model_dump(mode="json"), not progress)
    tracking.check()
    return tracking


def _read_ids(file: Path) -> dict[str, str | None]:
    if not file.exists():
        return dict.fromkeys(SERVICES)
    ids = read_fields(file, dict.fromkeys(SERVICES, (str, NONE)))
    if not all(value is None or RUN_ID.fullmatch(value) for value in ids.values()):
        raise CheckpointError(f"{file} is damaged (it names no runs); delete it.")
    return ids


def _warn(row: str, name: str, error: Exception) -> None:
    logger.warning(
        "%s: log_to=%s fails (%s). Training continues without it. The records in the run's folder are "
        "complete.",
        *(row, name, _brief(error)),
    )


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
