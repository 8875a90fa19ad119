"""When the pool is relabeled, and what is written of its labels, for people."""

import csv
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pml_slade.clustering import cluster
from pml_slade.datasets import PseudoLabelDataset
from pml_slade.datasets.images import ImageDataset
from pml_slade.methods.pool import epochs_to_relabeling, write_labels
from pml_slade.methods.settings import StudentConfig


def test_images_are_named_by_paths_that_hold_elsewhere_whatever_bytes_they_have(tmp_path, monkeypatch):
    names = ["a.png", os.fsdecode(b"\xff,\n.png"), "b.png"]
    for name in names:
        Image.new("L", (4, 4)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    images = ImageDataset(names, mode="L")
    clusters = cluster(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), 2, min_cluster_size=2)
    write_labels(SimpleNamespace(pool=PseudoLabelDataset.from_clusters(images, clusters)), tmp_path, images)
    with open("pseudo_labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["cluster"] for row in rows] == ["0", "-1", "0"]
    assert [row["size"] for row in rows] == ["2", "", "2"]
    assert [os.path.isfile(row["path"]) for row in rows] == [True, False, True]
    assert rows[1]["path"].endswith(r"\udcff,\n.png")


@pytest.mark.parametrize(
    ("pool", "settings", "epochs"),
    [
        (10_000, {}, 1),
        (1_000_000, {}, 13),  # an epoch is 250 steps of 32 images, 0.8 % of the pool
        (1_000_000, {"relabel_passes": 1}, 125),
        (1_000_000, {"relabel_passes": 0}, 1),
        (1_000_000, {"relabel_every": 20}, 20),
        (1_000_000, {"relabel_every": 0}, 0),
        (1_000_000, {"steps": 100, "unlabeled_batch_size": 100}, 10),
    ],
)
def test_a_large_pool_is_relabeled_by_passes_over_it(pool, settings, epochs):
    images = SimpleNamespace(splits=SimpleNamespace(unlabeled=range(pool)))
    job = SimpleNamespace(student=StudentConfig(**settings), images=images, epoch_steps=250)
    assert epochs_to_relabeling(job) == epochs
    job.images = None
    assert epochs_to_relabeling(job) == job.student.relabel_every
