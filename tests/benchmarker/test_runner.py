"""Tiny experiments from the command line: run, stopped, killed, gone on with, and refused."""

import csv
import logging
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from bench import EMBEDDING_SIZE, FOLDS, LAYERS
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils.logging_presets import HookContainer
from torch import nn
from torchvision import transforms

pytest.importorskip("powerful_benchmarker")

from powerful_benchmarker.runners.single_experiment_runner import SingleExperimentRunner

from pml_slade import SelfTrainingTrainer
from pml_slade.benchmarker import main, register_all, runner
from pml_slade.benchmarker.datasets import Images
from pml_slade.benchmarker.models import Trunk
from pml_slade.datasets import PseudoLabelDataset, open_images
from pml_slade.exceptions import ConfigError, SladeError
from pml_slade.reports.experiments import read_experiment
from pml_slade.reports.tables import METRICS

USUAL = "accuracies_normalized_compared_to_self_GlobalEmbeddingSpaceTester_level_0"


class Stop(BaseException):
    """Like a signal: no `except Exception` holds it."""


def same(first, second):
    return all(
        torch.equal(value, second[model][key]) for model in first for key, value in first[model].items()
    )


def files(folder):
    """Every file, with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def diffs(bench, name):
    return [path.name for path in (bench.experiments / name / "configs").iterdir() if path.is_dir()]


def table(bench, name, number, which):
    with open(bench.fold(name, number) / "saved_csvs" / f"{which}.csv") as file:
        return list(csv.DictReader(file))


def stop_in_fold(monkeypatch, number, epoch=2):
    """Stop in an epoch of a fold of a student, before the epoch is saved."""
    real = SelfTrainingTrainer.calculate_loss

    def calculate_loss(trainer, batch):
        seen.append(trainer)
        if len({id(each) for each in seen}) == number + 1 and trainer.epoch == epoch:
            raise Stop
        real(trainer, batch)

    seen = []
    monkeypatch.setattr(SelfTrainingTrainer, "calculate_loss", calculate_loss)


def test_each_run_has_separated_and_concatenated_scores(finished):
    for name in ("t1", "s1"):
        experiment = read_experiment(finished.experiments / name)
        assert [run.name for run in experiment.runs] == [name, f"{name}_reproduction0"]
        assert experiment.dataset == "Images"
        for part in ("separated", "concatenated", "validation"):
            for metric in METRICS:
                scores = experiment.values(part, metric)
                assert len(scores) == 2
                assert all(0 < score <= 100 for score in scores)


@pytest.mark.parametrize("number", [0, 1])
def test_a_student_starts_as_the_teacher_of_its_fold_which_labels_its_pool(finished, number):
    starts = {}
    for suffix in ("", "_reproduction0"):
        start = finished.weights(f"s1{suffix}", number, "best0")
        starts[suffix] = start
        assert same(start, finished.best(f"t1{suffix}", number))
        assert not same(start, finished.best(f"t1{suffix}", 1 - number))
        assert not same(start, finished.weights(f"s1{suffix}", number, "2"))
        given = np.load(finished.fold(f"s1{suffix}", number) / "pseudo_labels.npy")
        np.testing.assert_array_equal(given, labels_of(finished, start))
    assert not same(starts[""], starts["_reproduction0"])


def labels_of(bench, weights):
    """The pseudo-labels of a teacher, from its weights, by hand."""
    pool = runner_pool(bench)
    trunk, embedder = Trunk("convnet", in_channels=1, width=4), nn.Linear(64, EMBEDDING_SIZE)
    trunk.load_state_dict(weights["trunk"])
    embedder.load_state_dict({k.rsplit(".")[-1]: v for k, v in weights["embedder"].items()})
    made = PseudoLabelDataset.from_teacher(
        pool, nn.Sequential(trunk, embedder), 5, 6, progress=False, min_cluster_size=2
    )
    labels = np.full(len(pool), -1)
    labels[made.indices] = made.labels - 6
    return labels


def runner_pool(bench):
    plain = transforms.Compose([transforms.Resize([16, 16]), transforms.ToTensor()])
    return open_images(bench.data / "unlabeled", mode="L", labeled=False).with_transform(plain)


def test_losses_are_recorded_at_each_step(finished):
    for number in (0, 1):
        rows = table(finished, "s1", number, "loss_histories")
        assert len(rows) == 4
        for loss in ("metric_loss", "unlabeled_metric_loss", "basis_loss", "total_loss"):
            assert all(np.isfinite(float(row[loss])) for row in rows)
        for row in rows:  # as they are weighted
            losses = ("metric_loss", "unlabeled_metric_loss", "basis_loss")
            assert all(float(row[loss]) >= 0 for loss in losses)  # mined pairs may all be easy
            assert float(row["basis_loss"]) > 0
            assert float(row["total_loss"]) == pytest.approx(sum(float(row[loss]) for loss in losses))
        assert {row["basis_loss"] for row in table(finished, "s1", number, "loss_weights")} == {"0.25"}


def test_a_finished_command_changes_nothing(copied):
    before = copied.models("s1")
    labels = [(copied.fold("s1", number) / "pseudo_labels.npy").read_bytes() for number in (0, 1)]
    copied.run("s1", "--test")
    assert len(before) > 40
    assert copied.models("s1") == before
    assert [(copied.fold("s1", n) / "pseudo_labels.npy").read_bytes() for n in (0, 1)] == labels
    assert not diffs(copied, "s1")


def test_interrupted_the_same_command_goes_on(copied, caplog, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        stop_in_fold(patch, number=1)
        with pytest.raises(Stop):
            copied.run("s1_again")
    first = files(copied.fold("s1_again", 0) / "saved_models")
    labels = [(copied.fold("s1_again", number) / "pseudo_labels.npy").read_bytes() for number in (0, 1)]
    second = copied.models("s1_again", "best1")
    assert {path.stem for path in copied.models("s1_again", "2")} == {
        path.stem for path in first if "_2" in path.stem
    }
    monkeypatch.setattr(PseudoLabelDataset, "from_teacher", lambda *_, **__: pytest.fail("labeled again"))
    with caplog.at_level(logging.INFO, logger="pml_slade"):
        copied.run("s1_again")
    assert "s1_again: going on" in caplog.text
    assert files(copied.fold("s1_again", 0) / "saved_models") == first
    assert [(copied.fold("s1_again", n) / "pseudo_labels.npy").read_bytes() for n in (0, 1)] == labels
    assert (copied.fold("s1_again", 1) / "saved_models" / "basis_loss_2.pth").is_file()
    assert len(table(copied, "s1_again", 1, "loss_histories")) >= 4
    kept = copied.models("s1_again", "best1")
    assert kept == {path: kept.get(path) for path in second} or len(copied.models("s1_again", "best2"))
    assert read_experiment(copied.experiments / "s1_again").runs[0].validation


def test_stopped_before_the_first_model_the_same_command_begins(copied, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PseudoLabelDataset, "from_teacher", lambda *_, **__: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            copied.run("s1_again")
    assert (copied.experiments / "s1_again" / "configs").is_dir()
    copied.run("s1_again")
    assert read_experiment(copied.experiments / "s1_again").runs[0].validation


def test_killed_the_same_command_ends_it(copied):
    command = [sys.executable, "-W", "ignore", "-m", "pml_slade.benchmarker", *copied.argv("s1_again")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wanted = copied.fold("s1_again", 1) / "saved_models" / "trunk_best0.pth"
        while process.poll() is None and not wanted.exists():
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    first = files(copied.fold("s1_again", 0) / "saved_models")
    labels = (copied.fold("s1_again", 0) / "pseudo_labels.npy").read_bytes()
    assert first
    copied.run("s1_again", "--test")
    assert files(copied.fold("s1_again", 0) / "saved_models") == first
    assert (copied.fold("s1_again", 0) / "pseudo_labels.npy").read_bytes() == labels
    (run,) = read_experiment(copied.experiments / "s1_again").runs
    assert run.separated
    assert run.concatenated


def stop_at_file(patch, name, folder, after=False):
    """In place of saving a model file of a fold, by half: an empty file is left, or none."""
    real = torch.save

    def save(state, path, *args, **kwargs):
        if str(path).endswith(f"{folder}/saved_models/{name}.pth"):
            if after:
                open(path, "wb").close()
            raise Stop
        real(state, path, *args, **kwargs)

    patch.setattr(torch, "save", save)


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
@pytest.mark.parametrize("name", ["embedder_2", "basis_loss_optimizer_2", "embedder_best1", "trunk_best0"])
def test_a_fold_whose_saving_was_cut_off_is_made_whole(copied, name, damaged):
    with pytest.MonkeyPatch.context() as patch:
        stop_at_file(patch, name, FOLDS[1], after=damaged)
        with pytest.raises(Stop):
            copied.run("s1_again")
    first = files(copied.fold("s1_again", 0) / "saved_models")
    copied.run("s1_again", "--test")
    assert files(copied.fold("s1_again", 0) / "saved_models") == first
    names = {path.name for path in (copied.fold("s1_again", 1) / "saved_models").glob("*_2.pth")}
    assert names == {path.name for path in first if path.stem.endswith("_2")}
    assert len(copied.best("s1_again", 1)) == 2
    assert read_experiment(copied.experiments / "s1_again").runs[0].concatenated


def test_a_score_whose_model_was_not_saved_does_not_count(copied):
    """Killed between the record of an epoch and its models, as good as that epoch may have been."""
    real = HookContainer.save_models

    def save_models(hooks, trainer, folder, suffix, *rest):
        if FOLDS[1] in folder and suffix == 1:
            raise Stop
        real(hooks, trainer, folder, suffix, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HookContainer, "save_models", save_models)
        with pytest.raises(Stop):
            copied.run("s1_again")
    copied.run("s1_again")
    rows = table(copied, "s1_again", 1, f"{USUAL}_VAL")
    assert sorted(int(float(row["epoch"])) for row in rows) == [1, 2]
    best = [path.stem for path in (copied.fold("s1_again", 1) / "saved_models").glob("trunk_best*.pth")]
    assert set(best) & {"trunk_best1", "trunk_best2"}


def test_other_settings_under_the_same_name_are_refused(copied):
    before = files(copied.experiments / "s1")
    with pytest.raises(ConfigError, match=r"s1 was begun with num_clusters: 5, not 6.*another name, or"):
        copied.run("s1", "--num_clusters", "6")
    with pytest.raises(ConfigError, match="was begun with optimizers"):
        copied.run("s1", "--optimizers", "{embedder_optimizer: {Adam: {lr: 0.5}}}")
    assert files(copied.experiments / "s1") == before


def test_merged_on_the_way_settings_change_and_the_change_is_written(copied):
    before = copied.models("s1", "best0")
    copied.run("s1", "--merge_argparse_when_resuming", "--num_epochs_train", "3")
    assert diffs(copied, "s1") == ["resume_training_config_diffs_2_2"]
    diff = (
        copied.experiments / "s1" / "configs" / "resume_training_config_diffs_2_2" / "config_experiment.yaml"
    )
    assert yaml.safe_load(diff.read_text()) == {"num_epochs_train": 3}
    for number in (0, 1):
        assert (copied.fold("s1", number) / "saved_models" / "trunk_3.pth").is_file()
        assert len(table(copied, "s1", number, "loss_histories")) == 6
    assert copied.models("s1", "best0") == before
    copied.run("s1", "--num_epochs_train", "3")  # now it is what the run has
    with pytest.raises(ConfigError, match="was begun with num_epochs_train: 3, not 2"):
        copied.run("s1")


def test_an_overridden_setting_stays_overridden(copied):
    copied.run(
        *("s1", "--merge_argparse_when_resuming", "--num_epochs_train", "3"),
        *("--mining_funcs~OVERRIDE~", "{}"),
    )
    configs = copied.experiments / "s1" / "configs"
    assert runner.saved_settings(configs, "config_experiment")["mining_funcs"] == {}
    args = copied.argv("s1", "--num_epochs_train", "3", "--mining_funcs~OVERRIDE~", "{}")
    runner.check_same_settings(args)
    copied.run("s1", "--evaluate", "--splits_to_eval", "[test]")  # reads what the run has now


def test_layers_cannot_change_on_the_way(copied):
    with pytest.raises(ConfigError, match=r"begun with config_experiment: .* flags in place of layers"):
        copied.run("t1", "--merge_argparse_when_resuming", layers=(*LAYERS["t1"], "k100"))


def test_pseudo_labels_cannot_change_on_the_way(copied):
    with pytest.raises(ConfigError, match=r"num_clusters: the pseudo-labels of s1 were made with 5, not 4"):
        copied.run("s1", "--merge_argparse_when_resuming", "--num_clusters", "4", "--num_epochs_train", "3")


def test_all_folds_together_are_tested_again_when_a_tested_run_goes_on(copied):
    def scores():
        folder = copied.experiments / "t1" / "meta_logs" / "saved_csvs"
        (file,) = folder.glob("ConcatenateEmbeddings_*_TEST.csv")
        return len(file.read_text().splitlines())

    before = scores()
    copied.run("t1", "--test")
    assert scores() == before
    for number in (0, 1):
        best = next((copied.fold("t1", number) / "saved_models").glob("trunk_best[12].pth"))
        best.touch()  # as a longer training does
    copied.run("t1", "--test")
    assert scores() == before + 1


def test_results_without_models_are_not_thrown_away(copied):
    for path in (copied.experiments / "t1").rglob("*.pth"):
        path.unlink()
    before = files(copied.experiments / "t1")
    with pytest.raises(ConfigError, match=r"is taken: it holds meta_logs.* and no models"):
        copied.run("t1")
    assert files(copied.experiments / "t1") == before


def test_their_resuming_goes_on(copied):
    copied.run("s1", "--resume_training", "latest", "--num_epochs_train", "9")  # not merged: it has ended
    assert not (copied.fold("s1") / "saved_models" / "trunk_3.pth").exists()
    copied.run("s1", "--resume_training", "best", "--merge_argparse_when_resuming", "--num_epochs_train", "3")
    assert (copied.fold("s1") / "saved_models" / "trunk_3.pth").is_file()


def test_their_evaluation_takes_the_splits_asked_for(copied):
    before = copied.models("t1")
    logs = copied.experiments / "t1" / "meta_logs" / "saved_csvs"
    fold = copied.fold("t1") / "saved_csvs"
    assert not (fold / f"{USUAL}_TRAIN.csv").exists()
    copied.run("t1", "--evaluate", "--splits_to_eval", "[train]")
    assert (fold / f"{USUAL}_TRAIN.csv").is_file()
    copied.run("t1", "--evaluate_ensemble", "--splits_to_eval", "[train, val]")
    assert {path.stem.rsplit("_")[-1] for path in logs.glob("ConcatenateEmbeddings_*.csv")} == {
        "TEST",
        "TRAIN",
        "VAL",
    }
    assert copied.models("t1") == before


def test_evaluation_needs_neither_teacher_nor_pool(copied, monkeypatch):
    shutil.rmtree(copied.experiments / "t1")
    monkeypatch.setattr(runner, "_check_same_settings", lambda *_: pytest.fail("not to be asked"))
    copied.run("s1", "--evaluate", "--splits_to_eval", "[train]", "--pool", "{ImagePool: {path: nowhere}}")
    assert list((copied.fold("s1") / "saved_csvs").glob("*_TRAIN.csv"))


def test_their_reproduction_has_the_settings_of_the_other_experiment(copied):
    like = copied.experiments / "t1"
    copied.run("t1_twin", "--reproduce_results", str(like), layers=("default",))
    assert files(copied.experiments / "t1_twin" / "configs") == {
        **files(like / "configs"),
        **{
            path: data
            for path, data in files(copied.experiments / "t1_twin" / "configs").items()
            if "foldernames" in path.name
        },
    }
    assert not same(copied.best("t1_twin"), copied.best("t1"))
    with pytest.raises(ConfigError, match=r"reproduce_results: .*nowhere holds no configs"):
        copied.run("t1_other", "--reproduce_results", str(copied.experiments / "nowhere"))


def test_without_its_reproduction_the_teacher_itself_is_taken(copied):
    shutil.rmtree(copied.experiments / "t1_reproduction0")
    shutil.rmtree(copied.experiments / "s1_reproduction0")
    copied.run("s1", "--reproductions", "1")
    assert same(copied.weights("s1_reproduction0", 1, "best0"), copied.best("t1", 1))


def test_a_student_stops_early(copied, monkeypatch):
    """Here each epoch is worse than the one before."""
    real = HookContainer.end_of_testing_hook

    def end_of_testing_hook(hooks, tester):
        for scores in tester.all_accuracies.values():
            scores.update({key: 1 / scores["epoch"] for key in scores if key != "epoch"})
        real(hooks, tester)

    monkeypatch.setattr(HookContainer, "end_of_testing_hook", end_of_testing_hook)
    copied.run("s1_again", "--patience", "1", "--num_epochs_train", "9")
    for number in (0, 1):
        assert len(table(copied, "s1_again", number, "loss_histories")) == 2 * 3
        assert (copied.fold("s1_again", number) / "saved_models" / "trunk_best1.pth").is_file()


def test_swav_then_its_teacher_then_its_student(bench):
    pytest.importorskip("lightly")
    bench.run("swav")
    bench.run("t2")
    bench.run("s2")
    for number in (0, 1):
        start, taken = bench.weights("t2", number, "best0"), bench.best("swav", number)
        assert same({"trunk": start["trunk"]}, {"trunk": taken["trunk"]})
        assert not same(start, taken)  # the embedder is new
        assert same(bench.weights("s2", number, "best0"), bench.best("t2", number))
        assert float(table(bench, "swav", number, "loss_histories")[0]["metric_loss"]) > 0
        saved = torch.load(bench.fold("swav", number) / "saved_models" / "metric_loss_2.pth")
        assert any(key.startswith("prototypes") for key in saved)


def test_their_own_runner_reads_our_tree(copied, monkeypatch):
    flags = copied.argv("s1_theirs")[:4]
    monkeypatch.setattr(sys, "argv", ["run.py", *flags])
    theirs = SingleExperimentRunner(
        dataset_root=str(copied.data),
        root_experiment_folder=str(copied.experiments),
        root_config_folder=str(copied.configs),
    )
    register_all(theirs)
    mean, error = theirs.run()
    assert 0 < mean < 1
    assert error >= 0
    assert same(copied.weights("s1_theirs", 1, "best0"), copied.best("t1", 1))


def test_a_schedule_is_there_in_every_fold(bench):
    schedule = "{embedder_optimizer: {scheduler_by_epoch: {StepLR: {step_size: 1, gamma: 0.5}}}}"
    bench.run("t1", "--optimizers", schedule)
    for number in (0, 1):
        rates = [float(row["lr"]) for row in table(bench, "t1", number, "embedder_optimizer_Adam")]
        assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4])
    saved = yaml.safe_load((bench.experiments / "t1" / "configs" / "config_experiment.yaml").read_text())
    assert "scheduler_by_epoch" in saved["optimizers"]["embedder_optimizer"]
    bench.run("t1", "--optimizers", schedule)  # what was saved is what was given


WRONG = {
    "a key": (["--patiense", "3"], r"patiense: unknown key; did you mean patience\?"),
    "a class": (
        ["--trainer~SWAP~1", "{SelfTrainingTrainr: }"],
        r"trainer: there is no trainer 'SelfTrainingTrainr'",
    ),
    "of the trainer": (
        ["--trainer~APPLY~2", "{basis_warmpu: 1}"],
        r"trainer.SelfTrainingTrainer.basis_warmpu: .* did you mean basis_warmup\?",
    ),
    "of a loss": (
        ["--loss_funcs", "{basis_loss: {FeatureBasisLoss: {regulariser: sd}}}"],
        r"loss_funcs.basis_loss.FeatureBasisLoss.regulariser.*did you mean regularizer",
    ),
    "of a miner": (
        ["--mining_funcs", "{unlabeled_miner: {ThresholdPairMiner: {threshold: 1}}}"],
        r"mining_funcs.unlabeled_miner.ThresholdPairMiner.threshold: unknown argument",
    ),
    "of an optimizer": (
        ["--optimizers", "{trunk_optimizer: {Adam: {learning_rate: 1}}}"],
        r"optimizers.trunk_optimizer.Adam.learning_rate",
    ),
    "of the sampler": (
        ["--sampler", "{MPerClassSampler: {n: 4}}"],
        r"sampler.MPerClassSampler.n: unknown argument",
    ),
    "of a transform": (
        ["--transforms", "{eval: {Resize: {sizes: 16}}}"],
        r"transforms.eval.Resize.sizes.*did you mean size\?",
    ),
    "of the dataset": (["--dataset", "{Images: {tset: test}}"], r"dataset.Images.tset.*did you mean test\?"),
    "of the pool": (
        ["--pool", "{ImagePool: {paht: x}}"],
        r"pool.ImagePool.paht: unknown argument; did you mean path\?",
    ),
    "of a model": (["--models", "{embedder: {MLP: {sizes: 8}}}"], r"models.embedder.MLP.sizes"),
    "of the tester": (
        ["--tester", "{GlobalEmbeddingSpaceTester: {normalise_embeddings: True}}"],
        r"tester.GlobalEmbeddingSpaceTester.normalise_embeddings",
    ),
    "of the metrics": (
        [
            "--tester",
            "{GlobalEmbeddingSpaceTester: {accuracy_calculator: {AccuracyCalculator: {exclud: 1}}}}",
        ],
        r"AccuracyCalculator.exclud: unknown argument",
    ),
    "of a distance": (
        ["--loss_funcs", "{metric_loss: {ContrastiveLoss: {distance: {LpDistance: {pp: 1}}}}}"],
        r"loss_funcs.metric_loss.ContrastiveLoss.distance.LpDistance.pp: unknown argument; did you mean p\?",
    ),
    "of a schedule": (
        ["--optimizers", "{trunk_optimizer: {scheduler_by_epoch: {StepLR: {size: 1}}}}"],
        r"optimizers.trunk_optimizer.scheduler_by_epoch.StepLR.size: .* did you mean step_size\?",
    ),
    "a transform's use": (
        ["--transforms", "{trian: {Resize: {size: 8}}}"],
        r"transforms.trian: unknown key; did you mean train\?",
    ),
    "a pool transform's use": (
        ["--pool_transforms", "{evl: {Resize: {size: 8}}}"],
        r"pool_transforms.evl: unknown key; did you mean eval\?",
    ),
    "a model": (
        ["--models", "{embeder: {MLP: {layer_sizes: [8]}}}"],
        r"models.embeder: unknown key; did you mean embedder\?",
    ),
    "an optimizer": (
        ["--optimizers", "{trunk_optimiser: {Adam: {lr: 0.1}}}"],
        r"optimizers.trunk_optimiser: nothing of that name; did you mean trunk_optimizer\?",
    ),
    "for nobody": (
        ["--crops", "{global: {Resize: {size: 8}}}"],
        r"crops: nothing reads it with trainer SelfTrainingTrainer",
    ),
    "no pool in it": (
        ["--pool~OVERRIDE~", "{Images: {train: labeled, test: test}}"],
        r"pool: Images has no unlabeled images; ImagePool takes any folder",
    ),
    "two classes": (["--sampler", "{RandomSampler: {}}"], r"sampler: give one class with its arguments"),
    "no pool folder": (["--pool", "{ImagePool: {path: nowhere}}"], r"pool: path .*nowhere' does not exist"),
    "no pool": (["--pool", "null"], r"pool: missing, and Images has none of its own"),
    "no teacher given": (["--teacher", "null"], r"teacher: missing; name the experiment"),
    "no teacher": (["--teacher", "t9"], r"teacher: there is no experiment 't9' in"),
    "no start": (["--initial_experiment", "swav9"], r"initial_experiment: there is no experiment 'swav9'"),
    "no such fold": (
        ["--split_manager", "{GivenTestSplitManager: {num_training_partitions: 3, num_training_sets: 3}}"],
        r"teacher: .* has no fold GivenTest_Partitions3_0; it has \['GivenTest_Partitions2_0'",
    ),
    "a wider trunk": (
        ["--models", "{trunk: {Trunk: {width: 8}}}"],
        r"teacher: the trunk of .* is of another architecture",
    ),
    "a larger embedding": (
        ["--models", "{embedder: {MLP: {layer_sizes: [16]}}}"],
        r"teacher: the embedder of .*another architecture.*Give both the same `models`",
    ),
    "a layer": (
        ["--config_experiment", "[default, drawing]"],
        r"config_experiment: no file .*drawing.yaml; there are .*drawings",
    ),
    "no configs": (
        ["--root_config_folder", "no/such/folder"],
        r"root_config_folder: no file no/such/folder/config_foldernames.yaml",
    ),
    "nothing to evaluate": (
        ["--evaluate"],
        r"experiment_name: there is no experiment in .*s1_again; train it first",
    ),
    "no image of a class": (["--dataset", "{Images: {train: nowhere}}"], r"nowhere' does not exist"),
    "too many folds": (
        ["--split_manager", "{GivenTestSplitManager: {num_training_partitions: 13}}"],
        r"12 training classes cannot make num_training_partitions=13",
    ),
}


@pytest.mark.parametrize(("flags", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_before_anything_is_written(finished, flags, message):
    before = {path.name for path in finished.experiments.iterdir()}
    with pytest.raises(SladeError, match=message):
        finished.run("s1_again", *flags)
    assert {path.name for path in finished.experiments.iterdir()} == before


def test_a_key_in_a_file_that_nothing_reads_is_refused(finished, tmp_path):
    configs = shutil.copytree(finished.configs, tmp_path / "configs")
    with open(configs / "config_experiment" / "tiny.yaml", "a") as file:
        file.write("num_cluster: 7\n")
    with pytest.raises(ConfigError, match=r"num_cluster: unknown key; did you mean num_clusters\?"):
        finished.run("s1_again", "--root_config_folder", str(configs))
    assert not (finished.experiments / "s1_again").exists()


def test_a_teacher_that_is_not_finished_or_damaged_is_refused_and_then_taken(copied):
    folder = copied.fold("t1", 1) / "saved_models"
    (file,) = (path for path in folder.glob("embedder_best*.pth") if not path.stem.endswith("best0"))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(SladeError, match=rf"teacher: .*{file.name} is empty, cut short or damaged"):
        copied.run("s1_again")
    file.unlink()
    with pytest.raises(SladeError, match=rf"teacher: .*no best model of fold {FOLDS[1]} yet.*let it finish"):
        copied.run("s1_again")
    assert not (copied.experiments / "s1_again").exists()
    file.write_bytes(content)
    copied.run("s1_again")
    assert read_experiment(copied.experiments / "s1_again").runs[0].validation


def test_a_teacher_that_was_stopped_is_refused_until_it_has_finished(bench):
    """Its best models of the last fold are those that it was begun with."""
    real = MetricLossOnly.calculate_loss

    def calculate_loss(trainer, batch):
        if (bench.fold("t1", 1) / "saved_models" / "trunk_best0.pth").exists():
            raise Stop
        real(trainer, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricLossOnly, "calculate_loss", calculate_loss)
        with pytest.raises(Stop):
            bench.run("t1")
    with pytest.raises(SladeError, match=r"teacher: experiment .*t1 has not finished: let it finish"):
        bench.run("s1")
    bench.run("t1")
    bench.run("s1")
    assert same(bench.weights("s1", 1, "best0"), bench.best("t1", 1))


def test_a_teacher_can_be_trained_on(copied):
    copied.run("on", layers=(*LAYERS["t1"], "from_t1"))
    for number in (0, 1):
        assert same(copied.weights("on", number, "best0"), copied.best("t1", number))
    assert not list((copied.experiments / "on").rglob("pseudo_labels.npy"))


def test_the_command_line_prints_an_error_and_nothing_else(finished, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(finished.argv("s1_again", "--patiense", "3"))
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "error: patiense: unknown key; did you mean patience?\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    "flags",
    [["stray"], ["--num_clusters", "[5"], ["--dataset", "{Images:{}}"]],
    ids=["a stray word", "an open bracket", "no space after a colon"],
)
def test_flags_that_cannot_be_read_are_an_error_without_a_traceback(finished, flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*finished.argv("s1_again"), *flags])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_an_error_while_it_runs_keeps_its_message(copied, monkeypatch):
    def broken(*_):
        raise ConfigError("images: gone")

    monkeypatch.setattr(Images, "__getitem__", broken)
    with pytest.raises(ConfigError, match="images: gone"):
        copied.run("t1_again")
    monkeypatch.undo()
    copied.run("t1_again")
    assert len(copied.models("t1_again", "2")) > 2


def test_the_folder_of_a_search_is_not_taken_for_a_run(copied):
    search = copied.experiments / "t1_search"
    trial = search / "t1_search0" / FOLDS[0] / "saved_models"
    trial.mkdir(parents=True)
    (search / "configs").mkdir()
    (trial / "trunk_best1.pth").write_bytes(b"a trial")
    with pytest.raises(ConfigError, match=r"is taken: it holds .*a Bayesian search goes on"):
        copied.run("t1_search")
    assert (trial / "trunk_best1.pth").read_bytes() == b"a trial"
