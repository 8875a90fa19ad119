"""Datasets as powerful-benchmarker takes them, and the folds that are made of them."""

import numpy as np
import pytest
from catalogue_trees import WRITERS
from images import drawings, write_images
from PIL import Image

pytest.importorskip("powerful_benchmarker")

from powerful_benchmarker.split_managers import ClassDisjointSplitManager

from pml_slade.benchmarker import datasets
from pml_slade.benchmarker.checks import _check_object
from pml_slade.benchmarker.datasets import (
    FROM_CATALOGUE,
    AsDicts,
    CataloguePool,
    Glyphs,
    ImagePool,
    Images,
    LabeledImages,
    Omniglot,
)
from pml_slade.benchmarker.split_managers import GivenTestSplitManager
from pml_slade.datasets import CATALOGUE, ImageDataset
from pml_slade.exceptions import ConfigError, DataError, SladeError

TRAIN, TEST, PER_CLASS = 10, 3, 4


def part(name, classes, seed):
    images, labels = drawings(classes, PER_CLASS, seed)
    return ImageDataset(images, labels, [f"{name} {c}" for c in range(classes)], mode="L")


@pytest.fixture
def labeled():
    return LabeledImages(part("train", TRAIN, 0), part("test", TEST, 1), np.asarray)


def test_labels_of_the_test_follow_those_of_the_training(labeled):
    assert labeled.labels.tolist() == [c for c in range(TRAIN + TEST) for _ in range(PER_CLASS)]
    assert labeled.test_labels.tolist() == [10, 11, 12]
    assert len(labeled) == (TRAIN + TEST) * PER_CLASS


def test_items_are_the_images_and_their_labels(labeled):
    first, second = part("train", TRAIN, 0), part("test", TEST, 1)
    for index in (0, 39, 40, 51):
        item = labeled[index]
        expected = first.image(index) if index < 40 else second.image(index - 40)
        assert item.keys() == {"data", "label"}
        np.testing.assert_array_equal(item["data"], expected)
        assert item["label"] == labeled.labels[index]


def test_classes_are_numbered_anew():
    train = ImageDataset(drawings(3)[0], drawings(3)[1] * 5, None, mode="L").subset(range(8, 24))
    data = LabeledImages(train, part("test", 2, 1))
    assert sorted(set(data.labels)) == [0, 1, 2, 3]


def split(dataset, **options):
    arguments = {
        "num_training_partitions": 4,
        "num_training_sets": 4,
        "data_and_label_getter_keys": ["data", "label"],
    }
    manager = GivenTestSplitManager(**{**arguments, **options})
    manager.create_split_schemes(
        {use: dict.fromkeys(manager.split_names, dataset) for use in ("train", "eval")}
    )
    return manager


def classes(manager, fold, name):
    manager.set_curr_split_scheme(fold)
    return sorted(manager.get_label_set("eval", name))


@pytest.mark.parametrize("options", [{}, {"shuffle": True, "random_seed": 3}], ids=["in order", "shuffled"])
def test_folds_share_the_given_test_and_each_class_validates_once(labeled, options):
    manager = split(labeled, **options)
    folds = manager.split_scheme_names
    assert folds == [f"GivenTest_{'Shuffled' if options else ''}Partitions4_{fold}" for fold in range(4)]
    validated = []
    for fold in folds:
        assert classes(manager, fold, "test") == labeled.test_labels.tolist()
        train, val = classes(manager, fold, "train"), classes(manager, fold, "val")
        assert sorted(train + val) == list(range(TRAIN))
        assert manager.get_dataset("train", "train").indices.tolist() == [
            i for i, label in enumerate(labeled.labels) if label in train
        ]
        validated += val
    assert sorted(validated) == list(range(TRAIN))
    assert (validated == sorted(validated)) == (not options)


def test_a_seed_deals_the_classes_the_same_way_again(labeled):
    def dealt(seed):
        manager = split(labeled, shuffle=True, random_seed=seed)
        return [classes(manager, fold, "val") for fold in manager.split_scheme_names]

    assert dealt(3) == dealt(3) != dealt(4)


