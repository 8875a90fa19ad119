"""What test_processes.py does in one process, and in several that share the work."""

import json
import os
import signal
from pathlib import Path

import torch

from pml_slade import api, processes
from pml_slade.exceptions import DataError
from pml_slade.joint_norm import batch_norm
from pml_slade.models.convnet import ConvNet
from pml_slade.running import stages


def train(config, file, kill_at=None):
    """Train a run in float64, in which rounding does not grow into differences; write each step's loss.

    Args:
        config: of the run.
        file: for the losses by stage.
        kill_at: step of the last row at which the process kills itself.
    """
    torch.set_default_dtype(torch.float64)
    of_floats, step, losses = ConvNet.forward, stages._train_step, {}

    def train_step(stage):
        found = losses.setdefault(stage.name, [])
        if stage.name == "SLADE" and stage.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        step(stage)
        found.append(float(stage.trainer.losses["total_loss"].detach()))

    ConvNet.forward = lambda self, images: of_floats(self, images.double())
    stages._train_step = train_step
    api.train_rows(config, progress=False)
    with Path(f"{file}.{os.environ.get('RANK', '0')}").open("w") as opened:
        json.dump(losses, opened)


def normalize(folder):
    """Batch norm of one's rows of a batch, its gradients and its statistics."""
    x, weight, bias, gradient = batch()
    statistics = torch.zeros(3).double(), torch.ones(3).double()
    with processes.joined():
        own = slice(processes.rank() * 4, processes.rank() * 4 + 4)
        x = x[own].requires_grad_()
        y = batch_norm(x, *statistics, weight, bias, training=True)
        y.backward(gradient[own])
        processes.add_gradients([weight, bias], [])
        found = y.detach(), x.grad, weight.grad, bias.grad, *statistics
        torch.save(found, Path(folder, f"{processes.rank()}.pt"))


def batch():
    """Rows with channels, weight and bias of a batch norm, and a gradient."""
    torch.manual_seed(3)
    x, gradient = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    weight, bias = torch.randn(2, 3, dtype=torch.float64).unbind()
    return x, weight.clone().requires_grad_(), bias.clone().requires_grad_(), gradient


def fail(how):
    """Let the second of two processes end early while the first one waits for it."""
    from pml_slade.cli import main, training

    def work(*arguments, **settings):
        with processes.joined():
            if not processes.is_first() and how == "error":
                raise DataError("this is said once")
            if not processes.is_first():
                os.kill(os.getpid(), signal.SIGKILL)
            processes.wait()

    training._run = work
    import sys

    sys.argv = ["pml-slade", "demo"]
    main()
