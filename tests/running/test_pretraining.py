"""SwAV as the first stage of a run: what it reads, what it writes, who starts from it, how it goes on."""

import copy
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from images import SMALL, small_config
from processes import Forked, script
from typer.testing import CliRunner

from pml_slade import cli
from pml_slade.cli import training
from pml_slade.exceptions import CheckpointError, ConfigError, DataError
from pml_slade.models import build_trunk, load_swav_checkpoint, save_swav_checkpoint, swav_head
from pml_slade.running import pretraining, stages
from pml_slade.running.models import build_models
from pml_slade.running.pretraining import build_trainer, run_pretraining
from pml_slade.running.run import Run
from pml_slade.runtime import Runtime

pytestmark = pytest.mark.once

SWAV = (
    "pretraining.steps=12",
    "pretraining.batch_size=16",
    "pretraining.num_local=0",
    "pretraining.hidden_size=12",
    "pretraining.embedding_size=6",
    "pretraining.num_prototypes=5",
    "pretraining.optimizer=Adam",
    "pretraining.optimizer_arguments={}",
    "pretraining.lr=0.001",
)
CPU = Runtime(torch.device("cpu"))


def config(folders, output, *overrides):
    return small_config(folders, output, *SWAV, *overrides)


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """A run with all stages."""
    pytest.importorskip("lightly")
    output = tmp_path_factory.mktemp("finished") / "run"
    Run(config(folders, output), progress=False).run()
    return output


def swav_file(output):
    return Path(output) / "pretraining" / "swav.pth.tar"


def test_it_writes_trunk_head_and_prototypes_as_the_authors_do(finished):
    state = torch.load(swav_file(finished), weights_only=True)
    assert all(key.startswith("module.") for key in state)
    saved = load_swav_checkpoint(swav_file(finished))
    assert saved.head_sizes == (build_trunk("convnet", 1).output_size, 12, 6)
    assert saved.prototypes["weight"].shape == (5, 6)


def test_the_teacher_starts_from_its_trunk(folders, finished, tmp_path, monkeypatch):
    """The embedder is a fresh one."""
    seen = {}

    def run_stage(stage):
        seen.update({name: copy.deepcopy(part.state_dict()) for name, part in stage.trainer.models.items()})
        raise KeyboardInterrupt

    shutil.copytree(finished / "pretraining", tmp_path / "run" / "pretraining")
    settings = config(folders, tmp_path / "run", "model.embedder_init=random")
    monkeypatch.setattr("pml_slade.running.training.run_stage", run_stage)
    with pytest.raises(KeyboardInterrupt):
        Run(settings, progress=False).run()
    saved = load_swav_checkpoint(swav_file(finished)).trunk
    assert all(torch.equal(value, saved[key]) for key, value in seen["trunk"].items())
    fresh = build_models(settings, swav_file(finished))["embedder"].state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in seen["embedder"].items())


def test_it_trains_on_labeled_and_unlabeled_images_and_never_on_held_out_ones(folders, tmp_path):
    pipeline = Run(config(folders, tmp_path / "run"), progress=False)
    trainer = build_trainer(pipeline.config, pipeline.shop.pretraining_images, CPU)
    splits = pipeline.splits
    assert len(trainer.dataset) == len(splits.labeled) + len(splits.unlabeled)
    names = {part.name(i) for part in trainer.dataset.datasets for i in range(len(part))}
    held_out = {p.name(i) for p in (splits.validation, splits.test) for i in range(len(p))}
    assert names & held_out == set()
    assert {trainer.dataset[i][1] for i in range(0, len(trainer.dataset), 7)} == {-1}


def test_validation_is_recorded_and_changes_nothing(folders, finished, tmp_path):
    again = run_pretraining(config(folders, tmp_path / "run", "rows=[]"), progress=False)
    assert again.read_bytes() == swav_file(finished).read_bytes()
    recorded = {p.name for p in (finished / "pretraining" / "records").iterdir()}
    assert any("csv" in name or "db" in name for name in recorded)


