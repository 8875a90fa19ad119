"""The pool is read by the rules for the labeled images: their collate_fn, dtype and data_and_label_getter."""

import logging

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.trainers import MetricLossOnly
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, default_collate

from pml_slade import FeatureBasisLoss, PseudoLabelDataset, SelfTrainingTrainer
from pml_slade.averages import ModelAverage
from pml_slade.compat import LEGACY
from pml_slade.datasets import batch_transforms
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.losses import ClusterBasisLoss

SIZE = 3


class Trunk(torch.nn.Module):
    """Linear in the mean over whatever length comes; notes the types and shapes of what it sees."""

    def __init__(self, channels=4):
        super().__init__()
        self.linear, self.seen = torch.nn.Linear(channels, SIZE), []

    def forward(self, x):
        self.seen.append((x.dtype, tuple(x.shape), self.training))
        return self.linear(x.flatten(2).mean(2) if x.ndim > 2 else x)


def build(dataset, pool, trunk=None, basis=True, clusters=None, **kwargs):
    """A trainer of two labeled classes with little around it."""
    models = {"trunk": trunk or Trunk()}
    loss_funcs = {"metric_loss": ContrastiveLoss()}
    if basis:
        loss_funcs["basis_loss"] = FeatureBasisLoss(num_classes=2, embedding_size=SIZE)
    if clusters:
        loss_funcs["unlabeled_metric_loss"] = ClusterBasisLoss(loss_funcs["basis_loss"], clusters)
    parts = {**models, **loss_funcs}
    optimizers = {
        f"{name}_optimizer": torch.optim.SGD(part.parameters(), lr=0.01)
        for name, part in parts.items()
        if list(part.parameters())
    }
    settings = {"num_clusters": 3, "dataloader_num_workers": 0, "cluster_kwargs": {"progress": False}}
    return SelfTrainingTrainer(
        models, optimizers, 8, loss_funcs, dataset=dataset, unlabeled_dataset=pool, **(settings | kwargs)
    )


def steps_of(trainer, epochs=1):
    """Train; return the batches and how many steps there were."""
    batches, get_batch = [], trainer.get_batch
    trainer.get_batch = lambda: batches.append(get_batch()) or batches[-1]
    trainer.train(num_epochs=epochs)
    assert batches
    return batches


FORMS = {
    "data alone": lambda pool: list(pool),
    "pairs": lambda pool: [(x, 777) for x in pool],
    "pseudo-labeled": lambda pool: PseudoLabelDataset(pool, [i % 3 for i in range(len(pool))], 2),
}


# collate_fn


def pad(items):
    """Sequences (length, channels) of a batch, padded to the longest: (n, channels, length)."""
    data = pad_sequence([x for x, _ in items], batch_first=True)
    return data.transpose(1, 2), torch.tensor([label for _, label in items])


@pytest.fixture
def sequences(images):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 6, (len(images),), generator=generator).tolist()
    return [(x.repeat(n, 1), label) for n, (x, label) in zip(lengths, images)]


