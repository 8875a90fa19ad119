"""SelfTrainingTrainer: Eq. 9 step by step, whose hooks it calls, and what it refuses."""

import copy
import logging

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.samplers import MPerClassSampler

from pml_slade import FeatureBasisLoss, PseudoLabelDataset, SelfTrainingTrainer, ThresholdPairMiner
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.losses import ClusterBasisLoss

NUM_CLASSES, SIZE = 2, 3


class Counting(torch.nn.Module):
    """A linear trunk that notes every batch it sees, and in which mode."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, SIZE)
        self.calls = []

    def forward(self, x):
        self.calls.append((len(x), self.training))
        return self.linear(x)


class Built:
    """A trainer and its parts."""

    def __init__(self, trainer, models, loss_funcs, optimizers):
        self.trainer, self.models = trainer, models
        self.loss_funcs, self.optimizers = loss_funcs, optimizers
        self.trunk, self.basis = models["trunk"], loss_funcs.get("basis_loss")

    def weights(self):
        return {k: [p.detach().clone() for p in m.parameters()] for k, m in self.models.items()}


@pytest.fixture
def build(images, pool):
    """Make a trainer of tiny parts; any argument can be replaced."""

    def make(lr=0.05, basis="default", embedder=False, loss_funcs=None, optimizers=None, **kwargs):
        models = {"trunk": Counting()}
        if embedder:
            models["embedder"] = torch.nn.Linear(SIZE, SIZE)
        loss_funcs = {"metric_loss": losses.ContrastiveLoss(), **(loss_funcs or {})}
        if basis == "default":
            basis = FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE)
        if basis is not None:
            loss_funcs["basis_loss"] = basis
        made = {f"{k}_optimizer": torch.optim.SGD(m.parameters(), lr=lr) for k, m in models.items()}
        for name, loss in loss_funcs.items():
            if list(loss.parameters()):
                made[f"{name}_optimizer"] = torch.optim.SGD(loss.parameters(), lr=lr)
        for name, optimizer in (optimizers or {}).items():
            made.pop(name, None)
            if optimizer is not None:
                made[name] = optimizer(models, loss_funcs)
        settings = {
            "batch_size": 8,
            "dataset": images,
            "unlabeled_dataset": pool,
            "num_clusters": 3,
            "dataloader_num_workers": 0,
            **kwargs,
        }
        trainer = SelfTrainingTrainer(models, made, loss_funcs=loss_funcs, **settings)
        return Built(trainer, models, loss_funcs, made)

    return make


def labeled_pool(pool, k=3, offset=NUM_CLASSES):
    return PseudoLabelDataset(pool, [i % k for i in range(len(pool))], label_offset=offset)


def record(trainer, *names):
    """Keep what the trainer holds after each iteration."""
    history = []

    def hook(t):
        assert t is trainer
        history.append({k: torch.as_tensor(t.losses[k]).item() for k in names or t.losses})

    trainer.end_of_iteration_hook = hook
    return history


def equal(before, after):
    return all(torch.equal(x, y) for k in before for x, y in zip(before[k], after[k]))


# It trains


METRIC_LOSSES = {
    "contrastive": lambda: ({"metric_loss": losses.ContrastiveLoss()}, {}),
    "triplet": lambda: ({"metric_loss": losses.TripletMarginLoss(margin=0.5)}, {}),
    "multi-similarity": lambda: (
        {"metric_loss": losses.MultiSimilarityLoss()},
        {"tuple_miner": miners.MultiSimilarityMiner()},
    ),
    "multi-similarity, mined on both sides": lambda: (
        {"metric_loss": losses.MultiSimilarityLoss()},
        {
            "tuple_miner": miners.MultiSimilarityMiner(),
            "unlabeled_miner": miners.MultiSimilarityMiner(),
        },
    ),
    "proxy-anchor": lambda: (
        {
            "metric_loss": losses.ProxyAnchorLoss(NUM_CLASSES, SIZE),
            "unlabeled_metric_loss": losses.ContrastiveLoss(),
        },
        {},
    ),
    "proxy-nca": lambda: (
        {
            "metric_loss": losses.ProxyNCALoss(NUM_CLASSES, SIZE),
            "unlabeled_metric_loss": losses.ContrastiveLoss(),
        },
        {},
    ),
}


@pytest.mark.parametrize("kind", METRIC_LOSSES)
@pytest.mark.parametrize("embedder", [True, False], ids=["embedder", "trunk alone"])
def test_two_epochs_train_every_parameter_with_any_pml_loss(build, kind, embedder):
    loss_funcs, mining_funcs = METRIC_LOSSES[kind]()
    built = build(loss_funcs=loss_funcs, mining_funcs=mining_funcs, embedder=embedder)
    trained = {**built.models, **built.loss_funcs}
    before = {k: [p.detach().clone() for p in m.parameters()] for k, m in trained.items()}
    history = record(built.trainer)
    built.trainer.train(num_epochs=2)
    assert len(history) == 2 * 3
    assert all(np.isfinite(list(step.values())).all() for step in history)
    assert {"metric_loss", "unlabeled_metric_loss", "basis_loss", "total_loss"} <= set(history[0])
    for name, parameters in before.items():
        for old, new in zip(parameters, trained[name].parameters()):
            assert not torch.equal(old, new), name


@pytest.mark.parametrize("regularizer", ["sd", "local_ce", "global_ce", None])
def test_every_regularizer_trains(build, regularizer):
    basis = FeatureBasisLoss(NUM_CLASSES, SIZE, regularizer=regularizer)
    built = build(basis=basis)
    history = record(built.trainer)
    built.trainer.train(num_epochs=2)
    assert all(step["basis_loss"] > 0 for step in history)
    assert (basis.pos_batches > 0) == (regularizer is not None)


def test_without_a_basis_it_is_plain_pseudo_labeling(build):
    built = build(basis=None)
    history = record(built.trainer)
    built.trainer.train(num_epochs=1)
    assert set(history[0]) == {"metric_loss", "unlabeled_metric_loss", "total_loss"}
    assert sorted(set(built.trainer.pool.labels.tolist())) == [0, 1, 2]


def test_in_a_real_run_the_loss_falls_and_classes_separate(build):
    built = build(lr=0.1, loss_funcs={"metric_loss": losses.ContrastiveLoss()})
    history = record(built.trainer, "total_loss")
    built.trainer.train(num_epochs=30)
    totals = [step["total_loss"] for step in history]
    assert np.mean(totals[-6:]) < 0.7 * np.mean(totals[:6])


# Eq. 9


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (None, (1, 1, 0.25)),
        ({"basis_loss": 2.0}, (1, 1, 2.0)),
        ({"metric_loss": 0.5, "unlabeled_metric_loss": 3.0}, (0.5, 3.0, 0.25)),
        ({"unlabeled_metric_loss": 0}, (1, 0, 0.25)),
        ({"basis_loss": 0}, (1, 1, 0)),
    ],
    ids=str,
)
def test_the_total_loss_of_each_step_is_eq_9(build, given, used):
    built = build(lr=0.0, loss_weights=given)
    trainer, twin = built.trainer, copy.deepcopy(built.basis)
    batches, get_batch = [], trainer.get_batch

    def spy():
        batches.append(get_batch())
        return batches[-1]

    trainer.get_batch = spy
    history = record(trainer)
    trainer.train(num_epochs=1)
    assert len(history) == 3
    for step, ((data, labels), (pool_data, pool_labels)) in zip(history, batches):
        f, g = built.trunk(data), built.trunk(pool_data)
        rank = losses.ContrastiveLoss()
        expected = used[0] * rank(f, labels) + used[1] * rank(g, pool_labels)
        if used[2]:
            joint = twin(torch.cat([f, g]), torch.cat([labels, pool_labels]))
            expected = expected + used[2] * joint
            assert step["basis_loss"] == pytest.approx(used[2] * joint.item(), rel=1e-4)
        assert step["total_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_gradient_of_a_step_is_that_of_eq_9(build):
    built = build(lr=0.1, iterations_per_epoch=1, embedder=True)
    trainer, models, twin = built.trainer, copy.deepcopy(built.models), copy.deepcopy(built.basis)
    batches, get_batch = [], trainer.get_batch
    trainer.get_batch = lambda: batches.append(get_batch()) or batches[-1]
    trainer.train(num_epochs=1)
    (data, labels), (pool_data, pool_labels) = batches[0]
    f, g = (models["embedder"](models["trunk"](x)) for x in (data, pool_data))
    rank = losses.ContrastiveLoss()
    total = rank(f, labels) + rank(g, pool_labels)
    total = total + 0.25 * twin(torch.cat([f, g]), torch.cat([labels, pool_labels]))
    total.backward()
    for name, module in [*models.items(), ("basis_loss", twin)]:
        trained = {**built.models, "basis_loss": built.basis}[name]
        for old, new in zip(module.parameters(), trained.parameters()):
            torch.testing.assert_close(new, old - 0.1 * old.grad, rtol=1e-3, atol=1e-5)


def test_default_weights_are_lambda_1_and_lambda_2(build):
    weights = build().trainer.loss_weights
    assert weights == {"metric_loss": 1, "unlabeled_metric_loss": 1, "basis_loss": 0.25}


def test_there_is_one_joint_forward_a_step(build, pool):
    built = build(unlabeled_dataset=labeled_pool(pool), unlabeled_batch_size=12)
    built.trainer.train(num_epochs=2)
    assert built.trunk.calls == [(8 + 12, True)] * 6


def test_the_unlabeled_loss_is_the_labeled_one_unless_given(build):
    built = build()
    assert built.trainer.loss_funcs["unlabeled_metric_loss"] is built.loss_funcs["metric_loss"]
    other = losses.TripletMarginLoss()
    built = build(loss_funcs={"unlabeled_metric_loss": other})
    assert built.trainer.loss_funcs["unlabeled_metric_loss"] is other


def test_the_callers_dictionaries_are_left_as_they_were(images, pool):
    models, basis = {"trunk": Counting()}, FeatureBasisLoss(NUM_CLASSES, SIZE)
    loss_funcs = {"metric_loss": losses.ContrastiveLoss(), "basis_loss": basis}
    weights, optimizers = {"basis_loss": 0.5}, {
        "trunk_optimizer": torch.optim.SGD(models["trunk"].parameters(), lr=0.1),
        "basis_loss_optimizer": torch.optim.SGD(basis.parameters(), lr=0.1),
    }  # fmt: skip
    given = [models, optimizers, loss_funcs, weights]
    before = [dict(d) for d in given]
    SelfTrainingTrainer(models, optimizers, 8, loss_funcs, images, pool, 3, loss_weights=weights)
    assert [dict(d) for d in given] == before


# Warm-up


def test_warm_up_trains_the_basis_alone_then_everything(build):
    built = build(basis_warmup=4, embedder=True)
    models_before, W_before = built.weights(), built.basis.W.detach().clone()
    seen = []

    def hook(t):
        seen.append((equal(models_before, built.weights()), {k: float(v) for k, v in t.losses.items()}))

    built.trainer.end_of_iteration_hook = hook
    built.trainer.train(num_epochs=2)
    assert [untouched for untouched, _ in seen] == [True] * 4 + [False] * 2
    assert not torch.equal(built.basis.W, W_before)
    for _, step in seen:
        assert step["basis_loss"] > 0
        # The others are measured all along, so that hooks find the same losses at each step.
        assert step["metric_loss"] > 0
        assert step["unlabeled_metric_loss"] > 0


def test_weight_decay_and_momentum_leave_the_models_alone_during_warm_up(build):
    def adamw(models, _):
        return torch.optim.AdamW(models["trunk"].parameters(), lr=0.1, weight_decay=0.5)

    built = build(basis_warmup=3, optimizers={"trunk_optimizer": adamw})
    before = built.weights()
    built.trainer.train(num_epochs=1)
    assert equal(before, built.weights())


def test_a_later_start_epoch_does_not_warm_up_again(build):
    built = build(basis_warmup=3)
    before = built.weights()
    built.trainer.train(start_epoch=2, num_epochs=2)
    assert not equal(before, built.weights())


@pytest.mark.parametrize("settings", [{"basis": None}, {"loss_weights": {"basis_loss": 0}}], ids=str)
def test_warm_up_without_a_basis_to_train_is_refused(build, settings):
    with pytest.raises(ConfigError, match="basis_warmup"):
        build(basis_warmup=2, **settings)


# The pool


class Teacher(torch.nn.Module):
    """Puts the sign of one coordinate forward."""

    def __init__(self, coordinate):
        super().__init__()
        self.coordinate, self.calls = coordinate, 0

    def forward(self, x):
        self.calls += 1
        assert not self.training
        return torch.stack([x[:, self.coordinate], 4 - x[:, self.coordinate]], dim=1)


def test_a_raw_pool_is_labeled_by_the_teacher_before_the_first_step(build, pool):
    teacher = Teacher(1)
    built = build(teacher=teacher, num_clusters=2)
    assert teacher.calls == 0
    first = []

    def hook(t):
        first.append((teacher.calls, isinstance(t.pool, PseudoLabelDataset)))

    built.trainer.end_of_iteration_hook = hook
    built.trainer.train(num_epochs=2)
    assert first == [(1, True)] * 6
    labels = built.trainer.pool.labels
    assert set(labels.tolist()) == {NUM_CLASSES, NUM_CLASSES + 1}
    assert len(set(labels[1::3].tolist())) == 1
    assert set(labels[::3].tolist()) == set(labels[2::3].tolist()) != set(labels[1::3].tolist())
    assert teacher.training


def test_a_teacher_may_be_a_dictionary_of_trunk_and_embedder(build):
    teacher = {"embedder": torch.nn.Identity(), "trunk": Teacher(0)}
    built = build(teacher=teacher, num_clusters=2)
    built.trainer.train(num_epochs=1)
    assert teacher["trunk"].calls == 1
    labels = built.trainer.pool.labels
    assert len(set(labels[::3].tolist())) == 1


def test_the_default_teacher_is_the_models_as_they_come(build, pool):
    built = build(embedder=True)
    embeddings = built.models["embedder"](built.trunk(torch.stack(pool))).detach().numpy()
    expected = PseudoLabelDataset.from_teacher(
        list(torch.tensor(embeddings)), torch.nn.Identity(), 3, progress=False
    )
    built.trainer.train(num_epochs=1)
    assert np.array_equal(built.trainer.pool.labels - NUM_CLASSES, expected.labels)
    assert built.trunk.calls[1] == (len(pool), False)


def test_a_pseudo_labeled_pool_is_used_as_it_is(build, pool):
    given = labeled_pool(pool)
    built = build(unlabeled_dataset=given, teacher=Teacher(0))
    built.trainer.train(num_epochs=1)
    assert built.trainer.pool is given
    assert built.trainer.teacher.calls == 0


def test_training_on_keeps_the_pseudo_labels(build):
    teacher = Teacher(0)
    built = build(teacher=teacher)
    built.trainer.train(num_epochs=1)
    given = built.trainer.pool
    built.trainer.train(start_epoch=2, num_epochs=2)
    assert built.trainer.pool is given
    assert teacher.calls == 1


def test_the_clustering_dataset_is_clustered_in_place_of_the_pool(build, pool):
    noisy = [torch.randn(4) for _ in pool]
    built = build(unlabeled_dataset=noisy, clustering_dataset=pool, teacher=torch.nn.Identity())
    built.trainer.train(num_epochs=1)
    labels = built.trainer.pool.labels
    assert all(len(set(labels[k::3].tolist())) == 1 for k in range(3))
    assert torch.equal(built.trainer.pool[0][0], noisy[0])


def test_cluster_kwargs_reach_the_clustering(build):
    built = build(cluster_kwargs={"max_points_per_centroid": 4})
    built.trainer.train(num_epochs=1)
    assert built.trainer.pool.clusters.trained_on == 12


def test_unlabeled_batches_hold_four_images_of_each_pseudo_class(build, pool):
    built = build(unlabeled_dataset=labeled_pool(pool))
    batches, get_batch = [], built.trainer.get_batch
    built.trainer.get_batch = lambda: batches.append(get_batch()) or batches[-1]
    built.trainer.train(num_epochs=2)
    for _, (_, labels) in batches:
        assert labels.unique(return_counts=True)[1].tolist() == [4, 4]


def test_too_few_pseudo_classes_for_that_are_shuffled_with_a_warning(build, pool, caplog):
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        build(unlabeled_dataset=labeled_pool(pool, k=1)).trainer.train(num_epochs=1)
    assert "shuffling" in caplog.text


def test_without_a_number_of_images_of_a_pseudo_class_each_image_is_seen_once_in_a_pass(build, pool, caplog):
    built = build(unlabeled_dataset=labeled_pool(pool), unlabeled_images_per_class=None)
    built.trainer.initialize_dataloader()
    steps = len(pool) // built.trainer.unlabeled_batch_size
    seen = torch.cat([built.trainer.get_batch()[1][0] for _ in range(steps)]).flatten(1)
    assert len(seen.unique(dim=0)) == len(seen)
    assert "shuffling" not in caplog.text


def test_a_sampler_of_ones_own_is_used(build, pool):
    given = labeled_pool(pool)
    sampler = MPerClassSampler(given.labels, 2, 6, length_before_new_iter=18)
    built = build(unlabeled_dataset=given, unlabeled_sampler=sampler, unlabeled_batch_size=6)
    batches, get_batch = [], built.trainer.get_batch
    built.trainer.get_batch = lambda: batches.append(get_batch()) or batches[-1]
    built.trainer.train(num_epochs=2)
    for _, (_, labels) in batches:
        assert labels.unique(return_counts=True)[1].tolist() == [2, 2, 2]


def test_a_short_pool_starts_over_within_an_epoch(build, pool):
    built = build(unlabeled_dataset=labeled_pool(pool[:9]), iterations_per_epoch=10)
    history = record(built.trainer)
    built.trainer.train(num_epochs=1)
    assert len(history) == 10


class Labeled(list):
    """A dataset that knows its labels, as torchvision's do."""

    @property
    def targets(self):
        return [label for _, label in self]