def test_train_goes_on_where_pretrain_ended(folders, finished, tmp_path, monkeypatch):
    output = tmp_path / "run"
    run_pretraining(config(folders, output, "rows=[]"), progress=False)
    monkeypatch.setattr(pretraining, "run_stage", None)  # it would be trained again by this
    Run(config(folders, output), progress=False).run()
    model = output / "slade" / "model.safetensors"
    assert model.read_bytes() == (finished / "slade" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("given", ["labeled", "unlabeled"])
def test_images_of_one_kind_are_enough(folders, tmp_path, given):
    pytest.importorskip("lightly")
    settings = [f"data.{given}={folders[given]}", f"output={tmp_path / 'run'}"]
    result = CliRunner().invoke(cli.app, ["pretrain", "-q", *SMALL, *SWAV, *settings])
    assert result.exit_code == 0, result.output
    assert f"model.weights={swav_file(tmp_path / 'run')}" in result.output.replace("\n", "")
    trunk = build_trunk("convnet", 1, swav_file(tmp_path / "run"))
    saved = load_swav_checkpoint(swav_file(tmp_path / "run")).trunk
    assert torch.equal(next(trunk.parameters()), next(iter(saved.values())))


def test_how_long_need_not_be_said(tmp_path):
    result = CliRunner().invoke(cli.app, ["pretrain", "--unlabeled", str(tmp_path), "--print-config"])
    assert "\nrows: []\n" in result.output
    assert f"steps: {training.PRETRAINING_STEPS}\n" in result.output


KILLED = """
import os, signal
from pml_slade.running import stages
from pml_slade.running.loading import load_config
from pml_slade.running.pretraining import run_pretraining
real, left = stages.Checkpoints.save, {left}
def save(self, state, step):
    global left
    real(self, state, step)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
stages.Checkpoints.save = save
run_pretraining(load_config(None, {arguments}), progress=False)
"""


WHOLE = (
    *("pretraining.optimizer=LARS", "pretraining.optimizer_arguments=null", "pretraining.lr=null"),
    *("pretraining.num_local=2", "data.image_size=24", "pretraining.queue_batches=2"),
    *("pretraining.queue_from_step=2", "pretraining.freeze_prototypes=5", "rows=[]"),
)
"""With everything that has state."""


@pytest.mark.once
def test_a_killed_one_goes_on_to_the_same_bits(folders, tmp_path):
    pytest.importorskip("lightly")
    once = run_pretraining(config(folders, tmp_path / "once", *WHOLE), progress=False)
    output = tmp_path / "killed"
    paths = [f"data.{part}={folder}" for part, folder in folders.items()]
    arguments = [*SMALL, *SWAV, *paths, f"output={output}", *WHOLE]
    code, _ = Forked(script, KILLED.format(left=2, arguments=arguments)).end()
    assert code == -signal.SIGKILL
    assert not swav_file(output).exists()
    assert run_pretraining(config(folders, output, *WHOLE), progress=False).read_bytes() == once.read_bytes()


def test_a_run_without_rows_is_sent_to_pretrain(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"rows is empty.*pml-slade pretrain"):
        Run(config(folders, tmp_path / "run", "rows=[]"), progress=False)


def test_pretrain_in_the_folder_of_a_run_leaves_its_settings(folders, finished):
    before = (finished / "config.yaml").read_bytes()
    assert run_pretraining(config(folders, finished, "rows=[]"), progress=False) == swav_file(finished)
    assert (finished / "config.yaml").read_bytes() == before


def test_until_a_row_is_begun_its_settings_may_change_and_those_of_swav_may_not(folders, tmp_path):
    pytest.importorskip("lightly")
    output = tmp_path / "run"
    run_pretraining(config(folders, output, "rows=[]"), progress=False)
    Run(config(folders, output, "student.lr=0.1"), progress=False)
    with pytest.raises(ConfigError, match=r"pretraining\.steps: 12, now 24"):
        Run(config(folders, output, "pretraining.steps=24"), progress=False)


def test_prototypes_of_a_file_use_the_queue_at_once(folders, tmp_path):
    file = checkpoint(tmp_path / "swav.pth.tar", prototypes=40)
    given = config(folders, tmp_path / "run", f"model.weights={file}", "pretraining.num_prototypes=null")
    images = Run(given, progress=False).shop.pretraining_images
    trainer = build_trainer(given, images, CPU)
    assert (trainer.queue_batches, trainer.queue_from_iteration) == (2, 0)
    fresh = build_trainer(config(folders, tmp_path / "run", "pretraining.num_prototypes=40"), images, CPU)
    assert fresh.queue_from_iteration == 15 * (len(fresh.dataset) // 16)


def checkpoint(path, hidden=12, size=6, prototypes=5):
    trunk = build_trunk("convnet", 1)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.fill_(0.5)
    head = swav_head(trunk.output_size, hidden, size)
    weight = torch.nn.functional.normalize(torch.randn(prototypes, size), dim=1)
    return save_swav_checkpoint(path, trunk, head, weight)


def test_a_swav_file_gives_head_and_prototypes_too(folders, tmp_path, caplog):
    file = checkpoint(tmp_path / "swav.pth.tar", prototypes=7)
    saved = load_swav_checkpoint(file)
    given = config(folders, tmp_path / "run", f"model.weights={file}", "pretraining.num_prototypes=null")
    trainer = build_trainer(given, Run(given, progress=False).shop.pretraining_images, CPU)
    assert torch.equal(trainer.swav_loss.prototypes.heads[0].weight, saved.prototypes["weight"])
    assert torch.equal(trainer.models["embedder"][0].weight, saved.head["0.weight"])
    assert torch.equal(next(trainer.models["trunk"].parameters()), next(iter(saved.trunk.values())))


def test_parts_of_other_sizes_start_afresh_and_that_is_said(folders, tmp_path, caplog):
    file = checkpoint(tmp_path / "swav.pth.tar", hidden=20, prototypes=7)
    given = config(folders, tmp_path / "run", f"model.weights={file}")
    build_trainer(given, Run(given, progress=False).shop.pretraining_images, CPU)
    said = [record.message for record in caplog.records if "starts afresh" in record.message]
    assert any("projection head" in line and "(20," in line for line in said)
    assert any("prototypes" in line and "(7, 6)" in line for line in said)


@pytest.mark.parametrize("stage", [Run, run_pretraining])
@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("pretraining.batch_size=500", DataError, "fewer than one batch of 500"),
        ("pretraining.optimizer=Adm", ConfigError, r"pretraining\.optimizer: .*did you mean Adam"),
        ("pretraining.optimizer_arguments={momentum: 1}", ConfigError, "Adam cannot be used here.*momentum"),
        ("pretraining.epsilon=0.001", ConfigError, "epsilon must be at least"),
        ("model.trunk=resnet18", CheckpointError, "Nothing in .* fits the trunk"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    folders, tmp_path, stage, override, error, message
):
    pytest.importorskip("lightly")
    weights = f"model.weights={checkpoint(tmp_path / 'swav.pth.tar')}"
    with pytest.raises(error, match=message):
        stage(config(folders, tmp_path / "run", weights, override), progress=False)
    assert not (tmp_path / "run").exists()


def test_it_learns(folders, tmp_path):
    """Views of one image end nearer to each other than to those of others."""
    pytest.importorskip("lightly")
    settings = config(folders, tmp_path / "run", "pretraining.steps=60", "rows=[]", "epoch_steps=20")
    run_pretraining(settings, progress=False)
    history = stages.Checkpoints(tmp_path / "run" / "pretraining" / "checkpoints").load_latest()[1]["history"]
    losses = [row["total_loss"] for row in history]
    assert losses[-1] < losses[0]
    assert all(1 < row["prototypes_in_use"] <= 5 for row in history)
    assert np.isfinite(losses).all()
