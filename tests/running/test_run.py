"""A whole run on a tiny task: what each row trains on, what is measured when, and what lies in the folder."""

import csv
import json
import logging
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import get_origin

import numpy as np
import pytest
import torch
import yaml
from images import BEST, PAPER, drawings, png, small_config, splits
from pytorch_metric_learning.losses import (
    CrossBatchMemory,
    MultipleLosses,
    MultiSimilarityLoss,
    ProxyAnchorLoss,
)
from pytorch_metric_learning.miners import MultiSimilarityMiner
from safetensors.torch import load_file

from pml_slade import FeatureBasisLoss, PseudoLabelDataset, SelfTrainingTrainer, runtime
from pml_slade.api import train_rows
from pml_slade.clustering import cluster, embed
from pml_slade.datasets.omniglot import omniglot_splits
from pml_slade.exceptions import ConfigError, DataError, MachineError, SladeError
from pml_slade.losses import ClusterBasisLoss, MeanTeacherLoss, SelfTaughtLoss
from pml_slade.methods import METHODS
from pml_slade.methods.settings import BasisConfig, Section
from pml_slade.models import load_model
from pml_slade.running import data as run_data
from pml_slade.running import stages
from pml_slade.running.run import Run
from pml_slade.running.settings import Config
from pml_slade.running.workshop import Workshop
from pml_slade.trainers import PoolLabeler

PAPER_METHODS = ["teacher", "control", "pseudo", "slade", "oracle"]
STUDENTS = [row for row in METHODS if row not in ("start", "teacher", "basis")]
ALL = f"rows=[teacher, {', '.join(STUDENTS)}]"
PEERS = [row for row in STUDENTS if row not in PAPER_METHODS]
AVERAGED = "student.average=0.9"  # mean teachers need it
LAST = "tolerance=100"
"""The last epoch is kept, not what a row started from."""
NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}
VALIDATION_IMAGES, TEST_IMAGES, POOL_IMAGES, POOL_CLASSES = 24, 32, 64, 8


class Recorded:
    """Runs settings on data in memory, and keeps every trainer and every measurement in their order."""

    def __init__(self, tmp_path, monkeypatch):
        self.tmp_path, self.monkeypatch = tmp_path, monkeypatch
        self.data = splits()
        self.trainers, self.events = [], []
        self.scores = None
        monkeypatch.setattr(run_data, "build_splits", lambda config: self.data)
        self._spy_on_training()
        self._spy_on_measuring()

    def __call__(self, *overrides, folder="run"):
        self.folder = self.tmp_path / folder
        config = small_config(NOWHERE, self.folder, *overrides)
        self.results = {r.row: r for r in Run(config, progress=False).run()}
        return self.results

    def _spy_on_training(self):
        begin = stages._begin_epoch

        def spy(stage, epoch):
            if not any(stage.trainer is seen for seen in self.trainers):
                self.trainers.append(stage.trainer)
            self.events.append("train")
            begin(stage, epoch)

        self.monkeypatch.setattr(stages, "_begin_epoch", spy)

    def _spy_on_measuring(self):
        measure = runtime.evaluate

        def spy(embeddings, labels, **kwargs):
            part = {VALIDATION_IMAGES: "validation", TEST_IMAGES: "test"}[len(labels)]
            self.events.append(part)
            result = measure(embeddings, labels, **kwargs)
            if self.scores and part == "validation":
                result["MAP@R"] = self.scores.pop(0)
            return result

        self.monkeypatch.setattr(runtime, "evaluate", spy)

    def model(self, row, turn=""):
        return load_model(self.folder / row / turn)

    def weights(self, row):
        """All tensors of a row's model file, as one string of bytes."""
        return contents(self.folder / row / "model.safetensors")


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Recorded(tmp_path, monkeypatch)


def contents(file):
    tensors = load_file(file)
    return b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors))


def parameters(models):
    return torch.cat([p.detach().flatten() for p in models.parameters()])


def test_all_rows_take_the_same_steps_and_see_the_same_images(run):
    results = run(ALL, AVERAGED)
    assert list(results) == ["teacher", *STUDENTS]
    assert {results[row].steps for row in STUDENTS} == {8}
    assert {results[row].images for row in STUDENTS} == {8 * 16}
    assert (results["teacher"].steps, results["teacher"].images) == (8, 8 * 8)
    assert {r.title for r in results.values()} == {METHODS[row].title for row in results}
    for result in results.values():
        assert set(result.test) == set(result.validation) == {"MAP@R", "RP", "P@1"}


def test_the_control_takes_the_sum_of_both_batches_of_labeled_images(run):
    run("rows=[control, slade]")
    teacher, control, slade = run.trainers
    assert (teacher.batch_size, control.batch_size) == (8, 16)
    assert (slade.batch_size, slade.unlabeled_batch_size) == (8, 8)
    assert not isinstance(control, SelfTrainingTrainer)
    assert control.dataset.labels.tolist() == run.data.labeled.labels.tolist()


