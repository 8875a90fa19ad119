"""A tiny data set that can be learned, as folders of mixed files or in memory, and settings that fit it."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pml_slade.datasets.images import ImageDataset
from pml_slade.datasets.splits import Splits
from pml_slade.models import build_model, save_model
from pml_slade.running.loading import load_config

LABELED, POOL, TEST = 12, 8, 4
"""Classes of each part; 10 of the labeled ones are trained on, 2 validate."""
PER_CLASS = 8
FILES = (("png", "L"), ("jpg", "RGB"), ("png", "RGBA"), ("gif", "P"), ("bmp", "RGB"), ("webp", "RGB"))
SIZES = ((16, 16), (24, 24), (20, 17), (18, 24))

PAPER = (
    "tolerance=0",
    "data.augmentation=mild",
    "teacher.average=null",
    "student.average=null",
    "student.clustering=kmeans",
    "student.whitening=0",
    "student.smooth=false",
    "student.relabel_every=0",
    "student.unlabeled_weight=1",
    "student.basis.clusters=false",
    "student.basis.regularizer=sd",
)
"""The method of the paper but for its mining, which is an option of its own."""

BEST = (
    "tolerance=1",
    "data.augmentation=strong",
    "teacher.average=0.9",
    "student.average=0.9",
    "student.clustering=ward",
    "student.whitening=0.5",
    "student.smooth=true",
    "student.relabel_every=1",
    "student.unlabeled_weight=2",
    "student.basis.clusters=true",
    "student.basis.regularizer=null",
    "student.basis.warmup=0",
)
"""The defaults, with an average that moves within few steps."""

SMALL = (
    "device=cpu",
    "report=false",
    "epoch_steps=4",
    "data.image_size=16",
    "data.mode=L",
    "data.workers=0",
    "data.transform=small",
    "model.trunk=convnet",
    "model.weights=null",
    "model.embedding_size=8",
    *(
        f"{stage}.{setting}"
        for stage in ("teacher", "student")
        for setting in ("steps=8", "batch_size=8", "images_per_class=2", "lr=0.001")
    ),
    "student.unlabeled_batch_size=8",
    "student.min_cluster_size=1",
    "student.basis.warmup=2",
    *PAPER,
)


def drawings(classes, per_class=PER_CLASS, seed=0, size=16):
    """Noisy copies of one 4x4 pattern per class, (classes * per_class, size, size) uint8, and labels."""
    rng = np.random.default_rng(seed)
    patterns = rng.uniform(100, 155, (classes, 4, 4)).repeat(per_class, axis=0)
    images = patterns.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    noisy = np.clip(images + rng.normal(0, 30, images.shape), 0, 255)
    return noisy.astype(np.uint8), np.arange(classes).repeat(per_class)


def write_images(root):
    """Write root/labeled/class/image, root/unlabeled/image and root/test/class/image.

    Returns:
        The three folders by name.
    """
    parts = {"labeled": LABELED, "unlabeled": POOL, "test": TEST}
    for seed, (part, classes) in enumerate(parts.items()):
        images, labels = drawings(classes, seed=seed)
        for number, (image, label) in enumerate(zip(images, labels)):
            suffix, mode = FILES[number % len(FILES)]
            folder = Path(root, part) if part == "unlabeled" else Path(root, part, f"{part} {label:02d}")
            folder.mkdir(parents=True, exist_ok=True)
            scaled = Image.fromarray(image).resize(SIZES[number % len(SIZES)])
            scaled.convert(mode).save(folder / f"{number:03d}.{suffix}")
    return {part: Path(root, part) for part in parts}


def write_shards(files, folder, per_shard=10):
    """Write folder/0.tar, folder/1.tar, ... with so many files each, in their order."""
    folder.mkdir()
    for start in range(0, len(files), per_shard):
        with tarfile.open(folder / f"{start // per_shard}.tar", "w") as tar:
            for file in files[start : start + per_shard]:
                tar.add(file, file.name)


def splits(validation=True, test=True, seed=0):
    """The same kind of data in memory, the pool with its true labels."""

    def part(name, classes, offset):
        images, labels = drawings(classes, seed=10 * seed + offset)
        return ImageDataset(images, labels, [f"{name} {c}" for c in range(classes)], mode="L")

    return Splits(
        labeled=part("labeled", LABELED - 2, 0),
        unlabeled=part("pool", POOL, 1),
        validation=part("validation", 3, 2) if validation else None,
        test=part("test", TEST, 3) if test else None,
        name="tiny",
    )


def small_config(folders, output, *overrides):
    """A run of a few dozen steps on what `write_images` wrote; `folders` may be any for data in memory."""
    paths = [f"data.{part}={folder}" for part, folder in folders.items()]
    return load_config(None, ["rows=[teacher, slade]", *SMALL, *paths, f"output={output}", *overrides])


def write_model(folder, seed=0, trunk="convnet", mode="L", transform="small", image_size=16, **more):
    """Write the file of a model that nothing has trained; returns its folder."""
    torch.manual_seed(seed)
    models = build_model(trunk, embedding_size=8, in_channels=len(mode), weights=None)
    meta = {"trunk": trunk, "embedding_size": 8, "in_channels": len(mode), "image_size": image_size}
    save_model(folder, models, meta | {"mode": mode, "transform": transform, **more})
    return folder


def png(image):
    """A PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()
