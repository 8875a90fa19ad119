"""Images in tar shards, read at random."""

import io
import tarfile

import numpy as np
import pytest
from images import png
from PIL import Image

from pml_slade.datasets import image_shards, open_images
from pml_slade.datasets.fingerprints import content_keys, list_images
from pml_slade.datasets.looking import look_at, unreadable
from pml_slade.exceptions import DataError


def picture(value):
    return png(np.full((4, 6), value, dtype=np.uint8))


def write(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "1.tar", {"x/c.png": picture(3), "x/c.cls": b"0", "x/c.json": b"{}"})
    write(tmp_path / "0.tar", {"b.cls": b"5\n", "b.png": picture(2), "a.png": picture(1), "a.cls": b"0"})
    (tmp_path / "notes.txt").write_text("beside")
    return tmp_path


def test_samples_come_in_the_order_of_the_shards_with_their_classes(folder):
    data = open_images(folder, mode="L")
    assert [data[i][0].getpixel((5, 3)) for i in range(3)] == [2, 1, 3]
    assert data.labels.tolist() == [5, 0, 0]
    assert data.names() == [str(folder / name) for name in ("0.tar/b.png", "0.tar/a.png", "1.tar/x/c.png")]
    part = data.subset([2, 0])
    assert (part[0][0].getpixel((0, 0)), part[1][1]) == (3, 5)
    assert part.name(1) == data.name(0)


@pytest.mark.parametrize("beside", ["cat/1.png", "1.png"])
def test_where_images_lie_beside_a_tar_file_they_are_read_and_it_is_not(folder, beside, caplog):
    (folder / beside).parent.mkdir(exist_ok=True)
    (folder / beside).write_bytes(picture(8))
    assert open_images(folder, labeled=False).names() == [str(folder / beside)]
    assert "2 .tar" in caplog.text


def test_one_shard_will_do_and_labels_may_stay_unread(folder):
    data = open_images(folder / "1.tar", labeled=False)
    assert (len(data), data[0][1], data.labels) == (1, -1, None)


def test_images_are_known_by_their_bytes_as_those_in_files_are(folder):
    data = open_images(folder, labeled=False)
    for name, content in (("b.png", picture(2)), ("a.png", picture(1)), ("c.png", picture(3))):
        (folder / name).write_bytes(content)
    files = [folder / name for name in ("b.png", "a.png", "c.png")]
    of_files = open_images_of(files)
    assert content_keys(data) == content_keys(of_files)
    lines = [line.split("\t")[1:3] for line in list_images(data)]
    assert lines == [line.split("\t")[1:3] for line in list_images(of_files)]
    assert [look.size for look in look_at(data, decode=True)] == [(6, 4)] * 3


def open_images_of(files):
    from pml_slade.datasets import ImageDataset

    return ImageDataset(files)


def test_an_image_that_cannot_be_read_is_found_before_training_and_named(folder):
    write(folder / "2.tar", {"d.png": b"no image", "e.png": picture(9)[:-30]})
    data = open_images(folder, labeled=False)
    assert unreadable(data) == {3: "no image that can be read"}
    assert sorted(unreadable(data, decode=True)) == [3, 4]
    with pytest.raises(DataError, match=r"index 3 \(.*2.tar/d.png\): image cannot be read"):
        data[3]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b""}, "no image"),
        ({"a.png": picture(1), "a.jpg": picture(1)}, "the key 'a' has two images"),
        (
            {"a.png": picture(1), "b.png": picture(1), "b.cls": b"1"},
            "a.png has no class: 1 of 2 samples lack",
        ),
        (
            {"a.png": picture(1), "a.cls": b"cat"},
            "a.cls must hold the number of a class, 0 or more, got b'cat'",
        ),
        ({"a.png": picture(1), "a.cls": b"-1"}, "number of a class, 0 or more, got b.-1"),
    ],
)
def test_shards_that_cannot_be_used_are_refused(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        image_shards([write(tmp_path / "0.tar", members)])


def test_what_is_no_tar_file_or_compressed_is_refused(tmp_path):
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    (tmp_path / "n.tar").write_bytes(b"x" * 2000)
    for name in ("z.tar", "n.tar", "gone.tar"):
        with pytest.raises(DataError, match=f"{name} cannot be read as a tar file that is not compressed"):
            image_shards([tmp_path / name])


def test_members_that_are_no_files_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
        (tmp_path / "a.png").write_bytes(picture(7))
        tar.add(tmp_path / "a.png", "a.png")
    data = image_shards([tmp_path / "0.tar"], labeled=False)
    assert len(data) == 1
    assert isinstance(data.image(0), Image.Image)