@pytest.mark.once
@pytest.mark.parametrize(("pool", "together", "of_a_class"), [(16, 24, 3), (40, 48, 6)])
def test_a_control_of_few_classes_takes_more_images_of_each(run, pool, together, of_a_class):
    results = run("rows=[control, slade]", f"student.unlabeled_batch_size={pool}")
    assert (results["control"].images, results["slade"].images) == (8 * together, 8 * together)
    assert (run.trainers[1].sampler.m_per_class, run.trainers[2].sampler.m_per_class) == (of_a_class, 2)


@pytest.mark.once
def test_every_row_starts_from_the_teacher(run):
    run(ALL, AVERAGED, "student.lr=1e-12")
    teacher = parameters(run.model("teacher"))
    for row in STUDENTS:
        assert torch.allclose(parameters(run.model(row)), teacher, rtol=0, atol=1e-7)
    run(ALL, AVERAGED, "student.lr=1e-2", folder="trained")
    for row in STUDENTS:
        assert not torch.allclose(parameters(run.model(row)), teacher, rtol=0, atol=1e-4)


@pytest.mark.once
def test_rows_do_not_depend_on_which_others_are_trained(run):
    run(ALL, AVERAGED, LAST)
    together = {row: run.weights(row) for row in ["teacher", *STUDENTS]}
    for row in ("pseudo", "slade"):
        run(f"rows=[{row}]", AVERAGED, LAST, folder=row)
        assert run.weights(row) == together[row]
    assert len({w for row, w in together.items() if row != "iterated"}) == len(together) - 1


@pytest.mark.once
def test_the_seed_decides_everything(run):
    run("seed=1")
    first = run.weights("slade")
    torch.rand(5)
    run("seed=1", folder="again")
    assert run.weights("slade") == first
    run("seed=2", folder="other")
    assert run.weights("slade") != first


@pytest.mark.once
def test_equal_runs_write_equal_files(run):
    files = set()
    for folder in ("first", "second", "third", "fourth", "fifth"):
        run("rows=[teacher]", folder=folder)
        files.add((run.folder / "teacher" / "model.safetensors").read_bytes())
    assert len(files) == 1


def test_pseudo_labels_are_written_and_are_what_the_student_trains_on(run):
    run("student.num_clusters=6")
    labels = np.load(run.folder / "slade" / "pseudo_labels.npy")
    assert labels.shape == (POOL_IMAGES,)
    assert set(labels) == set(range(6))
    assert (run.trainers[1].pool.labels == labels + 10).all()
    facts = json.loads((run.folder / "slade" / "clusters.json").read_text())
    assert facts["summary"].startswith("6 of 6 clusters")
    sizes = np.bincount(labels)
    assert (facts["clusters"], facts["smallest"], facts["largest"]) == (6, sizes.min(), sizes.max())
    with open(run.folder / "slade" / "pseudo_labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["path"], int(r["cluster"]), int(r["size"])) for r in rows] == [
        (f"#{i}", label, sizes[label]) for i, label in enumerate(labels)
    ]
    distances = [float(row["distance"]) for row in rows]
    assert distances == pytest.approx(run.trainers[1].pool.clusters.distances.tolist(), abs=1e-6)
    assert facts["mean_distance"] == pytest.approx(np.mean(distances), abs=1e-6)


@pytest.mark.once
def test_small_clusters_are_left_out_of_training(run):
    run("rows=[pseudo]", "student.num_clusters=20", "student.min_cluster_size=4")
    labels = np.load(run.folder / "pseudo" / "pseudo_labels.npy")
    pool = run.trainers[1].pool
    assert 0 < pool.num_left_out == (labels == -1).sum() < POOL_IMAGES
    assert np.bincount(labels[labels >= 0]).min() >= 4
    facts = json.loads((run.folder / "pseudo" / "clusters.json").read_text())
    assert "left out" in facts["summary"]
    assert facts["left_out"] == pool.num_left_out
    with open(run.folder / "pseudo" / "pseudo_labels.csv", newline="") as file:
        left_out = [row for row in csv.DictReader(file) if row["cluster"] == "-1"]
    assert len(left_out) == pool.num_left_out
    assert {(row["distance"], row["size"]) for row in left_out} == {("", "")}


@pytest.mark.once
def test_clusters_are_as_large_as_labeled_classes_unless_told(run):
    run("rows=[pseudo]")
    assert len(set(np.load(run.folder / "pseudo" / "pseudo_labels.npy"))) == 8


def clustered_by(run, model, k):
    """The pool's clusters under a model, as the pipeline should find them."""
    config = small_config(NOWHERE, run.folder)
    images = run_data.build_views(config, run.data).plain(run.data.unlabeled)
    vectors = embed(images, model, data_getter=lambda item: item[0], progress=False)
    return cluster(vectors, k, seed=0).labels


