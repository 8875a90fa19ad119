"""SwAV on the images of a run, labeled and unlabeled, before its teacher; no label is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from .. import processes
from ..checkpoints import write_atomic
from ..datasets.draws import seed_everything
from ..datasets.fingerprints import digest, list_images
from ..datasets.images import ImageDataset
from ..exceptions import CheckpointError
from ..faults import told
from ..locks import check_free, locked
from ..methods.building import build_cosine_schedulers, build_optimizer
from ..models import (
    SwAVCheckpoint,
    build_trunk,
    check_forward,
    load_swav_checkpoint,
    save_swav_checkpoint,
    swav_head,
)
from ..models.saving import state_difference
from ..pretraining import SwAVLoss, SwAVTrainer, swav_views
from ..pretraining.views import local_size
from ..runtime import Runtime
from .data import build_pretraining_images, build_runtime
from .models import build_trunk_input
from .rows import Inputs, Row, check_run, keep_lists, pretraining_settings
from .settings import Config
from .stages import Stage, Validate, run_stage
from .tracking import Tracking, build_tracking

logger = logging.getLogger("pml_slade")

FOLDER, FILE = "pretraining", "swav.pth.tar"
DEFAULT_PROTOTYPES = 300
FINAL_LR = 1e-3
"""Share of the learning rate that is left at the end, as in the authors' scripts."""
Images = Mapping[str, ImageDataset]
"""By part, "labeled" and "unlabeled", or one of these."""


def run_pretraining(config: Config, progress: bool = True) -> Path:
    """Pretrain a trunk on whatever images the settings name; `pml-slade train` can go on in the same folder.

    Returns:
        The file, in the layout in which the authors of SwAV publish theirs.

    Raises:
        ConfigError: settings that do not fit; the folder holds this stage with other settings or images.
        DataError: images that cannot be used.
    """
    processes.once(lambda: _check_place(config))
    tracking = build_tracking(config, progress)
    images, runtime = build_pretraining_images(config), build_runtime(config, progress)
    check(config, images, runtime)
    with told(str), locked(config.output) if processes.is_first() else nullcontext():
        processes.once(lambda: _begin(config, images))
        return pretrain(config, images, runtime, tracking)


def _check_place(config: Config) -> None:
    check_run(config.output, [])
    check_free(config.output)


def _begin(config: Config, images: Images) -> None:
    settings = Path(config.output) / "config.yaml"
    _admit(config, images)  # another run may have come first
    if not settings.exists():  # else it may be that of a run with rows
        write_atomic(settings, config.to_yaml().encode())


def pretrained_file(config: Config) -> Path:
    """Where the stage leaves trunk, projection head and prototypes."""
    return Path(config.output) / FOLDER / FILE


def check(config: Config, images: Images, runtime: Runtime) -> None:
    """Refuse what cannot work, before anything is trained or written.

    Raises:
        ConfigError: settings that do not fit; the stage was begun with other settings or images.
        DataError: fewer images than a batch.
    """
    processes.once(lambda: _admit(config, images))
    if not processes.once(pretrained_file(config).exists):
        build_trainer(config, images, runtime)


def _admit(config: Config, images: Images) -> None:
    inputs, lists = _inputs(config, images)
    Row(Path(config.output), FOLDER).admit(inputs, lists)


def pretrain(
    config: Config, images: Images, runtime: Runtime, tracking: Tracking, validate: Validate | None = None
) -> Path:
    """Pretrain a trunk, unless that is done; what was stopped is resumed.

    Args:
        config: all settings; the stage lies in ``output/pretraining``.
        images: to train on, labels are not read.
        runtime: to train with.
        tracking: where records go.
        validate: measures a trunk after each epoch, for the records; the last epoch is taken anyway.

    Returns:
        The file with trunk, projection head and prototypes.

    Raises:
        ConfigError: the stage was begun with other settings or images.
    """
    file = pretrained_file(config)
    if processes.once(lambda: _is_done(config, images)):
        return file
    trainer = build_trainer(config, images, runtime)
    trunk = trainer.models["trunk"]
    stage = Stage(
        name="SwAV",
        folder=file.parent,
        trainer=trainer,
        epochs=config.pretraining.steps // trainer.iterations_per_epoch,
        seed=config.seed,
        validate=None if validate is None else lambda: (validate(trunk), []),
        keep_best=False,
        checkpoint_minutes=config.checkpoint_minutes,
        numerics=runtime.numerics,
        progress=runtime.progress,
        tracking=tracking,
    )
    run_stage(stage)
    parts = trunk, trainer.models["embedder"], trainer.swav_loss.prototypes
    processes.once(lambda: save_swav_checkpoint(file, *parts))
    return file


