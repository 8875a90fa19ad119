"""PoolLabeler: an object that labels a pool, whoever asks it to."""

import dataclasses

import numpy as np
import pytest
import torch

from pml_slade.clustering import Clustering
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.trainers import PoolLabeler


class Teacher(torch.nn.Module):
    """Looks at one coordinate; notes how it is called."""

    def __init__(self, coordinate):
        super().__init__()
        self.coordinate, self.calls = coordinate, []

    def forward(self, x):
        self.calls.append((len(x), self.training))
        return torch.stack([x[:, self.coordinate], 4 - x[:, self.coordinate]], dim=1)


def test_it_labels_the_pool_as_the_teacher_that_is_given_sees_it(pool):
    labeler = PoolLabeler(pool, num_clusters=2, label_offset=7, progress=False)
    for coordinate in (0, 1):
        teacher = Teacher(coordinate).train()
        found = labeler.label(teacher)
        alike = found.labels[coordinate::3]
        assert len(set(alike)) == 1
        assert set(found.labels) == {7, 8}
        assert teacher.calls == [(36, False)]
        assert teacher.training


def test_it_embeds_the_view_and_gives_out_the_images(pool):
    images = [(torch.full((4,), float(i)), 777) for i in range(36)]
    labeler = PoolLabeler(images, num_clusters=3, view=pool, progress=False)
    found = labeler.label(torch.nn.Identity())
    assert all(len(set(found.labels[k::3])) == 1 for k in range(3))
    assert found[5][0].tolist() == [5.0] * 4
    assert np.array_equal(labeler.embed(torch.nn.Identity()), torch.stack(pool).numpy())


def test_its_clustering_is_what_it_is_given(pool):
    clustering = Clustering(min_cluster_size=4)
    labeler = PoolLabeler(pool, num_clusters=12, clustering=clustering, progress=False)
    expected = clustering(torch.stack(pool).numpy(), 12)
    assert labeler.label(torch.nn.Identity()).pseudo_labels.tolist() == expected.labels.tolist()


def test_labels_of_before_are_put_on_the_same_images(pool):
    labeler = PoolLabeler(pool, label_offset=3)
    found = labeler.with_labels([-1, *[0] * 35], label_offset=5)
    assert (found.num_left_out, found.label_offset, found.dataset) == (1, 5, pool)


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [2, 3, 4, 5]), (2, [3, 5]), (4, [5])])
def test_it_is_due_after_so_many_epochs(pool, every, due):
    labeler = PoolLabeler(pool, num_clusters=2, relabel_every=every)
    assert [epoch for epoch in range(1, 6) if labeler.is_due(epoch)] == due


def test_it_cannot_be_changed_under_a_trainer(pool):
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoolLabeler(pool).num_clusters = 3


def test_without_a_number_of_clusters_it_does_not_cluster(pool):
    with pytest.raises(ConfigError, match="num_clusters was not given"):
        PoolLabeler(pool).label(torch.nn.Identity())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": 37}, "num_clusters=37 is more than the pool's 36 samples"),
        ({"num_clusters": 0}, "num_clusters must be an integer of at least 1"),
        ({"view": [torch.zeros(4)]}, "clustering_dataset has 1 items and unlabeled_dataset 36"),
        ({"view": 5}, "clustering_dataset must be a map-style dataset"),
        ({"images": None}, "unlabeled_dataset must be a map-style dataset"),
    ],
)
def test_what_cannot_be_labeled_is_refused_at_once(pool, settings, message):
    with pytest.raises(DataError, match=message):
        PoolLabeler(**{"images": pool, **settings})
