"""What is written of the pool's labels, for people."""

import csv
import os
from types import SimpleNamespace

import numpy as np
from PIL import Image

from pml_slade.clustering import cluster
from pml_slade.datasets import PseudoLabelDataset
from pml_slade.datasets.images import ImageDataset
from pml_slade.methods.pool import write_labels


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
