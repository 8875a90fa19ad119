"""The state of a trainer: what was stopped goes on as if it had not been, for PML's trainers and ours."""

import copy

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.trainers import MetricLossOnly, TrainWithClassifier
from torch.optim import lr_scheduler

from pml_slade import FeatureBasisLoss, PseudoLabelDataset, SelfTrainingTrainer, ThresholdPairMiner
from pml_slade.averages import ModelAverage
from pml_slade.checkpoints import Checkpoints
from pml_slade.compat import silent_epochs
from pml_slade.exceptions import CheckpointError
from pml_slade.losses import ClusterBasisLoss, MeanTeacherLoss, Memory, SelfTaughtLoss
from pml_slade.trainers import (
    MomentumTrainer,
    SelfTaughtTrainer,
    load_trainer_state,
    trainer_metrics,
    trainer_state,
)

SIZE, EPOCHS, STEPS = 3, 4, 3


@pytest.fixture(autouse=True)
def quiet():
    with silent_epochs():
        yield


def two_views(items):
    data, labels = torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])
    return torch.cat([data, 2 * data]), torch.cat([labels, labels])


def parts(loss_funcs, seed):
    torch.manual_seed(seed)
    models = {
        "trunk": torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.ReLU()),
        "embedder": torch.nn.Linear(5, SIZE),
    }
    made = loss_funcs()
    learning = {name: part for name, part in {**models, **made}.items() if list(part.parameters())}
    optimizers = {f"{k}_optimizer": torch.optim.Adam(p.parameters(), lr=0.01) for k, p in learning.items()}
    return models, optimizers, made


def of_pml(kind=MetricLossOnly, loss_funcs=lambda: {"metric_loss": losses.ContrastiveLoss()}, **kwargs):
    def make(images, pool, seed):
        models, optimizers, made = parts(loss_funcs, seed)
        if kind is TrainWithClassifier:
            models["classifier"] = torch.nn.Linear(SIZE, 2)
            optimizers["classifier_optimizer"] = torch.optim.SGD(models["classifier"].parameters(), lr=0.01)
        settings = {"mining_funcs": {}, "iterations_per_epoch": STEPS, "dataloader_num_workers": 0}
        trainer = kind(models, optimizers, 8, made, dataset=images, **(settings | kwargs))
        return trainer, None

    return make


def of_ours(kind=SelfTrainingTrainer, unlabeled=None, average=False, mining=False, two=False, **kwargs):
    def make(images, pool, seed):
        def loss_funcs():
            basis = FeatureBasisLoss(num_classes=2, embedding_size=SIZE)
            made = {"metric_loss": losses.ContrastiveLoss(), "basis_loss": basis}
            return made if unlabeled is None else {**made, "unlabeled_metric_loss": unlabeled(basis)}

        models, optimizers, made = parts(loss_funcs, seed)
        follows = ModelAverage(models, 0.5) if average else None
        basis = made["basis_loss"]
        miner = ThresholdPairMiner(basis, basis, distance=basis.similarity, collect_stats=True)
        settings = {
            "dataset": images,
            "unlabeled_dataset": PseudoLabelDataset(pool, range(36), 2) if two else pool,
            "num_clusters": 3,
            "teacher": follows.models if average else None,
            "end_of_iteration_hook": follows,
            "mining_funcs": {"unlabeled_miner": miner} if mining else {},
            "unlabeled_collate_fn": two_views if two else None,
            "cluster_kwargs": {"progress": False},
            "iterations_per_epoch": STEPS,
            "dataloader_num_workers": 0,
            **kwargs,
        }
        return kind(models, optimizers, 8, made, **settings), follows

    return make


KINDS = {
    "MetricLossOnly": of_pml(),
    "with proxies": of_pml(loss_funcs=lambda: {"metric_loss": losses.ProxyAnchorLoss(2, SIZE)}),
    "with a miner": of_pml(mining_funcs={"tuple_miner": miners.MultiSimilarityMiner()}),
    "with PML's memory": of_pml(
        loss_funcs=lambda: {"metric_loss": losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, 20)}
    ),
    "with our memory": of_pml(loss_funcs=lambda: {"metric_loss": Memory(losses.ContrastiveLoss(), SIZE, 20)}),
    "with a memory inside": of_pml(
        loss_funcs=lambda: {
            "metric_loss": losses.MultipleLosses(
                {
                    "memory": losses.CrossBatchMemory(losses.ContrastiveLoss(), SIZE, 20),
                    "batch": losses.TripletMarginLoss(),
                }
            )
        }
    ),
    "TrainWithClassifier": of_pml(
        TrainWithClassifier,
        lambda: {"metric_loss": losses.ContrastiveLoss(), "classifier_loss": torch.nn.CrossEntropyLoss()},
    ),
    "SelfTrainingTrainer": of_ours(),
    "that mines": of_ours(mining=True),
    "that relabels": of_ours(average=True, relabel_every=1),
    "with vectors of clusters": of_ours(
        unlabeled=lambda basis: ClusterBasisLoss(basis, 3), average=True, relabel_every=2
    ),
    "of a pool that shrinks": of_ours(
        num_clusters=14, cluster_kwargs={"min_cluster_size": 2, "progress": False, "method": "ward"}
    ),
    "MomentumTrainer": of_ours(MomentumTrainer, lambda _: MeanTeacherLoss(), average=True, two=True),
    "SelfTaughtTrainer": of_ours(
        SelfTaughtTrainer, lambda _: SelfTaughtLoss(2), average=True, two=True, neighbours=2
    ),
}


