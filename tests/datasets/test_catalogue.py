"""What must hold for every data set of the catalogue, and what is special to each."""

import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from catalogue_trees import WRITERS, write_cars196, write_cub200

from pml_slade.compat import LEGACY
from pml_slade.datasets import (
    CATALOGUE,
    CUB200,
    Cars196,
    CompCars,
    Fashion200k,
    ImageDataset,
    InShop,
    NABirds,
)
from pml_slade.datasets.splits import class_names
from pml_slade.exceptions import ConfigError, DataError

HALVED = [name for name in CATALOGUE if name != "InShop"]
FOUND = {
    "CUB200": (40, 10),
    "NABirds": (32, 8),
    "Cars196": (40, 10),
    "CompCars": (32, 8),
    "InShop": (32, 8),
    "Fashion200k": (100, 10),
}


def load(name, root, split="all", **options):
    return CATALOGUE[name](root, split, **{"complete": False, **options})


def paths(dataset):
    return [dataset.name(i) for i in range(len(dataset))]


def test_the_catalogue_goes_by_the_names_of_its_classes():
    assert list(CATALOGUE) == list(WRITERS)
    assert all(loader.__name__ == name for name, loader in CATALOGUE.items())


@pytest.mark.parametrize("name", CATALOGUE)
def test_all_of_it_is_read(root, name):
    data = load(name, root)
    assert isinstance(data, ImageDataset)
    assert (len(data), data.num_classes) == FOUND[name]
    assert len(data.classes) == len(set(data.classes)) == data.num_classes
    assert len(set(paths(data))) == len(data)


@pytest.mark.parametrize("name", CATALOGUE)
def test_train_and_test_share_no_class_and_are_all_of_it(root, name):
    whole, train, test = (load(name, root, split) for split in ("all", "train", "test"))
    assert class_names(train).isdisjoint(class_names(test))
    assert train.classes + test.classes == whole.classes
    assert sorted(paths(train) + paths(test)) == sorted(paths(whole))
    assert train.num_classes == test.num_classes == whole.num_classes // 2


@pytest.mark.parametrize("name", CATALOGUE)
def test_labels_are_consecutive_and_mean_the_same_class_in_each_split(root, name):
    whole = load(name, root)
    known = dict(zip(paths(whole), (whole.classes[label] for label in whole.labels)))
    for split in CATALOGUE[name].splits:
        part = load(name, root, split)
        assert np.unique(part.labels).tolist() == list(range(len(part.classes)))
        for path, label in zip(paths(part), part.labels):
            assert known[path] == part.classes[label]


@pytest.mark.parametrize("name", CATALOGUE)
def test_images_of_a_class_look_alike(root, name):
    data = load(name, root, mode="L")
    small = [data.image(i).resize((4, 4)) for i in range(len(data))]
    pixels = np.stack([np.asarray(image, dtype=float).ravel() for image in small])
    means = np.stack([pixels[data.labels == label].mean(0) for label in range(data.num_classes)])
    nearest = np.square(pixels[:, None] - means).sum(2).argmin(1)
    assert (nearest == data.labels).mean() > 0.9
    assert len({data.image(i).size for i in range(8)}) > 1