def test_num_clusters_defaults_to_clusters_as_large_as_labeled_classes(build, images):
    built = build(dataset=Labeled(images), num_clusters=None)
    built.trainer.train(num_epochs=1)
    assert built.trainer.pool.clusters.requested == 3  # 36 images, 12 a class
    built = build(num_clusters=None, dataset_labels=[y for _, y in images])
    built.trainer.train(num_epochs=1)
    assert built.trainer.pool.clusters.requested == 3


def test_pseudo_labels_begin_above_the_annotated_classes(build, images):
    wide = FeatureBasisLoss(num_classes=9, embedding_size=SIZE)
    built = build(basis=wide)
    built.trainer.train(num_epochs=1)
    assert built.trainer.pool.labels.min() == 9
    built = build(basis=None, dataset=Labeled(images))
    built.trainer.train(num_epochs=1)
    assert built.trainer.pool.labels.min() == NUM_CLASSES


@pytest.mark.parametrize("raw", [True, False])
def test_a_getter_serves_datasets_of_dictionaries(build, images, pool, raw):
    as_dicts = [{"image": x, "target": y} for x, y in images]
    unlabeled = [{"image": x, "target": 777} for x in pool]
    if not raw:
        unlabeled = PseudoLabelDataset(
            unlabeled, [i % 3 for i in range(36)], NUM_CLASSES, lambda item: item["image"]
        )
    built = build(
        dataset=as_dicts,
        unlabeled_dataset=unlabeled,
        data_and_label_getter=lambda batch: (batch["image"], batch["target"]),
    )
    history = record(built.trainer)
    built.trainer.train(num_epochs=1)
    assert len(history) == 3
    assert 777 not in built.trainer.pool.labels


