"""A search on a few coloured squares: whole, stopped at many moments, killed."""

import json
import logging
import multiprocessing
import shutil
import signal
import sqlite3
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pytorch_metric_learning.trainers import MetricLossOnly

pytest.importorskip("powerful_benchmarker")
pytest.importorskip("ax")

from pml_slade.benchmarker.bayes_opt import BayesOptRunner
from pml_slade.exceptions import CheckpointError, ConfigError

METRIC = "mean_average_precision_at_r"
TRIALS = 3
KEY = "optimizers/embedder_optimizer/Adam/lr"
KEYS = {KEY, "loss_funcs/metric_loss/ContrastiveLoss/neg_margin"}
FACTORIES = [
    "model",
    "loss",
    "miner",
    "sampler",
    "optimizer",
    "tester",
    "trainer",
    "transform",
    "split_manager",
]
FACTORIES += ["record_keeper", "hook", "aggregator", "ensemble"]
SETTINGS = {
    "dataset": {
        "dataset": {"Squares": {}},
        "splits_to_eval": ["val"],
        "split_manager": {
            "ClassDisjointSplitManager": {
                "test_size": 0.5,
                "test_start_idx": 0.5,
                "num_training_partitions": 2,
                "num_training_sets": 2,
                "data_and_label_getter_keys": ["data", "label"],
            }
        },
    },
    "eval": {
        "tester": {
            "GlobalEmbeddingSpaceTester": {
                "dataloader_num_workers": 0,
                "accuracy_calculator": {"AccuracyCalculator": {"include": [METRIC]}},
                "visualizer": {},
            }
        },
        "aggregator": {"MeanAggregator": {"split_to_aggregate": "val"}},
        "ensemble": {"ConcatenateEmbeddings": {}},
        "hook_container": {"HookContainer": {"primary_metric": METRIC, "validation_split_name": "val"}},
    },
    "factories": {"factories": {kind: {f"{kind.title().replace('_', '')}Factory": {}} for kind in FACTORIES}},
    "general": {
        "api_parser": None,
        "trainer": {
            "MetricLossOnly": {"iterations_per_epoch": 1, "dataloader_num_workers": 0, "batch_size": 4}
        },
        "num_epochs_train": 2,
        "save_interval": 1,
        "patience": 9,
        "check_untrained_accuracy": False,
        "skip_eval_if_already_done": True,
        "skip_ensemble_eval_if_already_done": True,
        "log_data_to_tensorboard": False,
        "save_figures_on_tensorboard": False,
        "save_lists_in_db": False,
        "override_required_compatible_factories": False,
    },
    "loss_and_miners": {
        "loss_funcs": {"metric_loss": {"ContrastiveLoss": {"neg_margin~BAYESIAN~": [0.1, 1.0]}}},
        "sampler": {"MPerClassSampler": {"m": 2, "length_before_new_iter": 8}},
        "mining_funcs": {},
    },
    "models": {"models": {"trunk": {"Flat": {}}, "embedder": {"MLP": {"layer_sizes": [8]}}}},
    "optimizers": {"optimizers": {"embedder_optimizer": {"Adam": {"lr~LOG_BAYESIAN~": [1.0e-4, 1.0e-1]}}}},
    "transforms": {"transforms": {"train": {"Resize": {"size": 4}}, "eval": {"Resize": {"size": 4}}}},
}


class Squares(torch.utils.data.Dataset):
    """Eight classes of six noisy squares."""

    def __init__(self, root, transform, download=False):
        self.transform = transform
        self.labels = [i // 6 for i in range(48)]
        random = np.random.RandomState(0)
        colours = random.randint(0, 255, (8, 4, 4, 3))
        noise = random.randint(-90, 90, (48, 4, 4, 3))
        self.images = (colours[self.labels] + noise).clip(0, 255).astype("uint8")

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"data": self.transform(Image.fromarray(self.images[index])), "label": self.labels[index]}


class Flat(torch.nn.Module):
    """The pixels, which is what powerful-benchmarker cuts the last layer off for."""

    def __init__(self):
        super().__init__()
        self.last_linear = torch.nn.Linear(48, 2)

    def forward(self, images):
        return self.last_linear(images.flatten(1))


class Stop(BaseException):
    """Like a signal: no `except Exception` holds it."""


def write_configs(folder, **changes):
    names = {"config_foldernames": [f"config_{part}" for part in SETTINGS]}
    for part, settings in {**SETTINGS, **changes}.items():
        names[f"config_{part}"] = ["default"]
        path = folder / f"config_{part}" / "default.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings))
    (folder / "config_foldernames.yaml").write_text(yaml.safe_dump(names, sort_keys=False))


