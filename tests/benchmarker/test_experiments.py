"""Where an experiment is that another one starts from, and which of its files are taken."""

import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

pytest.importorskip("powerful_benchmarker")

from pml_slade.benchmarker.experiments import best_files, cut_off_folds, find_experiment, load_best
from pml_slade.exceptions import CheckpointError, ConfigError


@pytest.fixture
def make(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).mkdir(parents=True)
        return tmp_path

    return make


def test_beside_the_one_that_asks(make):
    root = make("t1", "s1")
    assert find_experiment("teacher", "t1", root / "s1") == root / "t1"


def test_a_reproduction_takes_that_of_its_number_where_there_is_one(make):
    root = make("t1", "t1_reproduction1", "s1")
    assert find_experiment("teacher", "t1", root / "s1_reproduction1") == root / "t1_reproduction1"
    assert find_experiment("teacher", "t1", root / "s1_reproduction0") == root / "t1"


def test_by_an_absolute_path(make):
    root = make("elsewhere/t1", "here/s1")
    assert (
        find_experiment("teacher", str(root / "elsewhere" / "t1"), root / "here" / "s1")
        == root / "elsewhere/t1"
    )


def test_of_a_search_the_best_trial(make):
    root = make("t1/t10", "t1/t11", "t1/t11_reproduction0", "s1")
    (root / "t1" / "best_parameters.yaml").write_text(yaml.safe_dump({"best_sub_experiment_name": "t11"}))
    assert find_experiment("teacher", "t1", root / "s1") == root / "t1" / "t11"


def test_a_reproduction_takes_the_reproduction_of_the_best_trial(make):
    root = make("t1/t11", "t1/t11_reproduction0", "s1_reproduction0", "s1_reproduction1")
    (root / "t1" / "best_parameters.yaml").write_text(yaml.safe_dump({"best_sub_experiment_name": "t11"}))
    found = [find_experiment("teacher", "t1", root / f"s1_reproduction{i}") for i in (0, 1)]
    assert found == [root / "t1" / "t11_reproduction0", root / "t1" / "t11"]


def test_a_search_that_has_not_finished_is_no_teacher(make):
    root = make("t1/t10", "t1/bayes_opt_ax_logs", "s1")
    with pytest.raises(ConfigError, match=r"teacher: the search in .*t1 has not finished"):
        find_experiment("teacher", "t1", root / "s1")


def test_a_trial_finds_what_lies_beside_its_search(make):
    root = make("t1", "s1/s10")
    assert find_experiment("teacher", "t1", root / "s1" / "s10") == root / "t1"


def test_never_itself(make):
    root = make("t1")
    with pytest.raises(ConfigError, match="teacher: there is no experiment 't1'"):
        find_experiment("teacher", "t1", root / "t1")


def test_nowhere(make):
    root = make("s1")
    with pytest.raises(
        ConfigError, match=r"initial_experiment: there is no experiment 'swav' in .*Train it first"
    ):
        find_experiment("initial_experiment", "swav", root / "s1")


@pytest.fixture
def trained(tmp_path):
    """An experiment of one fold, finished."""
    folder = tmp_path / "t1"
    models, records = folder / "fold_0" / "saved_models", folder / "fold_0" / "saved_csvs"
    for each in (models, records, folder / "meta_logs" / "saved_csvs", folder / "meta_logs" / "saved_models"):
        each.mkdir(parents=True)
    (folder / "meta_logs" / "saved_csvs" / "MeanAggregator.csv").write_text("id\n1\n")
    for epoch in ("best0", "best2", "best10", "12"):
        torch.manual_seed(len(epoch))
        for name in ("trunk", "embedder"):
            torch.save(nn.Linear(2, 2).state_dict(), models / f"{name}_{epoch}.pth")
    with closing(sqlite3.connect(records / "logs.db")) as base, base:
        base.execute(
            "CREATE TABLE accuracies_x_VAL (id integer primary key, epoch integer, best_epoch integer)"
        )
        base.executemany(
            "INSERT INTO accuracies_x_VAL (epoch, best_epoch) VALUES (?, ?)", [(10, 10), (12, 10)]
        )
    return SimpleNamespace(folder=folder, models=models, records=records)


def linears(*names, size=2):
    return {name: nn.Linear(2, size) for name in names}


def test_the_newest_best_files_are_taken(trained):
    files = best_files("teacher", trained.folder, "fold_0", ("trunk", "embedder"))
    assert files == {name: trained.models / f"{name}_best10.pth" for name in ("trunk", "embedder")}
    models = linears("trunk", "embedder")
    load_best("teacher", trained.folder, "fold_0", models)
    for name, model in models.items():
        assert torch.equal(model.weight, torch.load(files[name])["weight"])


def test_only_what_is_asked_for_must_be_there(trained):
    (trained.models / "embedder_best10.pth").unlink()
    load_best("initial_experiment", trained.folder, "fold_0", linears("trunk"))
    with pytest.raises(CheckpointError, match=r"initial_experiment: .*no best model of fold fold_0 yet"):
        load_best("initial_experiment", trained.folder, "fold_0", linears("trunk", "embedder"))


def test_another_architecture_says_how_it_differs(trained):
    with pytest.raises(CheckpointError, match=r"weight is \(2, 2\), not \(3, 2\), bias is \(2,\)"):
        load_best("teacher", trained.folder, "fold_0", linears("trunk", size=3))
    other = {"trunk": nn.Sequential(nn.Linear(2, 2))}
    with pytest.raises(CheckpointError, match=r"0.bias is None, not \(2,\), weight is \(2, 2\), not None"):
        load_best("teacher", trained.folder, "fold_0", other)


def test_folds_that_are_not_there(trained):
    with pytest.raises(CheckpointError, match=r"has no fold fold_9; it has \['fold_0'\]"):
        best_files("teacher", trained.folder, "fold_9", ("trunk",))


def test_before_all_folds_are_over_nothing_is_taken(trained):
    (trained.folder / "meta_logs" / "saved_csvs" / "MeanAggregator.csv").unlink()
    with pytest.raises(CheckpointError, match=r"teacher: .*t1 has not finished: let it finish"):
        best_files("teacher", trained.folder, "fold_0", ("trunk",))


def test_a_whole_fold_goes_on(trained):
    assert cut_off_folds(trained.folder) == []
    assert cut_off_folds(trained.folder.parent / "not begun") == []


def insert(records, epoch, best_epoch):
    with closing(sqlite3.connect(records / "logs.db")) as base, base:
        base.execute("INSERT INTO accuracies_x_VAL (epoch, best_epoch) VALUES (?, ?)", (epoch, best_epoch))


CUTS = {
    "a file of the latest epoch is missing": lambda made: (made.models / "embedder_12.pth").unlink(),
    "a file of the best epoch is missing": lambda made: (made.models / "trunk_best10.pth").unlink(),
    "a file is cut off": lambda made: (made.models / "trunk_12.pth").write_bytes(b"PK"),
    "a table is empty": lambda made: (made.records / "loss_histories.csv").write_text(""),
    "a score has no model": lambda made: insert(made.records, 14, 10),
    "the best score has no model": lambda made: insert(made.records, 12, 12),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_fold_that_was_cut_off_is_found(trained, cut):
    cut(trained)
    assert cut_off_folds(trained.folder) == [trained.folder / "fold_0"]


def test_scores_of_untrained_models_have_none(trained):
    for epoch in (-1, 0):
        insert(trained.records, epoch, -1)
    assert cut_off_folds(trained.folder) == []
