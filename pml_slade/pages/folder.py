"""What a run wrote into its folder, read back for a report."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exceptions import CheckpointError
from ..running.loading import load_config
from ..running.rows import Result, read_json
from ..running.settings import Config
from ..running.verdict import verdict

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
                raise CheckpointError(
                    f"{path} has no {name}: give the folder of a run of which a row is done, as `pml-slade "
                    "train` writes it."
                )
        results = read_json(path / "results.json")
        config, environment = load_config(path / "config.yaml"), path / "environment.json"
        return cls(
            folder=path,
            config=config,
            results=results,
            curves={result["row"]: _curves(path / result["row"]) for result in results},
            environment=read_json(environment) if environment.exists() else {},
            verdict=_verdict(results, config),
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


def _curve(file: Path) -> Curve:
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    try:
        return [{key: float(value) for key, value in row.items() if value} for row in rows]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error}); delete it.") from None


def _verdict(results: list[dict[str, Any]], config: Config) -> str:
    """The verdict, but of an older run, which does not say what each class came to."""
    told = [result for result in results if result.get("validation_classes") or not result["validation"]]
    return verdict([Result(**result) for result in results], config.chosen) if told == results else ""
