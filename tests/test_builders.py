"""From settings to objects: what is filled in, and what is refused before anything is trained."""

import logging

import pytest
import torch
from images import LABELED, PER_CLASS, drawings, small_config, splits, write_images
from pytorch_metric_learning import losses, miners

from pml_slade import builders
from pml_slade.config import NamedConfig
from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.splits import class_names
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.pipeline import Pipeline

NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def in_memory(monkeypatch):
    monkeypatch.setattr(builders, "build_splits", lambda config: splits())


def named(name, **arguments):
    return NamedConfig(name=name, **arguments)


def test_losses_and_miners_are_those_of_pml_with_their_arguments():
    loss = builders.build_loss(named("TripletMarginLoss", margin=0.2), "teacher.loss")
    assert isinstance(loss, losses.TripletMarginLoss)
    assert loss.margin == 0.2
    miner = builders.build_miner(named("MultiSimilarityMiner", epsilon=0.3), "teacher.miner")
    assert isinstance(miner, miners.MultiSimilarityMiner)
    assert miner.epsilon == 0.3


def test_proxy_losses_get_their_sizes():
    loss = builders.build_loss(named("ProxyAnchorLoss"), "teacher.loss", num_classes=7, embedding_size=5)
    assert sorted(loss.proxies.shape) == [5, 7]


def test_a_size_that_is_given_wins_over_the_known_one():
    sizes = {"num_classes": 7, "embedding_size": 5}
    loss = builders.build_loss(named("ProxyAnchorLoss", num_classes=9), "teacher.loss", **sizes)
    assert sorted(loss.proxies.shape) == [5, 9]


def test_losses_that_ask_for_no_sizes_get_none():
    sizes = {"num_classes": 7, "embedding_size": 5}
    assert builders.build_loss(named("ContrastiveLoss"), "teacher.loss", **sizes)


