import logging

import pytest
from PIL import Image

from pml_slade.datasets.folders import image_folder, open_images
from pml_slade.exceptions import DataError


def add(path, mode="RGB", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


@pytest.fixture
def root(tmp_path):
    add(tmp_path / "b/2.png", "L", (9, 3))
    add(tmp_path / "b/10.JPG")
    add(tmp_path / "a/x/1.webp", "RGBA")
    add(tmp_path / "a/y/1.gif", "P")
    add(tmp_path / "a/x/.hidden.png")
    add(tmp_path / ".git/c/1.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_the_class_is_the_relative_folder(root):
    data = image_folder(root)
    assert data.classes == ["a/x", "a/y", "b"]
    assert data.labels.tolist() == [0, 1, 2, 2]
    names = [data.name(i)[len(str(root)) + 1 :] for i in range(4)]
    assert names == ["a/x/1.webp", "a/y/1.gif", "b/10.JPG", "b/2.png"]
    assert [image.mode for image, _ in data] == ["RGB"] * 4


def test_unlabeled_takes_flat_images_too(root):
    add(root / "flat.bmp")
    data = image_folder(root, mode="L", labeled=False)
    assert (len(data), data.labels, data.classes) == (5, None, None)


def test_skipped_files_are_counted_in_the_log(root, caplog):
    with caplog.at_level(logging.INFO, logger="pml_slade"):
        image_folder(root)
    assert "skipped 1 files" in caplog.text


def test_symbolic_links_are_followed_and_cycles_end(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    add(elsewhere / "1.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "b/again").symlink_to(root)
    assert image_folder(root).classes == ["a/x", "a/y", "b", "linked"]


def test_images_directly_in_a_labeled_root_are_refused(root):
    add(root / "flat.png")
    with pytest.raises(DataError, match=r"flat\.png.*labeled=False"):
        image_folder(root)


def test_missing_and_empty_roots_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no images"):
        image_folder(tmp_path, labeled=False)


def test_a_single_class_is_refused(tmp_path):
    add(tmp_path / "only/1.png")
    with pytest.raises(DataError, match="single class 'only'"):
        image_folder(tmp_path)


def test_open_images_picks_by_what_the_path_is(root):
    table = root / "list.csv"
    table.write_text("path,label\nb/2.png,b\na/x/1.webp,a\n")
    assert len(open_images(root)) == 4
    assert open_images(table).labels.tolist() == [1, 0]
    assert open_images(table, labeled=False).labels is None
    with pytest.raises(DataError, match="does not exist"):
        open_images(root / "nowhere")
    with pytest.raises(DataError, match="neither a folder"):
        open_images(root / "b/2.png")
