"""The preset `best` for a script of pytorch-metric-learning: what its trainers need, in one call each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from .averages import ModelAverage
from .exceptions import ConfigError
from .methods import Job
from .methods.building import start_at_means
from .methods.settings import StudentConfig, TeacherConfig
from .methods.slade import Slade
from .methods.teacher import Teacher
from .runtime import Runtime

Models = dict[str, torch.nn.Module]


def best_teacher(models: Models, num_classes: int, embedding_size: int, **settings: Any) -> dict[str, Any]:
    """Return the arguments with which PML's MetricLossOnly trains the teacher of the preset `best`.

    Data, sampler and `iterations_per_epoch` are yours to give: batches of two images a class, and strong
    augmentation, are what `best` has.

    Args:
        models: ``trunk`` and ``embedder``; they are trained.
        num_classes: labeled classes.
        embedding_size: of the embedder.
        settings: any of ``teacher`` in docs/settings.md, such as ``lr=1e-3``.

    Returns:
        models, optimizers, batch_size, loss_funcs, mining_funcs, models without weights as
        ``freeze_these``, and the running average of the weights as ``end_of_iteration_hook``.

    Raises:
        ConfigError: a setting that there is not, or that does not fit.

    Examples:
        >>> models = {"trunk": torch.nn.Flatten(), "embedder": torch.nn.Linear(4, 2)}
        >>> sorted(best_teacher(models, num_classes=3, embedding_size=2, lr=0.01))
        ['batch_size', 'end_of_iteration_hook', 'freeze_these', 'loss_funcs', 'mining_funcs', 'models',
        'optimizers']
    """
    teacher = _settings(TeacherConfig, settings)
    job = _job(models, teacher, StudentConfig(), num_classes, embedding_size)
    method = Teacher()
    losses = {"metric_loss": method.loss(job).to(job.runtime.device)}
    return {**method.recipe(job), **method.learning(job, models, losses), **_average(models, teacher.average)}


def best_student(
    models: Models,
    num_classes: int,
    embedding_size: int,
    num_clusters: int,
    labeled: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    """Return the arguments with which a SelfTrainingTrainer trains the student of the preset `best`.

    Data, sampler and `iterations_per_epoch` are yours to give. The pool is relabeled after each epoch, by the
    running average of the weights.

    Args:
        models: ``trunk`` and ``embedder``, as the teacher left them; they are trained.
        num_classes: labeled classes.
        embedding_size: of the embedder.
        num_clusters: k, see `clustering.suggest_num_clusters`.
        labeled: the labeled images, map-style, items `(image, class)` under the transform of evaluation. The
            vectors of the classes start at the means of their embeddings, as in `best`; None: at random.
        settings: any of ``student`` in docs/settings.md, such as ``lr=1e-3``.

    Returns:
        models, optimizers, losses with their weights, batch sizes, clustering and its schedule, and the
        running average of the weights as ``teacher`` and as ``end_of_iteration_hook``.

    Raises:
        ConfigError: a setting that there is not, or that does not fit.

    Examples:
        >>> models = {"trunk": torch.nn.Flatten(), "embedder": torch.nn.Linear(4, 2)}
        >>> parts = best_student(models, num_classes=3, embedding_size=2, num_clusters=5, lr=0.01)
        >>> parts["loss_funcs"]["unlabeled_metric_loss"].V.shape, parts["relabel_every"]
        (torch.Size([5, 2]), 1)
    """
    student = _settings(StudentConfig, settings)
    job = _job(models, TeacherConfig(), student, num_classes, embedding_size, num_clusters)
    method = Slade()
    try:
        method.check_settings(job.teacher, student, None)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    losses = {name: loss.to(job.runtime.device) for name, loss in method.losses(job).items()}
    if labeled is not None:
        start_at_means(losses, models, job.runtime, labeled, np.array([label for _, label in labeled]))
    parts = {**method.recipe(job, losses), **method.learning(job, models, losses)}
    average = _average(models, student.average)
    return {**parts, **average, **({"teacher": average["end_of_iteration_hook"].models} if average else {})}


def _settings(kind: Any, settings: dict[str, Any]) -> Any:
    from .running.settings import explain

    try:
        return kind(**settings)
    except ValidationError as error:
        raise ConfigError("; ".join(explain(e, kind) for e in error.errors())) from None


def _job(
    models: Models,
    teacher: TeacherConfig,
    student: StudentConfig,
    num_classes: int,
    embedding_size: int,
    num_clusters: int = 1,
) -> Job:
    devices = [parameter.device for model in models.values() for parameter in model.parameters()]
    runtime = Runtime(devices[0] if devices else torch.device("cpu"))
    images: Any = None  # they are the script's
    return Job(teacher, student, None, num_classes, num_clusters, embedding_size, runtime, images)


def _average(models: Models, decay: float | None) -> dict[str, ModelAverage]:
    return {} if decay is None else {"end_of_iteration_hook": ModelAverage(models, decay)}
