"""A look at images finds what was planted, and nothing else."""

import io

import numpy as np
import pytest
from images import drawings
from PIL import Image

from pml_slade.datasets.folders import image_folder
from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.looking import BLOCK, duplicates, examine, in_threads, look_at, unreadable

SOUND = 12


@pytest.fixture
def root(tmp_path):
    """Two classes of sound photographs."""
    images, _ = drawings(1, SOUND, size=64)
    for i, image in enumerate(images):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).convert("RGB").save(tmp_path / "ab"[i % 2] / f"{i:02d}.jpg")
    return tmp_path


def looked(root, decode=False):
    images = image_folder(root)
    looks = list(look_at(images, decode))
    return images, looks, examine(images, looks)


def by_name(images, found):
    return {images.name(i).split("/")[-1]: what for i, what in found.items()}


@pytest.mark.parametrize("decode", [False, True])
def test_sound_images_have_nothing_wrong(root, decode):
    images, looks, found = looked(root, decode)
    assert (found.unreadable, found.tiny, found.odd, found.alone) == ({}, {}, {}, {})
    assert duplicates(images, looks) == {}
    assert {look.size for look in looks} == {(64, 64)}


def test_what_has_no_sound_header_cannot_be_read(root):
    (root / "a/empty.png").touch()
    (root / "a/text.jpg").write_text("no image")
    (root / "a/cut.jpg").write_bytes((root / "a/00.jpg").read_bytes()[:3])
    (root / "a/link.png").symlink_to("nowhere")
    Image.fromarray(np.ones((20, 20), np.float32)).save(root / "a/floats.tif")
    images, _, found = looked(root)
    assert sorted(by_name(images, found.unreadable)) == [
        "cut.jpg",
        "empty.png",
        "floats.tif",
        "link.png",
        "text.jpg",
    ]
    assert by_name(images, found.unreadable)["link.png"] == "No such file or directory"
    assert found.tiny == {}


def test_half_a_file_is_found_when_it_is_decoded(root):
    whole = (root / "a/00.jpg").read_bytes()
    (root / "a/00.jpg").write_bytes(whole[: len(whole) // 2])
    assert unreadable(image_folder(root)) == {}
    images, _, found = looked(root)
    assert list(by_name(images, found.odd).values()) == ["its end is missing: look with --decode"]
    assert list(unreadable(image_folder(root), decode=True)) == [0]


def test_tiny_long_misnamed_and_blank_images_are_named_with_what_is_odd(root):
    Image.new("RGB", (7, 300)).save(root / "a/tiny.png")
    Image.new("RGB", (600, 60), "red").save(root / "a/long.png")
    Image.new("CMYK", (60, 60)).save(root / "a/print.jpg")
    (root / "a/named.png").write_bytes((root / "a/00.jpg").read_bytes())
    frames = [Image.new("L", (60, 60), value) for value in (200, 10)]
    frames[0].save(root / "a/film.gif", save_all=True, append_images=frames[1:])
    images, _, found = looked(root)
    assert by_name(images, found.tiny) == {"tiny.png": "7 x 300 pixels"}
    odd = by_name(images, found.odd)
    assert sorted(odd) == ["film.gif", "long.png", "named.png", "print.jpg", "tiny.png"]
    assert odd["long.png"] == "10 times as long as wide"
    assert odd["named.png"] == "a JPEG file named .png"
    images, _, found = looked(root, decode=True)
    assert "all of one colour" in by_name(images, found.odd)["long.png"]


def test_copies_are_found_by_their_files_and_other_formats_by_their_pixels(root):
    (root / "b/copy.jpg").write_bytes((root / "a/00.jpg").read_bytes())
    with Image.open(root / "a/00.jpg") as image:
        image.save(root / "b/same.png")
    images, looks, _ = looked(root)
    assert [(images.name(i)[-8:], images.name(j)[-6:]) for i, j in duplicates(images, looks).items()] == [
        ("copy.jpg", "00.jpg")
    ]
    images, looks, _ = looked(root, decode=True)
    assert len(duplicates(images, looks)) == 2


def test_a_class_is_alone_with_one_image_that_can_be_read(root):
    (root / "c").mkdir()
    Image.new("L", (60, 60)).save(root / "c/1.png")
    (root / "c/2.png").touch()
    images, _, found = looked(root)
    assert {name: images.name(i)[-5:] for name, i in found.alone.items()} == {"c": "1.png"}


def test_images_in_memory_can_be_read():
    arrays = np.zeros((3, 20, 30, 3), np.uint8)
    assert [look.size for look in look_at(ImageDataset(arrays))] == [(30, 20)] * 3
    assert unreadable(ImageDataset(arrays)) == {}


def test_threads_keep_the_order_over_many_blocks():
    assert list(in_threads(lambda x: 2 * x, range(2 * BLOCK + 3))) == list(range(0, 4 * BLOCK + 6, 2))


def test_a_hostile_header_is_no_more_than_unreadable(tmp_path):
    content = io.BytesIO()
    Image.new("L", (1, 1)).save(content, "png")
    huge = bytearray(content.getvalue())
    huge[16:24] = (2**31 - 1).to_bytes(4, "big") * 2  # width and height
    (tmp_path / "huge.png").write_bytes(huge)
    assert list(unreadable(ImageDataset([tmp_path / "huge.png"]))) == [0]
