"""What a run wrote into its folder, read back for a report."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..datasets.splits import PARTS
from ..exceptions import CheckpointError, ConfigError
from ..methods import METHODS
from ..running.loading import load_config
from ..running.pool import PoolFacts
from ..running.rows import Result, check_run, read_json, read_results
from ..running.settings import Config
from ..running.verdict import verdict
from ..strangers import read_bytes

Curve = list[dict[str, float]]
"""A row of records for each epoch."""


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder has it.

    Attributes:
        folder: where it lies.
        config: its settings.
        results: of its rows, as results.json has them.
        curves: what was recorded of each row, by its key; several where it was trained in turns.
        environment: what it worked with.
        verdict: what the results say of the pool; empty where there is nothing to compare.
    """

    folder: Path
    config: Config
    results: list[dict[str, Any]]
    curves: dict[str, list[Curve]]
    environment: dict[str, Any]
    verdict: str

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> RunFolder:
        """Read a folder.

        Raises:
            CheckpointError: it is no run, or nothing of it is done, or a file is damaged.
            ConfigError: its settings are not those of this version.
        """
        path = Path(folder)
        for name in ("config.yaml", "results.json"):
            if not (path / name).is_file():
                missing = f"{path} has no {name}" if path.is_dir() else f"There is no folder {path}"
                raise CheckpointError(
                    f"{missing}: give the folder of a run, as `pml-slade train` writes it, with one finished "
                    "row or more."
                )
        found, environment = read_results(path / "results.json"), path / "environment.json"
        check_run(path, [result.row for result in found])
        config = _config(path / "config.yaml")
        results = [asdict(result) for result in found]
        return cls(
            folder=path,
            config=config,
            results=results,
            curves={result["row"]: _curves(path / result["row"]) for result in results},
            environment=_environment(environment) if environment.exists() else {},
            verdict=_verdict(path, found, config),
        )

    def result(self, row: str) -> dict[str, Any] | None:
        """The result of a row, or None."""
        return next((result for result in self.results if result["row"] == row), None)

    @property
    def part(self) -> str:
        """Which images the results are about: test, or validation where there is none."""
        return "test" if all(result["test"] for result in self.results) else "validation"

    @property
    def before(self) -> dict[str, Any]:
        """The result that others are compared with: the teacher's."""
        return self.result("teacher") or self.results[0]

    @property
    def after(self) -> dict[str, Any]:
        """The result that is looked at closely: SLADE's, or the last row's that knows no more than a user."""
        bounds = {method.key for method in self.config.chosen if method.is_bound}
        usable = [result for result in self.results if result["row"] not in bounds]
        return self.result("slade") or (usable or self.results)[-1]


def _curves(folder: Path) -> list[Curve]:
    files = sorted(folder.glob("turn-*/records/training.csv")) or [folder / "records" / "training.csv"]
    return [_curve(file) for file in files if file.exists()]


def _config(file: Path) -> Config:
    try:
        return load_config(file, own_methods=False)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}. Restore it, or repeat the run's command.") from None


def _environment(file: Path) -> dict[str, Any]:
    """What the run worked with, as `Run` and `datasets.describe` write it."""
    found = read_json(file)
    data, versions = (found.get(key, {}) if isinstance(found, dict) else None for key in ("data", "versions"))
    counts = [data.get(part) for part in PARTS] if isinstance(data, dict) else [""]
    if not isinstance(versions, dict) or not all(map(_is_count, counts)):
        raise CheckpointError(f"{file} is damaged; delete it, and repeat the run's command.")
    return dict(found)


def _is_count(part: Any) -> bool:
    """Whether a part's number of images and classes stands there, or nothing."""
    return part is None or (
        isinstance(part, dict)
        and isinstance(part.get("images"), int)
        and isinstance(part.get("classes"), int | None)
    )


def _curve(file: Path) -> Curve:
    try:
        text = read_bytes(file).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        curve = [{key: float(value) for key, value in row.items() if value} for row in rows]
        if not all("epoch" in row for row in curve):
            raise ValueError("it has no epochs")
        return curve
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise CheckpointError(f"{file} is damaged ({error}); delete it.") from None


def _verdict(folder: Path, results: list[Result], config: Config) -> str:
    """The verdict, but of an older run, which does not say what each class came to, and of own methods."""
    results = [result for result in results if result.row in METHODS]
    told = [result for result in results if result.validation_classes or not result.validation]
    return verdict(results, config.chosen, PoolFacts.read(folder)) if told == results else ""
