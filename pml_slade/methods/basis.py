"""SLADE without its mining: the step of the paper's ablation before the last."""

from __future__ import annotations

from typing import Any

from .method import Job
from .pool import PoolMethod, epochs_to_relabeling


class WholeBasis(PoolMethod):
    """Pseudo-labels, and a feature basis with its regulariser or with vectors for the clusters, too."""

    def basis(self, job: Job) -> Any:
        """The whole basis (Eq. 2)."""
        from ..losses import FeatureBasisLoss

        ours = {"lr", "start", "warmup", "clusters", "cluster_margin"}  # no arguments of the loss
        settings: dict[str, Any] = job.student.basis.model_dump(exclude=ours)
        return FeatureBasisLoss(**job.sizes, **settings)

    def pool_loss(self, job: Job, basis: Any) -> Any:
        """A vector for each cluster, or a ranking loss."""
        from ..losses import ClusterBasisLoss

        if not job.student.basis.clusters:
            return super().pool_loss(job, basis)
        return ClusterBasisLoss(basis, self.most_clusters(job), job.student.basis.cluster_margin)

    def most_clusters(self, job: Job) -> int:
        """Clusters that there can be."""
        return job.num_clusters

    def reads_unlabeled_loss(self, student: Any) -> bool:
        """Where it ranks the pool."""
        return not student.basis.clusters

    def basis_warmup(self, job: Job) -> int:
        """As configured."""
        return job.student.basis.warmup

    def relabel_every(self, job: Job) -> int:
        """As configured."""
        return epochs_to_relabeling(job)

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Refuse a warm-up of no use, mining without statistics, and a margin without cosines."""
        basis = student.basis
        if basis.warmup and basis.warmup >= student.steps:
            raise ValueError(
                f"student.basis.warmup={basis.warmup} leaves nothing of student.steps={student.steps} to "
                "train the student in"
            )
        if basis.warmup and not student.basis_weight:
            raise ValueError(
                f"student.basis.warmup={basis.warmup} warms a basis up that student.basis_weight=0 leaves out"
            )
        if student.mining == "eq7" and (basis.regularizer is None or basis.clusters):
            raise ValueError(
                "student.mining=eq7 mines pairs for a ranking loss on the pool, by thresholds from "
                "the similarity statistics of the basis: student.basis.clusters must be false and "
                "student.basis.regularizer must not be null, as with -c paper"
            )
        if basis.clusters and basis.cluster_margin and basis.logit_scale is None:
            raise ValueError(
                f"student.basis.cluster_margin={basis.cluster_margin} is of cosines, which "
                "student.basis.logit_scale=null does not take: give a number there, or 0 here"
            )


class Basis(WholeBasis):
    """SLADE without its miner."""

    title = "With a feature basis"

    def check_settings(self, teacher: Any, student: Any, own: Any) -> None:
        """Refuse to be what SLADE is."""
        super().check_settings(teacher, student, own)
        if student.mining == "none":
            raise ValueError(
                "rows: basis is slade without its mining, and student.mining=none: leave basis out, or mine"
            )