@pytest.mark.once
def test_the_teacher_labels_the_pool_under_the_evaluation_transform(run):
    run("rows=[pseudo]")
    found = np.load(run.folder / "pseudo" / "pseudo_labels.npy")
    assert (found == clustered_by(run, run.model("teacher"), 8)).all()


@pytest.mark.once
def test_with_two_iterations_the_student_becomes_the_teacher(run):
    results = run("rows=[control, slade]", "student.iterations=2", "student.lr=0.01")
    first, second = (
        np.load(run.folder / "slade" / turn / "pseudo_labels.npy") for turn in ("turn-1", "turn-2")
    )
    assert (first == clustered_by(run, run.model("teacher"), 8)).all()
    assert (second == clustered_by(run, run.model("slade", "turn-1"), 8)).all()
    assert (first != second).any()
    for row in ("control", "slade"):
        assert (results[row].steps, results[row].images) == (16, 16 * 16)
        assert results[row].model == f"{row}/turn-2/model.safetensors"
    final = contents(run.folder / "slade" / "turn-2" / "model.safetensors")
    best = max(results.values(), key=lambda r: r.validation["MAP@R"])
    assert contents(run.folder / "model.safetensors") == contents(run.folder / best.model)
    assert contents(run.folder / results["slade"].model) == final
    assert not (run.folder / "teacher" / "turn-1").exists()


@pytest.mark.once
def test_the_second_turn_starts_where_the_first_ended(run):
    run("student.iterations=2", "student.lr=1e-12")
    first, second = (parameters(run.model("slade", turn)) for turn in ("turn-1", "turn-2"))
    assert torch.allclose(first, second, rtol=0, atol=1e-7)


@pytest.mark.once
def test_validation_picks_the_best_epoch_and_not_the_last(run):
    run.scores = [0.0, 10.0, 90.0, 50.0]  # the first of where it starts
    run("rows=[teacher]", "teacher.steps=12")
    chosen = parameters(run.model("teacher"))
    run.data = replace(run.data, validation=None)
    run("rows=[teacher]", "teacher.steps=8", folder="shorter")
    assert torch.equal(chosen, parameters(run.model("teacher")))
    run("rows=[teacher]", "teacher.steps=12", folder="longer")
    assert not torch.equal(chosen, parameters(run.model("teacher")))


@pytest.mark.once
def test_without_validation_and_test_the_last_epoch_is_taken_and_nothing_measured(run):
    run.data = splits(validation=False, test=False)
    results = run()
    assert set(run.events) == {"train"}
    assert (results["slade"].validation, results["slade"].test) == (None, None)
    written = load_model(run.folder / "slade")
    assert torch.equal(parameters(written), parameters(torch.nn.ModuleDict(run.trainers[1].models)))


@pytest.mark.once
def test_test_classes_are_measured_once_per_row_when_its_training_is_over(run):
    run(ALL, AVERAGED)
    epochs = ["train", "validation"] * 2
    assert run.events == ["validation", *epochs, "validation", "test"] * (1 + len(STUDENTS))


@pytest.mark.once
def test_test_images_have_no_say_in_what_is_trained(run):
    run()
    trained = run.weights("slade")
    run.data = replace(run.data, test=splits(seed=5).test)
    run(folder="other test")
    assert run.weights("slade") == trained


@pytest.mark.once
@pytest.mark.parametrize("method", [PAPER, BEST], ids=["paper", "best"])
def test_true_pool_labels_reach_the_oracle_alone(run, method):
    rows = ["teacher", *STUDENTS]
    run(ALL, *method, AVERAGED, LAST)
    known = {row: run.weights(row) for row in rows}
    with_pool = {r: t for r, t in zip(rows, run.trainers) if isinstance(t, SelfTrainingTrainer)}
    assert set(with_pool) == {"pseudo", "iterated", "slade", "oracle", *PEERS} - {"memory"}
    for row, trainer in with_pool.items():
        pool = trainer.pool
        assert isinstance(pool, PseudoLabelDataset)
        assert pool.dataset.labels is None
        assert pool.dataset.classes is None
        is_true = np.array_equal(pool.labels - 10, run.data.unlabeled.labels)
        assert is_true == (row == "oracle")

    shuffled = run.data.unlabeled.without_labels()
    shuffled.labels = np.random.default_rng(0).permutation(run.data.unlabeled.labels)
    run.data = replace(run.data, unlabeled=shuffled)
    run(ALL, *method, AVERAGED, LAST, folder="shuffled")
    assert {row for row in rows if run.weights(row) != known[row]} == {"oracle"}


@pytest.mark.once
def test_of_the_oracle_images_that_are_alone_are_left_out(run):
    pool = run.data.unlabeled.without_labels()
    pool.labels = run.data.unlabeled.labels.copy()
    pool.labels[:3] = [100, 101, 102]
    run.data = replace(run.data, unlabeled=pool)
    run("rows=[oracle]", *BEST, "student.min_cluster_size=2")
    dataset = run.trainers[1].pool
    assert dataset.num_left_out == 3
    assert set(dataset.labels) == set(range(10, 18))


