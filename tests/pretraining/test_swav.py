"""SwAV: the loss against slow loops, the queue, the frozen start, and what the trainer refuses."""

import copy
import doctest
import logging
import math
import sys

import numpy as np
import pytest
import torch
from pytorch_metric_learning.utils import common_functions as c_f
from record_keeper import RecordKeeper, RecordWriter

from pml_slade.checkpoints import Checkpoints
from pml_slade.compat import silent_epochs
from pml_slade.datasets import glyphs_splits, transforms
from pml_slade.exceptions import ConfigError, DataError, DivergedError
from pml_slade.models import ConvNet, Embedder
from pml_slade.pretraining import MultiCrop, SwAVLoss, SwAVTrainer

pytest.importorskip("lightly")

K, SIZE, BATCH = 5, 3, 4


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def views(num_global=2, num_local=0, n=BATCH):
    return [torch.randn(n, SIZE) for _ in range(num_global)], [torch.randn(n, SIZE) for _ in range(num_local)]


# The oracle: Eqs. 1-3 of the paper, one number at a time


def slow_assignments(scores, epsilon, iterations):
    """Sinkhorn-Knopp: each prototype gets an equal share, each sample gives 1, in turn."""
    n, k = scores.shape
    q = [[math.exp(scores[i, j].item() / epsilon) for j in range(k)] for i in range(n)]
    for _ in range(iterations):
        for j in range(k):
            taken = sum(q[i][j] for i in range(n))
            for i in range(n):
                q[i][j] *= (n / k) / taken
        for i in range(n):
            given = sum(q[i])
            q[i] = [value / given for value in q[i]]
    return q


def slow_loss(loss, all_views, queue=None, temperature=0.1, epsilon=0.05, iterations=3):
    prototypes = unit(loss.prototypes.heads[0].weight.detach())
    scores = [unit(view) @ prototypes.T for view in all_views]
    terms = []
    for source in range(2):
        pool = scores[source]
        if queue is not None:
            pool = torch.cat([pool, queue[source] @ prototypes.T])
        q = slow_assignments(pool, epsilon, iterations)
        for target in range(len(scores)):
            if target == source:
                continue
            for i in range(len(scores[target])):
                logits = scores[target][i] / temperature
                log_p = [(logits[j] - torch.logsumexp(logits, 0)).item() for j in range(K)]
                terms.append(-sum(q[i][j] * log_p[j] for j in range(K)))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("num_local", [0, 1, 3])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.3, "epsilon": 0.2, "iterations": 1}])
def test_the_loss_is_that_of_slow_loops(num_local, settings):
    names = {"iterations": "sinkhorn_iterations"}
    loss = SwAVLoss(K, SIZE, **{names.get(k, k): v for k, v in settings.items()})
    global_views, local_views = views(num_local=num_local)
    expected = slow_loss(loss, global_views + local_views, **settings)
    assert loss(global_views, local_views).item() == pytest.approx(expected, rel=1e-4)


def test_a_full_queue_takes_part_in_the_assignment_and_not_in_the_loss():
    loss = SwAVLoss(K, SIZE)
    global_views, local_views = views(num_local=1)
    without = loss(global_views, local_views).item()
    for _ in range(3):
        loss.enqueue(views()[0], queue_length=2 * BATCH)
    assert loss.queue.shape == (2, 2 * BATCH, SIZE)
    expected = slow_loss(loss, global_views + local_views, loss.queue)
    assert loss(global_views, local_views, queue_length=2 * BATCH).item() == pytest.approx(expected, rel=1e-4)
    assert abs(expected - without) > 1e-3


def test_a_queue_that_is_not_full_takes_no_part():
    loss = SwAVLoss(K, SIZE)
    global_views, _ = views()
    loss.enqueue(views()[0], queue_length=2 * BATCH)
    assert loss(global_views, queue_length=2 * BATCH) == loss(global_views)


def test_the_queue_holds_the_newest_unit_embeddings_first():
    loss = SwAVLoss(K, SIZE)
    batches = [views()[0] for _ in range(3)]
    for batch in batches:
        loss.enqueue(batch, queue_length=2 * BATCH)
    for view in range(2):
        expected = torch.cat([unit(batches[2][view]), unit(batches[1][view])])
        torch.testing.assert_close(loss.queue[view], expected)
    assert not loss.queue.requires_grad