def test_labels_that_do_not_start_at_zero_are_renumbered_by_pml(build, images):
    shifted = [(x, y + 40) for x, y in images]
    built = build(dataset=shifted, dataset_labels=[y for _, y in shifted], set_min_label_to_zero=True)
    history = record(built.trainer)
    built.trainer.train(num_epochs=1)
    assert all(step["basis_loss"] > 0 for step in history)


# Mining


def test_each_miner_sees_its_own_side_with_its_labels(build, pool):
    seen = {"tuple_miner": [], "unlabeled_miner": []}

    def spy(name):
        def mine(embeddings, labels):
            seen[name].append((len(embeddings), labels.min().item(), labels.max().item()))
            return miners.MultiSimilarityMiner()(embeddings, labels)

        return mine

    built = build(
        mining_funcs={name: spy(name) for name in seen},
        unlabeled_dataset=labeled_pool(pool),
        unlabeled_batch_size=12,
    )
    built.trainer.train(num_epochs=1)
    assert seen == {"tuple_miner": [(8, 0, 1)] * 3, "unlabeled_miner": [(12, 2, 4)] * 3}


def test_a_basis_gives_an_unlabeled_miner_its_thresholds(build):
    basis = FeatureBasisLoss(NUM_CLASSES, SIZE)
    miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
    built = build(basis=basis, mining_funcs={"unlabeled_miner": miner})
    used, mine = [], miner.mine

    def spy(*args):
        pairs = mine(*args)
        used.append((basis.thresholds(), miner.current_thresholds(), len(pairs[0]), len(pairs[2])))
        return pairs

    miner.mine = spy
    history = record(built.trainer)
    built.trainer.train(num_epochs=10)
    assert len(used) == len(history) == 30
    for thresholds, current, num_pos, num_neg in used:
        assert thresholds == current
        assert (num_pos + num_neg > 0) == (thresholds is not None)
    assert any(num_pos and num_neg for *_, num_pos, num_neg in used)
    assert all(np.isfinite(list(step.values())).all() for step in history)