def make(root, trials=TRIALS, reproductions=2, cls=BayesOptRunner, **changes):
    """A runner, made as a command line makes it."""
    if not (root / "configs").exists() or changes:
        write_configs(root / "configs", **changes)
    argv, sys.argv = sys.argv, ["search", "--experiment_name", "search"]
    try:
        folders = {"root_experiment_folder": str(root), "root_config_folder": str(root / "configs")}
        runner = cls(bayes_opt_iters=trials, reproductions=reproductions, dataset_root=str(root), **folders)
    finally:
        sys.argv = argv
    runner.register("dataset", Squares)
    runner.register("model", Flat)
    return runner


def run(root, **kwargs):
    runner = make(root, **kwargs)
    argv, sys.argv = sys.argv, ["search", "--experiment_name", "search"]
    try:
        runner.run()
    finally:
        sys.argv = argv


def rows(root):
    with sqlite3.connect(root / "search" / "bayes_opt_record_keeper_logs" / "logs.db") as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM bayes_opt ORDER BY trial_index")]


def check_finished(root):
    """As many trials as asked for, the best one is the best one, and the report is of it."""
    search, recorded = root / "search", rows(root)
    assert [row["trial_index"] for row in recorded] == list(range(TRIALS))
    assert {row["trial_status"] for row in recorded} == {"COMPLETED"}
    best = yaml.safe_load((search / "best_parameters.yaml").read_text())
    top = max(recorded, key=lambda row: row[METRIC])
    assert best["best_sub_experiment_name"] == f"search{int(top['trial_index'])}"
    assert best["best_values"][METRIC]["mean"] == pytest.approx(top[METRIC])
    assert best["best_parameters"] == {key: pytest.approx(top[key.replace("/", "_")]) for key in KEYS}
    names = {best["best_sub_experiment_name"] + end for end in ("", "_reproduction0", "_reproduction1")}
    for kind in ("MeanAggregator", "ConcatenateEmbeddings"):
        (detailed,) = search.glob(f"detailed_report_{kind}*.yaml")
        assert set(yaml.safe_load(detailed.read_text())) == names
        (report,) = search.glob(f"report_{kind}*.yaml")
        trained = yaml.safe_load(report.read_text())["trained"]
        (result,) = (value for key, value in trained.items() if key.startswith(METRIC))
        low, high = result["95%_confidence_interval"]
        assert low <= result["mean"] <= high


