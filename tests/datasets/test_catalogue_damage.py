"""What is missing or damaged is told, with what to do about it."""

import hashlib
import os
import shutil
import sys

import pytest
from catalogue_trees import WRITERS, write_cars196, write_cub200
from scipy.io import savemat

from pml_slade.compat import LEGACY
from pml_slade.datasets import CATALOGUE, CUB200, Cars196
from pml_slade.datasets.catalogue import reading
from pml_slade.exceptions import DataError

LISTS = ("images.txt", "image_class_labels.txt", "classes.txt")
ANNOTATIONS = {
    "CUB200": LISTS,
    "NABirds": LISTS,
    "Cars196": ("cars_annos.mat",),
    "CompCars": ("misc/make_model_name.mat", "train_test_split/classification/test.txt"),
    "InShop": ("Eval/list_eval_partition.txt",),
    "Fashion200k": ("labels/skirt_test_detect_all.txt",),
}
CAR_LIST = "train_test_split/classification/train.txt"
PARTITION = "Eval/list_eval_partition.txt"
CLOTHES = "labels/top_train_detect_all.txt"
EVERY_FILE = [(name, file) for name, files in ANNOTATIONS.items() for file in files]
TEXTS = [(name, file) for name, file in EVERY_FILE if file.endswith(".txt")]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    return {name: write(root) for name, write in WRITERS.items()}


@pytest.fixture
def base(request, originals, tmp_path):
    """A tree that may be damaged; tests name which with `name`."""
    name = request.getfixturevalue("name")
    return shutil.copytree(originals[name], tmp_path / originals[name].name)


def refused(name, root, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        CATALOGUE[name](root, **{"complete": False, **options})
    assert str(caught.value).startswith(f"{name}: ")
    return str(caught.value)


def edit(file, old, new, count=1):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_missing_data_set_is_refused_with_the_way_to_get_it(tmp_path, name):
    source = CATALOGUE[name].source
    message = refused(name, tmp_path, f"holds no '{source.folders[0]}'; download ")
    assert source.files in message
    assert source.address in message
    assert str(tmp_path) in message


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "CUB200"])
def test_no_download_where_no_library_does_it(tmp_path, name):
    message = refused(name, tmp_path, "download=True is not possible", download=True)
    assert CATALOGUE[name].source.address in message


@pytest.mark.parametrize("name", CATALOGUE)
def test_download_leaves_what_is_there_alone(originals, name):
    assert len(CATALOGUE[name](originals[name], complete=False, download=True))


@pytest.mark.parametrize(
    ("name", "archive"), [(name, file) for name in CATALOGUE for file in CATALOGUE[name].source.archives]
)
@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
def test_an_archive_that_is_not_unpacked_is_told(tmp_path, monkeypatch, name, archive, inside):
    source = CATALOGUE[name].source
    file = (tmp_path / source.folders[0] if inside else tmp_path) / archive
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"archive")
    md5 = hashlib.md5(b"archive").hexdigest()
    if source.archives[archive] is not None:
        message = refused(name, tmp_path, "is not unpacked, and is damaged or not the official one")
        assert f"its md5 is {md5}, not {source.archives[archive]}" in message
        monkeypatch.setattr(CATALOGUE[name], "source", source._replace(archives={archive: md5}))
    message = refused(name, tmp_path, "is not unpacked; run: ")
    assert ("tar -xzf" if archive.endswith("gz") else "unzip") in message
    assert str(file.parent) in message


@pytest.mark.parametrize(("name", "file"), EVERY_FILE)
def test_a_missing_annotation_file_is_named(base, name, file):
    (base / file).unlink()
    if name == "Fashion200k":  # a part of it may do without
        assert len(CATALOGUE[name](base.parent, complete=False)) == 90
    # Whether the folder that holds it is given, or the folder itself.
    for root in (base.parent, base):
        message = refused(name, root, "annotation file .* is missing", complete=name == "Fashion200k")
        assert str(base / file) in message


@pytest.mark.parametrize(("name", "file"), TEXTS)
@pytest.mark.parametrize("content", ["", "\n \n"], ids=["empty", "blank"])
def test_an_empty_annotation_file_is_refused(base, name, file, content):
    (base / file).write_text(content)
    message = refused(name, base, "lists nothing")
    assert str(base / file) in message


@pytest.mark.parametrize(("name", "file"), TEXTS)
def test_bytes_that_are_no_text_are_refused(base, name, file):
    (base / file).write_bytes(b"\xff\xfe\x00\x80")
    assert str(base / file) in refused(name, base, "cannot be read .*unpack it again")


