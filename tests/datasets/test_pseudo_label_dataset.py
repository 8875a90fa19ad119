"""PseudoLabelDataset: what comes out, what does not, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import DataLoader, TensorDataset

from pml_slade import PseudoLabelDataset
from pml_slade.clustering import Clustering, embed
from pml_slade.exceptions import ConfigError, DataError

TRUE_LABEL = 777


class MapStyle:
    """The least that is map-style: a length and items; its labels must never come out."""

    def __init__(self, n=6):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        return torch.full((2,), float(index)), TRUE_LABEL


def blobs(k=3, per_class=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.eye(k, 4)
    return [centres[i % k] + 0.1 * torch.randn(4, generator=generator) for i in range(k * per_class)]


LABELS = [2, 0, 1, 1, 0, 2]


def test_items_are_the_data_and_the_offset_pseudo_label():
    pool = PseudoLabelDataset(MapStyle(), LABELS, label_offset=10)
    assert len(pool) == 6
    for i in range(6):
        data, label = pool[i]
        assert data.tolist() == [i, i]
        assert label == LABELS[i] + 10
        assert type(label) is int
    assert pool.labels.dtype == np.int64
    assert pool.labels.tolist() == [label + 10 for label in LABELS]


@pytest.mark.parametrize(
    "dataset",
    [
        MapStyle(),
        [(torch.zeros(2), TRUE_LABEL)] * 6,
        [[torch.zeros(2), TRUE_LABEL, "name"]] * 6,
        TensorDataset(torch.zeros(6, 2), torch.full((6,), TRUE_LABEL)),
        [torch.zeros(2)] * 6,
        torch.zeros(6, 2),
        np.zeros((6, 2), np.float32),
    ],
    ids=["class", "tuples", "lists", "TensorDataset", "data alone", "tensor", "array"],
)
def test_any_map_style_dataset_will_do_and_its_own_labels_never_come_out(dataset):
    pool = PseudoLabelDataset(dataset, LABELS)
    for i in range(len(pool)):
        data, label = pool[i]
        assert np.asarray(data).shape == (2,)
        assert label == LABELS[i]
    assert TRUE_LABEL not in pool.labels


def test_a_data_getter_picks_the_data_of_other_items():
    items = [{"image": i, "label": TRUE_LABEL} for i in range(6)]
    pool = PseudoLabelDataset(items, LABELS, data_getter=lambda item: item["image"])
    assert [pool[i] for i in range(6)] == list(zip(range(6), LABELS))


@pytest.mark.parametrize(
    "as_type",
    [list, tuple, np.array, torch.tensor, lambda x: np.array(x, np.int32), lambda x: np.array(x, np.uint8)],
)
def test_pseudo_labels_may_be_any_sequence_of_integers(as_type):
    assert PseudoLabelDataset(MapStyle(), as_type(LABELS)).labels.tolist() == LABELS


def test_the_given_labels_are_copied():
    given = np.array(LABELS)
    pool = PseudoLabelDataset(MapStyle(), given)
    given[:] = 5
    assert pool.labels.tolist() == LABELS


def test_samples_left_out_are_unreachable_counted_and_explained():
    pool = PseudoLabelDataset(MapStyle(), [0, -1, 1, -1, 1, 0], label_offset=3, reason="too blurred")
    assert len(pool) == 4
    assert pool.num_left_out == 2
    assert pool.labels.tolist() == [3, 4, 4, 3]
    assert [int(pool[i][0][0]) for i in range(4)] == [0, 2, 4, 5]
    assert "2 left out" in repr(pool)
    assert "too blurred" in repr(pool)


def test_nothing_left_out_is_not_mentioned():
    pool = PseudoLabelDataset(MapStyle(), LABELS)
    assert pool.num_left_out == 0
    assert "left out" not in repr(pool)
    assert "6 samples in 3 pseudo-classes" in repr(pool)


@pytest.mark.parametrize("index", [6, 100, -7])
def test_an_index_out_of_range_is_an_index_error(index):
    with pytest.raises(IndexError, match="out of range"):
        PseudoLabelDataset(MapStyle(), LABELS)[index]


def test_it_can_be_iterated_and_indexed_from_the_end():
    pool = PseudoLabelDataset(MapStyle(), [0, -1, 1, 1, -1, 5])
    assert [label for _, label in pool] == [0, 1, 1, 5]
    assert pool[-1][1] == 5
    assert int(pool[-4][0][0]) == 0


@pytest.mark.parametrize("index", [np.int64(2), torch.tensor(2)], ids=["numpy", "torch"])
def test_samplers_may_give_their_own_integers(index):
    assert PseudoLabelDataset(MapStyle(), LABELS)[index][1] == LABELS[2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_gives_batches_in_order(num_workers):
    pool = PseudoLabelDataset(MapStyle(10), [0, 1, -1, 3, 4, 5, 6, -1, 8, 9], label_offset=2)
    batches = list(DataLoader(pool, batch_size=3, num_workers=num_workers))
    data = torch.cat([b[0] for b in batches])[:, 0].tolist()
    labels = torch.cat([b[1] for b in batches])
    assert labels.dtype == torch.int64
    assert data == [0, 1, 3, 4, 5, 6, 8, 9]
    assert labels.tolist() == [2, 3, 5, 6, 7, 8, 10, 11]


def test_labels_feed_pml_s_m_per_class_sampler():
    pool = PseudoLabelDataset(MapStyle(12), [0, 1, 2, -1] * 3, label_offset=5)
    sampler = MPerClassSampler(pool.labels, m=2, batch_size=4, length_before_new_iter=20)
    loader = DataLoader(pool, batch_size=4, sampler=sampler)
    assert len(loader) == 5
    for data, labels in loader:
        assert (labels.unique(return_counts=True)[1] == 2).all()
        assert labels.min() >= 5
        assert ((data[:, 0].long() % 4) + 5 == labels).all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_a_duplicate_holds_the_same(duplicate):
    pool = PseudoLabelDataset(MapStyle(), [0, -1, 1, 1, 2, 2], label_offset=4)
    twin = duplicate(pool)
    assert twin.labels.tolist() == pool.labels.tolist()
    assert [label for _, label in twin] == [label for _, label in pool]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "one integer per sample.*6 samples"),
        ([0] * 7, "one integer per sample"),
        ([[0]] * 6, "one integer per sample"),
        (3, "one integer per sample"),
        ([0.0] * 6, "must be integers, got float64"),
        (torch.zeros(6), "must be integers, got float32"),
        ([True] * 6, "must be integers, got bool"),
        (["a"] * 6, "must be integers"),
        ([None] * 6, "must be integers"),
        ([-1] * 6, "leave no sample"),
        ([0, 1, -2, 0, 0, 0], "must be >= -1.*got -2"),
        (np.array([0, 1, 2, 0, 0, 2**63], np.uint64), "must fit into int64.*got 9223372036854775808"),
    ],
)
def test_labels_of_the_wrong_length_type_or_range_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        PseudoLabelDataset(MapStyle(), labels)


def test_an_empty_dataset_is_refused():
    with pytest.raises(DataError, match="leave no sample"):
        PseudoLabelDataset([], np.array([], dtype=int))


@pytest.mark.parametrize("offset", [-1, 2.0, "3", None])
def test_a_bad_offset_is_refused(offset):
    with pytest.raises(DataError, match="label_offset must be an integer >= 0"):
        PseudoLabelDataset(MapStyle(), LABELS, label_offset=offset)


def test_labels_that_no_longer_fit_with_their_offset_are_refused():
    largest = np.iinfo(np.int64).max
    assert PseudoLabelDataset(MapStyle(), [largest] * 6).labels.max() == largest
    with pytest.raises(DataError, match="must fit into int64 with label_offset=1"):
        PseudoLabelDataset(MapStyle(), [largest] * 6, label_offset=1)


class Stream(torch.utils.data.IterableDataset):
    """Iterable, with a length."""

    def __len__(self):
        return 6

    def __iter__(self):
        return iter([torch.zeros(2)] * 6)


def test_an_iterable_data_set_is_refused_even_with_a_length():
    with pytest.raises(DataError, match=r"dataset must be a map-style dataset.* got Stream"):
        PseudoLabelDataset(Stream(), LABELS)
    with pytest.raises(DataError, match=r"embed_dataset must be a map-style dataset.* got Stream"):
        PseudoLabelDataset.from_teacher(MapStyle(), torch.nn.Identity(), 2, embed_dataset=Stream())


# From a teacher


def test_from_teacher_gives_each_cluster_a_label():
    pool = PseudoLabelDataset.from_teacher(
        blobs(), torch.nn.Identity(), num_clusters=3, label_offset=7, progress=False
    )
    assert len(pool) == 24
    assert sorted(set(pool.labels.tolist())) == [7, 8, 9]
    for k in range(3):
        assert len(set(pool.labels[k::3].tolist())) == 1
    assert pool.clusters.requested == 3


def test_from_teacher_clusters_what_the_teacher_sees_not_the_raw_data():
    class Parity(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(x[:, 0].long() % 2, 2).float()

    pool = PseudoLabelDataset.from_teacher(MapStyle(8), Parity(), 2, progress=False)
    assert len(set(pool.labels[::2].tolist())) == 1
    assert len(set(pool.labels[1::2].tolist())) == 1
    assert pool.labels[0] != pool.labels[1]


def test_from_teacher_repeats_itself_with_the_same_seed():
    images = list(torch.randn(60, 4))
    first, second = (
        PseudoLabelDataset.from_teacher(images, torch.nn.Identity(), 7, seed=3, progress=False) for _ in "ab"
    )
    assert first.labels.tolist() == second.labels.tolist()


def test_from_teacher_restores_the_modes_of_the_teacher_and_trains_nothing():
    teacher = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.9))
    teacher.train()
    teacher[1].eval()
    before = copy.deepcopy(teacher.state_dict())
    PseudoLabelDataset.from_teacher(blobs(), teacher, 3, progress=False)
    assert [m.training for m in teacher.modules()] == [True, True, False, True]
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_from_teacher_embeds_the_other_dataset_but_gives_out_its_own():
    own = [(torch.full((4,), float(i)), TRUE_LABEL) for i in range(24)]
    pool = PseudoLabelDataset.from_teacher(own, torch.nn.Identity(), 3, embed_dataset=blobs(), progress=False)
    assert len(set(pool.labels[::3].tolist())) == 1
    assert pool[5][0].tolist() == [5.0] * 4
    with pytest.raises(DataError, match="embed_dataset has 24 items and dataset 23"):
        PseudoLabelDataset.from_teacher(own[:-1], torch.nn.Identity(), 3, embed_dataset=blobs())


def test_from_teacher_says_how_many_are_left_out_and_why():
    images = [*blobs(k=2, per_class=10), -10 * torch.ones(4)]
    pool = PseudoLabelDataset.from_teacher(
        images, torch.nn.Identity(), 3, min_cluster_size=2, nredo=5, progress=False
    )
    assert pool.num_left_out == 1
    assert len(pool) == 20
    assert "1 left out: in clusters of fewer than 2 samples" in repr(pool)


def test_from_teacher_uses_the_data_getter_for_both():
    items = [{"image": x, "label": TRUE_LABEL} for x in blobs()]
    pool = PseudoLabelDataset.from_teacher(
        items, torch.nn.Identity(), 3, data_getter=lambda item: item["image"], progress=False
    )
    assert torch.equal(pool[4][0], items[4]["image"])
    expected = embed(blobs(), torch.nn.Identity(), progress=False)
    assert len(pool) == len(expected)


@pytest.mark.parametrize(
    ("images", "teacher", "k", "message"),
    [
        (blobs(), torch.nn.Identity(), 25, "num_clusters must be.*between 1 and the pool's 24"),
        (blobs(), torch.nn.Identity(), 0, "num_clusters must be"),
        (
            [*blobs(), torch.full((4,), torch.nan)],
            torch.nn.Identity(),
            2,
            "not finite, the first at index 24",
        ),
        ([*blobs(), torch.full((4,), torch.inf)], torch.nn.Identity(), 2, "not finite"),
        ([torch.zeros(2, 2)] * 4, torch.nn.Identity(), 2, r"must give \(n, d\) embeddings"),
        ([], torch.nn.Identity(), 2, "empty"),
    ],
)
def test_from_teacher_refuses_what_cannot_be_clustered(images, teacher, k, message):
    with pytest.raises(DataError, match=message):
        PseudoLabelDataset.from_teacher(images, teacher, k, progress=False)


def test_from_teacher_clusters_as_best_does_where_it_is_asked_to():
    images = list(torch.randn(60, 6))
    pool = PseudoLabelDataset.from_teacher(
        images, torch.nn.Identity(), 12, clustering=Clustering(), progress=False
    )
    expected = Clustering()(torch.stack(images).numpy(), 12)
    assert pool.pseudo_labels.tolist() == expected.labels.tolist()
    assert pool.clusters.merged == 60


def test_from_teacher_answers_an_unknown_setting_by_the_names_of_those_that_there_are():
    with pytest.raises(ConfigError, match="no setting neighbours; it has method, whitening, smooth"):
        PseudoLabelDataset.from_teacher(blobs(), torch.nn.Identity(), 3, neighbours=4)
    with pytest.raises(ConfigError, match="clustering was given, so seed would not be looked at"):
        PseudoLabelDataset.from_teacher(blobs(), torch.nn.Identity(), 3, clustering=Clustering(), seed=4)


def test_from_teacher_pads_and_casts_as_it_is_told_to():
    items = [torch.arange(1 + i % 2, dtype=torch.uint8) + 1 for i in range(8)]
    pool = PseudoLabelDataset.from_teacher(
        items,
        torch.nn.Linear(2, 3),
        2,
        collate_fn=lambda batch: torch.nn.utils.rnn.pad_sequence(batch, batch_first=True),
        dtype=torch.float32,
        progress=False,
    )
    assert len(set(pool.labels[::2].tolist())) == len(set(pool.labels[1::2].tolist())) == 1
