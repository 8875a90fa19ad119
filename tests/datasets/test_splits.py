import numpy as np
import pytest

from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.splits import Splits, class_names, describe, split_classes, split_validation
from pml_slade.exceptions import ConfigError, DataError


def data(labels, prefix="c"):
    names = [f"{prefix}{i}" for i in range(max(labels) + 1)]
    return ImageDataset(np.zeros((len(labels), 4, 4), np.uint8), labels, names, mode="L")


@pytest.mark.parametrize("seed", range(5))
def test_held_out_classes_are_disjoint_complete_and_relabeled(seed):
    whole = data([i // 3 for i in range(30)])
    rest, held_out = split_classes(whole, 0.3, seed)
    assert class_names(rest).isdisjoint(class_names(held_out))
    assert class_names(rest) | class_names(held_out) == class_names(whole)
    assert (rest.num_classes, held_out.num_classes, len(rest), len(held_out)) == (7, 3, 21, 9)
    assert sorted(set(rest.labels)) == list(range(7))


def test_the_seed_decides():
    whole = data([i // 2 for i in range(60)])
    first, again, other = (split_classes(whole, 0.5, seed)[1].classes for seed in (0, 0, 1))
    assert first == again != other


def test_classes_of_one_image_are_never_held_out():
    whole = data([0, 1, 2, 3, 4, 5, 5, 6, 6])
    assert split_classes(whole, 0.9)[1].classes == ["c5", "c6"]


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_each_side_keeps_two_classes(fraction):
    parts = split_classes(data([0, 0, 1, 1, 2, 2, 3, 3]), fraction)
    assert [part.num_classes for part in parts] == [2, 2]


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 3]])
def test_too_few_classes_are_refused(labels):
    with pytest.raises(DataError, match="add classes"):
        split_classes(data(labels), 0.5)


def test_unlabeled_images_and_strange_fractions_are_refused():
    with pytest.raises(DataError, match="labels"):
        split_classes(data([0, 0, 1, 1]).without_labels(), 0.5)
    with pytest.raises(ConfigError, match="fraction"):
        split_classes(data([0, 0, 1, 1]), 1.0)


def test_fraction_zero_means_no_validation():
    rest, validation = split_validation(data([0, 0, 1, 1]), 0)
    assert (len(rest), validation) == (4, None)


def test_describe_counts_images_and_classes():
    pool = data([0, 1, 1], "t")
    splits = Splits(data([0, 0, 1, 1]), pool, None, data([0, 0], "t"), "toy")
    assert describe(splits) == {
        "name": "toy",
        "labeled": {"images": 4, "classes": 2},
        "unlabeled": {"images": 3, "classes": 2},
        "validation": None,
        "test": {"images": 2, "classes": 1},
        "gallery": None,
        "pool_classes_in_test": 1,
    }
    hidden = Splits(splits.labeled, pool.without_labels(), None, splits.test, "toy")
    assert describe(hidden)["unlabeled"] == {"images": 3, "classes": None}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"test": data([0, 0])}, "labeled and test share 1 classes, e.g. \\['c0'\\]"),
        ({"validation": data([0, 0], "t"), "test": data([0], "t")}, "validation and test share"),
        ({"labeled": data([0, 2, 2])}, "relabel"),
        ({"labeled": data([0, 0])}, "relabel"),
        ({"labeled": data([0, 1]).without_labels()}, "labeled images have no labels"),
        ({"test": data([0], "t").without_labels()}, "test images have no labels"),
    ],
)
def test_leaking_or_unusable_parts_are_refused(parts, message):
    good = {"labeled": data([0, 1]), "unlabeled": data([0]), "validation": None, "test": None}
    with pytest.raises(DataError, match=message):
        Splits(**{**good, **parts}, name="toy")


def test_the_pool_may_hold_any_class():
    Splits(data([0, 1]), data([0, 1]), None, None, "toy")