def test_prototypes_are_unit_vectors_without_bias_at_each_step():
    loss = SwAVLoss(K, SIZE)
    weight = loss.prototypes.heads[0].weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(K))
    with torch.no_grad():
        weight.mul_(3)
    loss(views()[0])
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(K))
    assert [name for name, _ in loss.named_parameters()] == ["prototypes.heads.0.weight"]


def test_the_loss_and_its_queue_come_back_from_the_saved_state(tmp_path):
    loss = SwAVLoss(K, SIZE)
    loss.enqueue(views()[0], queue_length=2 * BATCH)
    torch.save(loss.state_dict(), tmp_path / "loss.pth")
    other = SwAVLoss(K, SIZE)
    other.enqueue(views(n=7)[0], queue_length=7)
    other.load_state_dict(torch.load(tmp_path / "loss.pth"))
    assert torch.equal(other.queue, loss.queue)
    global_views, _ = views()
    assert other(global_views, queue_length=BATCH) == loss(global_views, queue_length=BATCH)
    with pytest.raises(RuntimeError, match="queue"):
        SwAVLoss(K, SIZE + 1).load_state_dict(loss.state_dict())


def test_prototypes_in_use_are_counted_by_entropy():
    loss = SwAVLoss(K, K)
    loss.prototypes.heads[0].weight.data.copy_(torch.eye(K))
    loss([torch.eye(K)[:4], torch.eye(K)[:4]])
    assert loss.prototypes_in_use == pytest.approx(4)
    assert loss.assignment_entropy == pytest.approx(math.log(4) / math.log(K))
    loss([torch.eye(K)[:1].expand(4, K)] * 2)
    assert loss.assignment_entropy == 0


def test_an_evaluated_loss_changes_nothing():
    loss = SwAVLoss(K, SIZE).eval()
    loss.prototypes.heads[0].weight.data.mul_(2)
    before = copy.deepcopy(loss.state_dict())
    loss(views()[0])
    assert all(torch.equal(before[k], v) for k, v in loss.state_dict().items())
    assert loss.prototypes_in_use == pytest.approx(K)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prototypes": 1}, "num_prototypes must be an integer of at least 2, got 1"),
        ({"num_prototypes": 2.5}, "num_prototypes"),
        ({"embedding_size": 0}, "embedding_size"),
        ({"temperature": 0}, "temperature"),
        ({"epsilon": 0.001}, r"epsilon must be at least 0\.0125, got 0\.001"),
        ({"sinkhorn_iterations": 0}, "sinkhorn_iterations"),
    ],
)
def test_the_loss_refuses_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        SwAVLoss(**{"num_prototypes": K, "embedding_size": SIZE, **settings})


def test_the_loss_refuses_bad_views():
    loss = SwAVLoss(K, SIZE)
    with pytest.raises(DataError, match="two tensors, got 1"):
        loss(views(num_global=1)[0])
    with pytest.raises(DataError, match="same N >= 2"):
        loss(views(n=1)[0])
    with pytest.raises(DataError, match="same N"):
        loss(views()[0], views(0, 1, n=3)[1])
    with pytest.raises(ConfigError, match="size 4, but metric_loss was made with embedding_size=3"):
        loss([torch.randn(4, 4)] * 2)


def test_without_lightly_the_loss_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "lightly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not is_editable(finder)])
    with pytest.raises(ConfigError, match=r'pip install "pml-slade\[pretraining\]"'):
        SwAVLoss(K, SIZE)


def is_editable(finder):
    return "editable" in str(finder).lower()


# MultiCrop


def test_views_are_two_global_ones_then_the_local_ones():
    crop = MultiCrop(lambda image: ("global", image), lambda image: ("local", image), num_local=3)
    assert crop(7) == [("global", 7)] * 2 + [("local", 7)] * 3
    assert len(MultiCrop(lambda image: image)(7)) == 2


@pytest.mark.parametrize("settings", [{"num_local": 2}, {"local_transform": abs}, {"num_local": -1}])
def test_local_views_need_both_a_number_and_a_transform(settings):
    with pytest.raises(ConfigError, match="num_local"):
        MultiCrop(abs, **settings)


# The trainer


