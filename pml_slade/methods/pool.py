"""Methods that learn from labeled images and a pool together, by a SelfTrainingTrainer."""

from __future__ import annotations

from abc import abstractmethod
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .control import Control
from .method import Job, Method

if TYPE_CHECKING:
    import torch

    from ..averages import ModelAverage
    from ..datasets.images import ImageDataset
    from .method import Models


USUAL_WEIGHT = 2.0
"""lambda1 where no other is asked for."""


class PoolMethod(Method):
    """A ranking loss on labeled images and a loss on pseudo-labeled ones, labeled by clustering.

    A method of your own is often this with another `pool_loss`.
    """

    uses_pool = True
    share = 2 / 3

    @property
    def anchor(self) -> Method:
        """What labels alone teach: their student forgets other things than the pool's does."""
        return Control()

    def images_a_step(self, job: Job) -> int:
        """Labeled and unlabeled images."""
        return job.student.batch_size + job.student.unlabeled_batch_size

    def trainer(self, job: Job, models: Models, average: ModelAverage | None, folder: Path) -> Any:
        """Return the trainer of a student."""
        losses = {name: loss.to(job.runtime.device) for name, loss in self.losses(job).items()}
        return self.trainer_class()(
            teacher=None if average is None else average.models,
            **self.recipe(job, losses),
            **self.learning(job, models, losses),
            **self.reading(job),
            **self.pool(job, folder),
        )

    def recipe(self, job: Job, losses: Models) -> dict[str, Any]:
        """Arguments of the trainer that are the method's own."""
        from ..losses import ClusterBasisLoss

        student = job.student
        classifies = isinstance(losses.get("unlabeled_metric_loss"), ClusterBasisLoss)  # it looks at no pairs
        return {
            "batch_size": student.batch_size,
            "mining_funcs": self.miners(job) | self.pool_miners(job, losses),
            "loss_weights": self.loss_weights(job, losses),
            "basis_warmup": self.basis_warmup(job),
            "unlabeled_batch_size": student.unlabeled_batch_size,
            "unlabeled_images_per_class": None if classifies else student.images_per_class,
            "num_clusters": job.num_clusters,
            "cluster_kwargs": clustering(job),
            "relabel_every": self.relabel_every(job),
        }

    def pool(self, job: Job, folder: Path) -> dict[str, Any]:
        """Arguments of the trainer that concern the pool's images."""
        from ..processes import once

        pool = job.images.splits.unlabeled.without_labels()
        return {
            "unlabeled_dataset": job.images.augmented(pool),
            "clustering_dataset": job.images.plain(pool),
            "end_of_labeling_hook": lambda trainer: once(lambda: write_labels(trainer, folder, pool)),
        }

    def trainer_class(self) -> Any:
        """The class of the trainer."""
        from ..trainers import SelfTrainingTrainer

        return SelfTrainingTrainer

    def losses(self, job: Job) -> Models:
        """Losses by the names that a SelfTrainingTrainer has for them."""
        from ..exceptions import ConfigError

        ranking, basis = self.ranking_loss(job), self.basis(job)
        pool_loss = self.pool_loss(job, basis)
        if pool_loss is None and list(ranking.parameters()):
            raise ConfigError(
                f"student.loss: {job.student.loss.name} learns weights for the labeled classes and cannot "
                "rank pseudo-labels: give student.unlabeled_loss, for example {name: ContrastiveLoss}."
            )
        losses = {"metric_loss": ranking, "unlabeled_metric_loss": pool_loss, "basis_loss": basis}
        return {name: loss for name, loss in losses.items() if loss is not None}

    def basis(self, job: Job) -> Any:
        """The feature basis, or None; of most methods Eq. 3 alone."""
        return self.classifier(job)

    def pool_loss(self, job: Job, basis: Any) -> torch.nn.Module | None:
        """What the pool is trained with, or None for the ranking loss of the labeled images.

        Args:
            job: what to work with.
            basis: what `basis` gave.
        """
        from .building import build_loss

        given = job.student.unlabeled_loss
        return None if given is None else build_loss(given, "student.unlabeled_loss")

    def pool_miners(self, job: Job, losses: Models) -> dict[str, Any]:
        """Miners of unlabeled pairs."""
        return {}

    def pool_weight(self, job: Job) -> float:
        """lambda1 of Eq. 9."""
        given = job.student.unlabeled_weight
        return USUAL_WEIGHT if given is None else given

    def loss_weights(self, job: Job, losses: Models) -> dict[str, float]:
        """lambda1 and lambda2 of Eq. 9."""
        weights = {"unlabeled_metric_loss": self.pool_weight(job)}
        if "basis_loss" in losses:
            weights["basis_loss"] = job.student.basis_weight
        return weights

    def basis_warmup(self, job: Job) -> int:
        """First steps in which the basis alone is trained."""
        return 0

    def relabel_every(self, job: Job) -> int:
        """Epochs after which the pool is relabeled; 0: it is labeled once."""
        return 0

    def reads_unlabeled_loss(self, student: Any) -> bool:
        """Whether `student.unlabeled_loss` has a part in it."""
        return True


