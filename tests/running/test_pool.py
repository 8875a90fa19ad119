"""A pool of which much shows other things than the labeled images do."""

import base64
import csv
import json
import logging
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from images import BEST, small_config, splits

from pml_slade.clustering.trust import neighbours_right
from pml_slade.datasets.images import ImageDataset
from pml_slade.exceptions import CheckpointError, DataError
from pml_slade.running.models import build_models
from pml_slade.running.pool import PoolFacts, read_kept
from pml_slade.running.run import Run

pytestmark = pytest.mark.once

NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}
OTHERS = 40
NAN = float("nan")


def strangers(number=OTHERS):
    """Images of stripes."""
    rng = np.random.default_rng(5)
    stripes = np.zeros((number, 16, 16)) + 255 * (np.arange(16) % 2)
    return np.clip(stripes + rng.normal(0, 20, stripes.shape), 0, 255).astype(np.uint8)


def mixed(pool=None):
    """The usual splits, with strangers before the pool's own images."""
    whole = splits()
    own = whole.unlabeled if pool is None else whole.unlabeled.subset(pool)
    images = np.concatenate([strangers(), own._images])
    labels = np.concatenate([np.full(OTHERS, own.num_classes), own.known_labels()])
    return replace(whole, unlabeled=ImageDataset(images, labels, mode="L"))


@pytest.fixture
def start(tmp_path):
    def start(*overrides, data=None):
        weights = tmp_path / "trunk.pth"
        if not weights.exists():
            torch.save(build_models(small_config(NOWHERE, tmp_path, *BEST))["trunk"].state_dict(), weights)
        settings = (f"model.weights={weights}", "data.leave_out_unlike=true", "model.train=all", *overrides)
        config = small_config(NOWHERE, tmp_path / "run", *BEST, *settings)
        return Run(config, progress=False, splits=data or mixed())

    return start


@pytest.mark.parametrize("train", ["all", "head"])
def test_images_that_are_unlike_the_labeled_ones_are_left_out(start, tmp_path, caplog, train):
    run = start(f"model.train={train}", f"model.features={tmp_path / 'features'}")
    with caplog.at_level(logging.INFO, "pml_slade"):
        run.run()
    kept = np.flatnonzero(read_kept(run.folder, len(run.splits.unlabeled)))
    own = kept >= OTHERS
    assert own.all()
    assert own.sum() > 0.8 * (len(run.splits.unlabeled) - OTHERS)
    assert len(run.shop.pool) == len(kept) == len(np.load(run.folder / "slade" / "pseudo_labels.npy"))
    assert np.array_equal(run.shop.pool.known_labels(), run.splits.unlabeled.known_labels()[kept])
    assert any("unlike the labeled ones, and left out" in line for line in caplog.messages)
    with (run.folder / "left_out.csv").open() as file:
        rows = list(csv.DictReader(file))
    nearness = [float(row["nearness"]) for row in rows]
    assert len(rows) == len(run.splits.unlabeled) - len(kept)
    assert nearness == sorted(nearness)


@pytest.mark.parametrize(("steps", "known"), [(4, "labeled"), (40, "validation")])
def test_how_far_neighbours_can_be_trusted_is_written_down_once(start, caplog, steps, known):
    """By images that the teacher was not long trained on."""
    run = start(f"teacher.steps={steps}")
    with caplog.at_level(logging.INFO, "pml_slade"):
        results = run.run()
    facts = PoolFacts.read(run.folder)
    assert (facts.images, facts.learned_from) == (len(run.splits.unlabeled), len(run.shop.pool))
    known = getattr(run.splits, known)
    embeddings = [run.embed(results[0].model, part) for part in (run.shop.pool, known)]
    labels, whitening = known.known_labels(), run.config.student.whitening
    expected = 100 * neighbours_right(*embeddings, labels, whitening)
    assert facts.neighbours_right == pytest.approx(expected, abs=0.1)
    assert f"about {facts.neighbours_right:.0f} % show its class" in run.verdict(results)
    (run.folder / "trust.json").write_text(json.dumps({**asdict(facts), "neighbours_right": 17.0}))
    again = start(f"teacher.steps={steps}")
    assert "about 17 % show its class" in again.verdict(again.run())