@pytest.mark.parametrize(
    ("build", "typo", "meant"),
    [
        (builders.build_loss, "ContrastivLoss", "ContrastiveLoss"),
        (builders.build_loss, "multisimilarityloss", "MultiSimilarityLoss"),
        (builders.build_miner, "MultiSimilarityMinner", "MultiSimilarityMiner"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(build, typo, meant):
    with pytest.raises(ConfigError, match=rf"^student\.x\.name: .* no {typo}; did you mean {meant}\?"):
        build(named(typo), "student.x")


def groups(**own):
    return [{"params": list(torch.nn.Linear(2, 2).parameters()), **own}]


def test_an_unknown_optimizer_is_refused_with_the_nearest_one(tmp_path):
    config = small_config(NOWHERE, tmp_path, "student.optimizer=RMSprp")
    with pytest.raises(ConfigError, match=r"RMSprp.*RMSprop"):
        builders.build_optimizer(config.student, groups())


@pytest.mark.parametrize("name", ["LBFGS", "lr_scheduler", "SparseAdam"])
def test_an_optimizer_that_cannot_be_used_is_refused_with_its_name(tmp_path, name):
    config = small_config(NOWHERE, tmp_path, f"student.optimizer={name}")
    with pytest.raises(ConfigError, match=name):
        builders.build_optimizer(config.student, groups())


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_an_optimizer_gets_its_rate_and_decay(tmp_path, name):
    settings = (f"student.optimizer={name}", "student.lr=0.5", "student.weight_decay=0.25")
    student = small_config(NOWHERE, tmp_path, *settings).student
    [group] = builders.build_optimizer(student, groups()).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    [group] = builders.build_optimizer(student, groups(lr=0.125)).param_groups
    assert group["lr"] == 0.125


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (builders.build_loss, named("ContrastiveLoss", margine=0.5)),
        (builders.build_loss, named("ProxyAnchorLoss")),
        (builders.build_miner, named("MultiSimilarityMiner", epsilom=0.1)),
    ],
)
def test_arguments_that_pml_refuses_are_shown_with_the_key(build, config):
    with pytest.raises(ConfigError, match=rf"^student\.x: {config.name} refused \{{.*\}}: ."):
        build(config, "student.x")


@pytest.mark.parametrize("device", ["cude", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_be_used_is_named(tmp_path, device):
    with pytest.raises(ConfigError, match=rf"^device: '{device}' cannot be used: ."):
        builders.build_device(small_config(NOWHERE, tmp_path, f"device={device}"))


def test_auto_is_a_device_that_is_there(tmp_path):
    device = builders.build_device(small_config(NOWHERE, tmp_path, "device=auto"))
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_same_seed_gives_the_same_weights(tmp_path):
    def weights(seed):
        models = builders.build_models(small_config(NOWHERE, tmp_path, f"seed={seed}"))
        return torch.cat([p.flatten() for m in models.values() for p in m.parameters()])

    first = weights(3)
    torch.rand(7)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


def test_folders_become_disjoint_parts_and_the_pool_has_no_labels(folders, tmp_path):
    parts = builders.build_splits(small_config(folders, tmp_path))
    assert parts.labeled.num_classes == LABELED - 2
    assert parts.validation.num_classes == 2
    assert class_names(parts.labeled).isdisjoint(class_names(parts.validation))
    assert parts.unlabeled.labels is None
    assert {image.mode for image, _ in parts.test} == {"L"}


def test_images_of_all_sizes_and_formats_come_out_alike(folders, tmp_path):
    config = small_config(folders, tmp_path, "data.mode=RGB")
    parts = builders.build_splits(config)
    for train in (True, False):
        pool = builders.with_transform(parts.unlabeled, config, train)
        assert {pool[i][0].shape for i in range(12)} == {(3, 16, 16)}


def test_given_validation_classes_leave_all_labeled_ones_to_training(folders, tmp_path):
    config = small_config(folders, tmp_path, f"data.validation={folders['test']}", "data.test=null")
    parts = builders.build_splits(config)
    assert parts.labeled.num_classes == LABELED
    assert class_names(parts.validation) == {f"test {c:02d}" for c in range(4)}


def test_test_classes_among_the_labeled_ones_are_refused(folders, tmp_path):
    config = small_config(folders, tmp_path, f"data.test={folders['labeled']}")
    with pytest.raises(DataError, match=r"labeled and test share 10 classes, e\.g\. \['labeled 0"):
        builders.build_splits(config)


def write_list(folders, file, classes):
    images = sorted((folders["labeled"]).rglob("*.*"))[: classes * PER_CLASS]
    file.write_text("path,label\n" + "".join(f"{image},{image.parent.name}\n" for image in images))
    return file


def test_few_labeled_classes_are_all_trained_on_and_a_warning_says_so(folders, tmp_path, caplog):
    table = write_list(folders, tmp_path / "few.csv", classes=9)
    config = small_config(folders, tmp_path, f"data.labeled={table}")
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        parts = builders.build_splits(config)
    assert (parts.validation, parts.labeled.num_classes) == (None, 9)
    assert "data.labeled has 9 classes, too few" in caplog.text
    assert "the last epoch is taken" in caplog.text


def test_no_warning_where_no_validation_is_wanted(folders, tmp_path, caplog):
    table = write_list(folders, tmp_path / "few.csv", classes=9)
    config = small_config(folders, tmp_path, f"data.labeled={table}", "data.validation_fraction=0")
    with caplog.at_level(logging.WARNING, logger="pml_slade"):
        assert builders.build_splits(config).validation is None
    assert caplog.text == ""


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_a_batch_of_more_classes_than_are_labeled_is_refused(tmp_path, stage, in_memory):
    config = small_config(NOWHERE, tmp_path / "run", f"{stage}.batch_size=22")
    with pytest.raises(
        DataError, match=rf"{stage}\.batch_size=22 .* takes 11 classes .* 10 are labeled: lower {stage}"
    ):
        Pipeline(config)


def test_a_pool_smaller_than_a_batch_is_refused(tmp_path, in_memory):
    config = small_config(NOWHERE, tmp_path / "run", "student.unlabeled_batch_size=66")
    with pytest.raises(DataError, match=r"pool has 64 images.*student\.unlabeled_batch_size=66"):
        Pipeline(config)


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

    monkeypatch.setattr(builders, "build_splits", without_labels)
    with pytest.raises(ConfigError if "clusters" not in setting else ValueError, match=message):
        Pipeline(small_config(NOWHERE, tmp_path / "run", setting), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_peers_loss_that_does_not_exist_is_refused(tmp_path, in_memory):
    settings = ("rows=[pseudo]", "peers.pseudo_loss.name=Contrastive")
    with pytest.raises(ConfigError, match=r"peers\.pseudo_loss\.name: .*ContrastiveLoss"):
        Pipeline(small_config(NOWHERE, tmp_path / "run", *settings), progress=False)


@pytest.mark.parametrize("row", ["iterated", "slade"])
def test_weights_of_clusters_that_are_numbered_anew_are_refused(tmp_path, in_memory, row):
    settings = (
        "student.unlabeled_loss={name: ProxyNCALoss, num_classes: 99, embedding_size: 16}",
        "student.basis.clusters=false",
        f"rows=[control, pseudo, {row}]",
    )
    with pytest.raises(ConfigError, match=r"relabel_every=3 .*ProxyNCALoss"):
        Pipeline(small_config(NOWHERE, tmp_path / "run", *settings, "student.relabel_every=3"))
    Pipeline(small_config(NOWHERE, tmp_path / "run", *settings, "student.relabel_every=0"))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_classes_of_one_image_are_refused_before_anything_is_trained(tmp_path, monkeypatch, part):
    full = splits()
    pixels, labels = drawings(4, per_class=1, seed=9)
    lonely = ImageDataset(pixels, labels, [f"lonely {c}" for c in range(4)], mode="L")
    given = {"validation": full.validation, "test": full.test, part: lonely}
    made = type(full)(full.labeled, full.unlabeled, name="tiny", **given)
    monkeypatch.setattr(builders, "build_splits", lambda config: made)
    with pytest.raises(DataError, match=f"{part}.*two images"):
        Pipeline(small_config(NOWHERE, tmp_path / "run"), progress=False)


def test_the_models_file_says_how_to_rebuild_it(tmp_path):
    meta = builders.model_meta(small_config(NOWHERE, tmp_path, "model.hidden_sizes=[6]"))
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
