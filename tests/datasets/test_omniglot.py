import numpy as np
import pytest
from PIL import Image

from pml_slade.datasets.omniglot import omniglot_splits
from pml_slade.datasets.splits import class_names
from pml_slade.exceptions import ConfigError, DataError

BACKGROUND = ["Alpha", "Beta", "Gamma", "Delta"]


def write_tree(root):
    rng = np.random.default_rng(0)
    for part, alphabets in (("background", BACKGROUND), ("evaluation", ["Eta", "Zeta"])):
        for alphabet in alphabets:
            for character in ("character01", "character02", "character03"):
                folder = root / f"images_{part}" / alphabet / character
                folder.mkdir(parents=True)
                for drawing in range(2):
                    paper = rng.random((105, 105)) > 0.1
                    Image.fromarray(paper).save(folder / f"{drawing}.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("omniglot")
    write_tree(root)
    return root


def alphabets(dataset):
    return {name.split("/")[0] for name in class_names(dataset)}


def test_labeled_pool_and_test_are_different_alphabets(root):
    splits = omniglot_splits(root, labeled_alphabets=2)
    labeled = alphabets(splits.labeled) | alphabets(splits.validation)
    assert len(labeled) == 2
    assert alphabets(splits.unlabeled) == set(BACKGROUND) - labeled
    assert alphabets(splits.test) == {"Eta", "Zeta"}
    assert class_names(splits.labeled).isdisjoint(class_names(splits.validation))
    sizes = [len(part) for part in (splits.labeled, splits.validation, splits.unlabeled)]
    assert sizes == [8, 4, 12]


def test_the_pool_keeps_its_true_labels_for_an_oracle(root):
    pool = omniglot_splits(root, ["Alpha"], validation_fraction=0).unlabeled
    assert pool.num_classes == 9
    assert {label for _, label in pool.without_labels()} == {-1}


def test_ink_is_white_on_black(root):
    data = omniglot_splits(root, 2, image_size=20).test
    image, _ = data[0]
    assert (image.mode, image.size) == ("L", (20, 20))
    assert 10 < np.asarray(image).mean() < 45


def test_alphabets_may_be_named(root):
    splits = omniglot_splits(root, ["Gamma", "Beta"], validation_fraction=0)
    assert alphabets(splits.labeled) == {"Gamma", "Beta"}
    assert splits.validation is None


def test_the_seed_decides(root):
    chosen = [tuple(sorted(omniglot_splits(root, 2, seed=seed).labeled.classes)) for seed in range(6)]
    assert len(set(chosen)) > 1
    assert tuple(sorted(omniglot_splits(root, 2, seed=0).labeled.classes)) == chosen[0]


def test_the_folder_of_torchvision_is_found(tmp_path):
    write_tree(tmp_path / "omniglot-py")
    assert len(omniglot_splits(tmp_path, 2).test) == 12


@pytest.mark.parametrize("wanted", [0, 4, -1, [], ["Omega"], BACKGROUND])
def test_choices_that_do_not_fit_are_refused(root, wanted):
    with pytest.raises(ConfigError, match="labeled_alphabets"):
        omniglot_splits(root, wanted)


def test_missing_images_are_refused_with_the_way_to_get_them(tmp_path):
    with pytest.raises(DataError, match=r"download=True.*images_background\.zip"):
        omniglot_splits(tmp_path)


def test_damaged_drawings_are_named(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "images_background/Alpha/character01/0.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"character01.0\.png"):
        omniglot_splits(tmp_path, ["Alpha"])


def test_download_is_that_of_torchvision(tmp_path, monkeypatch):
    def fake(root, background, download):
        if background:
            write_tree(tmp_path / "omniglot-py")

    monkeypatch.setattr("torchvision.datasets.Omniglot", fake)
    assert len(omniglot_splits(tmp_path, 2, download=True).test) == 12


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.Omniglot", fail)
    with pytest.raises(DataError, match=r"no network.*unpack"):
        omniglot_splits(tmp_path, download=True)
