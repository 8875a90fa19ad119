"""How long a training step takes: ours against PML's own trainer on as many images, side by side.

    python benchmarks/speed_step.py --photos FOLDER --weights FILE

Both trainers take their steps in turn, in one process, so that whatever else the machine does slows both. The
ratio of the medians of their CPU times is what counts; a GPU is measured by the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
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
from pml_slade.numerics import Numerics
from pml_slade.recipe import best_student
from pml_slade.trainers import SupervisedTrainer

SIZE, PHOTOS = 128, 64
"""Of embeddings; photographs that are held in memory."""
USUAL = Numerics(channels_last=False)


class Memory(torch.utils.data.Dataset[Any]):
    """Images that were read before, so that no step reads any."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


def steps(trainer: Any, device: torch.device) -> Callable[[], float]:
    """Return what takes a step of a trainer, and says how many seconds it took."""
    trainer.initialize_dataloader()
    trainer.epoch, trainer.iteration = 1, 0
    trainer.set_to_train()
    gpu = device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time

    def step() -> float:
        began = clock()
        trainer.forward_and_backward()
        trainer.end_of_iteration_hook(trainer)
        if gpu:
            torch.cuda.synchronize()
        return clock() - began

    return step


def ratio(first: Any, second: Any, device: torch.device, count: int, warm: int = 3) -> float:
    """How many times as long a step of the second trainer takes as one of the first."""
    taken: tuple[list[float], list[float]] = ([], [])
    both = [steps(trainer, device) for trainer in (first, second)]
    for number in range(warm + count):
        for step, seconds in zip(both, taken):
            value = step()
            if number >= warm:
                seconds.append(value)
    return statistics.median(taken[1]) / statistics.median(taken[0])


def supervised(kind: Any, data: Memory, models: Any, size: int, device: torch.device, numerics: Any) -> Any:
    """A trainer of a contrastive loss on labeled images, PML's or ours."""
    models = {name: numerics.place(model, device) for name, model in models.items()}
    trainer = kind(
        models=models,
        optimizers={f"{n}_optimizer": torch.optim.Adam(m.parameters(), 1e-5) for n, m in models.items()},
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
    return ratio(theirs, slade(data, models[1], size, device), device, count)


def on_photographs(
    device: torch.device,
    numerics: Numerics,
    photos: Path | None = None,
    trunk: str = "resnet50",
    weights: str | None = None,
    count: int = 5,
    size: int = 16,
) -> float:
    """A step of PML's trainer in float32 over one of ours, on photographs of 224 pixels.

    Args:
        device: that computes.
        numerics: of our trainer.
        photos: folder root/class/image; None: noise.
        trunk: by name.
        weights: a file, or none.
        count: steps of each.
        size: images in a step.
    """
    if photos is None:
        images, labels = torch.randn(PHOTOS, 3, 224, 224), torch.arange(PHOTOS) % 8
    else:
        found = open_images(photos, transforms("photo", 224, "RGB"), labeled=True)
        chosen = found.subset(range(0, len(found), max(len(found) // PHOTOS, 1)))
        images, labels = (
            torch.stack([chosen[i][0] for i in range(len(chosen))]),
            torch.as_tensor(chosen.known_labels()),
        )
    data = Memory(images, labels)
    models = [build_model(trunk, SIZE, weights=weights) for _ in range(2)]
    theirs = supervised(MetricLossOnly, data, models[0], size, device, USUAL)
    ours = supervised(SupervisedTrainer, data, models[1], size, device, numerics)
    return 1 / ratio(theirs, ours, device, count)


def rows(device: torch.device, **photographs: Any) -> Iterator[tuple[str, float]]:
    """What is measured, and what it comes to."""
    yield "SLADE over PML's trainer, time of a step, drawings", on_drawings(device)
    kinds = {"channels_last": Numerics(channels_last=True)}
    if device.type == "cuda":  # most CPUs take longer for it
        kinds["bf16"] = Numerics("bf16", channels_last=True)
    for name, numerics in kinds.items():
        times = on_photographs(device, numerics, **photographs)
        yield f"{name}: times as fast as PML's trainer, photographs", times


def main() -> None:
    """Measure, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--photos", type=Path, help="folder root/class/image; default: noise")
    parser.add_argument("--trunk", default="resnet50")
    parser.add_argument("--weights", help="file of the trunk; default: none")
    args = parser.parse_args()
    given = {"photos": args.photos, "trunk": args.trunk, "weights": args.weights}
    print("| what | ratio |\n| --- | --- |")
    for name, value in rows(torch.device(args.device), **given):
        print(f"| {name} | {value:.2f} |", flush=True)


if __name__ == "__main__":
    main()
