"""What powerful-benchmarker recorded of an experiment, read from its folder, without that package."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..exceptions import ConfigError, DataError
from .tables import METRICS

Scores = dict[str, float]

SEPARATED, CONCATENATED, VALIDATION = "separated", "concatenated", "validation"
_GROUPS = {
    SEPARATED: ("MeanAggregator", "TEST"),
    CONCATENATED: ("ConcatenateEmbeddings", "TEST"),
    VALIDATION: ("MeanAggregator", "VAL"),
}
_USUAL = "accuracies_normalized_compared_to_self_GlobalEmbeddingSpaceTester_level_0"
_COLUMNS = dict(zip(METRICS, ("mean_average_precision_at_r", "r_precision", "precision_at_1")))
REPRODUCTION = re.compile(r"(?P<base>.+)_reproduction(?P<number>\d+)")
_OF_A_SEARCH = ("best_parameters.yaml", "most_recent_parameters.yaml", "bayes_opt_ax_logs")


@dataclass(frozen=True)
class Run:
    """One training over all folds. Scores are in %, by metric; None where not measured yet.

    Attributes:
        name: of the folder.
        separated: test classes, mean over the models of the folds.
        concatenated: test classes, the embeddings of all folds' models joined.
        validation: validation classes, mean over the models of the folds.
        progress: how far it is, in words.
    """

    name: str
    separated: Scores | None
    concatenated: Scores | None
    validation: Scores | None
    progress: str


@dataclass(frozen=True)
class Experiment:
    """An experiment with its reproductions, or the best trial of a Bayesian search with those.

    Attributes:
        name: of the folder.
        dataset: class of the dataset, as `CUB200`.
        runs: the experiment itself, then its reproductions by number; none while a search is not finished.
    """

    name: str
    dataset: str
    runs: tuple[Run, ...]

    def values(self, part: str, metric: str) -> tuple[float, ...]:
        """Scores over the runs that have them.

        Args:
            part: separated, concatenated or validation.
            metric: one of `METRICS`.

        Examples:
            >>> tested = Run("t1", {"RP": 40.0}, None, None, "tested")
            >>> begun = Run("t1_reproduction0", None, None, None, "training, fold 1 of 4")
            >>> Experiment("t1", "CUB200", (tested, begun)).values("separated", "RP")
            (40.0,)
        """
        found: list[Scores] = [getattr(run, part) or {} for run in self.runs]
        return tuple(scores[metric] for scores in found if metric in scores)

    @property
    def status(self) -> str:
        """How many runs are tested, or how far they are.

        Examples:
            >>> run = Run("t1", {"RP": 40.0}, {"RP": 45.0}, None, "tested")
            >>> Experiment("t1", "CUB200", (run, run)).status
            '2'
        """
        if not self.runs:
            return "search not finished"
        total = len(self.runs)
        separated, concatenated = (
            sum(getattr(run, part) is not None for run in self.runs) for part in (SEPARATED, CONCATENATED)
        )
        if separated != concatenated:
            return f"separated {separated}, concatenated {concatenated} of {total}"
        if not separated:
            return "; ".join(dict.fromkeys(run.progress for run in self.runs))
        return str(total) if separated == total else f"{separated} of {total}"


def read_experiments(folders: Sequence[str | os.PathLike[str]]) -> list[Experiment]:
    """Read experiments, each once; a reproduction comes with the experiment that it reproduces.

    Args:
        folders: of experiments, or folders that hold several.

    Returns:
        The experiments in the order given, those of one folder by name.

    Raises:
        ConfigError: two experiments have the same name and dataset.
        DataError: a folder holds no experiment, or a damaged one.
    """
    paths = dict.fromkeys(base for folder in folders for base in _bases(Path(os.path.abspath(folder))))
    found: dict[tuple[str, str], Path] = {}
    experiments = []
    for path in paths:
        experiment = read_experiment(path)
        other = found.setdefault((experiment.name, experiment.dataset), path)
        if other != path:
            raise ConfigError(
                f"experiments: {other} and {path} have the same name and dataset, {experiment.dataset}: "
                "give one of them, or rename one."
            )
        experiments.append(experiment)
    return experiments


def read_experiment(folder: str | os.PathLike[str]) -> Experiment:
    """Read one experiment with its reproductions.

    Args:
        folder: that powerful-benchmarker wrote for the experiment, or for a Bayesian search: this counts as
            the best trial with its reproductions.

    Raises:
        DataError: the folder is none of an experiment, or damaged; the message says what is missing.
    """
    path = Path(os.path.abspath(folder))
    dataset = _dataset(path)
    best = best_trial(path)
    if best is None:
        return Experiment(path.name, dataset, ())
    runs = [best, *_reproductions(best)]
    for run in runs:
        if _dataset(run) != dataset:
            raise DataError(
                f"experiment {run}: its dataset is {_dataset(run)}, that of {path} is {dataset}: "
                "it is no reproduction. Rename it."
            )
    return Experiment(path.name, dataset, tuple(_read_run(run) for run in runs))


def _bases(folder: Path) -> list[Path]:
    """The experiments that a folder stands for, reproductions left to what they reproduce."""
    if not folder.is_dir():
        raise DataError(f"experiment {folder}: no such folder.")
    if _is_experiment(folder):
        inside = [folder]
    else:
        inside = sorted(path for path in folder.iterdir() if _is_experiment(path))
    if not inside:
        raise DataError(
            f"experiment {folder}: neither an experiment of powerful-benchmarker (it would have a folder "
            "configs) nor a folder of such."
        )
    return list(dict.fromkeys(_base(path) for path in inside))


def _base(path: Path) -> Path:
    match = REPRODUCTION.fullmatch(path.name)
    base = path.with_name(match["base"]) if match else path
    return base if _is_experiment(base) else path


def _is_experiment(folder: Path) -> bool:
    return (folder / "configs").is_dir()


def _reproductions(folder: Path) -> list[Path]:
    matches = [(path, REPRODUCTION.fullmatch(path.name)) for path in folder.parent.iterdir()]
    numbered = [(int(m["number"]), path) for path, m in matches if m and m["base"] == folder.name]
    return [path for _, path in sorted(numbered)]


def best_trial(folder: Path) -> Path | None:
    """The best trial of a search, None while it is not known; the folder itself where there is no search."""
    if not any((folder / name).exists() for name in _OF_A_SEARCH):
        return folder
    if not (folder / _OF_A_SEARCH[0]).is_file():
        return None
    name = _yaml(folder, folder / _OF_A_SEARCH[0]).get("best_sub_experiment_name")
    if not name or not (folder / str(name)).is_dir():
        raise DataError(
            f"experiment {folder}: best_parameters.yaml names {name!r} as best_sub_experiment_name, and "
            "there is no such folder."
        )
    return folder / str(name)


def _dataset(folder: Path) -> str:
    if not _is_experiment(folder):
        raise DataError(
            f"experiment {folder}: no folder configs, so powerful-benchmarker did not write it. Give the "
            "folder of an experiment."
        )
    for file in sorted((folder / "configs").glob("*.yaml")):
        dataset = _yaml(folder, file).get("dataset")
        if isinstance(dataset, dict) and len(dataset) == 1:
            return str(next(iter(dataset)))
    raise DataError(f"experiment {folder}: no file configs/*.yaml has a key dataset with one class.")


def _yaml(folder: Path, file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"experiment {folder}: {file.name} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _read_run(folder: Path) -> Run:
    file = folder / "meta_logs" / "saved_csvs" / "logs.db"
    scores = dict.fromkeys(_GROUPS) if not file.is_file() else _read_groups(folder, file)
    return Run(folder.name, **scores, progress=_progress(folder, scores))


def _progress(folder: Path, scores: dict[str, Scores | None]) -> str:
    if scores[SEPARATED] or scores[CONCATENATED]:
        return "tested"
    if scores[VALIDATION]:
        return "trained, not tested"
    folds = [path for path in folder.glob("*/saved_csvs") if path.parent.name != "meta_logs"]
    begun = sum((path / "logs.db").exists() for path in folds)
    return f"training, fold {begun} of {len(folds)}" if begun else "not trained"


def _read_groups(folder: Path, file: Path) -> dict[str, Scores | None]:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=60)) as base:
            base.row_factory = sqlite3.Row
            tables = [
                row["name"] for row in base.execute("SELECT name FROM sqlite_master WHERE type='table'")
            ]
            return {
                part: _scores(folder, base, table) if table else None
                for part, (kind, split) in _GROUPS.items()
                for table in [_table(folder, tables, kind, split)]
            }
    except sqlite3.Error as error:
        raise DataError(f"experiment {folder}: {file.relative_to(folder)} cannot be read: {error}") from error


def _table(folder: Path, tables: list[str], kind: str, split: str) -> str | None:
    usual = f"{kind}_{_USUAL}_{split}"
    found = [name for name in tables if name.startswith(f"{kind}_accuracies_") and name.endswith(f"_{split}")]
    if usual in found or not found:
        return usual if found else None
    if len(found) > 1:
        raise DataError(f"experiment {folder}: evaluated in several ways, {found}, and none is {usual}.")
    return found[0]


def _scores(folder: Path, base: sqlite3.Connection, table: str) -> Scores | None:
    columns = [row["name"] for row in base.execute(f"PRAGMA table_info([{table}])")]
    names = {metric: name for metric in METRICS for name in [_column(columns, _COLUMNS[metric])] if name}
    if "trained_status" not in columns or not names:
        raise DataError(
            f"experiment {folder}: the table {table} of its meta log needs the columns trained_status and "
            f"one of {', '.join(_COLUMNS.values())} (_level0); it has {columns}."
        )
    query = f"SELECT * FROM [{table}] WHERE trained_status = 'trained' ORDER BY id DESC LIMIT 1"
    row = base.execute(query).fetchone()
    if row is None:
        return None
    return {metric: 100 * row[name] for metric, name in names.items() if row[name] is not None} or None


def _column(columns: list[str], metric: str) -> str | None:
    """The average over label levels where there is one, as powerful-benchmarker itself prefers."""
    wanted = re.compile(rf"AVERAGE_{metric}|{metric}_level\d+")
    return min((name for name in columns if wanted.fullmatch(name)), default=None)