@pytest.mark.parametrize(
    "damage", [{"images": "many"}, {"neighbours_right": 101.0}, {"neighbours_right": NAN}]
)
def test_damaged_facts_are_refused(start, damage):
    run = start()
    results = run.run()
    file = run.folder / "trust.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(CheckpointError, match=r"trust\.json"):
        start().verdict(results)


def test_without_a_row_that_learns_from_the_pool_nothing_is_looked_at(start):
    run = start("rows=[teacher, control]")
    run.run()
    assert PoolFacts.read(run.folder) is None


def test_all_are_kept_where_it_is_not_asked_for(start):
    run = start("data.leave_out_unlike=false")
    run.run()
    assert len(run.shop.pool) == len(run.splits.unlabeled)
    assert not list(run.folder.glob("left_out.csv")) + list(run.folder.glob("pool.json"))


def test_what_was_found_is_read_again(start):
    run = start()
    run.run()
    file = run.folder / "pool.json"
    found = json.loads(file.read_text())
    kept = read_kept(run.folder, found["images"])
    kept[np.argmin(kept)] = True
    packed = base64.b64encode(np.packbits(kept)).decode()
    file.write_text(json.dumps({**found, "kept": packed}))
    assert len(start().shop.pool) == len(run.shop.pool) + 1


def test_of_another_pool_it_is_made_anew(start, tmp_path):
    start().run()
    for row in ("teacher", "slade"):  # as the message says that refuses other images
        shutil.rmtree(tmp_path / "run" / row)
    other = mixed(pool=range(10, 60))
    run = start(data=other)
    run.run()
    assert read_kept(run.folder, len(other.unlabeled)).sum() == len(run.shop.pool) <= 50
    assert PoolFacts.read(run.folder).images == len(other.unlabeled)


def test_how_far_neighbours_are_trusted_is_asked_anew_of_another_teacher(start, tmp_path):
    start("teacher.steps=4").run()
    before = PoolFacts.read(tmp_path / "run")
    for row in ("teacher", "slade"):
        shutil.rmtree(tmp_path / "run" / row)
    start("teacher.steps=8").run()
    assert PoolFacts.read(tmp_path / "run").of != before.of


@pytest.mark.parametrize(
    "damage",
    [
        {"images": 3},
        {"kept": ""},
        {"kept": "AA=="},
        {"kept": "no base64"},
        {"kept": [1]},
        {"of": 3},
        {"x": 1},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(start, damage):
    run = start()
    run.run()
    file = run.folder / "pool.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    again = start()
    with pytest.raises(CheckpointError, match=r"pool\.json is damaged"):
        len(again.shop.pool)


def test_a_pool_of_strangers_is_refused_before_anything_is_trained(start, tmp_path):
    run = start(data=mixed(pool=range(3)))
    with pytest.raises(DataError, match=r"of the pool's 43 images are like the labeled ones.*unlike=false"):
        run.run()
    assert not (run.folder / "teacher" / "checkpoints").exists()


def test_a_trunk_that_knows_nothing_is_not_asked(tmp_path):
    with pytest.raises(Exception, match=r"data\.leave_out_unlike=true.*model\.weights"):
        small_config(NOWHERE, tmp_path, "data.leave_out_unlike=true")


def test_it_is_on_for_photographs_with_a_pretrained_trunk_alone(tmp_path):
    photo = ("data.transform=photo", "data.image_size=32")
    assert not small_config(NOWHERE, tmp_path, *photo).data.leave_out_unlike
    assert small_config(NOWHERE, tmp_path, *photo, "model.weights=here.pth").data.leave_out_unlike
    assert not small_config(NOWHERE, tmp_path, "model.weights=here.pth").data.leave_out_unlike