def epochs(trainer, first, last):
    """Train epoch by epoch; what an epoch draws depends on its number alone."""
    for epoch in range(first, last + 1):
        torch.manual_seed(epoch)
        np.random.seed(epoch)  # noqa: NPY002
        trainer.train(start_epoch=epoch, num_epochs=epoch)


def weights(trainer, average):
    modules = [*trainer.models.values(), *trainer.loss_funcs.values()]
    modules += [] if average is None else average.models.values()
    return [value.clone() for m in modules for k, value in m.state_dict().items() if torch.is_tensor(value)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("done", [1, 2])
def test_a_trainer_that_goes_on_from_a_stored_state_ends_like_an_unbroken_one(
    images, pool, tmp_path, kind, done
):
    unbroken, follows = KINDS[kind](images, pool, seed=0)
    epochs(unbroken, 1, EPOCHS)

    stopped, average = KINDS[kind](images, pool, seed=0)
    epochs(stopped, 1, done)
    state = {
        "trainer": trainer_state(stopped),
        "average": None if average is None else average.state_dict(),
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, step=done)
    _, state = checkpoints.load_latest()

    resumed, average = KINDS[kind](images, pool, seed=1)
    load_trainer_state(resumed, state["trainer"])
    if average is not None:
        average.load_state_dict(state["average"])
    epochs(resumed, done + 1, EPOCHS)

    for one, other in zip(weights(unbroken, follows), weights(resumed, average), strict=True):
        assert torch.equal(one, other)
    for name, optimizer in unbroken.optimizers.items():
        assert str(optimizer.state_dict()) == str(resumed.optimizers[name].state_dict())
    if isinstance(unbroken, SelfTrainingTrainer):
        assert unbroken.pool.pseudo_labels.tolist() == resumed.pool.pseudo_labels.tolist()
        assert unbroken.metrics() == resumed.metrics()


def schedulers(kind):
    def of(optimizers):
        optimizer = optimizers["trunk_optimizer"]
        made = {
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, 12),
            "steps": lambda: lr_scheduler.MultiStepLR(optimizer, [2, 5, 7], gamma=0.3),
            "lambda": lambda: lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
            "one cycle": lambda: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20),
            "cyclic": lambda: lr_scheduler.CyclicLR(
                optimizer, 0.01, 0.1, 4, cycle_momentum=False, scale_fn=lambda x: 0.5, scale_mode="cycle"
            ),
            "swa": lambda: torch.optim.swa_utils.SWALR(optimizer, 0.001, anneal_epochs=9),
            "chained": lambda: lr_scheduler.SequentialLR(
                optimizer,
                [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)],
                milestones=[3],
            ),
        }
        return {"trunk_scheduler_by_iteration": made[kind]()}

    return of


@pytest.mark.parametrize("kind", ["cosine", "steps", "lambda", "one cycle", "cyclic", "swa", "chained"])
def test_any_schedule_of_the_learning_rate_goes_on(images, pool, tmp_path, kind):
    def make(seed):
        trainer, _ = of_pml()(images, pool, seed)
        trainer.lr_schedulers = schedulers(kind)(trainer.optimizers)
        return trainer

    def rate(trainer):
        return trainer.optimizers["trunk_optimizer"].param_groups[0]["lr"]

    unbroken, stopped, resumed = make(0), make(0), make(1)
    epochs(unbroken, 1, 2)
    between = rate(unbroken)
    epochs(unbroken, 3, 4)
    epochs(stopped, 1, 2)
    Checkpoints(tmp_path).save(trainer_state(stopped), step=2)
    load_trainer_state(resumed, Checkpoints(tmp_path).load_latest()[1])
    assert rate(resumed) == between
    epochs(resumed, 3, 4)
    assert rate(resumed) == rate(unbroken)
    assert all(torch.equal(a, b) for a, b in zip(weights(unbroken, None), weights(resumed, None)))