@pytest.mark.parametrize(
    "loss_cls", [losses.ContrastiveLoss, losses.MultiSimilarityLoss, losses.ProxyAnchorLoss]
)
def test_where_nothing_is_mined_the_unlabeled_loss_is_zero_not_that_of_all_pairs(build, loss_cls):
    # Three pseudo-classes above the annotated ones; proxies take "no pair" for "no preference".
    proxies = loss_cls is losses.ProxyAnchorLoss
    loss = loss_cls(NUM_CLASSES + 3, SIZE) if proxies else loss_cls()
    built = build(
        loss_funcs={"unlabeled_metric_loss": loss},
        mining_funcs={"unlabeled_miner": ThresholdPairMiner(2, -2)},
    )
    history = record(built.trainer)
    built.trainer.train(num_epochs=1)
    assert [step["unlabeled_metric_loss"] for step in history] == [0, 0, 0]


# PML's own ways


def test_hooks_are_called_with_the_trainer_and_may_end_the_run(build):
    calls = []

    def end_of_epoch(t):
        calls.append(("epoch", t.epoch, isinstance(t, SelfTrainingTrainer)))
        return t.epoch < 2

    def end_of_iteration(t):
        calls.append(("iteration", t.iteration, t.losses["total_loss"].item() > 0))

    built = build(end_of_epoch_hook=end_of_epoch, end_of_iteration_hook=end_of_iteration)
    built.trainer.train(num_epochs=5)
    iterations = [("iteration", i, True) for i in range(3)]
    assert calls == [*iterations, ("epoch", 1, True), *iterations, ("epoch", 2, True)]