def models_of(root, trial):
    files = (root / "search" / f"search{trial}").rglob("*.pth")
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def no_plots(monkeypatch):
    monkeypatch.setattr(BayesOptRunner, "plot_progress", lambda *_: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search that nothing disturbed."""
    root = tmp_path_factory.mktemp("finished")
    run(root)
    return root


def test_a_search_runs_its_trials_and_reports(finished):
    check_finished(finished)


def test_its_page_has_plots_with_points_in_them(finished):
    html = (finished / "search" / "optimization_plots.html").read_text()
    assert html.count("Plotly.newPlot(") == 2
    assert '"contour"' in html
    assert "bdata" not in html
    trace = json.loads(html.split("Plotly.newPlot(")[1].split("\n")[2].strip().removesuffix(","))
    assert [len(line["x"]) for line in trace] == [TRIALS] * 3


def test_a_finished_search_is_not_run_again_and_can_be_extended(finished, tmp_path, no_plots):
    root = shutil.copytree(finished, tmp_path / "copy")
    before = {trial: models_of(root, trial) for trial in range(TRIALS)}
    run(root)
    check_finished(root)
    run(root, trials=TRIALS + 1)
    assert [row["trial_index"] for row in rows(root)] == list(range(TRIALS + 1))
    assert {trial: models_of(root, trial) for trial in range(TRIALS)} == before


def forward_of_trial_1(monkeypatch):
    """In an epoch of the second trial, in its second fold."""
    real, here = MetricLossOnly.forward_and_backward, []

    def forward_and_backward(trainer):
        if len(here) == 2 * 2 + 2:  # two epochs of two folds, then two of the first fold
            raise Stop
        here.append(trainer)
        real(trainer)

    monkeypatch.setattr(MetricLossOnly, "forward_and_backward", forward_and_backward)


def model_of_trial_1(monkeypatch):
    """When the trunk of an epoch is saved and the embedder is not."""
    real = torch.save

    def save(state, path, *args, **kwargs):
        if "search1" in str(path) and path.endswith("embedder_1.pth"):
            raise Stop
        real(state, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)


def before(name, call=1):
    """In place of the nth call of a method of the runner."""

    def stop(monkeypatch):
        real, calls = getattr(BayesOptRunner, name), []

        def method(*args, **kwargs):
            calls.append(args)
            if len(calls) == call:
                raise Stop
            return real(*args, **kwargs)

        monkeypatch.setattr(BayesOptRunner, name, method)

    stop.__name__ = f"{name}_{call}"
    return stop


MOMENTS = [
    forward_of_trial_1,
    model_of_trial_1,
    before("run_new_experiment", 2),  # the trial is logged, it has no folder
    before("save_new_log", 4),  # the trial is over, no log says so
    before("update_records", 2),  # the log says so, the records do not
    before("update_records", 3),  # the same of the last trial
    before("save_best_parameters"),
    before("test_model", 2),  # a reproduction is trained and not tested
    before("create_accuracy_report"),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_stopped_at_any_moment_the_same_command_ends_it(moment, tmp_path, no_plots):
    with pytest.MonkeyPatch.context() as patch:
        moment(patch)
        with pytest.raises(Stop):
            run(tmp_path)
    first = models_of(tmp_path, 0)
    parameters = (tmp_path / "search" / "search0" / "bayes_opt_parameters.yaml").read_text()
    run(tmp_path)
    check_finished(tmp_path)
    assert first
    assert models_of(tmp_path, 0) == first
    assert (tmp_path / "search" / "search0" / "bayes_opt_parameters.yaml").read_text() == parameters


def test_a_model_that_was_saved_by_half_is_not_gone_on_from(tmp_path, no_plots, caplog):
    with pytest.MonkeyPatch.context() as patch:
        model_of_trial_1(patch)
        with pytest.raises(Stop):
            run(tmp_path)
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        run(tmp_path)
    assert "search1 cannot go on and starts anew" in caplog.text


def test_the_report_leaves_out_trials_whose_name_begins_like_that_of_the_best(finished, tmp_path, no_plots):
    root = shutil.copytree(finished, tmp_path / "copy")
    best = yaml.safe_load((root / "search" / "best_parameters.yaml").read_text())
    (root / "search" / f"{best['best_sub_experiment_name']}0").mkdir()
    run(root)
    check_finished(root)


def test_an_interrupted_trial_goes_on_from_its_last_epoch(tmp_path, no_plots):
    with pytest.MonkeyPatch.context() as patch:
        forward_of_trial_1(patch)
        with pytest.raises(Stop):
            run(tmp_path)
    saved = models_of(tmp_path, 1)
    run(tmp_path)
    after = models_of(tmp_path, 1)
    fold = [path for path in saved if "Partitions2_0" in str(path)]
    assert fold
    assert {path: after[path] for path in fold} == {path: saved[path] for path in fold}


def test_killed_the_same_command_ends_it(tmp_path, no_plots):
    process = multiprocessing.get_context("fork").Process(target=run, args=(tmp_path,))
    process.start()
    wanted = tmp_path / "search" / "search1"
    while process.is_alive() and not any(wanted.glob("*/saved_models/trunk_*.pth")):
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    first = models_of(tmp_path, 0)
    run(tmp_path)
    check_finished(tmp_path)
    assert first
    assert models_of(tmp_path, 0) == first


def test_a_log_that_was_cut_off_is_passed_over(finished, tmp_path, no_plots):
    root = shutil.copytree(finished, tmp_path / "copy")
    before = models_of(root, 0)
    newest = max((root / "search" / "bayes_opt_ax_logs").glob("*.json"))
    newest.write_text(newest.read_text()[:100])
    run(root)
    check_finished(root)
    assert models_of(root, 0) == before


def test_without_a_log_that_can_be_read_nothing_is_overwritten(finished, tmp_path, no_plots):
    root = shutil.copytree(finished, tmp_path / "copy")
    before = models_of(root, 0)
    for path in (root / "search" / "bayes_opt_ax_logs").glob("*.json"):
        path.write_text("")
    with pytest.raises(CheckpointError, match="none of the 6 logs"):
        run(root)
    assert models_of(root, 0) == before


def test_a_reproduction_that_cannot_go_on_starts_anew(finished, tmp_path, no_plots):
    root = shutil.copytree(finished, tmp_path / "copy")
    wrong = next(root.glob("search/*_reproduction0/*/saved_models/embedder_2.pth"))
    torch.save({}, wrong)
    run(root)
    check_finished(root)
    assert torch.load(wrong)


def test_configs_whose_saving_was_cut_off_are_saved_again(finished, tmp_path, no_plots):
    write_configs(tmp_path / "configs")
    cut = tmp_path / "search" / "configs"
    cut.mkdir(parents=True)
    (cut / "config_dataset.yaml").write_text("")
    make(tmp_path)
    assert yaml.safe_load((cut / "config_dataset.yaml").read_text()) == SETTINGS["dataset"]


def test_an_error_of_ours_comes_out_and_deletes_nothing(tmp_path, no_plots, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        forward_of_trial_1(patch)
        with pytest.raises(Stop):
            run(tmp_path)
    saved = models_of(tmp_path, 1)

    def broken(*_):
        raise ConfigError("teacher: there is none")

    monkeypatch.setattr(Squares, "__getitem__", broken)
    with pytest.raises(ConfigError, match="teacher: there is none"):
        run(tmp_path)
    assert set(models_of(tmp_path, 1)) == set(saved)


@pytest.mark.parametrize(
    ("key", "bounds", "message"),
    [
        ("lr~BAYSIAN~", [1.0e-4, 1.0e-1], "no key of the settings in .*configs ends in ~BAYESIAN~"),
        ("lr~BAYESIAN~", ["1e-4", 0.1], "optimizers/embedder_optimizer/Adam/lr: .* YAML takes 1e-6 for text"),
        ("lr~BAYESIAN~", [0.1, 0.01], "the lower one first"),
        ("lr~BAYESIAN~", 0.1, "no list of two bounds"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once_and_not_kept(key, bounds, message, tmp_path):
    wrong = {"optimizers": {"embedder_optimizer": {"Adam": {key: bounds}}}}
    fixed = {"metric_loss": {"ContrastiveLoss": {"neg_margin": 0.5}}}
    losses = {**SETTINGS["loss_and_miners"], "loss_funcs": fixed}
    with pytest.raises(ConfigError, match=message):
        make(tmp_path, optimizers=wrong, loss_and_miners=losses)
    assert [parameter["name"] for parameter in make(tmp_path, loss_and_miners=losses).bayes_params] == [
        "optimizers/embedder_optimizer/Adam/lr"
    ]


def test_a_diverged_trial_counts_as_zero(tmp_path, no_plots, monkeypatch):
    real = BayesOptRunner.run_new_experiment

    def run_new_experiment(runner, parameters, name):
        with pytest.MonkeyPatch.context() as patch:
            if name == "search1":
                patch.setattr(
                    Flat, "forward", lambda trunk, images: trunk.last_linear(images.flatten(1)) * np.nan
                )
            return real(runner, parameters, name)

    monkeypatch.setattr(BayesOptRunner, "run_new_experiment", run_new_experiment)
    run(tmp_path)
    check_finished(tmp_path)
    assert [row[METRIC] == 0 for row in rows(tmp_path)] == [False, True, False]


@pytest.mark.parametrize("trials", [7])
def test_after_the_random_trials_a_model_chooses(trials, tmp_path, monkeypatch):
    for name in ("test_model", "reproduce_results", "create_accuracy_report"):
        monkeypatch.setattr(BayesOptRunner, name, lambda *_: None)
    monkeypatch.setattr(BayesOptRunner, "run_new_experiment", lambda _, parameters, name: parameters[KEY])
    losses = {**SETTINGS["loss_and_miners"], "loss_funcs": {"metric_loss": {"ContrastiveLoss": {}}}}
    run(tmp_path, trials=trials, loss_and_miners=losses)
    recorded = rows(tmp_path)
    assert [row["generation_method"] for row in recorded] == ["Sobol"] * 5 + ["BoTorch"] * (trials - 5)
    assert max(row[METRIC] for row in recorded) == recorded[-1][METRIC] == pytest.approx(0.1)
    html = (tmp_path / "search" / "optimization_plots.html").read_text()
    assert html.count("Plotly.newPlot(") == 2


def test_a_plot_that_fails_stops_nothing(finished, tmp_path, monkeypatch, caplog):
    root = shutil.copytree(finished, tmp_path / "copy")

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(BayesOptRunner, "_plot_model", broken)
    with caplog.at_level(logging.WARNING):
        run(root)
    assert "ZeroDivisionError" in caplog.text
    assert (root / "search" / "optimization_plots.html").read_text().count("Plotly.newPlot(") == 1