def test_mining_by_eq7_mines_pairs_and_records_how_many(run):
    run("student.mining=eq7", "student.steps=40", "student.basis.lr=0.01")
    assert "unlabeled_miner" in run.trainers[1].mining_funcs
    rows = read_records(run.folder / "slade")
    assert sum(float(row["mined_pos"]) + float(row["mined_neg"]) for row in rows) > 0
    assert {"mu_pos", "mu_neg"} <= set(rows[0])


def test_without_eq7_all_pairs_of_the_pool_count(run):
    run()
    assert run.trainers[1].mining_funcs == {}


@pytest.mark.parametrize("regularizer", ["sd", "local_ce", "global_ce", "null"])
def test_the_basis_is_built_from_its_settings(run, regularizer):
    run(
        f"student.basis.regularizer={regularizer}",
        "student.basis.margin=0.25",
        "student.basis.lr=0.5",
        "student.basis_weight=0.125",
        "student.unlabeled_weight=0.75",
        "student.basis.warmup=3",
    )
    trainer = run.trainers[1]
    basis = trainer.loss_funcs["basis_loss"]
    assert basis.regularizer == (None if regularizer == "null" else regularizer)
    assert basis.margin == 0.25
    assert tuple(basis.W.shape) == (10, 8)
    assert trainer.optimizers["basis_loss_optimizer"].param_groups[0]["lr"] == 0.5
    assert trainer.optimizers["trunk_optimizer"].param_groups[0]["lr"] == 0.001
    assert trainer.loss_weights["basis_loss"] == 0.125
    assert trainer.loss_weights["unlabeled_metric_loss"] == 0.75
    assert trainer.basis_warmup == 3


@pytest.mark.once
def test_an_epoch_of_warming_up_leaves_a_whole_record(run):
    run("student.basis.warmup=4")
    first, second = read_records(run.folder / "slade")
    assert first.keys() == second.keys()
    for record in (first, second):
        assert all(float(record[loss]) > 0 for loss in ("metric_loss", "basis_loss"))


@pytest.mark.once
def test_the_cosine_schedule_moves_every_rate_to_zero(run):
    run("student.schedule=cosine", "teacher.schedule=constant")
    teacher, student = run.trainers
    assert {o.param_groups[0]["lr"] for o in teacher.optimizers.values()} == {0.001, 0.003}
    assert set(student.optimizers) == {"trunk_optimizer", "embedder_optimizer", "basis_loss_optimizer"}
    for optimizer in student.optimizers.values():
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def ranking_loss(trainer):
    loss = trainer.loss_funcs["metric_loss"]
    return loss.losses["ranking"] if isinstance(loss, MultipleLosses) else loss


def bases(trainer):
    """The feature bases among a trainer's losses."""
    modules = {id(m): m for loss in trainer.loss_funcs.values() for m in loss.modules()}
    return [module for module in modules.values() if isinstance(module, FeatureBasisLoss)]


@pytest.mark.once
@pytest.mark.parametrize("classifier", [True, False])
def test_the_classifier_is_in_all_rows_or_in_none_but_those_with_a_basis(run, classifier):
    run(ALL, AVERAGED, f"teacher.classifier={str(classifier).lower()}")
    for row, trainer in zip(["teacher", *STUDENTS], run.trainers):
        found = [basis.regularizer for basis in bases(trainer)]
        assert found == (["sd"] if row in ("slade", "oracle") else [None] if classifier else [])


def test_another_loss_with_a_miner_is_what_trains(run):
    run(
        *(f"{stage}.loss.name=MultiSimilarityLoss" for stage in ("teacher", "student")),
        *(f"{stage}.miner={{name: MultiSimilarityMiner, epsilon: 0.3}}" for stage in ("teacher", "student")),
    )
    for trainer in run.trainers:
        assert isinstance(ranking_loss(trainer), MultiSimilarityLoss)
        assert isinstance(trainer.mining_funcs["tuple_miner"], MultiSimilarityMiner)
        assert trainer.mining_funcs["tuple_miner"].epsilon == 0.3
    student = run.trainers[1].loss_funcs
    assert student["unlabeled_metric_loss"] is student["metric_loss"]


def test_a_proxy_loss_learns_its_proxies_beside_a_loss_for_the_pool(run):
    proxies = ("loss.name=ProxyAnchorLoss",)
    run(
        *(f"{stage}.{p}" for stage in ("teacher", "student") for p in proxies),
        "student.unlabeled_loss.name=TripletMarginLoss",
        "student.unlabeled_loss.margin=0.3",
        "rows=[control, slade]",
    )
    for trainer in run.trainers:
        loss = ranking_loss(trainer)
        assert isinstance(loss, ProxyAnchorLoss)
        optimizer = trainer.optimizers["metric_loss_optimizer"]
        assert any(p is loss.proxies for group in optimizer.param_groups for p in group["params"])
        assert optimizer.state[loss.proxies]["step"] > 0
    assert run.trainers[2].loss_funcs["unlabeled_metric_loss"].margin == 0.3