@pytest.mark.parametrize("kind", ["with PML's memory", "with our memory"])
def test_two_trainers_from_one_state_share_no_memory(images, pool, kind):
    trainer, _ = KINDS[kind](images, pool, 0)
    epochs(trainer, 1, 1)
    state = trainer_state(trainer)
    before = copy.deepcopy(state)
    other, _ = KINDS[kind](images, pool, 1)
    load_trainer_state(other, state)
    held = other.loss_funcs["metric_loss"].embedding_memory
    assert torch.equal(held, trainer.loss_funcs["metric_loss"].embedding_memory)
    other.loss_funcs["metric_loss"].embedding_memory.fill_(7)
    assert str(trainer_state(trainer)) == str(before)


def test_our_trainers_have_the_state_as_methods(images, pool):
    trainer, _ = of_ours()(images, pool, 0)
    epochs(trainer, 1, 1)
    other, _ = of_ours()(images, pool, 1)
    other.load_state_dict(trainer.state_dict())
    assert other.pool.pseudo_labels.tolist() == trainer.pool.pseudo_labels.tolist()
    assert str(other.state_dict()) == str(trainer.state_dict())


def test_a_state_from_before_the_pool_was_labeled_leaves_that_to_be_done(images, pool):
    trainer, _ = of_ours()(images, pool, 0)
    other, _ = of_ours()(images, pool, 1)
    other.load_state_dict(trainer.state_dict())
    assert other.pool is None
    epochs(other, 1, 1)
    assert len(other.pool) == 36


def test_a_pseudo_labeled_pool_that_still_has_its_labels_stays_what_was_given(images, pool):
    given = PseudoLabelDataset(pool, [-1, *(i % 3 for i in range(35))], 2, reason="too blurred")
    trainer, _ = of_ours(unlabeled_dataset=given)(images, pool, 0)
    other, _ = of_ours(unlabeled_dataset=given)(images, pool, 1)
    epochs(trainer, 1, 1)
    other.load_state_dict(trainer.state_dict())
    assert other.pool is given
    other.restore_pool([*(i % 3 for i in range(35)), -1])
    assert other.pool is not given


def test_the_offset_of_relabeled_labels_is_restored_with_them(images, pool):
    def make():
        models, optimizers, made = parts(lambda: {"metric_loss": losses.ContrastiveLoss()}, 0)
        given = PseudoLabelDataset(pool, [i % 3 for i in range(36)], label_offset=9)
        return SelfTrainingTrainer(
            models, optimizers, 8, made, images, given, 3, relabel_every=1, dataloader_num_workers=0,
            dataset_labels=[y for _, y in images],
        )  # fmt: skip

    trainer, other = make(), make()
    epochs(trainer, 1, 2)
    other.load_state_dict(trainer.state_dict())
    assert trainer.pool.label_offset == other.pool.label_offset == 2


def test_a_state_of_a_trainer_with_other_parts_is_refused(images, pool):
    trainer, other = of_ours()(images, pool, 0)[0], of_pml()(images, pool, 0)[0]
    with pytest.raises(CheckpointError, match=r"loss_funcs \['metric_loss'\], and the state .*'basis_loss'"):
        load_trainer_state(other, trainer_state(trainer))
    with pytest.raises(CheckpointError, match=r"make the trainer as the one that was saved"):
        load_trainer_state(trainer, {})


def test_metrics_tell_of_the_basis_and_of_what_was_mined(images, pool):
    trainer, _ = of_ours(mining=True)(images, pool, 0)
    epochs(trainer, 1, 2)
    basis, miner = trainer.loss_funcs["basis_loss"], trainer.mining_funcs["unlabeled_miner"]
    assert trainer.metrics() == {
        "mu_pos": float(basis.pos_mean),
        "mu_neg": float(basis.neg_mean),
        "mined_pos": float(miner.num_pos_pairs),
        "mined_neg": float(miner.num_neg_pairs),
    }
    assert trainer_metrics(trainer) == trainer.metrics()


def test_metrics_are_of_what_a_trainer_has(images, pool):
    assert trainer_metrics(of_pml()(images, pool, 0)[0]) == {}
    models, optimizers, made = parts(lambda: {"metric_loss": losses.ContrastiveLoss()}, 0)
    mining = {"unlabeled_miner": lambda embeddings, labels: miners.MultiSimilarityMiner()(embeddings, labels)}
    trainer = SelfTrainingTrainer(
        models, optimizers, 8, made, images, pool, 3, mining_funcs=mining, dataloader_num_workers=0
    )
    epochs(trainer, 1, 1)
    assert trainer.metrics() == {}
