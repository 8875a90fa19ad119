"""Datasets as powerful-benchmarker takes them, and the folds that are made of them."""

import shutil

import numpy as np
import pytest
from images import drawings, write_images
from PIL import Image

pytest.importorskip("powerful_benchmarker")

from pml_slade.benchmarker import datasets
from pml_slade.benchmarker.datasets import (
    AsDicts,
    Glyphs,
    ImagePool,
    Images,
    InShop,
    LabeledImages,
    Omniglot,
)
from pml_slade.benchmarker.split_managers import GivenTestSplitManager
from pml_slade.datasets import ImageDataset
from pml_slade.exceptions import DataError, SladeError

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


@pytest.fixture
def in_shop(tmp_path):
    """In-shop in its official layout: two items to train, one as query and gallery."""
    rows = [(f"img/{item}/0{n}.jpg", f"id_{item}", "train") for item in (7, 3) for n in range(2)]
    rows += [(f"img/9/0{n}.jpg", "id_9", status) for n, status in enumerate(("query", "gallery"))]
    for number, (name, *_) in enumerate(rows):
        path = tmp_path / "in_shop" / "Img" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(path, quality=95)
    listing = tmp_path / "in_shop" / "Eval" / "list_eval_partition.txt"
    listing.parent.mkdir()
    lines = ["6", "image_name item_id evaluation_status", *("  ".join(row) for row in rows)]
    listing.write_text("\n".join(lines) + "\n")
    return listing


def test_in_shop_reads_the_official_partition(in_shop):
    data = InShop(str(in_shop.parents[2]), np.asarray)
    assert data.labels.tolist() == [1, 1, 0, 0, 2, 2]
    assert data.test_labels.tolist() == [2]
    reds = [int(data[index]["data"][0, 0, 0]) for index in range(6)]
    assert reds == pytest.approx([0, 40, 80, 120, 160, 200], abs=6)


def damage(old, new):
    return lambda listing: listing.write_text(listing.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listing: listing.unlink(), "no file .*list_eval_partition.txt. Ask for"),
        (
            damage("id_9  query", "id_9"),
            r"expected 'image item status' lines, got \['img/9/00.jpg', 'id_9'\]",
        ),
        (lambda listing: listing.write_text("0\nheader\n"), "expected 'image item status' lines, got None"),
        (damage("train", "trian"), r"no image of status \['train'\]"),
    ],
    ids=["missing", "a column is missing", "empty", "no training"],
)
def test_in_shop_refuses_a_damaged_partition(in_shop, change, message):
    change(in_shop)
    with pytest.raises(DataError, match=message):
        InShop(str(in_shop.parents[2]))


def test_an_image_that_is_missing_is_named(in_shop):
    shutil.rmtree(in_shop.parents[1] / "Img" / "img" / "9")
    with pytest.raises(DataError, match=r"9/00\.jpg"):
        InShop(str(in_shop.parents[2]))[4]


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