def test_proxies_have_the_rate_of_their_stage_in_every_row(run):
    run(
        "teacher.loss.name=ProxyAnchorLoss",
        "student.loss.name=ProxyAnchorLoss",
        "student.unlabeled_loss.name=ContrastiveLoss",
        *(f"{stage}.basis.lr=0.5" for stage in ("teacher", "student")),
        "rows=[control, slade]",
    )
    for trainer in run.trainers:
        rates = {
            id(p): g["lr"] for o in trainer.optimizers.values() for g in o.param_groups for p in g["params"]
        }
        assert rates[id(ranking_loss(trainer).proxies)] == 0.001
        assert [rates[id(basis.W)] for basis in bases(trainer)] == [0.5]


def test_a_diverging_run_stops_with_the_step(run):
    with pytest.raises(
        SladeError, match=r"Teacher: the loss became nan in step \d+ .*Lower the learning rate"
    ):
        run("teacher.optimizer=SGD", "teacher.lr=1e30")
    assert not (run.folder / "teacher" / "model.safetensors").exists()


def read_records(folder):
    with (folder / "records" / "training.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.once
def test_the_folder_holds_all_that_was_promised(run):
    results = run("rows=[control, slade]", "student.steps=12")
    config = small_config(NOWHERE, run.folder, "rows=[control, slade]", "student.steps=12")
    assert (run.folder / "config.yaml").read_text() == config.to_yaml()

    facts = json.loads((run.folder / "environment.json").read_text())
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"pml-slade", "torchvision", "pytorch-metric-learning", "numpy"} <= set(facts["versions"])
    assert facts["data"]["labeled"] == {"images": 80, "classes": 10}
    assert (facts["device"], facts["threads"]) == ("cpu", torch.get_num_threads())
    assert "0 exact and 0 near-duplicates" in facts["duplicates"]

    for row, epochs in (("teacher", 2), ("control", 3), ("slade", 3)):
        assert [float(r["epoch"]) for r in read_records(run.folder / row)] == list(range(1, epochs + 1))
        assert (run.folder / row / "records" / "logs.db").stat().st_size > 0
        assert list((run.folder / row / "records" / "tensorboard").iterdir())
        assert json.loads((run.folder / row / "result.json").read_text()) == asdict(results[row])
    written = json.loads((run.folder / "results.json").read_text())
    assert written == [asdict(results[row]) for row in ("teacher", "control", "slade")]
    best = max(results.values(), key=lambda r: r.validation["MAP@R"]).row
    assert contents(run.folder / "model.safetensors") == run.weights(best)


@pytest.mark.once
@pytest.mark.parametrize(("scores", "best"), [((20, 30, 25), "control"), ((40, 30, 25), "teacher")])
def test_the_model_of_the_folder_is_that_of_the_row_that_validates_best(run, scores, best):
    run("rows=[control, pseudo]")
    run.scores = [
        score for score in scores for _ in range(4)
    ]  # the start, two epochs, and once more in the end
    run("rows=[control, pseudo]", folder="again")
    assert contents(run.folder / "model.safetensors") == run.weights(best)


@pytest.mark.once
def test_the_model_of_the_folder_is_never_the_oracles(run):
    run.scores = [float(10 * n) for n in range(1, 9)]
    run("rows=[oracle]")
    assert contents(run.folder / "model.safetensors") == run.weights("teacher")


@pytest.mark.once
def test_without_validation_the_model_of_the_folder_is_that_of_the_last_row(run):
    run.data = splits(validation=False)
    run("rows=[slade, control]")
    assert contents(run.folder / "model.safetensors") == run.weights("control")


@pytest.mark.once
def test_the_model_file_embeds_as_the_trained_model_does(run):
    run("model.hidden_sizes=[12]")
    images = torch.rand(5, 1, 16, 16)
    for row, trainer in zip(("teacher", "slade"), run.trainers):
        kept = torch.nn.Sequential(trainer.models["trunk"], trainer.models["embedder"]).eval()
        with torch.no_grad():
            assert torch.equal(run.model(row)(images), kept(images))


@pytest.mark.once
def test_results_are_those_of_the_model_file(run):
    results = run()
    config = small_config(NOWHERE, run.folder)
    for row in ("teacher", "slade"):
        for part, found in (("validation", results[row].validation), ("test", results[row].test)):
            dataset = run_data.build_views(config, run.data).plain(getattr(run.data, part))
            vectors = embed(dataset, run.model(row), data_getter=lambda item: item[0], progress=False)
            assert runtime.evaluate(vectors, dataset.labels) == pytest.approx(found)


