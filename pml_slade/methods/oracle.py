"""SLADE with the pool's true labels: the most that better pseudo-labels could give."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import ConfigError, DataError
from .method import Job
from .slade import SladeOfClusters

if TYPE_CHECKING:
    import numpy as np

    from .method import Models


class Oracle(SladeOfClusters):
    """As `slade`, labeled by those who know."""

    title = "Oracle (true pool labels)"
    is_bound = True

    def relabel_every(self, job: Job) -> int:
        """Never."""
        return 0

    def most_clusters(self, job: Job) -> int:
        """As many as the pool has classes."""
        return int(self.labels(job).max()) + 1

    def pool(self, job: Job, folder: Path) -> dict[str, Any]:
        """The pool under its true labels."""
        from ..datasets import PseudoLabelDataset

        arguments = super().pool(job, folder)
        known = PseudoLabelDataset(arguments["unlabeled_dataset"], self.labels(job), job.num_classes)
        return arguments | {"unlabeled_dataset": known}

    def labels(self, job: Job) -> np.ndarray:
        """The pool's, but for classes that are smaller than clusters may be, or of one image."""
        import numpy as np

        from ..datasets.pseudo_label_dataset import LEFT_OUT

        labels = job.images.splits.unlabeled.known_labels()
        sizes = np.bincount(labels)
        kept = np.flatnonzero(sizes >= max(2, job.student.min_cluster_size))
        renumber = np.full(len(sizes), LEFT_OUT)
        renumber[kept] = np.arange(len(kept))
        renumbered: np.ndarray = renumber[labels]
        return renumbered

    def check(self, job: Job, models: Models) -> None:
        """Refuse a pool without true labels, or with too few."""
        if job.images.splits.unlabeled.labels is None:
            raise ConfigError("rows: oracle needs the pool's true labels, and this pool has none.")
        known, size = int((self.labels(job) >= 0).sum()), job.student.unlabeled_batch_size
        if known < size:
            raise DataError(
                f"rows: oracle has {known} images of true classes of two images or more, and no smaller than "
                f"clusters may be, fewer than student.unlabeled_batch_size={size}."
            )
        super().check(job, models)
