"""The path of a user with the real data, whole, on small trees in the official formats."""

import json

import pytest
import torch
from catalogue_trees import write_cub200, write_in_shop, write_nabirds
from images import SMALL
from typer.testing import CliRunner

from pml_slade import cli
from pml_slade.builders import build_splits
from pml_slade.config import load_config
from pml_slade.models import build_trunk, load_model, load_swav_checkpoint, save_swav_checkpoint, swav_head
from pml_slade.pipeline import Pipeline

CLASSES, PER_CLASS = 12, 6
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


def test_one_command_from_a_swav_file_to_a_table(data, swav, tmp_path):
    """S2 of the paper: ResNet-50/512, SwAV fine-tuned, CUB-200-2011 labeled, NABirds the pool."""
    pytest.importorskip("lightly")
    run = tmp_path / "run"
    command = ["train", "-q", "-c", "s2", "-c", "cub200", "-o", str(run), *TINY]
    result = CliRunner().invoke(cli.app, [*command, f"data.root={data}", f"model.weights={swav}"])
    assert result.exit_code == 0, result.output
    table = (run / "results.md").read_text()
    for row in ("Teacher |", "Teacher trained on |", "Student on pseudo-labels |", "SLADE |", "MAP@R"):
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
    pool = Pipeline(settings(data, tmp_path, *names), progress=False).setup.splits.unlabeled.without_labels()
    assert (pool.labels, pool.classes) == (None, None)


def test_classes_of_the_test_are_left_out_of_a_named_pool_unless_asked(data, tmp_path):
    """The pool is the labeled data set itself here: of its classes, the test half goes."""
    names = ("data.labeled=CUB200", "data.unlabeled=CUB200")
    without, whole = (
        build_splits(settings(data, tmp_path, *names, f"data.exclude_test_classes={value}"))
        for value in ("true", "false")
    )
    assert without.unlabeled.num_classes == CLASSES // 2
    assert not set(without.unlabeled.classes) & set(without.test.classes)
    assert whole.unlabeled.num_classes == CLASSES


def test_in_shop_searches_queries_in_the_gallery(data, tmp_path):
    names = ("data.labeled=InShop", "data.unlabeled=NABirds", "rows=[teacher]", "data.validation_fraction=0")
    config = settings(data, tmp_path / "run", *names, "teacher.batch_size=4", "student.batch_size=4")
    pipeline = Pipeline(config, progress=False)
    splits = pipeline.setup.splits
    assert splits.gallery is not None
    assert set(splits.test.classes) == set(splits.gallery.classes)
    queries, gallery = ({p.name(i) for i in range(len(p))} for p in (splits.test, splits.gallery))
    assert not queries & gallery
    (teacher,) = pipeline.run()
    assert 0 <= teacher.test["MAP@R"] <= 100