def test_schedulers_step_by_iteration_and_by_epoch(build, images, pool):
    built = build(lr=1e-3)
    by_iteration = torch.optim.lr_scheduler.StepLR(built.optimizers["trunk_optimizer"], 1, gamma=0.5)
    by_epoch = torch.optim.lr_scheduler.StepLR(built.optimizers["basis_loss_optimizer"], 1, gamma=0.1)
    trainer = SelfTrainingTrainer(
        built.models,
        built.optimizers,
        8,
        built.loss_funcs,
        images,
        pool,
        3,
        dataloader_num_workers=0,
        lr_schedulers={
            "trunk_scheduler_by_iteration": by_iteration,
            "basis_loss_scheduler_by_epoch": by_epoch,
        },
    )
    trainer.train(num_epochs=2)
    assert by_iteration.get_last_lr() == pytest.approx([1e-3 * 0.5**6])
    assert by_epoch.get_last_lr() == pytest.approx([1e-3 * 0.1**2])


def test_gradient_clippers_are_called_each_step(build):
    calls = []
    clippers = {"trunk_grad_clipper": lambda: calls.append("trunk"), "basis_loss_grad_clipper": list}
    build(gradient_clippers=clippers).trainer.train(num_epochs=2)
    assert calls == ["trunk"] * 6


@pytest.mark.parametrize("frozen", ["trunk", "embedder", "basis_loss"])
def test_what_is_frozen_does_not_move_and_the_rest_does(build, frozen):
    built = build(embedder=True, freeze_these=(frozen,))
    parts = {**built.models, "basis_loss": built.basis}
    before = {k: copy.deepcopy(m.state_dict()) for k, m in parts.items()}
    built.trainer.train(num_epochs=2)
    for name, part in parts.items():
        same = all(torch.equal(v, before[name][k]) for k, v in part.state_dict().items())
        assert same == (name == frozen), name


def test_a_frozen_basis_needs_no_optimizer(build):
    built = build(freeze_these=("basis_loss",), optimizers={"basis_loss_optimizer": None})
    before = built.basis.W.detach().clone()
    built.trainer.train(num_epochs=1)
    assert torch.equal(built.basis.W, before)


def test_one_optimizer_may_hold_model_and_basis(build):
    def both(models, loss_funcs):
        parameters = [*models["trunk"].parameters(), *loss_funcs["basis_loss"].parameters()]
        return torch.optim.SGD(parameters, lr=0.1)

    built = build(optimizers={"trunk_optimizer": both, "basis_loss_optimizer": None})
    before = built.basis.W.detach().clone()
    built.trainer.train(num_epochs=1)
    assert not torch.equal(built.basis.W, before)


def test_a_sampler_and_iterations_per_epoch_are_pml_s(build, images):
    sampler = MPerClassSampler([y for _, y in images], 4, 8, length_before_new_iter=24)
    built = build(sampler=sampler, iterations_per_epoch=5)
    history = record(built.trainer)
    built.trainer.train(num_epochs=2)
    assert len(history) == 10


def test_two_loader_workers_serve(build):
    built = build(dataloader_num_workers=2)
    history = record(built.trainer)
    built.trainer.train(num_epochs=1)
    assert len(history) == 3
    # Workers that are left to the garbage collector take seconds to go.
    built.trainer.dataloader_iter = built.trainer.unlabeled_dataloader_iter = None


def test_losses_are_moved_to_the_data_device(build):
    built = build(data_device=torch.device("cpu"))
    assert built.basis.W.device == torch.device("cpu")
    built.trainer.train(num_epochs=1)


# What it refuses


