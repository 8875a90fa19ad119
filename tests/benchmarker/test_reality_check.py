"""The command that runs the whole comparison: what is run when, and what is said about it."""

from argparse import Namespace

import pytest
from scripts import load_script

pytest.importorskip("powerful_benchmarker")

from pml_slade.benchmarker import rows
from pml_slade.exceptions import ConfigError
from pml_slade.reports.experiments import Experiment, Run


@pytest.fixture(scope="module")
def script():
    return load_script("reality_check")


def scores(value):
    return {"MAP@R": value, "RP": value, "P@1": value}


def experiment(name, *values):
    suffixes = ["", "_reproduction0", "_reproduction1"]
    runs = [
        Run(f"{name}{suffixes[i]}", scores(v), scores(v + 10), None, "tested") for i, v in enumerate(values)
    ]
    return Experiment(name, "Omniglot", tuple(runs))


@pytest.mark.parametrize("dataset", ["omniglot", "cub200"])
def test_everything_is_run_once_and_after_what_it_needs(script, dataset):
    wanted = [*rows.ROWS, *rows.CONTROLS, *rows.ABLATIONS]
    tasks = script._tasks(dataset, wanted, reproductions=2)
    assert len(set(tasks)) == len(tasks)
    assert {name for name, _ in tasks} >= set(wanted)
    for position, (name, suffix) in enumerate(tasks):
        for needed in rows.needs(dataset, name):
            assert (needed, suffix) in tasks[:position]
    assert [suffix for _, suffix in tasks] == sorted((suffix for _, suffix in tasks), key=len)


def test_a_row_brings_what_it_needs_and_nothing_else(script):
    names = [name for name, _ in script._tasks("glyphs", ["s2"], reproductions=0)]
    assert names == ["swav", "swav_finetuned", "t2", "s2"]


def test_a_run_is_finished_when_it_is_tested(script, monkeypatch):
    half = Experiment("t1", "Omniglot", (Run("t1", scores(1.0), scores(2.0), None, "tested"),))
    monkeypatch.setattr(script, "read_experiment", lambda folder: half)
    checked = []
    monkeypatch.setattr(script, "check_same_settings", checked.append)
    args = Namespace(folder="x", dataset="omniglot", dataset_root="d")
    assert script._is_finished(args, ("t1", ""))
    assert not script._is_finished(args, ("t1", "_reproduction0"))
    assert [argv[:2] for argv in checked] == [["--experiment_name", "t1"]]


def test_a_finished_run_of_other_settings_stops_everything(script, monkeypatch):
    def differ(argv):
        raise ConfigError("t1 was begun with patience: 3, not 9")

    half = Experiment("t1", "Omniglot", (Run("t1", scores(1.0), scores(2.0), None, "tested"),))
    monkeypatch.setattr(script, "read_experiment", lambda folder: half)
    monkeypatch.setattr(script, "check_same_settings", differ)
    with pytest.raises(ConfigError, match="patience"):
        script.run_all(Namespace(folder="x", dataset="omniglot", dataset_root="d", jobs=1), [("t1", "")])


def test_ablations_alone_have_no_results_table(script):
    args = Namespace(dataset="omniglot", experiments=[], reproductions=1)
    lines = [experiment(name, 30.0) for name in ("s2_k100", "s2_k200", "s2_k300", "s2_k500")]
    assert list(script.report(args, lines)) == []
    (name, text), *ablations = script.report(args, [*lines, experiment("s2", 31.0)])
    assert name == "results"
    assert "not run" in text
    assert [name for name, _ in ablations] == ["k"]


def test_a_random_start_is_not_called_imagenet(script):
    lines = [experiment(name, 30.0) for name in ("s1", "s2_swav", "s2")]
    args = Namespace(dataset="omniglot", experiments=[], reproductions=1)
    text = dict(script.report(args, lines))["initialisation"]
    assert "| random (paper: ImageNet) | 40" in text


def test_intervals_are_said_to_be_apart_only_where_they_are(script):
    near = [experiment("s1", 30.0, 31.0, 32.0), experiment("t1", 29.0, 30.0, 31.0)]
    assert script._gain(near, "s1", "t1") == (
        "S1 over T1, MAP@R: +1.00 separated, intervals overlap, run by run 1.00 ± 0.00; "
        "+1.00 concatenated, intervals overlap, run by run 1.00 ± 0.00."
    )
    far = [experiment("s1", 40.0, 41.0, 42.0), experiment("t1_on", 29.0, 30.0, 31.0)]
    said = script._gain(far, "s1", "t1_on")
    assert said.startswith("S1 over the control of T1, MAP@R: +11.00 separated, intervals apart, run by run")
    below = [experiment("s1", 29.0, 30.0, 31.0), experiment("t1", 40.0, 41.0, 42.0)]
    assert "-11.00 separated, intervals apart" in script._gain(below, "s1", "t1")


def test_run_by_run_compares_runs_of_the_same_number(script):
    student, teacher = experiment("s1", 30.0, 40.0), experiment("t1", 29.0, 38.0, 50.0)
    assert script._differences(student, teacher, "separated") == [1.0, 2.0]


def test_one_run_has_no_interval_and_a_missing_row_no_gain(script):
    assert script._gain([experiment("s1", 30.0), experiment("t1", 29.0)], "s1", "t1") == (
        "S1 over T1, MAP@R: +1.00 separated; +1.00 concatenated."
    )
    assert script._gain([experiment("s1", 30.0)], "s1", "t1") is None


def test_what_needs_a_failed_run_is_not_begun(script, monkeypatch, tmp_path):
    begun = []

    def fails(args, task):
        begun.append(task[0])
        return "ConfigError: broken" if task[0] == "t1" else None

    class Now:
        """A pool that runs at once, in this process."""

        def __init__(self, *args):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def submit(self, function, *arguments):
            from concurrent.futures import Future

            future = Future()
            future.set_result(function(*arguments))
            return future

    monkeypatch.setattr(script, "ProcessPoolExecutor", Now)
    monkeypatch.setattr(script, "_run", fails)
    args = Namespace(folder=tmp_path, dataset="omniglot", jobs=2)
    failed = script.run_all(args, script._tasks("omniglot", ["s1", "fastap"], 0))
    assert begun == ["t1", "fastap"]
    assert failed == [("t1", ""), ("s1", "")]
