"""Experiments are read as powerful-benchmarker leaves them, finished or not."""

import sqlite3

import pytest
import yaml

from pml_slade.exceptions import ConfigError, DataError
from pml_slade.reports.experiments import read_experiment, read_experiments

RESULTS = "saved_csvs/logs.db"


def names(experiment):
    return [run.name for run in experiment.runs]


def change(folder, *statements):
    """Execute SQL on a run's meta log."""
    base = sqlite3.connect(folder / "meta_logs" / RESULTS)
    for statement in statements:
        base.execute(statement)
    base.commit()
    base.close()


def tables(folder):
    base = sqlite3.connect(folder / "meta_logs" / RESULTS)
    found = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    base.close()
    return [name for name in found if not name.startswith("sqlite")]


def search(tmp_path, name, best=None):
    """Make a folder that of a Bayesian search."""
    folder = tmp_path / name
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "config_experiment.yaml").write_text("dataset: {CUB200: {}}\n")
    (folder / "bayes_opt_ax_logs").mkdir()
    (folder / "most_recent_parameters.yaml").write_text("trial_index: 3\n")
    if best is not None:
        (folder / "best_parameters.yaml").write_text(yaml.safe_dump({"best_sub_experiment_name": best}))
    return folder


def test_a_tested_run_is_read_in_percent(tested):
    experiment = read_experiment(tested("t1", 30.0))
    (run,) = experiment.runs
    assert (experiment.name, experiment.dataset, experiment.status) == ("t1", "CUB200", "1")
    assert run.separated == pytest.approx({"MAP@R": 25.0, "RP": 35.0, "P@1": 65.0})
    assert run.concatenated == pytest.approx({"MAP@R": 30.0, "RP": 40.0, "P@1": 70.0})
    assert run.validation == pytest.approx({"MAP@R": 31.0, "RP": 41.0, "P@1": 71.0})
    assert experiment.values("concatenated", "RP") == (run.concatenated["RP"],)


def test_the_last_row_of_the_trained_model_counts(tested):
    folder = tested("t1", 30.0)
    tested("t1", 40.0)  # evaluated once more: rows are appended
    assert read_experiment(folder).values("concatenated", "MAP@R") == (pytest.approx(40.0),)
    change(folder, f"DELETE FROM {tables(folder)[-1]} WHERE trained_status = 'trained'")
    assert read_experiment(folder).values("concatenated", "MAP@R") == ()


def test_reproductions_are_runs_ordered_by_number(tested):
    folder = tested("t1", 30.0)
    for number in (10, 2, 0, 11):
        tested(f"t1_reproduction{number}", 30.0 + number)
    tested("t10", 1.0)
    tested("t1_reproductions", 1.0)
    tested("t1_other_reproduction0", 1.0)
    experiment = read_experiment(folder)
    assert names(experiment) == ["t1", *(f"t1_reproduction{n}" for n in (0, 2, 10, 11))]
    assert experiment.values("concatenated", "MAP@R") == pytest.approx((30.0, 30.0, 32.0, 40.0, 41.0))
    assert experiment.status == "5"


@pytest.mark.parametrize(
    ("begun", "parts", "status"),
    [
        (0, {}, "not trained"),
        (2, {}, "training, fold 2 of 4"),
        (4, {"validation": 0.3}, "trained, not tested"),
        (4, {"validation": 0.3, "separated": 0.3}, "separated 1, concatenated 0 of 1"),
        (4, {"validation": 0.3, "separated": 0.3, "concatenated": 0.3}, "1"),
    ],
)
def test_how_far_a_run_is(write_experiment, begun, parts, status):
    experiment = read_experiment(write_experiment("t1", begun=begun, **parts))
    assert experiment.status == status
    for part in ("separated", "concatenated", "validation"):
        assert (getattr(experiment.runs[0], part) is None) == (part not in parts)


def test_how_far_reproductions_are(tested, write_experiment):
    folder = write_experiment("t1", validation=0.3)
    write_experiment("t1_reproduction0", begun=1)
    assert read_experiment(folder).status == "trained, not tested; training, fold 1 of 4"
    tested("t1", 30.0)
    assert read_experiment(folder).status == "1 of 2"


def test_a_failure_that_was_recorded_as_zero_is_shown_as_it_is(write_experiment):
    scores = {"MAP@R": 0.0, "RP": 0.0, "P@1": 0.0}
    folder = write_experiment("t1", separated=scores, concatenated=scores)
    assert read_experiment(folder).values("separated", "MAP@R") == (0.0,)


def test_metrics_that_were_not_computed_or_not_a_number_are_not_there(write_experiment):
    scores = {"MAP@R": float("nan"), "P@1": 0.5}
    (run,) = read_experiment(write_experiment("t1", separated=scores)).runs
    assert run.separated == {"P@1": 50.0}


@pytest.mark.parametrize("name", ["AVERAGE_{}", "{}_level1"])
def test_columns_of_other_label_levels(write_experiment, name):
    folder = write_experiment("t1", separated=0.25, name=name)
    assert read_experiment(folder).values("separated", "MAP@R") == (25.0,)


def test_the_average_over_label_levels_is_preferred_to_one_of_them(write_experiment):
    folder = write_experiment("t1", separated=0.25)
    column = "AVERAGE_mean_average_precision_at_r"
    (table,) = tables(folder)
    change(folder, f"ALTER TABLE {table} ADD COLUMN {column} real", f"UPDATE {table} SET {column} = 0.5")
    assert read_experiment(folder).values("separated", "MAP@R") == (50.0,)


