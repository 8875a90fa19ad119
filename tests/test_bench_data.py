"""The data of the benchmarks: a cluttered pool, and Omniglot without its evaluation alphabets."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from omniglot_tree import write_omniglot
from scripts import load_script

from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.omniglot import omniglot_splits
from pml_slade.datasets.splits import Splits, class_names, parts
from pml_slade.exceptions import ConfigError, DataError

KINDS = ("composite", "noise", "scribble", "texture")
SIDE = 28
POOL_CLASSES, DRAWINGS = 40, 20
script = load_script("bench_data")


def drawings(name, classes, seed):
    """A little ink everywhere, at random."""
    rng = np.random.default_rng(seed)
    images = np.where(rng.random((classes * DRAWINGS, SIDE, SIDE)) < 0.08, 255, 0).astype(np.uint8)
    names = [f"{name}/{i}" for i in range(classes)]
    return ImageDataset(images, np.repeat(np.arange(classes), DRAWINGS), names, mode="L")


@pytest.fixture(scope="module")
def splits():
    sizes = {"labeled": 4, "pool": POOL_CLASSES, "validation": 2, "test": 3}
    return Splits(*(drawings(name, size, i) for i, (name, size) in enumerate(sizes.items())), name="toy")


@pytest.fixture(scope="module")
def cluttered(splits):
    return script.clutter(splits, 0.8, seed=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_omniglot(tmp_path_factory.mktemp("omniglot"), background=8, evaluation=2, drawings=2)


def pixels(dataset):
    return np.stack([np.asarray(dataset.image(i)) for i in range(len(dataset))])


def names(dataset):
    return [dataset.classes[label] for label in dataset.known_labels()]


def useless(dataset, kind=""):
    return np.array([name.startswith(f"clutter/{kind}") for name in names(dataset)])


def alphabets(dataset):
    return {name.split("/")[0] for name in class_names(dataset)}


@pytest.mark.parametrize(("share", "kept"), [(0, 40), (0.25, 30), (0.8, 8), (0.99, 1)])
def test_the_pool_keeps_its_size_and_whole_classes(splits, share, kept):
    pool = script.clutter(splits, share, seed=0).unlabeled
    assert len(pool) == POOL_CLASSES * DRAWINGS
    real = Counter(name for name in names(pool) if not name.startswith("clutter/"))
    assert len(real) == kept
    assert set(real.values()) == {DRAWINGS}


def test_kinds_come_in_equal_parts(cluttered):
    kinds = Counter(name.split("/")[1].split("-")[0] for name in np.array(names(cluttered.unlabeled))[160:])
    assert kinds == dict.fromkeys(KINDS, 160)


def test_classes_that_stay_keep_their_images(splits, cluttered):
    old = {image.tobytes(): name for image, name in zip(pixels(splits.unlabeled), names(splits.unlabeled))}
    real = ~useless(cluttered.unlabeled)
    stayed = [old[image.tobytes()] for image in pixels(cluttered.unlabeled)[real]]
    assert stayed == [name for name, is_real in zip(names(cluttered.unlabeled), real) if is_real]


def test_each_useless_image_is_unique_and_a_class_of_its_own(splits, cluttered):
    pool = cluttered.unlabeled
    fake = useless(pool)
    assert set(np.bincount(pool.labels)[pool.labels[fake]]) == {1}
    assert len({image.tobytes() for image in (*pixels(pool)[fake], *pixels(splits.unlabeled))}) == 640 + 800


def test_labels_are_consecutive_and_named(cluttered):
    pool = cluttered.unlabeled
    assert np.array_equal(np.unique(pool.labels), np.arange(8 + 640))
    assert len(set(pool.classes)) == len(pool.classes) == 8 + 640
    assert "clutter/scribble-00000" in pool.classes


def test_nothing_but_the_pool_and_the_name_changes(splits, cluttered):
    for key, part in parts(cluttered).items():
        assert (part is getattr(splits, key)) == (key != "unlabeled")
        assert useless(part).any() == (key == "unlabeled")
    names_of = [class_names(part) for part in parts(cluttered).values()]
    assert sum(map(len, names_of)) == len(set.union(*names_of))
    assert cluttered.name == "toy, 80 % clutter"


def test_the_seed_decides(splits, cluttered):
    again, other = (
        script.clutter(splits, 0.8, seed=0).unlabeled,
        script.clutter(splits, 0.8, seed=1).unlabeled,
    )
    assert np.array_equal(pixels(again), pixels(cluttered.unlabeled))
    assert again.classes == cluttered.unlabeled.classes
    assert other.classes[:8] != again.classes[:8]
    for kind in KINDS:
        drawn = {image.tobytes() for image in pixels(again)[useless(again, kind)]}
        assert drawn.isdisjoint(image.tobytes() for image in pixels(other)[useless(other, kind)])


@pytest.mark.parametrize("kind", KINDS)
def test_useless_images_are_white_on_black_and_of_the_same_size(cluttered, kind):
    images = pixels(cluttered.unlabeled)[useless(cluttered.unlabeled, kind)]
    assert images.dtype == np.uint8
    assert images.shape == (160, SIDE, SIDE)
    assert 8 < images.mean() < 110
    assert images.max(axis=(1, 2)).min() > 16  # none is blank
    assert images.mean(axis=(1, 2)).max() < 200


def test_scribbles_are_strokes(cluttered):
    ink = pixels(cluttered.unlabeled)[useless(cluttered.unlabeled, "scribble")] > 128
    assert 0.02 < ink.mean() < 0.15
    thick = ink[:, 2:-2, 2:-2] & ink[:, :-4, 2:-2] & ink[:, 4:, 2:-2] & ink[:, 2:-2, :-4] & ink[:, 2:-2, 4:]
    assert thick.sum() < 0.1 * ink.sum()


def test_composites_are_made_of_the_pools_drawings(splits):
    images, labels = pixels(splits.unlabeled), splits.unlabeled.labels
    draw = script.composites(images, labels)
    overlaid, torn = np.split(draw(20, SIDE, np.random.default_rng(0)), 2)
    for image in overlaid:
        below = [i for i, drawing in enumerate(images) if (drawing <= image).all()]
        assert len(below) == 2
        assert labels[below[0]] != labels[below[1]]
    ink = sorted((images > 0).sum(axis=(1, 2)))
    for image in torn:
        assert (image > 0).sum() in ink
        assert not any(np.array_equal(image, drawing) for drawing in images)


@pytest.mark.parametrize("side", [8, 21, 32])
def test_other_sizes_will_do(splits, side):
    def part(dataset):
        small = [dataset.image(i).resize((side, side)) for i in range(len(dataset))]
        return ImageDataset(np.stack(small), dataset.labels, dataset.classes, mode="L")

    pool = script.clutter(replace(splits, unlabeled=part(splits.unlabeled)), 0.5, seed=0).unlabeled
    assert pixels(pool).shape == (POOL_CLASSES * DRAWINGS, side, side)


def test_transform_and_names_that_are_missing_are_no_hindrance(splits):
    pool = splits.unlabeled
    nameless = ImageDataset(pixels(pool), pool.labels, transform=np.asarray, mode="L")
    cluttered = script.clutter(replace(splits, unlabeled=nameless), 0.5, seed=0).unlabeled
    assert cluttered.transform is np.asarray
    assert cluttered.classes[0].isdigit()


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(splits, share):
    with pytest.raises(ConfigError, match=r"share must be at least 0 and below 1"):
        script.clutter(splits, share, seed=0)


def test_a_pool_without_labels_is_refused(splits):
    with pytest.raises(DataError, match="true labels"):
        script.clutter(replace(splits, unlabeled=splits.unlabeled.without_labels()), 0.5, seed=0)


@pytest.mark.parametrize(
    ("shape", "mode"), [((4, 8, 8, 3), "RGB"), ((4, 8, 9), "L")], ids=["color", "not square"]
)
def test_a_pool_of_other_images_is_refused(splits, shape, mode):
    pool = ImageDataset(np.zeros(shape, np.uint8), [0, 0, 1, 1], mode=mode)
    with pytest.raises(DataError, match="square, gray"):
        script.clutter(replace(splits, unlabeled=pool), 0.5, seed=0)


def test_an_empty_pool_ends_with_an_error(splits):
    pool = ImageDataset(np.zeros((80, 8, 8), np.uint8), np.repeat([0, 1], 40), mode="L")
    with pytest.raises(DataError, match="different useless images"):
        script.clutter(replace(splits, unlabeled=pool), 0.5, seed=0)


def test_development_uses_each_background_alphabet_once(root):
    splits = script.development(root, seed=0, labeled_alphabets=2, test_alphabets=3)
    labeled = alphabets(splits.labeled) | alphabets(splits.validation)
    several = [labeled, alphabets(splits.unlabeled), alphabets(splits.test)]
    assert [len(part) for part in several] == [2, 3, 3]
    assert set.union(*several) == {f"Back{i}" for i in range(8)}
    assert [part.num_classes for part in (splits.labeled, splits.validation)] == [8, 2]
    assert class_names(splits.labeled).isdisjoint(class_names(splits.validation))
    assert splits.name == "omniglot development"


def test_development_labels_the_alphabets_of_the_experiment(root):
    ours = script.development(root, seed=3, labeled_alphabets=2, test_alphabets=2)
    theirs = omniglot_splits(root, 2, seed=3)
    assert ours.labeled.classes == theirs.labeled.classes
    assert ours.validation.classes == theirs.validation.classes


def test_the_seed_decides_about_the_test_alphabets(root):
    chosen = [tuple(script.development(root, seed, 2, 3, image_size=8).test.classes) for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1


def test_a_development_pool_can_be_cluttered(root):
    splits = script.clutter(script.development(root, 0, 2, 3), 0.5, seed=0)
    assert splits.name == "omniglot development, 50 % clutter"
    assert useless(splits.unlabeled).sum() in (14, 16)  # whole classes of two


@pytest.mark.parametrize(("labeled", "test"), [(0, 2), (2, 0), (5, 3), (-1, 4)])
def test_numbers_that_leave_no_pool_are_refused(root, labeled, test):
    with pytest.raises(ConfigError, match="labeled_alphabets and test_alphabets"):
        script.development(root, 0, labeled, test)