def _is_done(config: Config, images: Images) -> bool:
    """Whether the stage is done; else, note that it begins, or is resumed."""
    row = Row(Path(config.output), FOLDER)
    inputs, lists = _inputs(config, images)
    row.admit(inputs, lists)
    if pretrained_file(config).exists():
        return True
    keep_lists(row.run, lists)
    row.begin(inputs)
    return False


def _inputs(config: Config, images: Images) -> tuple[Inputs, dict[str, list[str]]]:
    lists = {part: list_images(dataset.without_labels()) for part, dataset in images.items()}
    return Inputs(pretraining_settings(config), {part: digest(lines) for part, lines in lists.items()}), lists


def build_trainer(config: Config, images: Images, runtime: Runtime) -> SwAVTrainer:
    """Return the trainer of the stage; a SwAV file in `model.weights` gives head and prototypes, too.

    Raises:
        ConfigError: settings that do not fit.
        DataError: fewer images than a batch.
    """
    settings, data, device = config.pretraining, config.data, runtime.device
    processes.check_batch("pretraining.batch_size", settings.batch_size)
    seed_everything(config.seed)
    given = _given(config)
    trunk = build_trunk(
        config.model.trunk, len(data.mode), config.model.weights, **config.model.trunk_options
    )
    crops = [local_size(data.image_size, data.transform)] if settings.num_local else []
    check_forward({"trunk": trunk}, data.image_size, len(data.mode), crops)
    sizes: Any = (trunk.output_size, settings.hidden_size, settings.embedding_size)
    head, loss = swav_head(*sizes), _loss(config, given)
    if given is not None:
        _go_on(head, given.head, "projection head")
        _go_on(loss.prototypes.heads[0], given.prototypes, "prototypes")
    parts = {"trunk": runtime.place(trunk), "embedder": head.to(device), "metric_loss": loss.to(device)}
    optimizers = {
        f"{name}_optimizer": build_optimizer(
            settings, [{"params": list(part.parameters())}], "pretraining.optimizer"
        )
        for name, part in parts.items()
    }
    views = swav_views(
        data.transform, data.image_size, data.mode, settings.num_local, build_trunk_input(config)
    )
    dataset: Any = ConcatDataset([part.without_labels().with_transform(views) for part in images.values()])
    frozen, queue_from = settings.freeze_prototypes, settings.queue_from_step
    if frozen is None:
        frozen = min(len(dataset) // settings.batch_size, settings.steps // 10)
    if queue_from is None and given is not None and given.prototypes is not None:
        queue_from = 0  # its embeddings are settled
    return SwAVTrainer(
        models={"trunk": parts["trunk"], "embedder": parts["embedder"]},
        optimizers=optimizers,
        batch_size=settings.batch_size,
        loss_funcs={"metric_loss": parts["metric_loss"]},
        dataset=dataset,
        queue_batches=settings.queue_batches,
        queue_from_iteration=queue_from,
        freeze_prototypes=frozen,
        lr_schedulers=build_cosine_schedulers(optimizers, settings.steps, settings.learning_rate * FINAL_LR),
        iterations_per_epoch=min(config.epoch_steps, settings.steps),
        data_device=device,
        dataloader_num_workers=runtime.workers,
    )


def _given(config: Config) -> SwAVCheckpoint | None:
    """What `model.weights` has of SwAV, where it is a file that has."""
    weights = config.model.weights
    if weights in (None, "default"):
        return None
    try:
        return load_swav_checkpoint(weights)
    except CheckpointError:  # no SwAV; whether it fits the trunk is told when the trunk is built
        return None


def _loss(config: Config, given: SwAVCheckpoint | None) -> SwAVLoss:
    settings = config.pretraining
    theirs = None if given is None or given.prototypes is None else len(given.prototypes["weight"])
    return SwAVLoss(
        settings.num_prototypes or theirs or DEFAULT_PROTOTYPES,
        settings.embedding_size,
        settings.temperature,
        settings.epsilon,
        settings.sinkhorn_iterations,
    )


def _go_on(part: torch.nn.Module, state: dict[str, torch.Tensor] | None, name: str) -> None:
    """Start a part from a checkpoint that has it in this size; else it starts afresh, and that is said."""
    if state is None:
        return
    if difference := state_difference(part, state):
        logger.warning("pretraining: the %s of model.weights starts afresh: %s", name, difference)
        return
    part.load_state_dict(state)
    logger.info("pretraining: starts from the %s of model.weights", name)