def test_fewer_folds_can_be_run_than_made(labeled):
    assert len(split(labeled, num_training_sets=2).split_scheme_names) == 2


def test_a_dataset_without_a_test_of_its_own_is_refused():
    class Plain:
        labels = np.arange(8)

        def __len__(self):
            return 8

    with pytest.raises(DataError, match="Plain does not: use ClassDisjointSplitManager"):
        split(Plain())


def test_more_folds_than_classes_are_refused(labeled):
    with pytest.raises(DataError, match="10 training classes cannot make num_training_partitions=11"):
        split(labeled, num_training_partitions=11)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """All data sets of the catalogue, a part of each."""
    root = tmp_path_factory.mktemp("catalogue")
    for write in WRITERS.values():
        write(root)
    return str(root)


@pytest.mark.parametrize("name", CATALOGUE)
def test_data_sets_of_the_catalogue_are_their_train_and_test_classes(catalogue, name):
    made = FROM_CATALOGUE[name]
    assert made.__name__ == name
    data = made(catalogue, np.asarray, complete=False)
    train, test = (CATALOGUE[name](catalogue, split, complete=False) for split in ("train", "test"))
    assert len(data) == len(train) + len(test)
    assert data.labels[: len(train)].tolist() == train.labels.tolist()
    assert (data.labels[len(train) :] - train.num_classes).tolist() == test.labels.tolist()
    assert data.test_labels.tolist() == list(range(train.num_classes, train.num_classes + test.num_classes))
    np.testing.assert_array_equal(data[len(train)]["data"], test.image(0))


def test_class_disjoint_folds_are_of_the_first_half_and_the_second_is_the_test(catalogue):
    manager = ClassDisjointSplitManager(
        test_size=0.5,
        test_start_idx=0.5,
        num_training_partitions=5,
        num_training_sets=5,
        data_and_label_getter_keys=["data", "label"],
    )
    data = FROM_CATALOGUE["CUB200"](catalogue, complete=False)
    manager.create_split_schemes({use: dict.fromkeys(manager.split_names, data) for use in ("train", "eval")})
    for fold in manager.split_scheme_names:
        assert classes(manager, fold, "test") == data.test_labels.tolist() == [5, 6, 7, 8, 9]
        assert sorted(classes(manager, fold, "train") + classes(manager, fold, "val")) == [0, 1, 2, 3, 4]


def test_own_options_of_a_loader_can_be_given(catalogue):
    listed, whole = (
        FROM_CATALOGUE["CompCars"](catalogue, complete=False, part=part) for part in ("classification", "all")
    )
    assert (len(listed), len(whole)) == (32, 36)
    _check_object("dataset", FROM_CATALOGUE["CompCars"], {"part": "all", "complete": False})
    with pytest.raises(ConfigError, match=r"dataset\.CUB200\.part: unknown argument; it takes complete"):
        _check_object("dataset", FROM_CATALOGUE["CUB200"], {"part": "all"})


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_part_of_a_data_set_is_refused_unless_asked_for(catalogue, name):
    with pytest.raises(DataError, match=f"^dataset {name}: found .* complete=False"):
        FROM_CATALOGUE[name](catalogue)


@pytest.mark.parametrize(
    ("name", "exclude", "images"),
    [
        ("NABirds", None, 32),
        ("NABirds", "CUB200", 20),
        ("CompCars", "Cars196", 20),
        ("Fashion200k", None, 100),
    ],
)
def test_a_pool_is_a_whole_data_set_without_what_is_tested(catalogue, name, exclude, images):
    pool = CataloguePool(catalogue, name, exclude, complete=False).pool
    assert len(pool) == images
    assert pool.labels is None
    assert pool.classes is None


