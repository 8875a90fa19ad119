"""Folders as powerful-benchmarker 0.9.33 writes them."""

import sqlite3
from contextlib import closing

import pytest
import yaml

USUAL = "accuracies_normalized_compared_to_self_GlobalEmbeddingSpaceTester_level_0"
COLUMNS = {"MAP@R": "mean_average_precision_at_r", "RP": "r_precision", "P@1": "precision_at_1"}
UNTRAINED = ("untrained_trunk", "untrained_trunk_and_embedder")


def record(folder, group, scores, name="{}_level0", sem=False):
    """Rows of one evaluation, as the aggregators and `eval_ensemble` write them; scores in 0..1."""
    with closing(sqlite3.connect(folder / "logs.db")) as base, base:
        for status in (*UNTRAINED, "trained"):
            row = {name.format(COLUMNS[m]): v if status == "trained" else 0.01 for m, v in scores.items()}
            types = dict.fromkeys(row, "real")
            if sem:
                types |= {f"SEM_{column}": "real" for column in types}
            else:
                types["epoch"] = "text"
            types |= {"trained_status": "text", "timestamp": "timestamp"}
            row |= {"trained_status": status, "timestamp": "2026-01-01 12:00:00.123456"}
            columns = ", ".join(f"[{column}] {kind}" for column, kind in types.items())
            base.execute(
                f"CREATE TABLE IF NOT EXISTS {group} (id integer primary key autoincrement, {columns})"
            )
            base.execute(
                f"INSERT INTO {group} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                [*row.values()],
            )


@pytest.fixture
def write_experiment(tmp_path):
    """Writes one run; a part that is None has not been measured, `begun` folds have records of their own."""

    def write(path, dataset="CUB200", separated=None, concatenated=None, validation=None, begun=4, **options):
        folder = tmp_path / path
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "configs" / "config_models.yaml").write_text("models: {}\n")
        config = {"num_epochs_train": 3, "dataset": {dataset: None}}
        (folder / "configs" / "config_experiment.yaml").write_text(yaml.safe_dump(config))
        for fold in range(4):
            logs = folder / f"Test50_50_Partitions4_{fold}" / "saved_csvs"
            logs.mkdir(parents=True, exist_ok=True)
            if fold < begun:
                record(logs, f"{USUAL}_VAL", dict.fromkeys(COLUMNS, 0.9))
        meta = folder / "meta_logs" / "saved_csvs"
        meta.mkdir(parents=True, exist_ok=True)
        groups = {
            f"MeanAggregator_{USUAL}_VAL": validation,
            f"MeanAggregator_{USUAL}_TEST": separated,
            f"ConcatenateEmbeddings_{USUAL}_TEST": concatenated,
        }
        for group, value in groups.items():
            if value is not None:
                scores = value if isinstance(value, dict) else scores_of(value)
                record(meta, group, scores, sem=group.startswith("Mean"), **options)
        return folder

    return write


@pytest.fixture
def tested(write_experiment):
    """Writes a run that is tested: MAP@R of the concatenated embeddings in %, the separated ones 5 below."""

    def write(path, map_at_r, dataset="CUB200"):
        measured = {"separated": map_at_r - 5, "concatenated": map_at_r, "validation": map_at_r + 1}
        return write_experiment(path, dataset, **{part: value / 100 for part, value in measured.items()})

    return write


def scores_of(map_at_r):
    """The other metrics are 10 and 40 points above MAP@R."""
    return {"MAP@R": map_at_r, "RP": map_at_r + 0.1, "P@1": map_at_r + 0.4}
