"""The path of a user with the real data, whole, on small trees in the official formats."""

import json

import pytest
import torch
from catalogue_trees import WRITERS, write_cub200, write_in_shop, write_nabirds
from images import SMALL, write_images
from typer.testing import CliRunner

from pml_slade import cli
from pml_slade.datasets import CUB200, Cars196, CompCars, Fashion200k, InShop, NABirds
from pml_slade.datasets.splits import describe
from pml_slade.exceptions import DataError
from pml_slade.models import build_trunk, load_model, load_swav_checkpoint, save_swav_checkpoint, swav_head
from pml_slade.running.data import build_pretraining_images, build_splits
from pml_slade.running.loading import load_config
from pml_slade.running.run import Run

CLASSES, PER_CLASS = 24, 6
TINY = (
    *("data.complete=false", "data.image_size=48", "data.workers=0", "data.validation_fraction=0"),
    *("epoch_steps=2", "device=cpu", "student.num_clusters=4", "student.basis.warmup=1"),
    *("student.unlabeled_batch_size=8", "pretraining.steps=2", "pretraining.batch_size=4"),
    *("pretraining.num_local=1", "pretraining.freeze_prototypes=0"),
    *(
        f"{stage}.{setting}"
        for stage in ("teacher", "student")
        for setting in ("steps=2", "batch_size=8", "images_per_class=2")
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_cub200(root, classes=CLASSES, per_class=PER_CLASS)
    write_nabirds(root)
    write_in_shop(root)
    return root


@pytest.fixture(scope="module")
def swav(tmp_path_factory):
    """ResNet-50, projection head and prototypes, as the authors publish them."""
    trunk = build_trunk("resnet50")
    head = swav_head(trunk.output_size, 2048, 128)
    path = tmp_path_factory.mktemp("swav") / "swav_800ep_pretrain.pth.tar"
    return save_swav_checkpoint(path, trunk, head, torch.nn.Linear(128, 30, bias=False))


@pytest.mark.once
def test_one_command_from_a_swav_file_to_a_table(data, swav, tmp_path):
    """S2 of the paper: ResNet-50/512, SwAV fine-tuned, CUB-200-2011 labeled, NABirds the pool."""
    pytest.importorskip("lightly")
    run = tmp_path / "run"
    command = ["train", "-q", "-c", "cub200", "-c", "s2", "-c", "paper", "-o", str(run), *TINY, "rows=slade"]
    result = CliRunner().invoke(cli.app, [*command, f"data.root={data}", f"model.weights={swav}"])
    assert result.exit_code == 0, result.output
    table = (run / "results.md").read_text()
    for row in ("Teacher |", "SLADE |", "MAP@R"):
        assert row in table
    facts = json.loads((run / "environment.json").read_text())["data"]
    half = {"images": CLASSES // 2 * PER_CLASS, "classes": CLASSES // 2}
    assert (facts["name"], facts["labeled"], facts["test"]) == ("CUB200", half, half)
    finetuned = load_swav_checkpoint(run / "pretraining" / "swav.pth.tar")
    assert finetuned.prototypes["weight"].shape == (30, 128)  # those of the file
    model = load_model(run)
    assert model.embedder.layers[-1].out_features == 512
    assert not (model.trunk.conv1.weight == load_swav_checkpoint(swav).trunk["conv1.weight"]).all()


def settings(data, output, *overrides):
    return load_config(
        None, [*SMALL, "data.complete=false", f"data.root={data}", f"output={output}", *overrides]
    )


def test_a_named_pool_gives_labels_to_the_oracle_alone(data, tmp_path):
    names = ("data.labeled=CUB200", "data.unlabeled=NABirds")
    splits = build_splits(settings(data, tmp_path, *names))
    assert splits.unlabeled.num_classes > 1
    pool = Run(settings(data, tmp_path, *names), progress=False).splits.unlabeled.without_labels()
    assert (pool.labels, pool.classes) == (None, None)


def test_classes_of_the_test_are_left_out_of_a_named_pool_unless_asked(data, tmp_path):
    """The pool is the labeled data set itself here: of its classes, the test half goes."""
    names = ("data.labeled=CUB200", "data.unlabeled=CUB200")
    without, whole = (
        build_splits(settings(data, tmp_path, *names, f"data.exclude_held_out={value}"))
        for value in ("true", "false")
    )
    assert without.unlabeled.num_classes == CLASSES // 2 - without.validation.num_classes
    for part in (without.test, without.validation):
        assert part is None or not set(without.unlabeled.classes) & set(part.classes)
    assert whole.unlabeled.num_classes == CLASSES


@pytest.mark.parametrize(
    ("preset", "labeled", "pool"),
    [("cub200", CUB200, NABirds), ("cars196", Cars196, CompCars), ("in_shop", InShop, Fashion200k)],
)
def test_the_pairs_of_the_paper_are_presets(tmp_path, preset, labeled, pool):
    for name in (labeled.__name__, pool.__name__):
        WRITERS[name](tmp_path)
    overrides = [f"data.root={tmp_path}", "data.complete=false"]
    splits = build_splits(load_config(["s2", preset], overrides))
    assert files(splits.labeled) == files(labeled(tmp_path, "train", complete=False))
    whole = pool(tmp_path, complete=False)
    same = pool.same_classes(whole.classes, splits.test.classes)
    kept = [name for name, out in zip(whole.classes, same) if not out or preset == "cub200"]
    assert splits.unlabeled.classes == kept
    assert (len(kept) < len(whole.classes)) == (preset == "cars196")


def files(part):
    return {part.name(i) for i in range(len(part))}


def in_shop(data, output, *overrides):
    small = ("teacher.batch_size=4", "student.batch_size=4", "rows=[teacher]", "data.validation_fraction=0")
    return settings(data, output, "data.unlabeled=NABirds", *small, *overrides)


@pytest.mark.parametrize(
    "names",
    [
        ("data.labeled=InShop",),
        ("data.labeled=InShop", "data.test=InShop"),
        ("data.labeled=CUB200", "data.test=InShop"),
        ("data.labeled=CUB200", "data.test=InShop", "data.gallery=InShop"),
    ],
    ids=" ".join,
)
def test_in_shop_searches_queries_in_the_official_gallery(data, tmp_path, names):
    splits = build_splits(in_shop(data, tmp_path / "run", *names))
    official = {split: InShop(data, split, complete=False) for split in ("query", "gallery")}
    assert (files(splits.test), files(splits.gallery)) == tuple(map(files, official.values()))


def test_in_shop_runs(data, tmp_path):
    (teacher,) = Run(in_shop(data, tmp_path / "run", "data.labeled=InShop"), progress=False).run()
    assert 0 < teacher.test["MAP@R"] < 100
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["data"]["gallery"]["images"] == facts["data"]["test"]["images"]
    assert "pool against gallery" in facts["duplicates"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("data.labeled=cub200",), "data.labeled: there is no cub200; did you mean the data set CUB200"),
        (("data.labeled=CUB200", "data.test=In_Shop"), "data.test: .*did you mean the data set InShop"),
        (
            ("data.labeled=CUB200", "data.test=CUB200", "data.gallery=NABirds"),
            "data.gallery: NABirds has no gallery",
        ),
        (("data.labeled=cats",), "'cats' does not exist"),
    ],
)
def test_names_that_do_not_fit_are_told(data, tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        build_splits(settings(data, tmp_path, "data.unlabeled=NABirds", *names))


def test_a_folder_of_ones_own_wins_over_a_name(tmp_path, monkeypatch):
    folders = write_images(tmp_path)
    folders["labeled"].rename(tmp_path / "CUB200")
    monkeypatch.chdir(tmp_path)
    splits = build_splits(
        settings(tmp_path, tmp_path, "data.labeled=CUB200", f"data.unlabeled={folders['unlabeled']}")
    )
    assert splits.labeled.classes[0].startswith("labeled")


def test_a_tilde_is_home(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(data))
    config = settings("~/.", tmp_path, "data.labeled=CUB200", "data.unlabeled=NABirds")
    assert len(build_splits(config).unlabeled)


def test_classes_that_the_pool_shares_with_the_test_are_counted_by_the_rule_that_excludes_them(tmp_path):
    """Names of CUB-200-2011 and NABirds are never equal; three kinds of NABirds are in the test half here."""
    write_cub200(tmp_path)
    write_nabirds(tmp_path)
    names = ("data.labeled=CUB200", "data.unlabeled=NABirds")
    counts = {
        exclude: describe(
            build_splits(settings(tmp_path, tmp_path, *names, f"data.exclude_held_out={exclude}"))
        )
        for exclude in ("false", "true")
    }
    assert (counts["false"]["pool_classes_in_test"], counts["true"]["pool_classes_in_test"]) == (3, 0)
    assert counts["false"]["unlabeled"]["classes"] - counts["true"]["unlabeled"]["classes"] == 3


def test_pretraining_on_one_kind_of_images_keeps_off_what_is_held_out(data, tmp_path):
    """Of the labeled ones, validation and test; of a named pool, the test classes that are given."""
    swav = ("rows=[]", "pretraining.steps=4", "data.validation_fraction=0.4")
    whole = settings(data, tmp_path, "data.labeled=CUB200", "data.unlabeled=NABirds", *swav)
    whole = whole.model_copy(update={"rows": ["teacher"]})
    splits = build_splits(whole)
    (labeled,) = build_pretraining_images(settings(data, tmp_path, "data.labeled=CUB200", *swav)).values()
    assert splits.validation is None or not files(labeled) & files(splits.validation)
    assert files(labeled) == files(splits.labeled)
    (pool,) = build_pretraining_images(
        settings(data, tmp_path, "data.unlabeled=CUB200", "data.test=CUB200", *swav)
    ).values()
    assert not files(pool) & files(splits.test)