def test_a_pool_takes_the_options_of_its_loader(catalogue):
    assert len(CataloguePool(catalogue, "CompCars", complete=False, part="all").pool) == 36
    assert len(CataloguePool(catalogue, "Fashion200k", complete=False, min_images=1).pool) == 110


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "NABird"}, "pool: name must be one of CUB200, .*, got 'NABird'"),
        ({"name": "NABirds", "exclude": "CUB"}, "pool: exclude must be one of CUB200, .*, got 'CUB'"),
        ({"name": "NABirds", "part": "all"}, r"NABirds does not take \['part'\]; it takes \['complete', "),
        ({"name": "CompCars", "split": "test"}, r"does not take \['split'\]; it takes .*'part'\]"),
    ],
)
def test_a_pool_of_the_catalogue_that_cannot_be_is_refused(catalogue, options, message):
    with pytest.raises(ConfigError, match=message):
        CataloguePool(catalogue, complete=False, **options)


def test_a_pool_that_is_not_whole_is_refused(catalogue):
    with pytest.raises(DataError, match="NABirds: found 32 images"):
        CataloguePool(catalogue, "NABirds")


def test_own_images_come_from_folders_and_lists(tmp_path):
    write_images(tmp_path)
    data = Images(str(tmp_path), "labeled", "test", mode="L")
    assert len(data) == 16 * 8
    assert data.test_labels.tolist() == [12, 13, 14, 15]
    assert data[100]["data"].mode == "L"
    absolute = Images("elsewhere", str(tmp_path / "labeled"), str(tmp_path / "test"))
    assert absolute.labels.tolist() == data.labels.tolist()
    lines = [f"{path},{path.parent.name}" for path in sorted((tmp_path / "labeled").rglob("*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    assert Images(str(tmp_path), "list.csv", "test").test_labels.tolist() == [12, 13, 14, 15]
    with pytest.raises(DataError, match="gone"):
        Images(str(tmp_path), "labeled", "gone")


def test_a_pool_takes_every_image_and_no_label(tmp_path):
    write_images(tmp_path)
    assert len(ImagePool(str(tmp_path), "unlabeled").pool) == 64
    pool = ImagePool(str(tmp_path), "labeled", mode="L").pool
    assert len(pool) == 96
    assert pool.labels is None
    with pytest.raises(DataError, match="gone"):
        ImagePool(str(tmp_path), "gone")


@pytest.fixture
def omniglot(tmp_path):
    """Four background alphabets and one evaluation alphabet, of two characters each."""
    for folder, alphabets in {"images_background": "ABCD", "images_evaluation": "Z"}.items():
        for alphabet in alphabets:
            for character in range(2):
                path = tmp_path / folder / alphabet / f"character{character:02d}"
                path.mkdir(parents=True)
                for number in range(3):
                    Image.new("1", (105, 105), 1).save(path / f"{number}.png")
    datasets._omniglot.cache_clear()
    return tmp_path


def test_omniglot_is_labeled_pool_and_test(omniglot):
    data = Omniglot(str(omniglot), labeled_alphabets=3, image_size=14)
    assert len(data) == 3 * 2 * 3 + 2 * 3
    assert data.test_labels.tolist() == [6, 7]
    assert len(data.pool) == 1 * 2 * 3
    assert data.pool.labels is None
    assert data[0]["data"].size == (14, 14)
    named = Omniglot(str(omniglot), labeled_alphabets=["A"])
    assert len(named.pool) == 18


def test_omniglot_is_read_once(omniglot):
    first, second = (Omniglot(str(omniglot), labeled_alphabets=["A"]) for _ in range(2))
    assert first.pool is not second.pool
    assert datasets._omniglot.cache_info().misses == 1


def test_omniglot_that_is_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no"):
        Omniglot(str(tmp_path))


def test_more_alphabets_than_there_are_are_refused(omniglot):
    with pytest.raises(SladeError, match="labeled_alphabets"):
        Omniglot(str(omniglot), labeled_alphabets=9)


@pytest.mark.usefixtures("few_letters")
def test_glyphs_need_no_files():
    data = Glyphs("no/such/folder", labeled_letters=10)
    assert sorted(set(data.labels) - set(data.test_labels)) == list(range(10))
    assert data.test_labels.min() == 10
    assert len(data.pool) > 100
    assert data.pool.labels is None


def test_pairs_become_dicts():
    data = AsDicts([("image", 3)])
    assert len(data) == 1
    assert data[0] == {"data": "image", "label": 3}
