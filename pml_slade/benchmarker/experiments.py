"""Experiments that another one starts from: where they are, and their best model of a fold."""

from __future__ import annotations

import re
import sqlite3
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from pytorch_metric_learning.utils.common_functions import latest_version
from torch import nn

from ..exceptions import CheckpointError, ConfigError
from ..models.saving import state_difference
from ..models.weights import read_state
from ..reports.experiments import REPRODUCTION, best_trial

_SAVED = re.compile(r"(.+)_(best)?(\d+)\.pth")


def find_experiment(key: str, name: str, own: Path) -> Path:
    """Find the folder of the experiment that the setting `key` names.

    It lies beside the experiment that asks, or beside the Bayesian search that this one belongs to. Of a
    Bayesian search the best trial is taken. A reproduction takes the reproduction of the same number where
    there is one, so that the spread over reproductions is that of the whole chain.

    Args:
        key: the setting, for messages.
        name: of the experiment, or an absolute path.
        own: folder of the experiment that asks.

    Raises:
        ConfigError: there is no such experiment.
    """
    number = REPRODUCTION.fullmatch(own.name)
    for place in (own.parent, own.parent.parent):
        folder = place / name
        if folder.is_dir() and folder != own:
            best = best_trial(folder)
            if best is None:
                raise ConfigError(f"{key}: the search in {folder} has not finished: let it finish.")
            again = best.with_name(f"{best.name}_reproduction{number['number']}") if number else best
            return again if again.is_dir() and again != own else best
    raise ConfigError(
        f"{key}: there is no experiment {name!r} in {own.parent}. Train it first: "
        f"pml-slade benchmark --experiment_name {name} ..."
    )


def best_files(key: str, experiment: Path, fold: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of the best models of a fold.

    Raises:
        CheckpointError: the experiment has no such fold, or has not finished.
    """
    folder = experiment / fold / "saved_models"
    if not folder.is_dir():
        folds = sorted(
            p.parent.name for p in experiment.glob("*/saved_models") if p.parent.name != "meta_logs"
        )
        raise CheckpointError(
            f"{key}: experiment {experiment} has no fold {fold}; it has {folds}. It must have been trained "
            "with the same dataset and split_manager."
        )
    _, suffix = latest_version(str(folder), "trunk_best*.pth", best=True)
    files = {name: folder / f"{name}_{suffix}.pth" for name in names}
    missing = [path.name for path in files.values() if not path.is_file()]
    if suffix is None or missing:
        raise CheckpointError(
            f"{key}: experiment {experiment} has no best model of fold {fold} yet ({folder}): let it finish."
        )
    if not any((experiment / "meta_logs" / "saved_csvs").glob("*.csv")):  # written when all folds are over
        raise CheckpointError(f"{key}: experiment {experiment} has not finished: let it finish.")
    return files


def cut_off_folds(experiment: Path) -> list[Path]:
    """Return the folders of the folds that cannot go on, because a run was killed while it saved.

    powerful-benchmarker would go on from a part of the models, or pass over the best one.
    """
    return [folder.parent for folder in sorted(experiment.glob("*/saved_models")) if _cut_off(folder)]


def _cut_off(models: Path) -> bool:
    records = models.parent / "saved_csvs"
    if any(not table.stat().st_size for table in records.glob("*.csv")):  # opened, not written
        return True
    epochs: dict[bool, dict[int, set[str]]] = {True: defaultdict(set), False: defaultdict(set)}
    for path in models.glob("*.pth"):
        if not zipfile.is_zipfile(path):  # torch.save ends a file with the table of a zip archive
            return True
        if match := _SAVED.fullmatch(path.name):
            epochs[match[2] is not None][int(match[3])].add(match[1])
    latest, best = (max(epochs[kind], default=0) for kind in (False, True))
    if latest and epochs[False][latest] != epochs[True][best]:
        return True
    return any(epoch > latest or best_epoch != best for epoch, best_epoch in _recorded(records / "logs.db"))


def _recorded(file: Path) -> list[tuple[int, int]]:
    """The newest epoch that was evaluated on validation, and the best one at that time."""
    if not file.is_file():
        return []
    with closing(sqlite3.connect(file)) as base:
        query = "SELECT name FROM sqlite_master WHERE type='table' AND name LIKE 'accuracies_%_VAL'"
        found = [
            base.execute(
                "SELECT CAST(epoch AS INTEGER), CAST(best_epoch AS INTEGER) "
                f"FROM [{table}] ORDER BY 1 DESC, id DESC LIMIT 1"
            ).fetchone()
            for (table,) in base.execute(query).fetchall()
        ]
    return [(epoch, best) for epoch, best in found if epoch > 0]


def load_best(key: str, experiment: Path, fold: str, models: Mapping[str, nn.Module]) -> None:
    """Load the best model of a fold into `models`.

    Raises:
        CheckpointError: it is not there, cannot be read, or is of another architecture.
    """
    for name, file in best_files(key, experiment, fold, tuple(models)).items():
        try:
            state = read_state(file)
        except CheckpointError as error:
            raise CheckpointError(f"{key}: {error}") from error
        if differing := state_difference(models[name], state):
            raise CheckpointError(
                f"{key}: the {name} of {experiment} is of another architecture: {differing}. Give both the "
                "same `models`."
            )
        models[name].load_state_dict(state)