@pytest.mark.once
def test_the_same_command_again_trains_and_measures_nothing(run):
    first = run("rows=[control, slade]")
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    run.events.clear()
    assert run("rows=[control, slade]") == first
    assert run.events == []
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [("teacher.lr=0.5", "teacher.lr: 0.001, now 0.5"), ("seed=3", "seed: 0, now 3")],
)
def test_other_settings_in_the_same_folder_are_refused_with_what_changed(run, change, message):
    run("rows=[teacher]")
    with pytest.raises(ConfigError, match="was begun with other settings; give another output") as caught:
        run("rows=[teacher]", change)
    assert str(caught.value).endswith(f": {message}")


@pytest.mark.once
def test_a_row_may_be_added_and_only_it_is_trained(run):
    run("rows=[teacher, pseudo]")
    before = run.weights("pseudo")
    run.trainers.clear()
    results = run("rows=[teacher, pseudo, slade]")
    assert list(results) == ["teacher", "pseudo", "slade"]
    assert [type(t) for t in run.trainers] == [SelfTrainingTrainer]
    assert run.weights("pseudo") == before
    best = max(results.values(), key=lambda r: r.validation["MAP@R"]).row
    assert contents(run.folder / "model.safetensors") == run.weights(best)
    assert [r["row"] for r in json.loads((run.folder / "results.json").read_text())] == list(results)


@pytest.mark.once
def test_a_disk_that_will_not_hold_all_rows_is_seen_before_the_first_one_is_trained(run, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=30_000))
    with pytest.raises(MachineError, match="checkpoints of the rows that are left take about"):
        run("rows=[teacher, control, pseudo, slade, oracle]")
    assert run.events == []


@pytest.mark.once
def test_a_run_folder_may_be_moved(run):
    first = run()
    (run.tmp_path / "run").rename(run.tmp_path / "moved")
    run.events.clear()
    assert run(folder="moved") == first
    assert run.events == []


@pytest.mark.once
def test_folders_of_mixed_images_are_all_it_takes(folders, tmp_path):
    config = small_config(folders, tmp_path / "run", "data.mode=RGB", "data.transform=photo", "tolerance=100")
    teacher, slade = Run(config, progress=False).run()
    assert 0 < slade.test["MAP@R"] <= 100
    assert teacher.test != slade.test


