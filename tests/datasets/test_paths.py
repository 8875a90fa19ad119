"""Paths in arrays: what they hold, and that no object stands for each."""

import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.paths import Paths
from pml_slade.exceptions import DataError

NAMES = ["a/1.png", "", "b/ü 2.png", os.fsdecode(b"c/\xff.png"), "a/1.png"]


def test_they_are_a_sequence_of_strings():
    paths = Paths(iter(NAMES))
    assert list(paths) == NAMES
    assert (len(paths), paths[-1], paths[1:4]) == (5, NAMES[-1], NAMES[1:4])
    assert NAMES[3] in paths
    with pytest.raises(IndexError):
        paths[5]
    assert list(Paths([])) == []
    assert list(Paths([Path("a"), "b"])) == ["a", "b"]


@pytest.mark.parametrize("chosen", [[3, 0, 0], [], [-1, 2]])
def test_some_of_them_are_chosen_without_the_text_being_copied(chosen):
    paths = Paths(NAMES)
    part = paths.chosen(np.array(chosen, dtype=np.int64))
    assert list(part) == [NAMES[i] for i in chosen]
    assert np.shares_memory(part._text, paths._text)
    assert list(pickle.loads(pickle.dumps(part))) == list(part)


def test_a_dataset_holds_no_object_for_each_of_its_files():
    gc.collect()
    before = len(gc.get_objects())
    data = ImageDataset(f"pool/{i}.png" for i in range(20_000))
    assert len(gc.get_objects()) - before < 1000
    assert sum(array.nbytes for array in vars(data._images).values()) < 40 * 20_000
    assert data.names()[19_999] == data.subset([19_999]).name(0) == "pool/19999.png"
    assert data.are_files


def test_what_is_no_path_is_refused():
    with pytest.raises(DataError, match="images must be paths or a uint8 array"):
        ImageDataset(["a.png", 3])
