"""How long a training step takes: ours against PML's own trainer on as many images, side by side.

    python benchmarks/speed_step.py [--photos FOLDER] [--trunks resnet50 tf_efficientnet_lite0]

Both trainers take their steps in turn, so that whatever else the machine does slows both. The ratio of the
medians of their CPU times is what counts; a GPU is measured by the clock. With photographs on CPUs, each has
a process of its own, since ours keeps memory that it frees.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.trainers import MetricLossOnly

from pml_slade import PseudoLabelDataset, SelfTrainingTrainer
from pml_slade.datasets.folders import open_images
from pml_slade.datasets.glyphs import glyphs_splits
from pml_slade.datasets.transforms import transforms
from pml_slade.models import build_model
from pml_slade.numerics import Numerics, laid_out_for
from pml_slade.recipe import best_student
from pml_slade.runtime import keep_freed_memory
from pml_slade.trainers import SupervisedTrainer

SIZE, PHOTOS, BATCH = 128, 64, 16
"""Of embeddings; photographs that are held in memory, and those in a step."""
USUAL = Numerics(channels_last=False)


class Memory(torch.utils.data.Dataset[Any]):
    """Images that were read before, so that no step reads any."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


Step = Callable[[], float]
"""Takes a step of a trainer, and says how many seconds it took."""


def steps(trainer: Any, device: torch.device) -> Step:
    """Return what takes the steps of a trainer."""
    trainer.initialize_dataloader()
    trainer.epoch, trainer.iteration = 1, 0
    trainer.set_to_train()

    def take() -> None:
        trainer.forward_and_backward()
        trainer.end_of_iteration_hook(trainer)

    return timed(take, device)


def timed(take: Callable[[], None], device: torch.device) -> Step:
    """Return what takes a step, and says how long it took."""
    gpu = device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time

    def step() -> float:
        began = clock()
        take()
        if gpu:
            torch.cuda.synchronize()
        return clock() - began

    return step


def steps_apart(make: Callable[[], Any], keeps: bool) -> Step:
    """Likewise of a trainer on CPUs in a process of its own, which keeps memory that it frees or does not."""
    here, there = Pipe()
    get_context("spawn").Process(target=_answer, args=(there, make, keeps), daemon=True).start()

    def step() -> float:
        here.send(None)
        seconds: float = here.recv()
        return seconds

    return step


def _answer(asked: Any, make: Callable[[], Any], keeps: bool) -> None:
    if keeps:
        keep_freed_memory()
    step = steps(make(), torch.device("cpu"))
    with suppress(EOFError):  # the other process has ended
        while True:
            asked.recv()
            asked.send(step())


def ratio(first: Step, second: Step, count: int, warm: int = 3) -> float:
    """How many times as long the second step takes as the first."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(warm + count):
        for step, seconds in zip((first, second), taken):
            value = step()
            if number >= warm:
                seconds.append(value)
    return statistics.median(taken[1]) / statistics.median(taken[0])


def supervised(kind: Any, data: Memory, models: Any, size: int, device: torch.device, numerics: Any) -> Any:
    """A trainer of a contrastive loss on labeled images, PML's or ours."""
    models = {name: numerics.place(model, device) for name, model in models.items()}
    fused = kind is SupervisedTrainer or None  # as `build_optimizer` has it
    trainer = kind(
        models=models,
        optimizers={
            f"{n}_optimizer": torch.optim.Adam(m.parameters(), 1e-5, fused=fused) for n, m in models.items()
        },
        batch_size=size,
        loss_funcs={"metric_loss": ContrastiveLoss()},
        mining_funcs={},
        dataset=data,
        data_device=device,
        dataloader_num_workers=0,
    )
    if isinstance(trainer, SupervisedTrainer):
        trainer.numerics = numerics
    return trainer