class Trunk(torch.nn.Module):
    """Means of quarters of the image, so any size will do; notes each batch."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 6)
        self.calls = []

    def forward(self, x):
        self.calls.append(tuple(x.shape))
        return self.linear(torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def image_views(num_local=0):
    image = torch.randn(1, 8, 8)
    local = [image[:, :4, :4] + torch.randn(1, 4, 4) / 9 for _ in range(num_local)]
    return [image + torch.randn(1, 8, 8) / 9 for _ in range(2)] + local


@pytest.fixture
def dataset():
    return [(image_views(), -1) for _ in range(16)]


@pytest.fixture
def build(dataset):
    """Make a trainer of tiny parts; any argument can be replaced."""

    def make(**kwargs):
        models = {"trunk": Trunk(), "embedder": Embedder(6, SIZE)}
        loss = SwAVLoss(K, SIZE)
        parts = {**models, "metric_loss": loss}
        settings = {
            "models": models,
            "optimizers": {f"{k}_optimizer": torch.optim.SGD(m.parameters(), 0.1) for k, m in parts.items()},
            "batch_size": BATCH,
            "loss_funcs": {"metric_loss": loss},
            "dataset": dataset,
            "dataloader_num_workers": 0,
            **kwargs,
        }
        return SwAVTrainer(**settings)

    return make


def train(trainer, num_epochs=1, **kwargs):
    with silent_epochs():
        trainer.train(num_epochs=num_epochs, **kwargs)
    return trainer


def weight_of(trainer):
    return trainer.swav_loss.prototypes.heads[0].weight


def test_each_size_of_crop_goes_forward_once(build):
    trainer = build(dataset=[(image_views(num_local=3), 0) for _ in range(8)], iterations_per_epoch=1)
    train(trainer)
    assert trainer.models["trunk"].calls == [(2 * BATCH, 1, 8, 8), (3 * BATCH, 1, 4, 4)]


def test_the_trainer_computes_the_loss_of_all_views(build):
    trainer = build(dataset=[(image_views(num_local=1), 0) for _ in range(BATCH)], iterations_per_epoch=1)
    trainer.initialize_dataloader()
    trainer.epoch, trainer.iteration = 1, 0
    batch = trainer.get_batch()
    trainer.calculate_loss(batch)
    embeddings = [trainer.compute_embeddings(view).detach() for view in batch]
    expected = slow_loss(trainer.swav_loss, embeddings)
    assert trainer.losses["metric_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_prototypes_move_after_the_frozen_iterations_and_the_models_at_once(build):
    weights, models = [], []

    def hook(trainer):
        weights.append(weight_of(trainer).detach().clone())
        models.append(trainer.models["trunk"].linear.weight.detach().clone())

    trainer = build(freeze_prototypes=2, iterations_per_epoch=4, end_of_iteration_hook=hook)
    start = weight_of(trainer).detach().clone()
    train(trainer)
    torch.testing.assert_close(weights[0], start)
    torch.testing.assert_close(weights[1], start)
    assert not torch.allclose(weights[2], start)
    assert not torch.equal(models[0], models[1])


def test_a_resumed_epoch_freezes_no_more(build):
    trainer = build(freeze_prototypes=2, iterations_per_epoch=2)
    start = weight_of(trainer).detach().clone()
    train(trainer, start_epoch=2, num_epochs=2)
    assert not torch.allclose(weight_of(trainer), start)


def test_the_queue_fills_from_its_iteration_on_up_to_its_length(build):
    lengths = []
    trainer = build(
        queue_batches=2,
        queue_from_iteration=1,
        iterations_per_epoch=5,
        end_of_iteration_hook=lambda t: lengths.append(t.swav_loss.queue.shape[1]),
    )
    train(trainer)
    assert lengths == [0, BATCH, 2 * BATCH, 2 * BATCH, 2 * BATCH]


def test_defaults_count_in_passes_over_the_dataset(build):
    trainer = build()
    assert (trainer.queue_from_iteration, trainer.freeze_prototypes) == (60, 4)


@pytest.mark.parametrize(("num_prototypes", "queue_batches"), [(4, 0), (5, 1), (12, 2), (99, 4)])
def test_by_default_batch_and_queue_hold_an_image_for_each_prototype(build, num_prototypes, queue_batches):
    loss = SwAVLoss(num_prototypes, SIZE)
    trainer = build(loss_funcs={"metric_loss": loss}, freeze_these=["metric_loss"])
    assert trainer.queue_batches == queue_batches


def test_items_may_be_dictionaries_and_labels_unknown_to_the_label_mapper(build, dataset):
    trainer = build(
        dataset=[{"data": v, "label": y} for v, y in dataset],
        data_and_label_getter=lambda batch: (batch["data"], batch["label"]),
        dataset_labels=[3, 4, 5],
        set_min_label_to_zero=True,
    )
    assert train(trainer).models["trunk"].calls


def test_an_embedder_is_optional_and_a_frozen_trunk_stays(build):
    trunk = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, SIZE))
    before = copy.deepcopy(trunk.state_dict())
    loss = SwAVLoss(K, SIZE)
    trainer = build(
        models={"trunk": trunk},
        loss_funcs={"metric_loss": loss},
        optimizers={"metric_loss_optimizer": torch.optim.SGD(loss.parameters(), 0.1)},
        freeze_these=["trunk"],
    )
    train(trainer)
    assert all(torch.equal(before[k], v) for k, v in trunk.state_dict().items())


def test_pml_records_how_many_prototypes_are_in_use(build, tmp_path):
    keeper = RecordKeeper(
        record_writer=RecordWriter(str(tmp_path)),
        attributes_to_search_for=c_f.list_of_recordable_attributes_list_names(),
    )
    trainer = train(build(iterations_per_epoch=1))
    keeper.update_records(trainer.loss_funcs, 0, recursive_types=[torch.nn.Module, dict])
    record = keeper.get_record("metric_loss_SwAVLoss")
    assert set(record) == {"assignment_entropy", "prototypes_in_use"}


def test_a_resumed_run_ends_with_the_same_weights(build, tmp_path):
    settings = {"queue_batches": 2, "queue_from_iteration": 0, "freeze_prototypes": 1}
    whole = build(**settings)
    half = copy.deepcopy(whole)

    def run(trainer, first, last):
        for epoch in range(first, last + 1):
            torch.manual_seed(epoch)
            train(trainer, start_epoch=epoch, num_epochs=epoch)

    run(whole, 1, 2)
    run(half, 1, 1)
    resumed = build(**settings)
    Checkpoints(tmp_path).save(half.state_dict(), step=1)
    resumed.load_state_dict(Checkpoints(tmp_path).load_latest()[1])
    run(resumed, 2, 2)
    assert resumed._entropies == whole._entropies
    assert resumed.metrics() == whole.metrics()
    assert torch.equal(resumed.swav_loss.queue, whole.swav_loss.queue)
    assert torch.equal(weight_of(resumed), weight_of(whole))
    assert torch.equal(resumed.models["trunk"].linear.weight, whole.models["trunk"].linear.weight)


def test_collapse_is_told_once(build, caplog):
    trainer = build(dataset=[([torch.ones(1, 8, 8)] * 2, 0)] * 8, iterations_per_epoch=120)
    with caplog.at_level(logging.WARNING, "pml_slade"):
        train(trainer)
    assert caplog.text.count("SwAV has collapsed") == 1


def test_a_resumed_run_does_not_tell_of_a_collapse_again(build, caplog):
    flat = {"dataset": [([torch.ones(1, 8, 8)] * 2, 0)] * 8, "iterations_per_epoch": 120}
    told, resumed = train(build(**flat)), build(**flat)
    assert "collapsed" in caplog.text
    caplog.clear()
    resumed.load_state_dict(told.state_dict())
    with caplog.at_level(logging.WARNING, "pml_slade"):
        train(resumed)
    assert "collapsed" not in caplog.text


def test_metrics_are_the_prototypes_in_use(build):
    trainer = train(build())
    assert trainer.metrics() == {"prototypes_in_use": trainer.swav_loss.prototypes_in_use}


def test_a_loss_that_is_not_finite_stops_training_in_that_step(build):
    trainer = build(iterations_per_epoch=4)
    seen = []

    def spoil(t):
        seen.append(weight_of(t).detach().clone())
        if t.iteration == 1:
            t.models["trunk"].register_forward_hook(lambda *_: torch.full((2 * BATCH, 6), math.nan))

    trainer.end_of_iteration_hook = spoil
    with pytest.raises(DivergedError, match="the loss became nan in step 3 "):
        train(trainer)
    assert torch.isfinite(weight_of(trainer)).all()


PLAIN = {"metric_loss": torch.nn.Identity()}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 1}, ConfigError, "batch_size must be an integer of at least 2, got 1"),
        ({"batch_size": 17}, DataError, "dataset has 16 items, fewer than one batch of 17"),
        ({"dataset": iter([])}, DataError, "dataset must be a map-style dataset"),
        ({"loss_funcs": {}}, ConfigError, "loss_funcs must be"),
        ({"loss_funcs": PLAIN}, ConfigError, "'metric_loss': 'Identity'"),
        ({"mining_funcs": {"tuple_miner": PLAIN}}, ConfigError, "no pairs to mine"),
        ({"optimizers": {}}, ConfigError, "metric_loss_optimizer"),
        ({"queue_batches": -1}, ConfigError, "queue_batches"),
        ({"queue_from_iteration": 0.5}, ConfigError, "queue_from_iteration"),
        ({"freeze_prototypes": -1}, ConfigError, "freeze_prototypes"),
        (
            {"models": {"trunk": Trunk(), "embedder": Embedder(6, 9)}},
            ConfigError,
            "embedder puts out 9 values, but metric_loss was made with embedding_size=3",
        ),
    ],
)
def test_the_trainer_refuses_what_does_not_fit(build, settings, error, message):
    with pytest.raises(error, match=message):
        build(**settings)


IMAGE = torch.zeros(1, 8, 8)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((IMAGE, 0), "views a list of tensors"),
        ([IMAGE, IMAGE], "views a list of tensors"),
        ((["a", "b"], 0), "views a list of tensors"),
        (([IMAGE], 0), "got 1; give 2 or more"),
        (([IMAGE, IMAGE[:, :4]], 0), "must have one size"),
    ],
)
def test_items_that_are_no_views_are_told_before_the_first_step(build, item, message):
    trainer = build(dataset=[item] * 8)
    before = copy.deepcopy(trainer.models["trunk"].state_dict())
    with pytest.raises(DataError, match=message):
        train(trainer)
    assert all(torch.equal(before[k], v) for k, v in trainer.models["trunk"].state_dict().items())


def test_an_embedder_of_unknown_size_is_told_before_the_first_step(build):
    with pytest.raises(ConfigError, match="embeddings have size 9"):
        train(build(models={"trunk": Trunk(), "embedder": torch.nn.Linear(6, 9)}))


def test_the_examples_of_the_docstrings_run_with_lightly():
    for thing in (SwAVLoss, SwAVTrainer):
        source = thing.__doc__.replace("# doctest: +SKIP", "")
        names = {"MultiCrop": MultiCrop, "SwAVLoss": SwAVLoss, "SwAVTrainer": SwAVTrainer, "torch": torch}
        test = doctest.DocTestParser().get_doctest(source, names, thing.__name__, None, 0)
        with silent_epochs():
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert result.attempted > 2
        assert result.failed == 0


@pytest.mark.once
@pytest.mark.usefixtures("few_letters")
def test_letters_are_learned_without_collapse(caplog):
    pool = glyphs_splits().unlabeled.without_labels()
    chosen = np.random.default_rng(0).permutation(len(pool))[:512]
    large, small = (transforms("small", size, "L", train=True) for size in (28, 16))
    models = {"trunk": ConvNet(width=8), "embedder": Embedder(128, 16)}
    loss, history = SwAVLoss(num_prototypes=16, embedding_size=16), []
    trainer = SwAVTrainer(
        models,
        {
            f"{k}_optimizer": torch.optim.Adam(m.parameters(), 1e-3)
            for k, m in {**models, "metric_loss": loss}.items()
        },
        32,
        {"metric_loss": loss},
        pool.subset(chosen).with_transform(MultiCrop(large, small, num_local=1)),
        iterations_per_epoch=60,
        dataloader_num_workers=0,
        end_of_iteration_hook=lambda t: history.append(float(t.losses["metric_loss"])),
    )
    train(trainer)
    assert np.mean(history[-10:]) < 0.9 * np.mean(history[:10])
    assert np.mean(history[-10:]) < 0.9 * math.log(16)
    assert loss.assignment_entropy > 0.5
    assert "collapsed" not in caplog.text