def test_a_basis_without_an_optimizer_is_refused(build):
    with pytest.raises(ConfigError, match=r'no optimizer holds.*basis_loss.*"basis_loss_optimizer"'):
        build(optimizers={"basis_loss_optimizer": None})


def test_proxies_without_an_optimizer_are_refused(build):
    loss_funcs, _ = METRIC_LOSSES["proxy-anchor"]()
    with pytest.raises(ConfigError, match='"metric_loss_optimizer"'):
        build(loss_funcs=loss_funcs, optimizers={"metric_loss_optimizer": None})


@pytest.mark.parametrize("kind", ["proxy-anchor", "proxy-nca"])
def test_a_proxy_loss_alone_is_refused_for_pseudo_labels(build, kind):
    loss_funcs, _ = METRIC_LOSSES[kind]()
    del loss_funcs["unlabeled_metric_loss"]
    with pytest.raises(ConfigError, match='add "unlabeled_metric_loss", for example ContrastiveLoss'):
        build(loss_funcs=loss_funcs)


def test_loss_funcs_without_a_metric_loss_are_refused(images, pool):
    basis = FeatureBasisLoss(NUM_CLASSES, SIZE)
    with pytest.raises(ConfigError, match='must contain "metric_loss"'):
        SelfTrainingTrainer({"trunk": Counting()}, {}, 8, {"basis_loss": basis}, images, pool, 3)


def test_weights_of_unknown_losses_are_refused(build):
    with pytest.raises(ConfigError, match=r"loss_weights: .*lambda_2"):
        build(loss_weights={"lambda_2": 0.5})


def test_unknown_loss_names_are_refused_by_pml(build):
    with pytest.raises(AssertionError, match="loss_funcs keys must be one of"):
        build(loss_funcs={"ranking_loss": losses.ContrastiveLoss()})


@pytest.mark.parametrize("offset", [0, NUM_CLASSES - 1])
def test_pseudo_labels_that_collide_with_true_ones_are_refused(build, pool, offset):
    with pytest.raises(DataError, match=f"label_offset={NUM_CLASSES}"):
        build(unlabeled_dataset=labeled_pool(pool, offset=offset))


@pytest.mark.parametrize("shift", [1, -1])
def test_labels_outside_the_annotated_classes_are_refused(build, images, shift):
    built = build(dataset=[(x, y + shift) for x, y in images])
    with pytest.raises(DataError, match=r"labels must be 0..num_classes-1"):
        built.trainer.train(num_epochs=1)


@pytest.mark.parametrize("raw", [True, False])
def test_a_pool_smaller_than_a_batch_is_refused_at_once(build, pool, raw):
    small = pool[:7] if raw else labeled_pool(pool[:7])
    with pytest.raises(DataError, match="7 samples, fewer than one batch of 8"):
        build(unlabeled_dataset=small)
    build(unlabeled_dataset=small, unlabeled_batch_size=4).trainer.train(num_epochs=1)


def test_a_pool_that_clustering_leaves_smaller_than_a_batch_is_refused(build):
    pool = [torch.tensor([1.0, 0, 0, 0])] * 6 + [torch.randn(4) for _ in range(10)]
    built = build(
        unlabeled_dataset=pool,
        teacher=torch.nn.Identity(),
        num_clusters=11,
        cluster_kwargs={"min_cluster_size": 5, "nredo": 5},
    )
    with pytest.raises(DataError, match="fewer than one batch of 8"):
        built.trainer.train(num_epochs=1)


@pytest.mark.parametrize("bad", [None, 5, iter([])])
def test_a_pool_that_is_not_map_style_is_refused(build, bad):
    with pytest.raises(DataError, match="unlabeled_dataset must be a map-style dataset"):
        build(unlabeled_dataset=bad)


def test_a_missing_number_of_clusters_that_nothing_suggests_is_refused(build):
    with pytest.raises(ConfigError, match="num_clusters was not given"):
        build(num_clusters=None).trainer.train(num_epochs=1)


def test_more_clusters_than_the_pool_has_samples_are_refused(build):
    with pytest.raises(DataError, match=r"num_clusters=37 is more.*36"):
        build(num_clusters=37).trainer.train(num_epochs=1)


def test_images_of_two_sizes_are_refused(build):
    pool = PseudoLabelDataset([torch.randn(5)] * 12, [0, 1, 2] * 4, label_offset=NUM_CLASSES)
    with pytest.raises(DataError, match="their transforms must give one size"):
        build(unlabeled_dataset=pool).trainer.train(num_epochs=1)


def test_a_basis_of_another_embedding_size_is_refused(build):
    built = build(basis=FeatureBasisLoss(NUM_CLASSES, SIZE + 1))
    with pytest.raises(ValueError, match=f"embedding_size={SIZE + 1}"):
        built.trainer.train(num_epochs=1)


def test_a_teacher_that_diverged_is_refused_before_any_training(build):
    built = build(teacher=torch.nn.Linear(4, 3))
    torch.nn.init.constant_(built.trainer.teacher.weight, float("nan"))
    before = built.weights()
    with pytest.raises(DataError, match="not finite"):
        built.trainer.train(num_epochs=1)
    assert equal(before, built.weights())


def changing_teacher(trainer, rate=1.0):
    """Let the teacher move after each step, so that it never labels twice alike."""
    generator = torch.Generator().manual_seed(0)

    def move(_):
        teacher = trainer.teacher
        parts = teacher.values() if isinstance(teacher, dict) else [teacher]
        with torch.no_grad():
            for parameter in (p for part in parts for p in part.parameters()):
                parameter.add_(rate * torch.randn(parameter.shape, generator=generator))

    trainer.end_of_iteration_hook = move