def slade(data: Memory, models: Any, size: int, device: torch.device) -> Any:
    """The student of the preset `best`, half of its batch from a pool."""
    for model in models.values():
        model.to(device)
    clusters = len(set(map(int, data.labels)))
    pool = PseudoLabelDataset(data, data.labels, clusters)
    parts = best_student(models, clusters, SIZE, clusters) | {"batch_size": size // 2}
    parts["unlabeled_batch_size"] = size // 2
    parts["relabel_every"] = 0
    return SelfTrainingTrainer(
        **parts, dataset=data, unlabeled_dataset=pool, data_device=device, dataloader_num_workers=0
    )


def on_drawings(device: torch.device, count: int = 40, size: int = 64) -> float:
    """A step of SLADE over one of PML's trainer, on as many drawings."""
    drawn = glyphs_splits(image_size=28, seed=0).labeled.with_transform(transforms("small", 28, "L"))
    data = Memory([drawn[i][0] for i in range(len(drawn))], drawn.known_labels())
    models = [build_model("convnet", SIZE, in_channels=1) for _ in range(2)]
    theirs = supervised(MetricLossOnly, data, models[0], size, device, USUAL)
    ours = slade(data, models[1], size, device)
    return ratio(steps(theirs, device), steps(ours, device), count)


def of_photographs(
    kind: Any, device: torch.device, numerics: Numerics, photos: Path | None, trunk: str
) -> Any:
    """A trainer on photographs of 224 pixels.

    Args:
        kind: of trainer.
        device: that computes.
        numerics: of the trainer.
        photos: folder root/class/image; None: noise.
        trunk: by name; its weights are drawn at random.
    """
    data = photographs(photos)
    return supervised(kind, data, build_model(trunk, SIZE), BATCH, device, numerics)


def photographs(photos: Path | None) -> Memory:
    """Photographs, or noise, with labels."""
    if photos is None:
        return Memory(torch.randn(PHOTOS, 3, 224, 224), torch.arange(PHOTOS) % 8)
    found = open_images(photos, transforms("photo", 224, "RGB"), labeled=True)
    chosen = found.subset(range(0, len(found), max(len(found) // PHOTOS, 1)))
    images = torch.stack([chosen[i][0] for i in range(len(chosen))])
    return Memory(images, torch.as_tensor(chosen.known_labels()))


def bare(device: torch.device, numerics: Numerics, photos: Path | None, trunk: str) -> Step:
    """The steps of a loop that does nothing but train, by the same numerics."""
    model = numerics.place(torch.nn.Sequential(*build_model(trunk, SIZE).values()), device).train()
    optimizer, loss = torch.optim.Adam(model.parameters(), 1e-5, fused=True), ContrastiveLoss()
    loader = torch.utils.data.DataLoader(photographs(photos), BATCH, shuffle=True, drop_last=True)
    batches = chain.from_iterable(repeat(loader))

    def take() -> None:
        images, labels = next(batches)
        with numerics.computing(device):
            embeddings = model(laid_out_for(model, images.to(device)))
        optimizer.zero_grad()
        loss(embeddings.float(), labels.to(device)).backward()
        optimizer.step()

    return timed(take, device)


def on_photographs(
    device: torch.device, numerics: Numerics, photos: Path | None, trunk: str, count: int = 9
) -> float:
    """A step of PML's trainer in float32 over one of ours by some numerics."""
    theirs = partial(of_photographs, MetricLossOnly, device, USUAL, photos, trunk)
    ours = partial(of_photographs, SupervisedTrainer, device, numerics, photos, trunk)
    if device.type == "cpu":
        return ratio(steps_apart(ours, True), steps_apart(theirs, False), count)
    return ratio(steps(ours(), device), steps(theirs(), device), count)


def by_memory(photos: Path | None, trunk: str) -> float:
    """How many times as fast our trainer is on CPUs where it keeps the memory that it frees."""
    numerics, cpu = Numerics(channels_last=True), torch.device("cpu")
    ours = partial(of_photographs, SupervisedTrainer, cpu, numerics, photos, trunk)
    return ratio(steps_apart(ours, True), steps_apart(ours, False), 9)


def rows(device: torch.device, photos: Path | None, trunks: list[str]) -> Iterator[tuple[str, float]]:
    """What is measured, and what it comes to."""
    yield "SLADE over PML's trainer, time of a step, drawings", on_drawings(device)
    kinds = {"channels_last": Numerics(channels_last=True)}
    if device.type == "cuda":  # most CPUs take longer for it
        kinds["bf16"] = Numerics("bf16", channels_last=True)
    for trunk in trunks:
        for name, numerics in kinds.items():
            times = on_photographs(device, numerics, photos, trunk)
            yield f"{name}: times as fast as PML's trainer, photographs, {trunk}", times
            trainer = of_photographs(SupervisedTrainer, device, numerics, photos, trunk)
            loop = bare(device, numerics, photos, trunk)
            yield f"{name}: speed over that of a bare loop, {trunk}", ratio(steps(trainer, device), loop, 9)
        if device.type == "cpu":
            yield f"memory kept: times as fast as where it is given back, {trunk}", by_memory(photos, trunk)


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--photos", type=Path, help="folder root/class/image; default: noise")
    parser.add_argument("--trunks", nargs="+", default=["resnet50", "tf_efficientnet_lite0"])
    args = parser.parse_args()
    print("| what | ratio |\n| --- | --- |")
    for name, value in rows(torch.device(args.device), args.photos, args.trunks):
        print(f"| {name} | {value:.2f} |", flush=True)


if __name__ == "__main__":
    main()