def damaged(folders, tmp_path, part):
    """The same folders, one of them with a file more that is no image."""
    other = tmp_path / part
    for file in folders[part].rglob("*.png"):
        copy = other / file.relative_to(folders[part])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    whole = png(drawings(1)[0][0])
    (copy.parent / "damaged.png").write_bytes(whole[: len(whole) // 2])
    return {**folders, part: other}


@pytest.mark.once
@pytest.mark.parametrize(
    ("part", "fault"),
    [
        *((part, fault) for part in ("labeled", "unlabeled", "test") for fault in ("missing", "empty")),
        ("unlabeled", "damaged"),  # these two are decoded first, to look for duplicates
        ("test", "damaged"),
    ],
)
def test_bad_data_leaves_no_folder_behind(folders, tmp_path, part, fault):
    if fault == "missing":
        given, message = {**folders, part: tmp_path / "nowhere"}, rf"data\.{part}: .*nowhere"
    elif fault == "empty":
        (tmp_path / "empty").mkdir()
        given, message = {**folders, part: tmp_path / "empty"}, rf"data\.{part}: .*holds no images"
    else:
        given, message = damaged(folders, tmp_path, part), r"damaged\.png"
    with pytest.raises(DataError, match=message):
        Run(small_config(given, tmp_path / "run"), progress=False).run()
    assert not (tmp_path / "run").exists()


@pytest.mark.once
def test_a_damaged_labeled_image_may_be_removed_and_the_run_goes_on(folders, tmp_path):
    given = damaged(folders, tmp_path, "labeled")
    config = small_config(given, tmp_path / "run", "rows=[teacher]", "data.validation_fraction=0")
    with pytest.raises(DataError, match=r"damaged\.png"):
        Run(config, progress=False).run()
    next(given["labeled"].rglob("damaged.png")).unlink()
    assert Run(config, progress=False).run()[0].steps == 8


@pytest.mark.once
def test_test_images_in_the_pool_are_reported(folders, tmp_path):
    given = {**folders, "unlabeled": folders["test"]}
    config = small_config(given, tmp_path / "run", "rows=[teacher]")
    Run(config, progress=False).run()
    report = json.loads((tmp_path / "run" / "environment.json").read_text())["duplicates"]
    assert report.startswith("pool against test: 32 exact")


@pytest.mark.once
def test_duplicates_need_not_be_looked_for(folders, tmp_path):
    config = small_config(folders, tmp_path / "run", "rows=[teacher]", "data.check_duplicates=false")
    Run(config, progress=False).run()
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["duplicates"] == "not looked for"


def sections(kind=Config):
    """Every section of a run's settings with the names in it."""
    found = {kind: set(kind.model_fields)}
    for field in kind.model_fields.values():
        kind = field.annotation
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, Section):
            found |= sections(kind)
    return found


@pytest.mark.once
def test_every_setting_is_read_by_a_run(folders, tmp_path, monkeypatch):
    """A setting that nothing reads would be accepted and ignored."""
    read = {kind: set() for kind in sections()}
    original = Section.__getattribute__

    def spy(section, name):
        if type(section) in read:
            read[type(section)].add(name)
        return original(section, name)

    def dumped(section, *, exclude=frozenset(), **kwargs):
        read[type(section)] |= set(type(section).model_fields) - set(exclude)
        return Section.model_dump(section, exclude=exclude, **kwargs)

    swav = ("pretraining.steps=4", "pretraining.batch_size=8", "pretraining.num_local=0")
    rows = f"rows=[{', '.join(set(STUDENTS) - {'oracle'})}]"
    mine = small_config(folders, tmp_path / "run", rows, AVERAGED, "student.mining=eq7", *swav)
    clusters = small_config(
        folders, tmp_path / "clusters", "rows=[slade]", "student.basis.clusters=true", "model.train=head",
        "student.relabel_every=1",
        f"model.features={tmp_path / 'features'}",
    )  # fmt: skip
    neighbours = small_config(
        folders, tmp_path / "neighbours", "rows=[slade]", "methods.slade.neighbours=true"
    )
    omniglot = small_config({}, tmp_path / "run", "data.kind=omniglot", "data.root=nowhere")
    named = small_config({**folders, "labeled": "CUB200"}, tmp_path / "run")
    monkeypatch.setattr(Section, "__getattribute__", spy)
    monkeypatch.setattr(BasisConfig, "model_dump", dumped, raising=False)
    assert {len(names) for names in read.values()} == {0}
    assert len(read) >= 5
    for config in (mine, clusters, neighbours):
        train_rows(config, progress=False)
    for config in (omniglot, named):  # no images are needed to see what is asked of the settings
        with pytest.raises(DataError):
            run_data.build_splits(config)
    assert {kind.__name__: names - read[kind] for kind, names in sections().items()} == {
        kind.__name__: set() for kind in sections()
    }


@pytest.mark.once
def test_an_omniglot_tree_runs_with_an_oracle(tmp_path, monkeypatch):
    for number, part in enumerate(("background", "evaluation")):
        images, labels = drawings(24, per_class=4, seed=number)
        for i, (image, label) in enumerate(zip(images, labels)):
            name = f"images_{part}/{part} {label % 4}/character{label:02d}/{i}.png"
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(png(image))
    settings = ("data.kind=omniglot", f"data.root={tmp_path}", "data.labeled_alphabets=2", "rows=[oracle]")
    config = small_config({}, tmp_path / "run", *settings, "data.validation_fraction=0.25")
    teacher, oracle = Run(config, progress=False).run()
    assert (teacher.row, oracle.row) == ("teacher", "oracle")
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())["data"]
    expected = omniglot_splits(tmp_path, 2, validation_fraction=0.25, image_size=16)
    assert facts["unlabeled"] == {"images": len(expected.unlabeled), "classes": 12}
    assert facts["validation"]["classes"] == 3


@pytest.mark.once
def test_the_config_in_the_folder_runs_again_as_it_is(run):
    run()
    written = yaml.safe_load((run.folder / "config.yaml").read_text())
    run.events.clear()
    config = Config.model_validate(written)
    assert [r.row for r in Run(config, progress=False).run()] == ["teacher", "slade"]
    assert run.events == []


@pytest.mark.once
def test_an_oracle_of_too_few_images_is_refused_before_training(run):
    pool = run.data.unlabeled.without_labels()
    pool.labels = np.arange(POOL_IMAGES)
    pool.labels[:6] = 0
    run.data = replace(run.data, unlabeled=pool)
    with pytest.raises(DataError, match=r"oracle has 6 images .*unlabeled_batch_size=8"):
        run("rows=[oracle]", *BEST, "student.min_cluster_size=2")
    assert run.trainers == []