@pytest.mark.parametrize(
    ("name", "file", "line", "text", "expected"),
    [
        *((name, file, 2, "7", "id ") for name in ("CUB200", "NABirds") for file in LISTS),
        (
            "CompCars",
            CAR_LIST,
            2,
            "1/2/x.jpg",
            "make_id/model_id/year/image",
        ),
        (
            "CompCars",
            CAR_LIST,
            3,
            "a/2/2010/x.jpg",
            "make_id/model_id/year",
        ),
        (
            "InShop",
            "Eval/list_eval_partition.txt",
            4,
            "img/x.jpg id_1",
            "image_name item_id evaluation_status",
        ),
        ("Fashion200k", CLOTHES, 2, "women/x.jpeg\t1.0", "path score description"),
        (
            "Fashion200k",
            CLOTHES,
            2,
            "women/x.jpeg\t\ttext",
            "path score description",
        ),
    ],
)
def test_a_malformed_line_is_named(base, name, file, line, text, expected):
    lines = (base / file).read_text().split("\n")
    lines[line - 1] = text
    (base / file).write_text("\n".join(lines))
    message = refused(name, base, rf"{file}', line {line}: expected '")
    assert expected in message
    assert repr(text) in message


@pytest.mark.parametrize("name", CATALOGUE)
def test_missing_images_are_counted_and_three_are_named(base, name):
    images = sorted(path for path in base.rglob("*.jp*g"))
    data = CATALOGUE[name](base, complete=False, **({"min_images": 1} if name == "Fashion200k" else {}))
    listed = {data.name(i) for i in range(len(data))}
    gone = [path for path in images if str(path) in listed][:5]
    for path in gone:
        path.unlink()
    message = refused(name, base, rf"5 of {len(listed)} image files are missing: ")
    assert sum(str(path) in message for path in gone) == 3


@pytest.mark.parametrize("name", CATALOGUE)
def test_missing_images_point_to_an_archive_that_is_there(base, name, monkeypatch):
    source = CATALOGUE[name].source
    images = {path.relative_to(base).parts[0] for path in base.rglob("*.jp*g")}
    for folder in images - {"Img"}:
        shutil.rmtree(base / folder)
    if name == "InShop":
        shutil.rmtree(base / "Img" / "img")
    archive = next(iter(source.archives))
    (base / archive).write_bytes(b"archive")
    monkeypatch.setattr(CATALOGUE[name], "source", source._replace(archives={archive: None}))
    refused(name, base, "image files are missing: .*is not unpacked; run: ")


def test_folders_are_listed_once(tmp_path, monkeypatch):
    write_cub200(tmp_path)
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    CUB200(tmp_path, complete=False)
    assert len(listed) == len(set(listed)) == 10


@pytest.mark.parametrize("name", ["CUB200", "NABirds"])
@pytest.mark.parametrize("file", ["images.txt", "image_class_labels.txt"])
def test_ids_that_do_not_fit_are_named(base, name, file):
    lines = (base / file).read_text().splitlines()
    (base / file).write_text("\n".join(lines[:-2]) + "\n")
    message = refused(name, base, rf"2 image ids are not in .*{file}', e\.g\. ")
    assert lines[-1].split()[0] in message


@pytest.mark.parametrize("name", ["CUB200", "NABirds"])
def test_a_class_without_a_name_is_refused(base, name):
    lines = (base / "classes.txt").read_text().splitlines()
    (base / "classes.txt").write_text("\n".join(lines[:-1]))
    refused(name, base, rf"1 class ids have no name, e\.g\. \['{lines[-1].split()[0]}'\]")


@pytest.mark.parametrize(("name", "file"), [(n, f) for n in ("CUB200", "NABirds") for f in LISTS])
def test_an_id_that_is_listed_twice_is_refused(base, name, file):
    lines = (base / file).read_text().splitlines()
    (base / file).write_text("\n".join([*lines, lines[0]]))
    refused(name, base, rf"{file}', line {len(lines) + 1}: id '{lines[0].split()[0]}' is listed twice")


@pytest.mark.parametrize("name", ["CUB200", "InShop", "CompCars", "Cars196"])
def test_an_image_that_is_listed_twice_is_refused(base, name):
    if name == "CUB200":
        first, second = (base / "images.txt").read_text().split()[1:4:2]
        edit(base / "images.txt", second, first)
    elif name == "InShop":
        file = base / "Eval" / "list_eval_partition.txt"
        lines = file.read_text().splitlines()
        file.write_text("\n".join(["33", *lines[1:], lines[2]]))
    elif name == "CompCars":
        folder = base / "train_test_split" / "classification"
        edit(folder / "test.txt", "\n", "\n" + (folder / "train.txt").read_text().split()[0] + "\n")
    else:
        mat = reading.loadmat(base / "cars_annos.mat")
        mat["annotations"]["relative_im_path"][0, 1] = mat["annotations"]["relative_im_path"][0, 0]
        savemat(base / "cars_annos.mat", {k: v for k, v in mat.items() if k[0] != "_"})
    refused(name, base, "listed twice")


@pytest.mark.parametrize("name", ["Fashion200k"])
def test_an_image_with_two_descriptions_is_left_out(base, name, caplog):
    file = base / "labels" / "top_train_detect_all.txt"
    path = file.read_text().split("\t")[0]
    file.write_text(file.read_text() + f"{path}\t0.5\tsomething else\n")
    loaded = CATALOGUE[name](base, complete=False, min_images=1)
    assert not any(loaded.name(i).endswith(path) for i in range(len(loaded)))
    assert "left out 1 images with several descriptions" in caplog.text