@pytest.fixture
def pool_of_sequences(pool):
    return [x.repeat(1 + i % 7, 1) for i, x in enumerate(pool)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("clusters", [None, 3], ids=["pairs", "vectors of clusters"])
def test_items_of_unequal_length_are_padded_by_the_collate_fn(sequences, pool_of_sequences, form, clusters):
    trainer = build(sequences, FORMS[form](pool_of_sequences), collate_fn=pad, clusters=clusters)
    for (data, _), (pool_data, labels) in steps_of(trainer, epochs=2):
        assert data.shape[:2] == pool_data.shape[:2] == (8, 4)
        assert labels.min() >= 2
    assert any(not training for _, _, training in trainer.models["trunk"].seen) == (
        form != "pseudo-labeled" or clusters is not None
    )


def test_the_pool_s_own_collate_fn_goes_first(images, pool_of_sequences):
    def pad_to_one(items):
        data, labels = pad(items)
        return data[:, :, 0], labels

    trainer = build(images, pool_of_sequences, unlabeled_collate_fn=pad_to_one)
    assert all(pool_data.shape == (8, 4) for _, (pool_data, _) in steps_of(trainer))
    assert trainer.models["trunk"].seen[0] == (torch.float32, (36, 4), False)


def test_where_batches_are_padded_to_lengths_of_their_own_the_halves_go_one_after_the_other(
    sequences, pool_of_sequences
):
    trainer = build(sequences, pool_of_sequences, collate_fn=pad)
    (data, _), (pool_data, _) = steps_of(trainer)[-1]
    trainer.losses = dict.fromkeys(trainer.losses, 0)
    short = pool_data[:, :, :1]
    joint = trainer._joint_embeddings(data, short)
    assert torch.equal(joint, torch.cat([trainer.models["trunk"](data), trainer.models["trunk"](short)]))


def test_an_augmenting_collate_fn_embeds_by_its_plain_form(images, pool):
    calls = []

    class Augmenting:
        plain = staticmethod(default_collate)

        def __call__(self, items):
            calls.append(len(items))
            data, labels = default_collate(items)
            return data + 100, labels

    trainer = build(images, pool, collate_fn=Augmenting())
    embedded, embed = [], trainer.models["trunk"].forward
    trainer.models["trunk"].forward = lambda x: embedded.append(x) or embed(x)
    trainer.label_pool()
    assert calls == []
    assert torch.equal(embedded[0], torch.stack(pool))
    steps_of(trainer)
    assert set(calls) == {8}


def test_what_makes_batches_of_drawings_embeds_them_as_they_are():
    for views in (1, 2):
        collate = batch_transforms("small", 28, "L", "strong", views)[1]
        drawings = [(torch.rand(1, 28, 28), i) for i in range(3)]
        data, labels = collate.plain(drawings)
        assert torch.equal(data, torch.stack([x for x, _ in drawings]))
        assert labels.tolist() == [0, 1, 2]


def test_the_clustering_dataset_may_have_a_collate_fn_of_its_own(images, pool, pool_of_sequences):
    trainer = build(
        images, pool, clustering_dataset=pool_of_sequences, clustering_collate_fn=pad, unlabeled_batch_size=4
    )
    steps_of(trainer)
    assert trainer.models["trunk"].seen[0] == (torch.float32, (36, 4, 7), False)


def test_the_clustering_dataset_is_padded_by_the_pool_s_collate_fn_unless_it_has_its_own(
    sequences, pool_of_sequences
):
    trainer = build(sequences, pool_of_sequences, clustering_dataset=pool_of_sequences, collate_fn=pad)
    steps_of(trainer)
    assert trainer.models["trunk"].seen[0] == (torch.float32, (36, 4, 7), False)


def test_a_collate_fn_of_two_views_does_not_embed_unless_it_says_how(images, pool):
    def two(items):
        data, labels = default_collate(items * 2)
        return data, labels

    with pytest.raises(DataError, match="a batch of 36 items gave 72 embeddings: the model, and collate_fn"):
        build(images, pool, unlabeled_collate_fn=two).train(num_epochs=1)
    trainer = build(images, pool, unlabeled_collate_fn=two, clustering_collate_fn=default_collate)
    assert all(len(data) == len(labels) == 16 for _, (data, labels) in steps_of(trainer))


def test_a_clustering_dataset_of_another_length_is_refused_at_once(images, pool):
    with pytest.raises(DataError, match="clustering_dataset has 35 items and unlabeled_dataset 36"):
        build(images, pool, clustering_dataset=pool[:-1])


# dtype


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", [torch.uint8, torch.float64, torch.float16], ids=str)
def test_data_of_another_type_are_cast_to_the_trainer_s_dtype(images, pool, form, given):
    def cast(x):
        return (x.abs() * 10).to(given)

    trainer = build(
        [(cast(x), label) for x, label in images],
        FORMS[form]([cast(x) for x in pool]),
        clusters=3,
        dtype=torch.float32,
    )
    steps_of(trainer)
    assert {dtype for dtype, _, _ in trainer.models["trunk"].seen} == {torch.float32}
    assert {training for _, _, training in trainer.models["trunk"].seen} == {True, False}


# data_and_label_getter


def channels_first(batch):
    """Batches (n, height, width, channels) to (n, channels, height, width): it takes whole batches only."""
    data, labels = batch
    return data.permute(0, 3, 1, 2) / 10, labels


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("clusters", [None, 3], ids=["pairs", "vectors of clusters"])
def test_a_getter_meets_batches_of_the_pool(images, pool, form, clusters):
    labeled = [(x.expand(5, 6, 4), label) for x, label in images]
    trainer = build(
        labeled,
        FORMS[form]([x.expand(5, 6, 4) for x in pool]),
        data_and_label_getter=channels_first,
        clusters=clusters,
    )
    for _, (data, labels) in steps_of(trainer):
        assert data.shape == (8, 4, 5, 6)
        assert data.abs().max() < 1
        assert labels.min() >= 2
    shapes = {shape[1:] for _, shape, _ in trainer.models["trunk"].seen}
    assert shapes == {(4, 5, 6)}


GETTERS = {
    "dictionaries": (
        lambda x, y: {"image": x, "target": y},
        lambda batch: (batch["image"], batch["target"]),
    ),
    "dictionaries, whose labels the getter can do without": (
        lambda x, y: {"image": x, "target": y} if y < 777 else {"image": x},
        lambda batch: (batch["image"], batch.get("target")),
    ),
    "triples": (lambda x, y: (x, f"{y}.png", y), lambda batch: (batch[0], batch[2])),
    "pairs the other way round": (lambda x, y: (y, x), lambda batch: (batch[1], batch[0])),
}


@pytest.mark.parametrize("kind", GETTERS)
@pytest.mark.parametrize("labeled_before", [False, True])
def test_a_getter_serves_any_items_and_the_pool_s_own_labels_never_come_out(
    images, pool, kind, labeled_before
):
    item, getter = GETTERS[kind]
    unlabeled = [item(x, 777) for x in pool]
    given = PseudoLabelDataset(unlabeled, [-1, *(i % 3 for i in range(1, 36))], 2)
    trainer = build(
        [item(*image) for image in images],
        given if labeled_before else unlabeled,
        data_and_label_getter=getter,
        unlabeled_images_per_class=None,
    )
    for _, (data, labels) in steps_of(trainer):
        for x, label in zip(data, labels):
            (index,) = [i for i, other in enumerate(pool) if torch.equal(other, x)]
            assert label == trainer.pool.pseudo_labels[index] + 2


def test_a_getter_that_cannot_read_the_pool_is_told_what_to_do(images, pool):
    trainer = build(
        [{"image": x, "target": y} for x, y in images],
        [{"image": x} for x in pool],
        data_and_label_getter=lambda batch: (batch["image"], batch["target"]),
    )
    with pytest.raises(DataError, match=r"cannot read a batch of unlabeled_dataset \(KeyError.*batch.get"):
        trainer.train(num_epochs=1)


def test_pairs_of_a_pseudo_labeled_pool_that_the_getter_cannot_read_are_taken_with_a_warning(images, pool):
    settings = {
        "dataset": [{"image": x, "target": y} for x, y in images],
        "data_and_label_getter": lambda batch: (batch["image"], batch["target"]),
        "clusters": 3,
        "unlabeled_images_per_class": None,
    }
    for unlabeled in (pool, [(x, 777) for x in pool]):
        trainer = build(pool=PseudoLabelDataset(unlabeled, [i % 3 for i in range(36)], 2), **settings)
        with pytest.warns(UserWarning, match=r"cannot read batches .* of the PseudoLabelDataset \(TypeError"):
            batches = steps_of(trainer)
        for _, (data, labels) in batches:
            for x, label in zip(data, labels):
                (index,) = [i for i, other in enumerate(pool) if torch.equal(other, x)]
                assert label == index % 3 + 2


def test_with_a_getter_a_collate_fn_that_loses_items_is_refused(images, pool):
    def drop(items):
        return default_collate(items[:-1])

    trainer = build(
        images,
        PseudoLabelDataset(pool, [i % 3 for i in range(36)], 2),
        collate_fn=drop,
        data_and_label_getter=lambda batch: (batch[0], batch[1]),
    )
    with pytest.raises(DataError, match="8 items of unlabeled_dataset became a batch of 7"):
        trainer.train(num_epochs=1)


def test_a_collate_fn_that_gives_no_pairs_is_refused_without_a_getter(images, pool):
    trainer = build(
        images,
        PseudoLabelDataset(pool, [i % 3 for i in range(36)], 2),
        unlabeled_collate_fn=lambda items: torch.stack([x for x, _ in items]),
    )
    with pytest.raises(DataError, match=r"collate_fn must make \(data, labels\) of .*got Tensor"):
        trainer.train(num_epochs=1)


def test_loader_processes_read_the_pool_by_the_same_rules(sequences, pool_of_sequences):
    trainer = build(
        sequences,
        pool_of_sequences,
        collate_fn=pad,
        data_and_label_getter=lambda batch: (batch[0] / 10, batch[1]),
        dataloader_num_workers=2,
    )
    steps_of(trainer)
    trainer.dataloader_iter = trainer.unlabeled_dataloader_iter = None


# Labels of the labeled images


def as_array(batch):
    """Names as PML itself takes them."""
    return batch[0], np.array(batch[1])


@pytest.mark.parametrize("getter", [None, as_array])
@pytest.mark.parametrize("basis", [True, False])
def test_class_names_give_k_and_the_offset_by_the_number_of_classes(images, pool, basis, getter):
    named = [(x, ["oak", "birch"][label]) for x, label in images]
    trainer = build(
        named,
        pool,
        basis=basis,
        num_clusters=None,
        dataset_labels=[label for _, label in named],
        set_min_label_to_zero=True,
        data_and_label_getter=getter,
    )
    assert (trainer.labeler.num_clusters, trainer.labeler.label_offset) == (3, 2)
    for (_, labels), (_, pool_labels) in steps_of(trainer):
        assert set(labels.tolist()) <= {0, 1}
        assert set(pool_labels.tolist()) <= {2, 3, 4}


@pytest.mark.parametrize("level", [0, 1])
def test_of_labels_with_levels_those_of_the_level_in_use_give_k_and_the_offset(images, pool, level):
    levels = np.array([[label, i % 4] for i, (_, label) in enumerate(images)])
    trainer = build(
        [(x, torch.tensor(row)) for (x, _), row in zip(images, levels)],
        pool,
        basis=False,
        num_clusters=None,
        dataset_labels=levels,
        label_hierarchy_level=level,
    )
    classes = (2, 4)[level]
    assert trainer.labeler.label_offset == classes
    assert trainer.labeler.num_clusters == 36 / (24 / classes)


# What is no pool


class Stream(torch.utils.data.IterableDataset):
    """Iterable, with a length."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


def test_an_iterable_pool_is_refused_at_once_even_with_a_length(images, pool):
    with pytest.raises(DataError, match=r"unlabeled_dataset must be a map-style dataset.* got Stream"):
        build(images, Stream(pool))
    with pytest.raises(DataError, match=r"clustering_dataset must be a map-style dataset.* got Stream"):
        build(images, pool, clustering_dataset=Stream(pool))


# cluster_kwargs


@pytest.mark.parametrize("name", ["num_workers", "workers", "k"])
def test_unknown_settings_of_clustering_are_answered_by_the_names_of_those_that_there_are(images, pool, name):
    with pytest.raises(
        ConfigError, match=f"cluster_kwargs: .* {name}; it has method, .*batch_size, progress"
    ):
        build(images, pool, cluster_kwargs={name: 0})


def test_settings_of_embedding_may_stand_among_those_of_clustering(images, pool, capfd):
    trainer = build(images, pool, cluster_kwargs={"batch_size": 20, "progress": True, "method": "ward"})
    steps_of(trainer)
    assert [shape for _, shape, training in trainer.models["trunk"].seen if not training] == [
        (20, 4),
        (16, 4),
    ]
    assert "embedding" in capfd.readouterr().err
    assert trainer.pool.clusters.merged == 36


# Models that another trainer used before


def test_models_that_a_pml_trainer_used_before_are_averaged_and_trained(images, pool):
    models = {"trunk": Trunk()}
    optimizers = {"trunk_optimizer": torch.optim.SGD(models["trunk"].parameters(), lr=0.01)}
    MetricLossOnly(
        models, optimizers, 8, {"metric_loss": ContrastiveLoss()}, dataset=images, mining_funcs={},
        dataloader_num_workers=0,
    ).train(num_epochs=1)  # fmt: skip
    assert "embedder" in models  # PML puts an Identity there
    average = ModelAverage(models, 0.5)
    trainer = SelfTrainingTrainer(
        models, optimizers, 8, {"metric_loss": ContrastiveLoss()}, images, pool, 3, average.models,
        relabel_every=1, end_of_iteration_hook=average, dataloader_num_workers=0,
    )  # fmt: skip
    before = models["trunk"].linear.weight.detach().clone()
    steps_of(trainer, epochs=2)
    averaged = average.models["trunk"].linear.weight
    assert not torch.equal(averaged, before)
    assert not torch.equal(averaged, models["trunk"].linear.weight)


# Samplers


@pytest.fixture
def pool_with_outliers(pool):
    """Two images, at 5 and 17, that no other is like."""
    pool = list(pool)
    pool[5], pool[17] = torch.tensor([0, 0, 0, -9.0]), torch.tensor([0, -9.0, 0, 0])
    return pool


def shrinking(images, pool, sampler, **kwargs):
    return build(
        images,
        pool,
        teacher=torch.nn.Identity(),
        num_clusters=5,
        cluster_kwargs={"min_cluster_size": 2, "method": "ward", "progress": False},
        unlabeled_sampler=sampler,
        iterations_per_epoch=4,
        **kwargs,
    )


def test_a_sampler_of_a_raw_pool_means_its_images_when_clustering_leaves_some_out(images, pool_with_outliers):
    drawn = [35, 17, 6, 5, 18, 0, 4, 16, 30, 31]
    trainer = shrinking(images, pool_with_outliers, drawn)
    for _, (data, _) in steps_of(trainer):
        expected = [pool_with_outliers[i] for i in drawn if i not in (5, 17)]
        assert torch.equal(data, torch.stack(expected))
    assert trainer.pool.num_left_out == 2


@pytest.mark.skipif(LEGACY, reason="PML 0.9.92 takes no batch samplers")
def test_a_batch_sampler_of_a_raw_pool_does_so_too(images, pool_with_outliers):
    batches = BatchSampler(range(36), batch_size=6, drop_last=True)
    trainer = shrinking(images, pool_with_outliers, batches)
    sizes = [len(data) for _, (data, _) in steps_of(trainer)]
    assert sizes == [5, 6, 5, 6]


def test_a_sampler_of_a_pseudo_labeled_pool_means_what_that_has_kept(images, pool):
    given = PseudoLabelDataset(pool, [-1, -1, *(i % 3 for i in range(34))], 2)
    trainer = build(images, given, unlabeled_sampler=list(range(8)))
    for _, (data, _) in steps_of(trainer):
        assert torch.equal(data, torch.stack(pool[2:10]))


def test_a_sampler_means_the_same_images_after_a_resume(images, pool, pool_with_outliers):
    given = PseudoLabelDataset(pool, [-1, -1, *(i % 3 for i in range(34))], 2)
    drawn = [35, 17, 6, 5, 18, 0, 4, 16, 30, 31]
    for make in (
        lambda: build(images, given, unlabeled_sampler=list(range(8))),
        lambda: shrinking(images, pool_with_outliers, drawn),
    ):
        trainer, resumed = make(), make()
        (_, (expected, _)), *_ = steps_of(trainer)
        resumed.load_state_dict(trainer.state_dict())
        for _, (data, _) in steps_of(resumed):
            assert torch.equal(data, expected)


def test_a_sampler_that_gives_no_batch_is_refused(images, pool, caplog):
    with pytest.raises(DataError, match="unlabeled_dataset: unlabeled_sampler gives no batch of 8"):
        build(images, pool, unlabeled_sampler=list(range(7))).train(num_epochs=1)


# Nothing trained


@pytest.mark.parametrize("iterations", [None, 5])
def test_a_labeled_set_smaller_than_a_batch_is_refused_before_the_pool_is_labeled(images, pool, iterations):
    labeled = []
    trainer = build(
        images[:6], pool, iterations_per_epoch=iterations, end_of_labeling_hook=lambda _: labeled.append(1)
    )
    with pytest.raises(DataError, match="dataset has 6 samples, fewer than one batch of 8"):
        trainer.train(num_epochs=5)
    assert labeled == []


@pytest.mark.parametrize("iterations", [None, 5])
def test_a_sampler_of_fewer_images_than_a_batch_is_refused(images, pool, iterations):
    trainer = build(images, pool, sampler=list(range(7)), iterations_per_epoch=iterations)
    with pytest.raises(DataError, match="dataset: sampler gives no batch of 8"):
        trainer.train(num_epochs=1)


def test_a_small_labeled_set_trains_where_a_sampler_repeats_its_images(images, pool, caplog):
    with caplog.at_level(logging.ERROR):
        steps_of(build(images[:6], pool, sampler=[0, 1, 2, 3, 4, 5] * 4))