class TwoViewsMethod(PoolMethod):
    """Without clusters: each image of the pool stands for itself, and is seen twice.

    Attributes:
        views: of each image; 1 where it is seen once.
    """

    views: ClassVar[int] = 2

    def recipe(self, job: Job, losses: Models) -> dict[str, Any]:
        """Nothing is clustered."""
        arguments = super().recipe(job, losses)
        for name in ("unlabeled_images_per_class", "num_clusters", "cluster_kwargs", "relabel_every"):
            del arguments[name]
        return arguments

    def pool(self, job: Job, folder: Path) -> dict[str, Any]:
        """The pool's images, a label each, at random."""
        import numpy as np
        from torch.utils.data import RandomSampler

        from ..datasets import PseudoLabelDataset

        pool = job.images.splits.unlabeled.without_labels()
        seen = job.images.augmented(pool, views=self.views)
        images = PseudoLabelDataset(seen, np.arange(len(pool)), job.num_classes)
        return {
            "unlabeled_dataset": images,
            "unlabeled_collate_fn": job.images.collate(views=self.views),
            "unlabeled_sampler": RandomSampler(images),
        }

    @abstractmethod
    def pool_loss(self, job: Job, basis: Any) -> torch.nn.Module:
        """What compares two views."""

    def pool_weight(self, job: Job) -> float:
        """Its own."""
        weight: float = job.own.weight
        return weight

    def reads_unlabeled_loss(self, student: Any) -> bool:
        """It has a loss of its own."""
        return False


def clustering(job: Job) -> dict[str, Any]:
    """How the pool is clustered, as a SelfTrainingTrainer takes it."""
    student = job.student
    return {
        "method": student.clustering,
        "whitening": student.whitening,
        "smooth": student.smooth,
        "seed": job.seed,
        "min_cluster_size": student.min_cluster_size,
        "device": str(job.runtime.device),
        "progress": job.runtime.bars,
    }


def epochs_to_relabeling(job: Job) -> int:
    """After how many epochs the pool is relabeled: as configured, or later where it is large; 0: never."""
    student = job.student
    if not student.relabel_every or job.images is None:  # a script has a pool and epochs of its own
        return student.relabel_every
    images = student.unlabeled_batch_size * min(job.epoch_steps, student.steps)
    passes = student.relabel_passes * len(job.images.splits.unlabeled) / images
    return max(student.relabel_every, ceil(passes))


def write_labels(trainer: Any, folder: Path, images: ImageDataset) -> None:
    """Write the pool's labels for people: training goes on from the checkpoints alone.

    Args:
        trainer: whose pool was labeled.
        folder: it gets `pseudo_labels.npy`, a label for each image, -1 where it was left out;
            `pseudo_labels.csv`, with its path, the distance to its cluster's centre and the cluster's size;
            and `clusters.json`.
        images: of the pool.
    """
    import csv

    from ..checkpoints import text_file_atomic, write_array_atomic, write_json_atomic
    from ..datasets.fingerprints import readable_names

    labels, clusters = trainer.pool.pseudo_labels, trainer.pool.clusters
    write_json_atomic(
        folder / "clusters.json", {"summary": str(clusters), **clusters.facts(), "warnings": clusters.signs}
    )
    write_array_atomic(folder / "pseudo_labels.npy", labels)
    with text_file_atomic(folder / "pseudo_labels.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "cluster", "distance", "size"])
        for name, label, distance in zip(
            readable_names(images), labels.tolist(), clusters.distances.tolist()
        ):
            size = clusters.sizes[label] if label >= 0 else ""
            writer.writerow([name, label, f"{distance:.6f}" if label >= 0 else "", size])