@pytest.mark.parametrize(("every", "expected"), [(0, [1]), (1, [1, 2, 3, 4]), (2, [1, 3])])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_pool_is_labeled_anew_on_schedule(build, every, expected, at_once):
    epochs, labels = [], []

    def labeled(t):
        epochs.append(getattr(t, "epoch", 1))
        labels.append(t.pool.pseudo_labels.tolist())

    built = build(teacher=Counting(), relabel_every=every, end_of_labeling_hook=labeled)
    changing_teacher(built.trainer)
    if at_once:
        built.trainer.train(num_epochs=4)
    else:
        for epoch in range(1, 5):
            built.trainer.train(start_epoch=epoch, num_epochs=epoch)
    assert len(epochs) == len(expected)
    assert epochs[1:] == expected[1:]
    assert len({tuple(found) for found in labels}) == len(labels)


def test_a_labeled_pool_keeps_its_labels_until_it_is_labeled_anew(build, pool):
    given = labeled_pool(pool)
    built = build(unlabeled_dataset=given, teacher=Counting(), relabel_every=1)
    built.trainer.train(num_epochs=1)
    assert built.trainer.pool is given
    built.trainer.train(start_epoch=2, num_epochs=2)
    assert built.trainer.pool is not given
    assert built.trainer.pool.dataset is pool
    assert built.trainer.pool.label_offset == NUM_CLASSES


def test_batches_come_from_the_new_labels(build):
    seen = []
    built = build(teacher=Counting(), relabel_every=1, unlabeled_images_per_class=2, unlabeled_batch_size=4)
    changing_teacher(built.trainer)
    built.trainer.label_pool()
    loss = built.trainer.loss_funcs["unlabeled_metric_loss"]
    forward = loss.forward

    def spy(embeddings, labels, *args):
        if labels.min() >= NUM_CLASSES:
            pool = built.trainer.pool
            seen.append((sorted(labels.tolist()), set(pool.labels.tolist())))
        return forward(embeddings, labels, *args)

    loss.forward = spy
    built.trainer.train(num_epochs=3)
    assert seen
    for labels, known in seen:
        assert set(labels) <= known
        assert labels[0::2] == labels[1::2]


@pytest.mark.parametrize("every", [-1, 0.5])
def test_a_schedule_that_is_none_is_refused(build, every):
    with pytest.raises(ConfigError, match=rf"relabel_every.*{every}"):
        build(relabel_every=every)


def with_cluster_basis(build, num_clusters=3, **kwargs):
    basis = FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE, regularizer=None)
    clusters = ClusterBasisLoss(basis, num_clusters)
    return build(basis=basis, loss_funcs={"unlabeled_metric_loss": clusters}, **kwargs), clusters


def test_vectors_of_clusters_start_at_the_centroids_and_then_from_what_their_images_had(build):
    built, clusters = with_cluster_basis(build, teacher={"trunk": Counting()}, relabel_every=1)
    trainer, turns = built.trainer, []
    changing_teacher(trainer)
    label = trainer.label_pool

    def spy():
        before = clusters.V.detach().clone()
        labels = getattr(trainer.pool, "pseudo_labels", None)
        label()
        turns.append((before, labels, clusters.V.detach().clone(), trainer.pool))

    trainer.label_pool = spy
    trainer.train(num_epochs=3)
    _, _, first, pool = turns[0]
    assert np.allclose(first[: len(pool.clusters.centroids)], pool.clusters.centroids)
    for before, labels, now, pool in turns[1:]:
        units = torch.nn.functional.normalize(before)
        for cluster in range(int(pool.pseudo_labels.max()) + 1):
            had = units[labels[pool.pseudo_labels == cluster]]
            assert torch.allclose(now[cluster], torch.nn.functional.normalize(had.mean(0), dim=0), atol=1e-6)
    assert any(
        len(set(labels)) > 1 and not np.array_equal(labels, p.pseudo_labels) for _, labels, _, p in turns[1:]
    )


def test_a_cluster_of_images_that_had_none_starts_at_its_centroid(build):
    built, clusters = with_cluster_basis(build)
    trainer = built.trainer
    trainer.train(num_epochs=1)
    labels = trainer.pool.pseudo_labels.copy()
    trainer.restore_pool(torch.from_numpy(np.where(labels == 1, -1, labels)))
    trainer.label_pool()
    found = trainer.pool
    new = [
        (found.pseudo_labels[labels == 1] == c).all() and (labels[found.pseudo_labels == c] == 1).all()
        for c in range(3)
    ]
    assert sum(new) == 1
    at_centroid = np.isclose(clusters.V.detach(), found.clusters.centroids).all(1)
    assert at_centroid.tolist() == new


def test_their_optimizer_starts_anew_with_them(build):
    adam = {
        "unlabeled_metric_loss_optimizer": lambda _, parts: torch.optim.Adam(
            parts["unlabeled_metric_loss"].parameters()
        )
    }
    built, clusters = with_cluster_basis(build, optimizers=adam)
    built.trainer.train(num_epochs=1)
    optimizer = built.optimizers["unlabeled_metric_loss_optimizer"]
    assert clusters.V in optimizer.state
    built.trainer.label_pool()
    assert clusters.V not in optimizer.state


