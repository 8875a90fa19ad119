"""A start that is measured, an embedder that starts from it, a frozen trunk, neighbours in the pool."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from images import BEST, small_config, splits, write_images

import pml_slade
from pml_slade.evaluation import evaluate
from pml_slade.exceptions import ConfigError
from pml_slade.models import load_model
from pml_slade.models.embedder import principal_start
from pml_slade.running import frozen, stages
from pml_slade.running import training as training_module
from pml_slade.running.models import build_models
from pml_slade.running.pool import PoolFacts
from pml_slade.running.run import Run
from pml_slade.runtime import Runtime
from pml_slade.trainers import NeighbourTrainer

pytestmark = pytest.mark.once

NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}
HEAD = "model.train=head"


@pytest.fixture
def run(tmp_path):
    def run(*overrides, output="run"):
        config = small_config(
            NOWHERE, tmp_path / output, *BEST, f"model.features={tmp_path / 'features'}", *overrides
        )
        return {r.row: r for r in Run(config, progress=False, splits=splits()).run()}

    return run


def features_of(tmp_path, part, output="run"):
    """Features of images of the data, by the trunk of a finished row."""
    run = Run(small_config(NOWHERE, tmp_path / "other", *BEST), progress=False, splits=splits())
    trunk = load_model(tmp_path / output / "start").trunk
    return run.shop.runtime.embed(run.shop.views.plain(getattr(run.splits, part)), trunk)


@pytest.mark.parametrize("train", ["all", "head"])
def test_the_start_is_the_trunk_as_it_came(run, tmp_path, train):
    results = run("rows=[start, teacher]", f"model.train={train}")
    assert (results["start"].steps, results["start"].images) == (0, 0)
    fresh = build_models(small_config(NOWHERE, tmp_path / "run", *BEST))["trunk"].state_dict()
    kept = load_model(tmp_path / "run" / "start").trunk.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in fresh.items())
    measured = evaluate(features_of(tmp_path, "test"), splits().test.labels)
    assert results["start"].test["MAP@R"] == pytest.approx(
        measured["MAP@R"], abs=0.5 * (train == "head") + 1e-6
    )


@pytest.mark.parametrize("train", ["all", "head"])
def test_the_embedder_starts_at_principal_components_of_labeled_images_and_pool(run, tmp_path, train):
    run(
        "rows=[start, teacher]", "model.embedder_init=principal", "model.embedder_whitening=0.25",
        "teacher.lr=1e-12", f"model.train={train}",
    )  # fmt: skip
    features = np.concatenate([features_of(tmp_path, part) for part in ("labeled", "unlabeled")])
    weight, bias = principal_start(torch.from_numpy(features), 8, 0.25)
    embedder = load_model(tmp_path / "run" / "teacher").embedder.double()
    features = torch.from_numpy(features).double()
    expected = features @ weight.double().T + bias
    assert torch.allclose(embedder(features).square().sum(), expected.square().sum(), rtol=0.05)
    assert torch.allclose(
        torch.cdist(embedder(features), embedder(features)), torch.cdist(expected, expected), atol=0.1
    )


def test_of_a_teacher_that_starts_from_the_pool_a_changed_pool_is_refused(run, tmp_path):
    run("rows=[teacher]", "model.embedder_init=principal")
    other = splits()
    other.unlabeled._images = other.unlabeled._images[:-1].copy()
    other.unlabeled.labels = other.unlabeled.labels[:-1]
    config = small_config(
        NOWHERE, tmp_path / "run", *BEST, "rows=[teacher]", "model.embedder_init=principal",
        f"model.features={tmp_path / 'features'}",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"unlabeled images: 1 gone \(#63\)"):
        Run(config, progress=False, splits=other)


def test_a_frozen_trunk_stays_and_its_features_are_computed_once(run, tmp_path, monkeypatch):
    computed = []
    build = frozen.build_feature_views

    def watched(*args):
        views = build(*args)
        for store in (views.store, views.augmented_store):
            extract = store.extract
            store.extract = lambda images, extract=extract: computed.append(len(images)) or extract(images)
        return views

    monkeypatch.setattr("pml_slade.running.workshop.build_feature_views", watched)
    rows = "rows=[start, teacher, control, mean_teacher, self_taught, neighbours, slade, oracle]"
    results = run(rows, HEAD, "model.feature_views=3")
    data = splits()
    learned, held_out = (data.labeled, data.unlabeled), (data.validation, data.test)
    images, plain = (sum(len(part) for part in parts) for parts in (learned, held_out))
    assert sum(computed) == 4 * images + plain  # the plain view, and three others of what is learned from
    computed.clear()
    assert run(rows, HEAD, "model.feature_views=3", output="again") == results
    assert computed == []
    start = load_model(tmp_path / "run" / "start").trunk.state_dict()
    for row in ("teacher", "slade", "oracle"):
        kept = load_model(tmp_path / "run" / row).trunk.state_dict()
        assert all(torch.equal(kept[name], value) for name, value in start.items())
    assert (results["slade"].steps, results["slade"].images) == (8, 8 * 16)


@pytest.mark.parametrize("train", ["last", "blocks.3"])
def test_the_last_stages_alone_are_trained(run, tmp_path, train):
    results = run(
        "rows=[start, teacher, control, slade, neighbours]", f"model.train={train}", "teacher.lr=0.01"
    )
    start, kept = (load_model(tmp_path / "run" / row).trunk.state_dict() for row in ("start", "teacher"))
    changed = {name.split(".")[1] for name, value in start.items() if not torch.equal(kept[name], value)}
    assert changed == {"3"}
    assert results["slade"].steps == 8
    model = load_model(tmp_path / "run" / "teacher")
    views = Run(small_config(NOWHERE, tmp_path / "other", *BEST), progress=False, splits=splits()).shop.views
    embedded = Runtime.find("cpu").embed(views.plain(views.splits.test), model)
    measured = evaluate(embedded, splits().test.labels)
    assert results["teacher"].test["MAP@R"] == pytest.approx(measured["MAP@R"], abs=1)  # kept as float16


@pytest.mark.parametrize(
    ("train", "message"), [("blocks.9", "model.train=blocks.9: ConvNet has no module 'blocks.9'")]
)
def test_a_module_that_is_not_there_is_refused_before_anything_is_written(run, tmp_path, train, message):
    with pytest.raises(ConfigError, match=message):
        run(f"model.train={train}")
    assert not (tmp_path / "run").exists()


def test_a_head_with_its_trunk_embeds_images(tmp_path):
    folders = write_images(tmp_path / "images")
    config = small_config(folders, tmp_path / "run", *BEST, HEAD, f"model.features={tmp_path / 'features'}")
    results = {r.row: r for r in Run(config, progress=False).run()}
    measured = pml_slade.load(tmp_path / "run" / "slade", "cpu").evaluate(folders["test"])
    assert measured["MAP@R"] == pytest.approx(results["slade"].test["MAP@R"], abs=1)  # features are float16


def test_features_go_on_where_they_were_stopped_and_damaged_lists_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pml_slade.running.frozen.MOST_IMAGES", 32)
    whole = run("rows=[teacher]", HEAD)
    lists = sorted((tmp_path / "features").rglob("*.json"))
    assert len(lists) > 3
    lists[0].unlink()
    assert run("rows=[teacher]", HEAD, output="again") == whole
    lists[1].write_text(json.dumps(["a"])[:-1])
    with pytest.raises(ConfigError, match=r"\.json is damaged .*delete it"):
        run("rows=[teacher]", HEAD, output="third")


def test_neighbours_are_resumed_to_the_bit(run, tmp_path, monkeypatch):
    run("rows=[neighbours]", output="unbroken")
    from pml_slade.running import stages

    save = stages.Checkpoints.save

    def stopping(self, state, step):
        path = save(self, state, step)
        if self.folder.parent.name == "neighbours":
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patch:
        patch.setattr(stages.Checkpoints, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            run("rows=[neighbours]")
    run("rows=[neighbours]")
    first, second = (tmp_path / output / "neighbours" / "model.safetensors" for output in ("unbroken", "run"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("settings", "neighbours"),
    [
        (("methods.slade.neighbours=true", "student.unlabeled_weight=8"), True),
        (("model.weights=here.pth", "data.transform=photo", "data.image_size=32"), True),
        (("model.weights=here.pth",), False),
        (("model.weights=here.pth", "data.transform=photo", "methods.slade.neighbours=false"), False),
        (("model.weights=here.pth", "data.transform=photo", "student.basis.clusters=false"), False),
        (("data.transform=photo",), False),
    ],
)
def test_slade_learns_from_neighbours_where_the_trunk_knows_photographs(
    tmp_path, monkeypatch, settings, neighbours
):
    monkeypatch.chdir(tmp_path)
    torch.save(build_models(small_config(NOWHERE, tmp_path / "run", *BEST))["trunk"].state_dict(), "here.pth")
    run = Run(small_config(NOWHERE, tmp_path / "run", *BEST, *settings), progress=False, splits=splits())
    method = run.config.chosen[-1]
    trainer, _ = method.build(run.shop.job(method), build_models(run.config), tmp_path)
    assert isinstance(trainer, NeighbourTrainer) == neighbours
    assert trainer.loss_weights["unlabeled_metric_loss"] == run.config.student.unlabeled_weight


@pytest.mark.parametrize(
    ("neighbours", "given", "trust", "weight"),
    [
        ("true", "null", 0.5, 2.0),
        ("true", "null", 0.05, 0.2),
        ("true", "null", 0.0, 0.1),
        ("true", "null", None, 2.0),
        ("true", "3", 0.5, 3.0),
        ("false", "null", 0.05, 2.0),
    ],
)
def test_neighbours_count_as_far_as_they_can_be_trusted(tmp_path, neighbours, given, trust, weight):
    settings = (
        f"methods.slade.neighbours={neighbours}",
        f"student.unlabeled_weight={given}",
        "methods.slade.own_weight=0.3",
    )
    run = Run(small_config(NOWHERE, tmp_path / "run", *BEST, *settings), progress=False, splits=splits())
    method = run.config.chosen[-1]
    job = replace(run.shop.job(method), trust=trust)
    trainer, _ = method.build(job, build_models(run.config), tmp_path)
    assert trainer.loss_weights["unlabeled_metric_loss"] == pytest.approx(weight)
    if isinstance(trainer, NeighbourTrainer):
        assert trainer.neighbour_loss.own_weight == 0.3


def test_a_run_trusts_neighbours_as_it_found_them(run, tmp_path, monkeypatch):
    seen = []
    train = stages.run_stage
    monkeypatch.setattr(training_module, "run_stage", lambda stage: (seen.append(stage), train(stage)))
    run("rows=[teacher, slade]", "methods.slade.neighbours=true", "student.unlabeled_weight=null")
    facts = PoolFacts.read(tmp_path / "run")
    assert seen[-1].trainer.loss_weights["unlabeled_metric_loss"] == pytest.approx(
        max(4 * facts.neighbours_right / 100, 0.1)
    )


def test_slade_of_neighbours_is_that_row(run, tmp_path):
    slade = ("methods.slade.neighbours=true", "student.unlabeled_weight=3")
    results = run("rows=[neighbours, slade]", *slade, "methods.neighbours.weight=3")
    assert results["slade"].images == results["neighbours"].images
    assert results["slade"].title == "SLADE"


def test_features_that_no_disk_holds_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pml_slade.datasets.features.free_space", lambda folder: (folder, 1000))
    with pytest.raises(ConfigError, match=r"model\.features: .*takes [\d.]+ [KM]iB, .*model\.train=all"):
        run(HEAD)


def test_the_oracle_learns_from_true_labels_whatever_slade_learns_from(tmp_path):
    settings = ("rows=[slade, oracle]", "methods.slade.neighbours=true")
    run = Run(small_config(NOWHERE, tmp_path / "run", *BEST, *settings), progress=False, splits=splits())
    method = run.config.chosen[-1]
    trainer, _ = method.build(run.shop.job(method), build_models(run.config), tmp_path)
    assert np.array_equal(trainer.pool.pseudo_labels, run.splits.unlabeled.labels)
