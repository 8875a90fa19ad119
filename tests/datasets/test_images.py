import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.transforms import transforms
from pml_slade.exceptions import ConfigError, DataError


def pixels(count=6, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


@pytest.fixture
def labeled():
    return ImageDataset(pixels(), [0, 0, 2, 2, 5, 5], list("abcdef"), mode="L")


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("L", (4 + i, 5), i).save(path)
    return paths


def test_items_are_transformed_images_and_int_labels(labeled):
    image, label = labeled.with_transform(np.asarray)[4]
    assert np.array_equal(image, pixels()[4])
    assert (type(label), label) == (int, 5)


def test_colour_arrays_and_files_come_in_the_mode(files):
    assert ImageDataset(np.zeros((1, 4, 4, 3), np.uint8), mode="L")[0][0].mode == "L"
    assert [image.mode for image, _ in ImageDataset(files)] == ["RGB"] * 3


def test_unlabeled_images_have_label_minus_one(files):
    assert [label for _, label in ImageDataset(files)] == [-1, -1, -1]


def test_without_labels_hides_labels_and_classes_and_leaves_the_original(labeled):
    hidden = labeled.without_labels()
    assert hidden.labels is None
    assert hidden.classes is None
    assert {label for _, label in hidden} == {-1}
    assert labeled[5][1] == 5
    with pytest.raises(DataError, match="give labeled images"):
        hidden.known_labels()


def test_a_subset_keeps_the_meaning_of_labels(labeled):
    part = labeled.subset([4, 0])
    assert part.labels.tolist() == [5, 0]
    assert part.classes == labeled.classes
    assert np.array_equal(part.image(0), pixels()[4])
    assert labeled.subset(labeled.labels == 2).labels.tolist() == [2, 2]
    assert len(labeled.subset([])) == 0


def test_relabel_makes_labels_consecutive_and_trims_classes(labeled):
    data = labeled.subset([2, 4, 5]).relabel()
    assert data.labels.tolist() == [0, 1, 1]
    assert data.classes == ["c", "f"]
    assert data.num_classes == 2


def test_names_are_paths_or_positions(labeled, files):
    assert labeled.name(2) == "#2"
    assert ImageDataset(files).name(1) == str(files[1])


def test_an_unreadable_file_is_named_with_its_index(files):
    files[1].write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"index 1: .*1\.png"):
        ImageDataset(files)[1]


def test_iteration_ends_and_negative_indices_count_from_the_end(labeled):
    assert len(list(labeled)) == 6
    assert labeled[-1][1] == 5
    with pytest.raises(IndexError):
        labeled[6]


def test_it_pickles_and_feeds_data_loader_workers(files):
    data = ImageDataset(files, [0, 1, 1], transform=transforms("small", 8, "L", True), mode="L")
    assert pickle.loads(pickle.dumps(data)).labels.tolist() == [0, 1, 1]
    images, labels = next(iter(DataLoader(data, batch_size=3, num_workers=1)))
    assert images.shape == (3, 1, 8, 8)
    assert torch.equal(labels, torch.tensor([0, 1, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": np.zeros((2, 4, 4))}, "uint8"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, "shape"),
        ({"images": "folder"}, "image_folder"),
        ({"images": [1, 2]}, "paths"),
        ({"labels": [0]}, "one per image"),
        ({"labels": [0.0] * 6}, "integers"),
        ({"labels": [-1] * 6}, "labels=None"),
        ({"labels": [0, 0, 0, 0, 0, 1], "classes": ["a"]}, "no name"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        ImageDataset(**{"images": pixels(), **arguments})


def test_unknown_modes_are_refused():
    with pytest.raises(ConfigError, match="RGB"):
        ImageDataset(pixels(), mode="CMYK")


@pytest.mark.parametrize("indices", [[6], [-7], [0.5], [[0]], np.array([True, False])])
def test_bad_indices_are_refused(labeled, indices):
    with pytest.raises(DataError, match="indices"):
        labeled.subset(indices)