def test_of_a_labeled_pool_they_start_at_the_means_of_its_classes(build, pool):
    given = labeled_pool(pool)
    built, clusters = with_cluster_basis(build, unlabeled_dataset=given, lr=1e-12)
    trunk = copy.deepcopy(built.trunk).eval()
    built.trainer.train(num_epochs=1)
    with torch.no_grad():
        unit = torch.nn.functional.normalize(trunk(torch.stack([pool[i] for i in range(len(pool))])))
    means = torch.stack([unit[given.labels == NUM_CLASSES + k].mean(0) for k in range(3)])
    assert torch.allclose(clusters.V.detach(), torch.nn.functional.normalize(means), atol=1e-5)


def test_restored_labels_are_used_and_vectors_left_as_they_are(build):
    built, clusters = with_cluster_basis(build, relabel_every=2, lr=1e-12)
    before = clusters.V.detach().clone()
    labels = torch.arange(len(built.trainer.unlabeled_dataset)) % 3
    built.trainer.restore_pool(labels)
    built.trainer.train(start_epoch=2, num_epochs=2)
    assert built.trainer.pool.pseudo_labels.tolist() == labels.tolist()
    assert torch.allclose(clusters.V.detach(), before, atol=1e-6)


def test_of_a_teacher_that_embeds_elsewhere_they_start_at_the_models_means(build, pool):
    built, clusters = with_cluster_basis(build, teacher=torch.nn.Linear(4, 5), lr=1e-12)
    trunk = copy.deepcopy(built.trunk).eval()
    built.trainer.label_pool()
    found = built.trainer.pool
    with torch.no_grad():
        unit = torch.nn.functional.normalize(trunk(torch.stack(list(pool))))
    means = torch.stack([unit[found.pseudo_labels == k].mean(0) for k in range(int(clusters.num_active))])
    expected = torch.nn.functional.normalize(means)
    assert torch.allclose(clusters.V.detach()[: len(expected)], expected, atol=1e-5)


def test_they_are_found_inside_of_other_losses(build):
    basis = FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE, regularizer=None)
    clusters = ClusterBasisLoss(basis, 5)
    both = losses.MultipleLosses({"pool": clusters, "pairs": losses.ContrastiveLoss()})
    build(basis=basis, loss_funcs={"unlabeled_metric_loss": both}).trainer.train(num_epochs=1)
    assert int(clusters.num_active) == 3


def test_more_clusters_than_there_are_vectors_for_are_refused_at_once(build):
    with pytest.raises(
        ConfigError, match=r"num_clusters=3, but ClusterBasisLoss was made with num_clusters=2"
    ):
        with_cluster_basis(build, num_clusters=2)


@pytest.mark.parametrize("another", [None, FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE)])
def test_a_basis_of_clusters_that_would_never_train_is_refused(build, another):
    clusters = ClusterBasisLoss(FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE), 3)
    with pytest.raises(ConfigError, match=r'ClusterBasisLoss .*loss_funcs\["basis_loss"\]'):
        build(basis=another, loss_funcs={"unlabeled_metric_loss": clusters})


def test_what_relabeling_would_undo_is_refused(build, pool):
    some = PseudoLabelDataset(pool, [-1, *(i % 3 for i in range(len(pool) - 1))], label_offset=NUM_CLASSES)
    with pytest.raises(ConfigError, match=r"relabel_every=1 would label the 1 samples"):
        build(unlabeled_dataset=some, relabel_every=1)
    with pytest.raises(ConfigError, match=r"unlabeled_sampler .*relabel_every=2"):
        build(unlabeled_sampler=torch.utils.data.RandomSampler(pool), relabel_every=2)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: losses.MultipleLosses([x])])
@pytest.mark.parametrize(
    "loss",
    [
        losses.ProxyAnchorLoss(NUM_CLASSES + 3, SIZE),
        losses.MarginLoss(num_classes=NUM_CLASSES + 3, learn_beta=True),
    ],
    ids=["proxies", "margins"],
)
def test_weights_of_pseudo_classes_are_refused_where_these_are_numbered_anew(build, loss, wrap):
    given = {"unlabeled_metric_loss": wrap(loss)}
    with pytest.raises(ConfigError, match=rf"relabel_every=2 .*{type(loss).__name__}.*relabel_every=0"):
        build(loss_funcs=given, relabel_every=2)
    build(loss_funcs=given).trainer.train(num_epochs=1)


def test_weights_of_no_pseudo_class_stay_where_the_pool_is_labeled_anew(build):
    basis = FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE)
    for loss in (losses.MarginLoss(learn_beta=True), losses.ContrastiveLoss(distance=basis.similarity)):
        built = build(basis=basis, loss_funcs={"unlabeled_metric_loss": loss}, relabel_every=1)
        built.trainer.train(num_epochs=2)


def test_a_memory_forgets_embeddings_when_the_pool_is_labeled_anew(build):
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, memory_size=16)
    built = build(loss_funcs={"unlabeled_metric_loss": memory}, relabel_every=1)
    held = []
    label = built.trainer.label_pool

    def spy():
        before = memory.has_been_filled
        label()
        held.append((before, memory.has_been_filled, memory.queue_idx))

    built.trainer.label_pool = spy
    built.trainer.train(num_epochs=2)
    assert held == [(False, False, 0), (True, False, 0)]


def test_a_second_training_keeps_the_schedule(build):
    labeled = []
    built = build(relabel_every=1, end_of_labeling_hook=lambda t: labeled.append(1))
    built.trainer.train(num_epochs=2)
    built.trainer.train(num_epochs=2)
    assert len(labeled) == 3  # before the first epoch, and twice before the second