def test_basis_is_slade_without_its_mining(run):
    run("rows=[basis, slade]", "student.mining=eq7")
    _, basis, slade = run.trainers
    assert basis.loss_funcs["basis_loss"].regularizer == slade.loss_funcs["basis_loss"].regularizer == "sd"
    assert ("unlabeled_miner" in basis.mining_funcs, "unlabeled_miner" in slade.mining_funcs) == (False, True)


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("rows=[basis, slade]",), "basis is slade without its mining"),
        (("rows=[mean_teacher]",), r"rows: mean_teacher .*student\.average"),
        (("rows=[self_taught]",), r"rows: self_taught .*student\.average"),
        (
            ("student.mining=eq7", "student.basis.clusters=true"),
            r"mining=eq7 .*basis\.clusters must be false",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(run, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(*settings)


def test_the_average_is_what_is_validated_kept_and_labels_the_pool(run, monkeypatch):
    validated, labeled = [], []
    measure, label = Workshop.validate, PoolLabeler.label

    def measured(self, models):
        validated.append(parameters(torch.nn.ModuleDict(models)))
        return measure(self, models)

    def labels(self, teacher):
        labeled.append(parameters(teacher))
        return label(self, teacher)

    settings = (*BEST, "student.lr=0.01", "tolerance=100")
    run("rows=[teacher]", *settings)
    monkeypatch.setattr(Workshop, "validate", measured)
    monkeypatch.setattr(PoolLabeler, "label", labels)
    run("rows=[teacher, slade]", *settings)
    trainer = run.trainers[1]
    average, last = (parameters(torch.nn.ModuleDict(m)) for m in (trainer.teacher, trainer.models))
    assert not torch.allclose(average, last)
    epochs = validated[1:3]
    assert torch.equal(labeled[0], parameters(run.model("teacher")))
    assert torch.equal(labeled[1], epochs[0])
    assert torch.equal(epochs[1], average)
    assert torch.equal(parameters(run.model("slade")), average)


@pytest.mark.parametrize(("row", "times"), [("pseudo", 1), ("iterated", 2), ("slade", 2)])
def test_rows_label_the_pool_on_their_schedule(run, row, times, caplog):
    with caplog.at_level(logging.INFO, logger="pml_slade"):
        run(f"rows=[{row}]", *BEST)
    assert caplog.text.count("PseudoLabelDataset(") == times
    written = np.load(run.folder / row / "pseudo_labels.npy")
    assert (run.trainers[1].pool.pseudo_labels == written).all()


def test_the_best_method_has_a_vector_for_each_cluster(run):
    run("rows=[pseudo, slade, oracle]", *BEST, "student.num_clusters=6")
    _, pseudo, slade, oracle = run.trainers
    loss = slade.loss_funcs["unlabeled_metric_loss"]
    assert isinstance(loss, ClusterBasisLoss)
    assert loss.basis is slade.loss_funcs["basis_loss"]
    assert (len(loss.V), len(oracle.loss_funcs["unlabeled_metric_loss"].V)) == (6, POOL_CLASSES)
    assert slade.optimizers["unlabeled_metric_loss_optimizer"].param_groups[0]["lr"] == 3e-3
    assert isinstance(pseudo.loss_funcs["unlabeled_metric_loss"], MultiSimilarityLoss)


@pytest.mark.parametrize(
    ("setting", "loss"),
    [
        ("loss={name: TripletMarginLoss}", "TripletMarginLoss"),
        ("unlabeled_loss={name: TripletMarginLoss}", "TripletMarginLoss"),
        ("loss=null", "ContrastiveLoss"),
    ],
)
def test_students_on_pseudo_labels_rank_the_pool_as_they_are_told(run, setting, loss):
    of = ("student",) if setting.startswith("unlabeled") else ("methods.pseudo", "methods.iterated")
    run("rows=[pseudo, iterated]", *BEST, *(f"{section}.{setting}" for section in of))
    for trainer in run.trainers[1:]:
        assert type(trainer.loss_funcs["unlabeled_metric_loss"]).__name__ == loss


def test_a_pool_that_is_classified_is_shuffled_and_one_that_is_ranked_comes_by_cluster(run):
    run("rows=[iterated, slade, oracle]", *BEST)
    assert [t.unlabeled_images_per_class for t in run.trainers[1:]] == [2, None, None]


def test_a_memory_holds_more_than_a_batch(run):
    run("rows=[memory]", "methods.memory.size=40")
    memory = run.trainers[1].loss_funcs["metric_loss"].losses["ranking"]
    assert isinstance(memory, CrossBatchMemory)
    assert memory.memory_size == 40
    assert run.trainers[1].batch_size == 16


@pytest.mark.parametrize(
    ("row", "loss"), [("mean_teacher", MeanTeacherLoss), ("self_taught", SelfTaughtLoss)]
)
def test_momentum_teachers_see_another_view_of_the_same_images(run, row, loss):
    run(f"rows=[{row}]", *BEST, f"methods.{row}.weight=0.5")
    trainer = run.trainers[1]
    assert isinstance(trainer.loss_funcs["unlabeled_metric_loss"], loss)
    assert trainer.loss_weights["unlabeled_metric_loss"] == 0.5
    trainer.initialize_dataloader()
    _, (views, labels) = trainer.get_batch()
    assert len(views) == len(labels) == 8
    assert not torch.allclose(views, trainer._second_views)
    assert trainer.teacher["trunk"].training is False


def test_self_supervision_has_two_views_of_half_as_many_images(run):
    run("rows=[self_supervised]", *BEST)
    trainer = run.trainers[1]
    trainer.initialize_dataloader()
    _, (views, labels) = trainer.get_batch()
    assert (len(views), len(set(labels.tolist()))) == (8, 4)
    assert torch.equal(labels[:4], labels[4:])