def test_another_tester_is_read_where_it_is_the_only_one(write_experiment):
    folder = write_experiment("t1", separated=0.25)
    (table,) = tables(folder)
    other = table.replace("_normalized", "_pca8")
    change(folder, f"ALTER TABLE {table} RENAME TO {other}")
    assert read_experiment(folder).values("separated", "MAP@R") == (25.0,)
    change(folder, f"CREATE TABLE {other.replace('pca8', 'pca9')} (id integer)")
    with pytest.raises(DataError, match=r"several ways.*pca9"):
        read_experiment(folder)


def test_of_a_bayesian_search_the_best_trial_and_its_reproductions_count(tested, tmp_path):
    folder = search(tmp_path, "s2", best="s21")
    for trial in (0, 1, 10):
        tested(f"s2/s2{trial}", 20.0 + trial)
    tested("s2/s21_reproduction0", 22.0)
    tested("s2/s210_reproduction0", 1.0)
    experiment = read_experiment(folder)
    assert (experiment.name, names(experiment)) == ("s2", ["s21", "s21_reproduction0"])
    assert experiment.values("concatenated", "MAP@R") == pytest.approx((21.0, 22.0))


def test_a_search_that_goes_on_says_so(tested, tmp_path):
    folder = search(tmp_path, "s2")
    tested("s2/s20", 20.0)
    experiment = read_experiment(folder)
    assert (experiment.runs, experiment.status) == ((), "search not finished")


@pytest.mark.parametrize("best", ["s29", ""])
def test_a_search_without_its_best_trial_is_damaged(tmp_path, best):
    folder = search(tmp_path, "s2", best=best)
    with pytest.raises(DataError, match=f"{folder}.*'{best}' as best_sub_experiment_name"):
        read_experiment(folder)


def test_several_experiments_in_a_folder_each_once(tested, tmp_path):
    for name in ("t1", "t1_reproduction0", "s1", "t2"):
        tested(f"runs/{name}", 30.0)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "notes.txt").touch()
    root = tmp_path / "runs"
    assert [e.name for e in read_experiments([root])] == ["s1", "t1", "t2"]
    given = [root / "t1_reproduction0", root / "t2", root]
    found = read_experiments(given)
    assert [(e.name, len(e.runs)) for e in found] == [("t1", 2), ("t2", 1), ("s1", 1)]


def test_a_reproduction_without_what_it_reproduces_is_an_experiment(tested):
    (experiment,) = read_experiments([tested("t1_reproduction3", 30.0)])
    assert experiment.name == "t1_reproduction3"


def test_a_folder_relative_to_the_working_directory(tested, monkeypatch):
    monkeypatch.chdir(tested("t1", 30.0))
    assert [e.name for e in read_experiments(["."])] == ["t1"]


def test_a_folder_may_have_any_name(tested):
    folder = tested("50% of #1? [old]", 30.0)
    assert read_experiment(folder).values("concatenated", "MAP@R") == (pytest.approx(30.0),)


def test_reading_writes_nothing(tested, write_experiment, tmp_path):
    tested("t1", 30.0)
    write_experiment("t2")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    read_experiments([tmp_path])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_same_name_twice_is_refused_unless_the_datasets_differ(tested, tmp_path):
    tested("a/t1", 30.0)
    tested("b/t1", 30.0, dataset="Cars196")
    assert [e.dataset for e in read_experiments([tmp_path / "a", tmp_path / "b"])] == ["CUB200", "Cars196"]
    tested("c/t1", 30.0)
    with pytest.raises(ConfigError, match="same name and dataset, CUB200"):
        read_experiments([tmp_path / "a", tmp_path / "c"])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="gone: no such folder"):
        read_experiments([tmp_path / "gone"])


def test_a_folder_of_something_else_is_named(tmp_path):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    with pytest.raises(DataError, match=r"images: neither an experiment.*configs"):
        read_experiments([tmp_path / "images"])
    with pytest.raises(DataError, match="images: no folder configs"):
        read_experiment(tmp_path / "images")


@pytest.mark.parametrize("text", ["dataset: CUB200", "dataset: {}", "other: 1", "- 1", ""])
def test_settings_without_a_dataset_are_named(tested, text):
    folder = tested("t1", 30.0)
    (folder / "configs" / "config_experiment.yaml").write_text(text)
    with pytest.raises(DataError, match=r"t1: .*key dataset"):
        read_experiment(folder)


@pytest.mark.parametrize("content", [b"dataset: {CUB200", b"\xff\xfe\x00"])
def test_settings_that_cannot_be_read_are_named(tested, content):
    folder = tested("t1", 30.0)
    (folder / "configs" / "config_experiment.yaml").write_bytes(content)
    with pytest.raises(DataError, match=r"t1: config_experiment.yaml cannot be read"):
        read_experiment(folder)


def test_a_damaged_log_is_named(tested):
    folder = tested("t1", 30.0)
    (folder / "meta_logs" / RESULTS).write_bytes(b"not a database" * 100)
    with pytest.raises(DataError, match=r"t1: meta_logs/saved_csvs/logs.db cannot be read"):
        read_experiment(folder)


@pytest.mark.parametrize("column", ["trained_status", "mean_average_precision_at_r_level0"])
def test_a_log_without_the_columns_is_named(write_experiment, column):
    folder = write_experiment("t1", separated={"MAP@R": 0.3})
    (table,) = tables(folder)
    change(folder, f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
    with pytest.raises(DataError, match=r"t1: .*needs the columns trained_status"):
        read_experiment(folder)


def test_a_reproduction_on_another_dataset_is_refused(tested):
    folder = tested("t1", 30.0)
    tested("t1_reproduction0", 30.0, dataset="Cars196")
    with pytest.raises(DataError, match="t1_reproduction0: its dataset is Cars196"):
        read_experiment(folder)
