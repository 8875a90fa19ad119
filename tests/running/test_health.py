"""A pool that is none is said to be, in the log and in the records."""

import json
import logging
import shutil

import pytest
from images import small_config

from pml_slade.running.run import Run


def signs(folders, tmp_path, *overrides):
    return Run(small_config(folders, tmp_path / "run", *overrides), progress=False).signs


def test_a_sound_pool_has_no_signs(folders, tmp_path):
    assert signs(folders, tmp_path) == []


def test_a_pool_that_is_the_labeled_folder_is_told_with_its_numbers(folders, tmp_path):
    found = signs({**folders, "unlabeled": folders["labeled"]}, tmp_path)
    assert "80 of the pool's 96 images are labeled images" in found[0]
    assert "10 folders of the pool have the names of labeled classes (labeled 00, " in found[1]
    assert "2 folders of the pool have the names of validation classes" in found[2]


def test_some_labeled_images_in_the_pool_are_counted(folders, tmp_path):
    shutil.copytree(folders["unlabeled"], tmp_path / "pool")
    for file in (folders["labeled"] / "labeled 00").iterdir():
        shutil.copy(file, tmp_path / "pool" / f"copy {file.name}")
    without = ["data.validation_fraction=0"]
    found = signs({**folders, "unlabeled": tmp_path / "pool"}, tmp_path, *without)
    assert found == ["8 of the pool's 72 images are labeled, too: take them out of data.unlabeled."]


def test_test_classes_in_the_pool_are_told_by_their_folders(folders, tmp_path):
    for name in ("test 00", "others"):
        (tmp_path / "pool" / name).mkdir(parents=True)
    for i, file in enumerate(sorted(folders["unlabeled"].iterdir())):
        shutil.copy(file, tmp_path / "pool" / ("test 00", "others")[i % 2] / file.name)
    [found] = signs({**folders, "unlabeled": tmp_path / "pool"}, tmp_path)
    assert found.startswith("1 folders of the pool have the names of test classes (test 00): ")


def test_as_many_clusters_as_images_are_told_before_anything_is_trained(folders, tmp_path):
    [found] = signs(folders, tmp_path, "student.num_clusters=60")
    assert "num_clusters=60 for 64 images leaves 1.1 images a cluster" in found


@pytest.mark.once
def test_what_is_told_stands_in_the_log_and_in_the_records(folders, tmp_path, caplog):
    given = {**folders, "unlabeled": tmp_path / "pool"}
    shutil.copytree(folders["unlabeled"], tmp_path / "pool")
    for number, file in enumerate(sorted(folders["test"].rglob("*.png"))[:2]):
        shutil.copy(file, tmp_path / "pool" / f"test {number}.png")
    config = small_config(given, tmp_path / "run", "rows=[pseudo]", "student.num_clusters=60")
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        run = Run(config, progress=False)
        run.run()
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["warnings"] == run.signs != []
    told = json.loads((tmp_path / "run" / "pseudo" / "clusters.json").read_text())["warnings"]
    assert "num_clusters=60 for 66 images" in told[0]
    for words in (facts["warnings"][0], told[0], "2 exact and 0 near-duplicates", "too good"):
        assert words in caplog.text