@pytest.mark.parametrize("name", CATALOGUE)
def test_it_is_an_image_dataset_in_every_way(root, name):
    data = load(name, root, transform=np.asarray, mode="L")
    assert data[0][0].ndim == 2
    pool = data.without_labels()
    assert pool.labels is None
    assert pool.classes is None
    assert {label for _, label in pool} == {-1}
    assert data.labels is not None
    assert len(data.subset([0, 5, 6])) == 3
    assert data.with_transform(None)[0][0].mode == "L"


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_official_folder_itself_will_do(root, name):
    folder = root / CATALOGUE[name].source.folders[0]
    assert paths(load(name, folder)) == paths(load(name, str(root)))


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_part_is_not_taken_for_the_whole(root, name):
    counts = load(name, root)._published()
    with pytest.raises(DataError, match=r"complete=False") as caught:
        CATALOGUE[name](root)
    listed = 110 if name == "Fashion200k" else FOUND[name][0]  # before small items are left out
    message = str(caught.value)
    assert message.startswith(f"{name}: found {listed} images of ")
    assert f"expected {counts.images[0]:,}" in message
    if counts.classes is not None:
        assert f"found {listed} images of {FOUND[name][1]} classes" in message
        assert f"of {counts.classes:,} classes" in message


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_published_numbers_are_accepted(root, name, monkeypatch):
    listed = 110 if name == "Fashion200k" else FOUND[name][0]
    classes = None if name == "Fashion200k" else FOUND[name][1]
    counts = type(CATALOGUE[name](root, complete=False)._published())((1, listed), classes)
    monkeypatch.setattr(CATALOGUE[name], "_published", lambda self: counts)
    assert len(CATALOGUE[name](root)) == FOUND[name][0]


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "split must be one of.*'train'.*got 'validation'"),
        ({"exclude": "Mallard"}, "exclude must be a list of class names, got the string 'Mallard'"),
        ({"mode": "HSV"}, "mode must be one of"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(root, name, options, message):
    with pytest.raises(ConfigError, match=message):
        CATALOGUE[name](root, **{"complete": False, **options})


@pytest.mark.parametrize("name", HALVED)
def test_an_odd_class_goes_to_the_test(tmp_path, name):
    WRITERS[name](tmp_path, classes=5)
    train, test = (load(name, tmp_path, split) for split in ("train", "test"))
    assert (train.num_classes, test.num_classes) == (2, 3)


def test_a_half_of_one_class_is_refused(tmp_path):
    write_cub200(tmp_path, classes=1)
    assert len(load("CUB200", tmp_path, "test")) == 4
    with pytest.raises(DataError, match="split 'train' holds no images: half of 1 classes is none"):
        load("CUB200", tmp_path, "train")


def test_classes_are_in_official_order_with_official_names(root):
    assert load("CUB200", root).classes[:2] == ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    assert load("NABirds", root).classes[0] == "Mallard (Female/Eclipse male)"
    assert load("Cars196", root).classes[:2] == ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    # By make id, then model id; the lists name the A5 first.
    assert load("CompCars", root).classes[:3] == ["Audi/Audi A4L", "Audi/Audi A5 coupe", "BWM/BWM 3 Series"]
    assert load("InShop", root).classes[:2] == ["id_00000001", "id_00000002"]
    assert load("Fashion200k", root).classes[:2] == ["blue item 0 dress", "blue item 5 dress"]


def test_images_are_in_the_order_of_the_lists(root):
    listed = (root / "CUB_200_2011" / "images.txt").read_text().split()[1::2]
    assert paths(load("CUB200", root)) == [str(root / "CUB_200_2011" / "images" / path) for path in listed]


def test_names_that_two_classes_share_get_their_ids(tmp_path):
    base = WRITERS["NABirds"](tmp_path)
    names = (base / "classes.txt").read_text().replace("Sora", "Laysan Albatross")
    (base / "classes.txt").write_text(names)
    classes = load("NABirds", tmp_path).classes
    assert classes[1] == "Laysan Albatross (296)"
    assert classes[7] == "Laysan Albatross (302)"
    assert load("NABirds", tmp_path, "test").classes[3] == classes[7]


def test_query_and_gallery_are_the_official_ones(root):
    train, query, gallery, test, whole = (
        load("InShop", root, split) for split in ("train", "query", "gallery", "test", "all")
    )
    assert query.classes == gallery.classes == test.classes == [f"id_{c:08d}" for c in (5, 6, 7, 8)]
    assert not set(paths(query)) & set(paths(gallery))
    assert set(paths(test)) == set(paths(query)) | set(paths(gallery))
    assert len(train) + len(query) + len(gallery) == len(whole)


def test_compcars_has_two_parts(root):
    listed, whole = (load("CompCars", root, part=part) for part in ("classification", "all"))
    assert whole.classes == [*listed.classes, "Zoyte/Zoyte 5008"]
    assert set(paths(listed)) < set(paths(whole))
    assert len(whole) == 36
    with pytest.raises(DataError, match="expected 136,726 or 136,727 images of 1,716 classes"):
        CompCars(root, part="all")
    with pytest.raises(ConfigError, match=r"part must be one of .*got 'web'"):
        CompCars(root, part="web")


@pytest.mark.parametrize("folder", ["data", "compcars/data", "CompCars", "CompCars/data"])
def test_compcars_is_found_where_its_archive_is_unpacked(tmp_path, folder):
    base = WRITERS["CompCars"](tmp_path)
    base.rename(tmp_path / "moved")
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(tmp_path / folder)
    for part in ("classification", "all"):
        assert load("CompCars", tmp_path, part=part).num_classes in (8, 9)


@pytest.mark.parametrize(("least", "items", "images"), [(1, 15, 110), (2, 15, 110), (3, 10, 100)])
def test_small_items_are_left_out(root, caplog, least, items, images):
    with caplog.at_level("INFO", logger="pml_slade"):
        data = load("Fashion200k", root, min_images=least)
    assert (data.num_classes, len(data)) == (items, images)
    assert f"left out {15 - items} classes with {110 - images} images that have fewer" in caplog.text


def test_no_item_large_enough_is_refused(root):
    with pytest.raises(DataError, match="min_images=11 leaves no images; the largest item has 10"):
        load("Fashion200k", root, min_images=11)
    with pytest.raises(ConfigError, match="min_images must be at least 1, got 0"):
        load("Fashion200k", root, min_images=0)


def test_an_image_that_fashion200k_lists_again_counts_once(tmp_path, caplog):
    base = WRITERS["Fashion200k"](tmp_path)
    file = base / "labels" / "top_train_detect_all.txt"
    text = file.read_text()
    file.write_text(text + text.split("\n")[0] + "\n")
    with caplog.at_level("INFO", logger="pml_slade"):
        assert len(load("Fashion200k", tmp_path)) == 100
    assert "1 images are listed twice" in caplog.text


def test_both_layouts_of_cars196_are_the_same_cars(root, tmp_path):
    write_cars196(tmp_path, devkit=True)
    devkit, whole = load("Cars196", tmp_path), load("Cars196", root)
    assert devkit.classes == whole.classes
    assert np.bincount(devkit.labels).tolist() == np.bincount(whole.labels).tolist()
    annotations = tmp_path / "stanford_cars" / "cars_test_annos_withlabels.mat"
    shutil.move(annotations, tmp_path / "stanford_cars" / "devkit")
    assert paths(load("Cars196", tmp_path)) == paths(devkit)


@pytest.mark.skipif(LEGACY, reason="pytorch-metric-learning 0.9.92 has no data sets")
def test_cub200_is_the_one_of_pytorch_metric_learning(tmp_path):
    from pytorch_metric_learning.datasets import CUB

    # Its halves are classes 1 to 100 and 101 to 200, whichever are there.
    write_cub200(tmp_path, classes=10, first=96)
    for ours, theirs in (("train", "train"), ("test", "test"), ("all", "train+test")):
        data, reference = load("CUB200", tmp_path, ours), CUB(str(tmp_path), theirs)
        assert paths(data) == reference.paths
        assert [int(data.classes[label][:3]) for label in data.labels] == reference.labels


def test_cars196_is_the_one_of_torchvision(tmp_path):
    from torchvision.datasets import StanfordCars

    write_cars196(tmp_path, devkit=True)
    data = load("Cars196", tmp_path)
    parts = [StanfordCars(tmp_path, split) for split in ("train", "test")]
    samples = [sample for part in parts for sample in part._samples]
    assert data.classes == parts[0].classes
    assert list(zip(paths(data), data.labels)) == [(str(path), label) for path, label in samples]


@pytest.mark.parametrize("loader", CATALOGUE.values(), ids=CATALOGUE)
def test_the_docs_name_what_to_download_and_how_much_it_is(loader):
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    assert f"`{loader.__name__}`" in page
    assert loader.source.address.split()[0] in page
    published = getattr(loader, "counts_of", {"all": getattr(loader, "counts", None)})
    for counts in published.values():
        numbers = [*counts.images, *([counts.classes] if counts.classes else [])]
        assert all(re.search(rf"\b{number:,}\b", page) for number in numbers)


@pytest.mark.parametrize("loader", [CUB200, NABirds, Cars196, CompCars, InShop, Fashion200k])
def test_docstrings_describe_every_argument(loader):
    described = re.findall(r"^    (\w+): ", inspect.getdoc(loader), re.M)
    arguments = list(inspect.signature(loader).parameters)
    assert described[: len(arguments)] == arguments
