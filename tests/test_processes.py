"""Several processes, as torchrun starts them, learn what one does; they stop, fail and speak as one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shared_jobs as jobs
import torch
from images import BEST, small_config
from processes import HERE, LINES, Forked, end_all, pml_slade_command, together
from safetensors.torch import load_file

import pml_slade
from pml_slade.running.loading import load_config

pytestmark = pytest.mark.once
STEPS = 50
KILLED_AT = 30
SETTINGS = (
    *BEST,
    "rows=[teacher, slade]",
    f"teacher.steps={STEPS}",
    f"student.steps={STEPS}",
    "epoch_steps=10",
)


def trained(config, file, count, **kwargs):
    """Train in so many processes; return exit codes."""
    running = (
        [Forked(jobs.train, config, file, *kwargs.values())]
        if count == 1
        else together(jobs.train, config, file, *kwargs.values(), count=count)
    )
    codes, _ = end_all(running)
    return codes


@pytest.fixture(scope="module")
def runs(folders, tmp_path_factory):
    """Folder with a run of one process, and one of two."""
    root = tmp_path_factory.mktemp("runs")
    for count in (1, 2):
        config = small_config(folders, root / f"of {count}", *SETTINGS)
        assert trained(config, root / f"losses of {count}", count) == [0] * count
    return root


def results(folder):
    return json.loads((folder / "results.json").read_text())


def assert_same_run(found, expected):
    """The same pseudo-labels and figures, and the same weights but for rounding."""
    labels = [np.load(each / "slade" / "pseudo_labels.npy") for each in (found, expected)]
    assert np.array_equal(*labels)
    assert len(np.unique(labels[0])) > 4
    assert results(found) == results(expected)
    models = [load_file(each / "slade" / "model.safetensors") for each in (found, expected)]
    assert models[0].keys() == models[1].keys()
    for name, value in models[0].items():
        torch.testing.assert_close(value, models[1][name], rtol=0, atol=1e-8)


def test_two_processes_learn_what_one_does(runs):
    one, *two = (json.loads((runs / f"losses of {n}").read_text()) for n in ("1.0", "2.0", "2.1"))
    for found in two:
        assert found.keys() == one.keys()
        for stage, losses in one.items():
            assert len(set(losses)) == STEPS
            assert found[stage] == pytest.approx(losses, abs=1e-8)
    assert_same_run(runs / "of 2", runs / "of 1")


def test_two_processes_that_are_killed_resume_and_so_does_one_in_their_place(folders, runs, tmp_path):
    def config(name):
        return small_config(folders, tmp_path / name, *SETTINGS, "checkpoint_minutes=0.0001")

    killed = trained(config("two"), tmp_path / "losses", 2, kill_at=KILLED_AT)
    assert killed == [-signal.SIGKILL] * 2
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    for name, count in (("two", 2), ("one", 1)):
        assert trained(config(name), tmp_path / name / "losses", count) == [0] * count
        left = json.loads((tmp_path / name / "losses.0").read_text())
        assert {stage: len(losses) for stage, losses in left.items()} == {"SLADE": STEPS - KILLED_AT}
        assert_same_run(tmp_path / name, runs / "of 1")


def test_a_signal_to_one_process_stops_all_at_one_step_with_a_checkpoint(folders, tmp_path):
    paths = [f"data.{part}={folder}" for part, folder in folders.items()]
    config = small_config(folders, tmp_path / "run", "teacher.steps=4000")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    command = (
        "train",
        "-c",
        tmp_path / "config.yaml",
        *paths,
        "checkpoint_minutes=0.001",
        "epoch_steps=1000",
    )
    running = together(pml_slade_command, *command)
    checkpoints = tmp_path / "run" / "teacher" / "checkpoints"
    running[1].wait_for(checkpoints).signal(signal.SIGTERM)
    codes, lines = end_all(running)
    assert sorted(codes) == [1, 128 + signal.SIGTERM]
    said = [line for line in lines if not line.startswith("INFO") and "step" in line]
    newest = max(int(file.stem.split("-")[1]) for file in checkpoints.iterdir())
    assert said == [
        f"stopped; repeat the command to resume from the last checkpoint (Teacher, step {newest} of 4000)"
    ]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("error", "error: this is said once"),
        ("kill", "error: Another process of the run ended early. What it printed says why."),
    ],
)
def test_an_error_of_one_process_ends_all_with_one_line(how, said):
    codes, lines = end_all(together(jobs.fail, how))
    assert all(codes)
    assert lines == [said]


def test_batches_that_cannot_be_shared_are_refused_before_anything_is_trained(folders, tmp_path):
    (tmp_path / "config.yaml").write_text(small_config(folders, tmp_path / "run").to_yaml())
    command = (
        "train",
        "-q",
        "-c",
        tmp_path / "config.yaml",
        "teacher.batch_size=9",
        "teacher.images_per_class=3",
    )
    codes, lines = end_all(together(pml_slade_command, *command))
    assert all(codes)
    assert lines == [
        "error: teacher, batch_size: 2 processes cannot share a batch of 9 images evenly; give a multiple of "
        "2, or start another number of processes."
    ]
    assert not (tmp_path / "run").exists()


def test_pretraining_and_a_frozen_trunk_are_shared(folders, tmp_path):
    found = []
    for count in (1, 2):
        config = small_config(
            folders, tmp_path / f"of {count}", *BEST, "rows=[teacher, self_taught]", "model.train=head",
            "pretraining.steps=4", "pretraining.batch_size=8", "pretraining.num_local=0", "epoch_steps=4",
            "pretraining.hidden_size=8", "pretraining.embedding_size=8", "pretraining.num_prototypes=8",
            f"model.features={tmp_path / 'features'}-{count}",
        )  # fmt: skip
        assert trained(config, tmp_path / "losses", count) == [0] * count
        with (tmp_path / "losses.0").open() as file:
            found.append(json.load(file))
    assert len(found[0]["SwAV"]) == 4
    for stage, losses in found[0].items():
        assert found[1][stage] == pytest.approx(losses, abs=1e-8)


SRUN = """#!/bin/sh
shift
"$@" & "$@" && wait $!
"""
SCONTROL = """#!/bin/sh
echo 127.0.0.1
"""
TORCHRUN = """#!/bin/sh
exec {python} -m torch.distributed.run "$@"
"""


def test_a_whole_run_on_glyphs_under_torchrun_by_the_script_for_slurm(tmp_path):
    """As it stands but for fewer letters; on two machines, of a process each."""
    page = Path(__file__).parents[1] / "docs" / "processes.md"
    [script] = [block.split("```")[0] for block in page.read_text().split("```bash\n") if "#SBATCH" in block]
    programs = {"srun": SRUN, "scontrol": SCONTROL, "torchrun": TORCHRUN.format(python=sys.executable)}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        script = script.replace("29500", str(free.getsockname()[1]))
    few_letters = Path(__file__).with_name("few_letters.py")
    (tmp_path / "job.sh").write_text(script.replace("-m pml_slade", str(few_letters)))
    run = tmp_path / "run"
    short = ("teacher.steps=4", "student.steps=4", "epoch_steps=2", "rows=[teacher, slade]", "device=cpu")
    (tmp_path / "settings.yaml").write_text(load_config("glyphs", [*short, f"output={run}"]).to_yaml())
    slurm = {
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
    }
    environment = os.environ | LINES | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "job.sh"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(HERE[0])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test classes, %") == 1
    assert [result["row"] for result in results(run)] == ["teacher", "slade"]
    assert all(result["test"]["MAP@R"] > 0 for result in results(run))
    assert pml_slade.load(run, "cpu").model.meta["embedding_size"] == 128
    assert (run / "report.html").exists()


def test_two_processes_embed_and_evaluate_as_one(folders, model, tmp_path):
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
    commands = (
        lambda to: (
            "embed",
            model,
            folders["test"],
            "-q",
            "-o",
            to / "e.npz",
            "--batch-size",
            5,
            "--workers",
            0,
        ),
        lambda to: ("embed", model, folders["test"], "-q", "-o", to / "s.npz", "--shard", 11, "--workers", 0),
        lambda to: ("evaluate", model, folders["test"], "-q", "--workers", 0),
    )
    for command in commands:
        one = Forked(pml_slade_command, *command(tmp_path / "1"))
        two = together(pml_slade_command, *command(tmp_path / "2"))
        assert end_all([one, *two])[0] == [0, 0, 0]
        assert two[0].out.replace("/2/", "/1/") == one.out
        assert two[1].out == ""
    files = sorted(file.name for file in (tmp_path / "1").iterdir())
    assert files == ["e.npz", "s-00000.npz", "s-00001.npz", "s-00002.npz", "s.json"]
    for name in files[:-1]:
        one, two = (np.load(tmp_path / count / name) for count in "12")
        assert np.array_equal(one["embeddings"], two["embeddings"])
        assert np.array_equal(one["names"], two["names"])


def test_batch_norm_over_the_rows_of_all_is_that_of_one_process(tmp_path):
    codes, lines = end_all(together(jobs.normalize, tmp_path))
    assert (codes, lines) == ([0, 0], [])
    x, weight, bias, gradient = jobs.batch()
    statistics = torch.zeros(3).double(), torch.ones(3).double()
    y = torch.nn.functional.batch_norm(x.requires_grad_(), *statistics, weight, bias, training=True)
    y.backward(gradient)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), x.grad, **close)
    for part in parts:
        torch.testing.assert_close(part[2:], (weight.grad, bias.grad, *statistics), **close)
