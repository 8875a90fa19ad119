"""From settings to objects: what is filled in, and what is refused before anything is trained."""

import logging

import pytest
import torch
from images import LABELED, PER_CLASS, drawings, small_config, splits, write_images
from PIL import Image

from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.splits import class_names, parts
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.running import data as run_data
from pml_slade.running.models import build_models, model_meta
from pml_slade.running.run import Run

NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}


@pytest.fixture
def in_memory(monkeypatch):
    monkeypatch.setattr(run_data, "build_splits", lambda config: splits())


@pytest.mark.parametrize("device", ["cude", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_be_used_is_named(tmp_path, device):
    with pytest.raises(ConfigError, match=rf"^device: '{device}' cannot be used: ."):
        run_data.build_runtime(small_config(NOWHERE, tmp_path, f"device={device}"))


def test_auto_is_a_device_that_is_there(tmp_path):
    device = run_data.build_runtime(small_config(NOWHERE, tmp_path, "device=auto")).device
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_same_seed_gives_the_same_weights(tmp_path):
    def weights(seed):
        models = build_models(small_config(NOWHERE, tmp_path, f"seed={seed}"))
        return torch.cat([p.flatten() for m in models.values() for p in m.parameters()])

    first = weights(3)
    torch.rand(7)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


def test_folders_become_disjoint_parts_and_the_pool_has_no_labels(folders, tmp_path):
    parts = run_data.build_splits(small_config(folders, tmp_path))
    assert parts.labeled.num_classes == LABELED - 2
    assert parts.validation.num_classes == 2
    assert class_names(parts.labeled).isdisjoint(class_names(parts.validation))
    assert parts.unlabeled.labels is None
    assert {image.mode for image, _ in parts.test} == {"L"}


def test_images_of_all_sizes_and_formats_come_out_alike(folders, tmp_path):
    config = small_config(folders, tmp_path, "data.mode=RGB")
    parts = run_data.build_splits(config)
    for train in (True, False):
        views = run_data.build_views(config, parts)
        pool = views.augmented(parts.unlabeled) if train else views.plain(parts.unlabeled)
        assert {pool[i][0].shape for i in range(12)} == {(3, 16, 16)}


def test_given_validation_classes_leave_all_labeled_ones_to_training(folders, tmp_path):
    config = small_config(folders, tmp_path, f"data.validation={folders['test']}", "data.test=null")
    parts = run_data.build_splits(config)
    assert parts.labeled.num_classes == LABELED
    assert class_names(parts.validation) == {f"test {c:02d}" for c in range(4)}


def test_test_classes_among_the_labeled_ones_are_refused(folders, tmp_path):
    config = small_config(folders, tmp_path, f"data.test={folders['labeled']}")
    with pytest.raises(DataError, match=r"labeled and test share 10 classes, e\.g\. \['labeled 0"):
        run_data.build_splits(config)


def write_list(folders, file, classes):
    images = sorted((folders["labeled"]).rglob("*.*"))[: classes * PER_CLASS]
    file.write_text("path,label\n" + "".join(f"{image},{image.parent.name}\n" for image in images))
    return file


def test_few_labeled_classes_are_all_trained_on_and_a_warning_says_so(folders, tmp_path, caplog):
    table = write_list(folders, tmp_path / "few.csv", classes=9)
    config = small_config(folders, tmp_path, f"data.labeled={table}")
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        parts = run_data.build_splits(config)
    assert (parts.validation, parts.labeled.num_classes) == (None, 9)
    assert "data.labeled has 9 classes, too few" in caplog.text
    assert "the last epoch is taken" in caplog.text


def test_no_warning_where_no_validation_is_wanted(folders, tmp_path, caplog):
    table = write_list(folders, tmp_path / "few.csv", classes=9)
    config = small_config(folders, tmp_path, f"data.labeled={table}", "data.validation_fraction=0")
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        assert run_data.build_splits(config).validation is None
    assert caplog.text == ""


@pytest.mark.parametrize(("size", "per_class"), [(20, 2), (24, 3), (40, 4), (22, 11)])
def test_where_classes_are_few_a_batch_has_more_images_of_each(tmp_path, size, per_class, in_memory):
    run = Run(small_config(NOWHERE, tmp_path / "run", "rows=slade", f"student.batch_size={size}"))
    teacher, slade = run.config.chosen
    assert run.shop.job(teacher).num_classes == 10
    assert teacher.images_per_class(run.shop.job(teacher)) == 2
    assert slade.images_per_class(run.shop.job(slade)) == per_class


def test_all_that_does_not_fit_the_batches_is_told_at_once(tmp_path, in_memory):
    sizes = ["student.num_clusters=90", "student.unlabeled_batch_size=100"]
    with pytest.raises(DataError) as caught:
        Run(small_config(NOWHERE, tmp_path / "run", *sizes), progress=False)
    for words in ("the pool has 64 images, fewer", "student.num_clusters=90 is more"):
        assert words in str(caught.value)


def test_a_share_for_validation_of_ones_own_is_kept_and_the_default_is_told(folders, tmp_path, caplog):
    few = tmp_path / "few"
    few.mkdir()
    for folder in sorted(folders["labeled"].iterdir())[:6]:
        (few / folder.name).symlink_to(folder)
    given = {"labeled": few, "unlabeled": folders["unlabeled"]}
    small = ("teacher.batch_size=4", "student.batch_size=4")
    Run(small_config(given, tmp_path / "run", *small), progress=False)
    assert "6 classes, too few (below 10)" in caplog.text
    assert "nothing will be measured" in caplog.text
    caplog.clear()
    own = Run(small_config(given, tmp_path / "run", *small, "data.validation_fraction=0.4"), progress=False)
    assert own.splits.validation.num_classes == 2
    assert caplog.text == ""


def test_a_pool_smaller_than_a_batch_is_refused(tmp_path, in_memory):
    config = small_config(NOWHERE, tmp_path / "run", "student.unlabeled_batch_size=66")
    with pytest.raises(DataError, match=r"pool has 64 images.*student\.unlabeled_batch_size=66"):
        Run(config)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("teacher.loss.name=Contrastive", r"teacher\.loss\.name: .*ContrastiveLoss"),
        ("student.loss.name=Contrastive", r"student\.loss\.name: .*ContrastiveLoss"),
        ("student.unlabeled_loss.name=Contrastive", r"student\.unlabeled_loss\.name: .*ContrastiveLoss"),
        ("teacher.miner.name=SimilarityMiner", r"teacher\.miner\.name: .*Miner"),
        ("student.miner.name=SimilarityMiner", r"student\.miner\.name: .*Miner"),
        ("teacher.optimizer=Adamm", r"teacher\.optimizer: .*Adamm"),
        ("student.optimizer=Adamm", r"student\.optimizer: .*Adamm"),
        ("model.trunk=resnet51", r"resnet51"),
        ("model.weights=default", r"convnet"),
        ("student.num_clusters=65", r"student\.num_clusters.*65"),
        ("student.loss.name=ProxyAnchorLoss", r"unlabeled_loss"),
        ("rows=[slade, oracle]", r"oracle needs the pool's true labels"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained_or_written(
    tmp_path, monkeypatch, setting, message
):
    def without_labels(config):
        full = splits()
        return type(full)(full.labeled, full.unlabeled.without_labels(), full.validation, full.test, "tiny")

    monkeypatch.setattr(run_data, "build_splits", without_labels)
    with pytest.raises(ConfigError if "clusters" not in setting else ValueError, match=message):
        Run(small_config(NOWHERE, tmp_path / "run", setting), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_peers_loss_that_does_not_exist_is_refused(tmp_path, in_memory):
    settings = ("rows=[pseudo]", "methods.pseudo.loss.name=Contrastive")
    with pytest.raises(ConfigError, match=r"methods\.pseudo\.loss\.name: .*ContrastiveLoss"):
        Run(small_config(NOWHERE, tmp_path / "run", *settings), progress=False)


@pytest.mark.parametrize("row", ["iterated", "slade"])
def test_weights_of_clusters_that_are_numbered_anew_are_refused(tmp_path, in_memory, row):
    settings = (
        "student.unlabeled_loss={name: ProxyNCALoss, num_classes: 99, embedding_size: 16}",
        "student.basis.clusters=false",
        f"rows=[control, pseudo, {row}]",
    )
    with pytest.raises(ConfigError, match=r"relabel_every=3 .*ProxyNCALoss"):
        Run(small_config(NOWHERE, tmp_path / "run", *settings, "student.relabel_every=3"))
    Run(small_config(NOWHERE, tmp_path / "run", *settings, "student.relabel_every=0"))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_classes_of_one_image_are_refused_before_anything_is_trained(tmp_path, monkeypatch, part):
    full = splits()
    pixels, labels = drawings(4, per_class=1, seed=9)
    lonely = ImageDataset(pixels, labels, [f"lonely {c}" for c in range(4)], mode="L")
    given = {"validation": full.validation, "test": full.test, part: lonely}
    made = type(full)(full.labeled, full.unlabeled, name="tiny", **given)
    monkeypatch.setattr(run_data, "build_splits", lambda config: made)
    with pytest.raises(DataError, match=f"{part}.*two images"):
        Run(small_config(NOWHERE, tmp_path / "run"), progress=False)


def test_the_models_file_says_how_to_rebuild_it(tmp_path):
    meta = model_meta(small_config(NOWHERE, tmp_path, "model.hidden_sizes=[6]"))
    assert meta == {
        "trunk": "convnet",
        "embedding_size": 8,
        "hidden_sizes": [6],
        "in_channels": 1,
        "image_size": 16,
        "mode": "L",
        "transform": "small",
        "trunk_options": {},
        "input": None,
    }


@pytest.fixture
def damaged(tmp_path):
    """Folders with three files without a header, and one that is cut; and the names of these."""
    folders = write_images(tmp_path / "images")
    headless = [sorted(folders[part].rglob("*.png"))[0] for part in folders]
    for file in headless:
        file.write_bytes(b"no image")
    cut = sorted(folders["unlabeled"].rglob("*.bmp"))[0]
    cut.write_bytes(cut.read_bytes()[:-200])
    return folders, headless, cut


def test_all_images_without_a_sound_header_are_named_in_one_line_before_anything_is_written(
    damaged, tmp_path
):
    folders, headless, _ = damaged
    with pytest.raises(DataError, match=r"3 of \d+ images cannot be read") as caught:
        Run(small_config(folders, tmp_path / "run"), progress=False)
    message = str(caught.value)
    assert [str(file) for file in headless if str(file) not in message] == []
    assert "data.unreadable=skip" in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()
    alone = small_config(
        folders, tmp_path / "run", "rows=[]", "pretraining.steps=4", "pretraining.num_local=0"
    )
    with pytest.raises(DataError, match=r"3 of \d+ images cannot be read"):
        run_data.build_pretraining_images(alone)


def test_what_cannot_be_decoded_is_left_out_where_that_is_asked_for(damaged, tmp_path, caplog):
    folders, headless, cut = damaged
    run = Run(small_config(folders, tmp_path / "run", "data.unreadable=skip"), progress=False)
    assert "left out 4 of 192 images" in caplog.text
    assert str(cut) in caplog.text
    names = [name for part in parts(run.splits).values() for name in part.names()]
    assert len(names) == 188
    assert not {str(file) for file in (*headless, cut)} & set(names)


def test_a_class_that_is_left_out_with_its_images_leaves_no_gap(tmp_path, caplog):
    folders = write_images(tmp_path / "images")
    for file in (folders["labeled"] / "labeled 03").iterdir():
        file.write_bytes(b"")
    config = small_config(folders, tmp_path / "run", "data.unreadable=skip", "data.validation_fraction=0")
    labeled = run_data.readable(run_data.build_splits(config), config.data).labeled
    assert (labeled.num_classes, labeled.labels.max()) == (LABELED - 1, LABELED - 2)
    for file in folders["unlabeled"].iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no image of unlabeled can be read"):
        run_data.readable(run_data.build_splits(config), config.data)


@pytest.fixture
def repeated(tmp_path):
    """Images of which the pool has two test images, one of them encoded again, and labeled has one."""
    folders = write_images(tmp_path / "images")
    first, second, third = sorted(folders["test"].rglob("*.png"))[:3]
    (folders["unlabeled"] / "same.png").write_bytes(first.read_bytes())
    Image.open(second).convert("RGB").save(folders["unlabeled"] / "again.jpg", quality=95)
    (folders["labeled"] / "labeled 00" / "same.png").write_bytes(third.read_bytes())
    return folders


def test_held_out_images_in_pool_and_labeled_images_are_told_by_number_and_name(repeated, tmp_path, caplog):
    splits = run_data.build_splits(small_config(repeated, tmp_path / "run"))
    told = run_data.report_duplicates(splits)
    assert "pool against test: 1 exact and 1 near-duplicates among 66 x 32 images" in told
    assert "labeled against test: 1 exact and 0 near" in told
    for words in ("same.png = ", "again.jpg ~ ", "data.leave_out_duplicates=true", "out of data.labeled"):
        assert words in caplog.text


def test_duplicates_are_left_out_of_the_pool_where_that_is_asked_for(repeated, tmp_path, caplog):
    run = Run(small_config(repeated, tmp_path / "run", "data.leave_out_duplicates=true"), progress=False)
    assert len(run.splits.unlabeled) == 64
    assert not [name for name in run.splits.unlabeled.names() if "same" in name or "again" in name]
    assert "1 exact and 1 near-duplicates" in caplog.text
    everything = small_config(
        {**repeated, "unlabeled": repeated["test"]}, tmp_path / "run", "data.leave_out_duplicates=true"
    )
    with pytest.raises(DataError, match="every image of the pool is a held-out image"):
        Run(everything, progress=False)