@pytest.mark.parametrize("name", ["InShop"])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("32\n", "33\n", "line 1 says '33' images, 32 are listed"),
        ("32\n", "image_name item_id\n", "line 1 says 'image_name item_id' images, 32 are listed"),
        (" query", " probe", "line 19: unknown evaluation_status 'probe'"),
        (" query", " query x", "line 19: unknown evaluation_status 'query x'"),
        (" query", " train", r"1 items are in train and in test, e\.g\. \['id_00000005'\]"),
    ],
)
def test_a_damaged_partition_is_refused(base, name, old, new, message):
    edit(base / "Eval" / "list_eval_partition.txt", old, new)
    refused(name, base, message)


@pytest.mark.parametrize("name", ["InShop"])
def test_a_partition_without_queries_is_refused(base, name):
    edit(base / "Eval" / "list_eval_partition.txt", " query", " gallery", -1)
    assert len(CATALOGUE[name](base, "gallery", complete=False)) == 16
    refused(name, base, "split 'query' holds no images", split="query")


@pytest.mark.parametrize(
    ("name", "file", "field"),
    [
        ("Cars196", "cars_annos.mat", "annotations.relative_im_path"),
        ("CompCars", "misc/make_model_name.mat", "make_names"),
    ],
)
def test_a_damaged_mat_file_is_refused(base, name, file, field):
    content = (base / file).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no MATLAB" * 30):
        (base / file).write_bytes(damaged)
        assert str(base / file) in refused(name, base, "cannot be read as a MATLAB file .*download it again")
    savemat(base / file, {"other": [1, 2]})
    refused(name, base, rf"has no field '{field}'; it holds \['other'\]")


def test_a_mat_file_without_a_field_of_its_annotations_is_refused(tmp_path):
    base = write_cars196(tmp_path)
    savemat(base / "cars_annos.mat", {"annotations": {"relative_im_path": "car_ims/000001.jpg"}})
    refused("Cars196", base, r"has no field 'annotations\.class'; it holds ")


@pytest.mark.parametrize("field", ["class_names", "model_names"])
def test_class_ids_beyond_the_names_are_refused(tmp_path, field):
    name, file = {
        "class_names": ("Cars196", "cars_annos.mat"),
        "model_names": ("CompCars", "misc/make_model_name.mat"),
    }[field]
    base = WRITERS[name](tmp_path)
    mat = {k: v for k, v in reading.loadmat(base / file).items() if k[0] != "_"}
    mat[field] = mat[field].reshape(-1)[:8]
    savemat(base / file, mat)
    refused(name, base, r"\d class ids have no name, e\.g\. ")


@pytest.mark.parametrize("missing", ["devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"])
def test_a_devkit_that_is_not_whole_is_refused(tmp_path, missing):
    base = write_cars196(tmp_path, devkit=True)
    (base / missing).unlink()
    assert missing in refused("Cars196", tmp_path, "annotation file .* is missing")


def test_an_image_folder_of_compcars_without_images_is_refused(tmp_path):
    base = WRITERS["CompCars"](tmp_path)
    shutil.move(base / "image" / "1", base / "image" / "one")
    refused("CompCars", base, "one/.* is not 'make_id/model_id/year/image'", part="all")
    shutil.rmtree(base / "image")
    refused("CompCars", base, "image' holds no images; unpack data.zip again", part="all")


class FakeCUB:
    """In place of pytorch-metric-learning's; what it writes is ours."""

    def __init__(self, root, download):
        assert download
        write_cub200(root)


class FailingCUB:
    def __init__(self, root, download):
        raise OSError("no network")


def fake_library(monkeypatch, loader):
    module = type(sys)("pytorch_metric_learning.datasets")
    if loader is not None:
        module.CUB = loader
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_download_is_that_of_pytorch_metric_learning(tmp_path, monkeypatch):
    fake_library(monkeypatch, FakeCUB)
    assert len(CUB200(tmp_path, complete=False, download=True)) == 40
    fake_library(monkeypatch, FailingCUB)
    assert len(CUB200(tmp_path, complete=False, download=True)) == 40


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (FailingCUB, r"cannot be downloaded \(no network\); remove "),
        (None, "needs pytorch-metric-learning 2"),
    ],
)
def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch, loader, message):
    fake_library(monkeypatch, loader)
    told = refused("CUB200", tmp_path, message, download=True)
    assert CUB200.source.address in told
    assert "unpack it in" in told


@pytest.mark.skipif(LEGACY, reason="pytorch-metric-learning 0.9.92 has no data sets")
def test_the_download_of_the_real_library_goes_where_it_is_found(tmp_path, monkeypatch):
    from pytorch_metric_learning.datasets import CUB

    monkeypatch.setattr(CUB, "download_and_remove", lambda self: write_cub200(self.root))
    assert len(CUB200(tmp_path / "new", complete=False, download=True)) == 40


def test_settings_are_checked_before_anything_is_read():
    with pytest.raises(ValueError, match="split must be"):
        Cars196("no/such/folder", "val")
