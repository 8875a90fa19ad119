"""How two processes share a student's steps: their losses beside those of one, and each one's work.

    python benchmarks/speed_processes.py [--steps 50]

One process and two take the same steps of SLADE on drawings. Each counts its own CPU seconds, so that other
work on the machine changes little, and so do two processes on one core. In float32 the two round otherwise,
and Adam makes much of it; in float64 the losses are the same.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from speed_step import Memory, slade

from pml_slade import processes
from pml_slade.datasets.draws import seed_everything
from pml_slade.datasets.glyphs import glyphs_splits
from pml_slade.datasets.transforms import transforms
from pml_slade.models import build_model
from pml_slade.running.stages import Stage, run_stage

SIZE = 64
"""Images in a step."""


def train(rank: int, count: int, port: int, steps: int, folder: str, dtype: torch.dtype) -> None:
    """Take steps as one of so many processes; write losses and CPU seconds of each."""
    torch.set_default_dtype(dtype)
    shared = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in {**shared, **address}.items()})
    torch.set_num_threads(1)
    with processes.joined():
        seed_everything(0)
        drawn = glyphs_splits(image_size=28, seed=0).labeled.with_transform(transforms("small", 28, "L"))
        data = Memory([drawn[i][0].to(dtype) for i in range(len(drawn))], drawn.known_labels())
        trainer = slade(data, build_model("convnet", 128, in_channels=1), SIZE, torch.device("cpu"))
        trainer.iterations_per_epoch = steps
        found = recorded(trainer)
        run_stage(Stage("SLADE", Path(folder, str(count)), trainer, 1, seed=0, validate=None, progress=False))
        torch.save(found, Path(folder, f"{count}-{rank}.pt"))


def recorded(trainer: Any) -> tuple[list[float], list[float]]:
    """Let a trainer note the loss and the CPU seconds of each step."""
    losses: list[float] = []
    seconds: list[float] = []
    take = trainer.forward_and_backward

    def step() -> None:
        began = time.process_time()
        take()
        seconds.append(time.process_time() - began)
        losses.append(float(trainer.losses["total_loss"].detach()))

    trainer.forward_and_backward = step
    return losses, seconds


def trained(count: int, steps: int, folder: str, dtype: torch.dtype) -> list[tuple[list[float], list[float]]]:
    """What each of so many processes noted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("spawn")
    running = [
        context.Process(target=train, args=(rank, count, port, steps, folder, dtype)) for rank in range(count)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return [torch.load(Path(folder, f"{count}-{rank}.pt")) for rank in range(count)]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=50)
    steps = parser.parse_args().steps
    print("| two processes beside one | |\n| --- | --- |")
    for dtype in (torch.float64, torch.float32):
        with tempfile.TemporaryDirectory() as folder:
            [(losses, alone)], both = (trained(count, steps, folder, dtype) for count in (1, 2))
        apart = max(abs(a - b) / abs(a) for theirs, _ in both for a, b in zip(losses, theirs))
        kind = str(dtype).removeprefix("torch.")
        print(f"| largest difference of a loss in {steps} steps, over the loss, {kind} | {apart:.0e} |")
    work = max(statistics.median(seconds) / statistics.median(alone) for _, seconds in both)
    print(f"| CPU time of a step, of the busier one | {work:.2f} of that of one process |")


if __name__ == "__main__":
    main()
