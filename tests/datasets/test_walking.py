"""What a folder holds, whatever its links, suffixes and permissions."""

import logging
import os

import pytest
from PIL import Image, features

from pml_slade.datasets.decoding import IMAGE_SUFFIXES, read_image
from pml_slade.datasets.folders import image_folder
from pml_slade.datasets.walking import walk
from pml_slade.exceptions import DataError


def add(path, format=None, size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, format)
    return path


def names(found):
    return [path.replace(os.sep, "/") for path in found.images]


@pytest.fixture
def root(tmp_path):
    for name in ("a/1.png", "b/1.png", "b/c/1.png"):
        add(tmp_path / "root" / name)
    return tmp_path / "root"


def test_folders_that_link_to_each_other_are_read_once_under_their_own_names(root):
    (root / "a/to_b").symlink_to(root / "b")
    (root / "b/to_a").symlink_to(root / "a")
    (root / "a/up").symlink_to(root)
    found = walk(root)
    assert names(found) == ["a/1.png", "b/1.png", "b/c/1.png"]
    assert [path.as_posix() for path in found.again] == ["a/to_b", "b/to_a"]


def test_links_that_multiply_end(tmp_path):
    for name in "abcdefgh":
        add(tmp_path / name / "1.png")
    for one in "abcdefgh":
        for other in "abcdefgh":
            (tmp_path / one / f"to_{other}").symlink_to(tmp_path / other)
    assert len(walk(tmp_path).images) == 8


def test_two_links_to_one_folder_elsewhere_are_one_class_and_the_other_is_named(root, tmp_path, caplog):
    add(tmp_path / "elsewhere/1.png")
    for name in ("x", "y"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    assert image_folder(root).classes == ["a", "b", "b/c", "x"]
    assert "read already: 'y'" in caplog.text


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".tif", ".webp", ".jp2", ".tga", ".pcx", ".ico"])
def test_every_suffix_of_a_still_picture_is_read(tmp_path, suffix):
    file = add(tmp_path / f"1{suffix}", size=(16, 16))  # the smallest icon
    assert names(walk(tmp_path)) == [file.name]
    assert read_image(file).mode == "RGB"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    assert read_image(add(tmp_path / "1.avif")).size == (5, 4)
    assert names(walk(tmp_path)) == ["1.avif"]


def test_heic_is_read_by_the_extra(tmp_path):
    pytest.importorskip("pillow_heif")
    assert read_image(add(tmp_path / "1.heic")).size == (5, 4)
    assert names(walk(tmp_path)) == ["1.heic"]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_without_a_suffix_the_header_tells(tmp_path, format):
    add(tmp_path / "IMG_1", format)
    (tmp_path / "README").write_text("no image")
    (tmp_path / "empty").touch()
    found = walk(tmp_path)
    assert names(found) == ["IMG_1"]
    assert found.others == {"": 2}


def test_formats_that_other_programs_read_are_no_images(tmp_path):
    assert not IMAGE_SUFFIXES & {".eps", ".ps", ".pdf", ".wmf", ".h5", ".mpg"}
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / "1.png")


def test_what_is_left_out_is_a_warning_with_suffixes_and_numbers_and_the_lost_class(root, caplog):
    for name in ("a/2.heic", "a/3.HEIC", "c/1.heic", "c/2.mov"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    if ".heic" in IMAGE_SUFFIXES:
        pytest.skip("pillow-heif is here")
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        assert image_folder(root).classes == ["a", "b", "b/c"]
    for words in ("4 files", "3 .heic", "1 .mov", "pml-slade[heif]", "'c' so have no image"):
        assert words in caplog.text


def test_notes_beside_images_are_no_warning(root, caplog):
    (root / "notes.txt").touch()
    with caplog.at_level(logging.INFO, logger="pml_slade"):
        image_folder(root, labeled=False)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_folder_without_any_image_says_what_it_holds(tmp_path):
    (tmp_path / "1.mov").touch()
    with pytest.raises(DataError, match=r"holds no images .*1 \.mov"):
        image_folder(tmp_path, labeled=False)


def test_pipes_are_not_waited_for_and_dead_links_are_not_forgotten(root):
    os.mkfifo(root / "a/pipe.png")
    (root / "a/gone.png").symlink_to("nowhere")
    assert "a/gone.png" in names(walk(root))
    assert "a/pipe.png" not in names(walk(root))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(root):
    (root / "b").chmod(0)
    try:
        with pytest.raises(DataError, match=r"b' cannot be read \(Permission denied\)"):
            walk(root)
    finally:
        (root / "b").chmod(0o755)


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"root' cannot be read \(Permission denied\)"):
        walk(root)
