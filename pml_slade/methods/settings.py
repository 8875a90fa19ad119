"""Settings that several methods share. A method's own stand beside its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..clustering.settings import ClusteringSettings

BEST = ClusteringSettings()
"""How the preset `best` clusters."""
CONTRASTIVE = {"name": "ContrastiveLoss", "pos_margin": 0.0, "neg_margin": 0.5}


class Section(BaseModel):
    """Settings that belong together; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _home(cls, value: Any) -> Any:
        return value.expanduser() if isinstance(value, Path) else value


class NamedConfig(BaseModel):
    """A class of pytorch-metric-learning by name; every other key is an argument of it."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys besides `name`."""
        return dict(self.model_extra or {})


class OptimizerConfig(Section):
    """What every stage that is trained says of its optimizer."""

    steps: int = Field(2000, ge=1, description="optimizer steps")
    batch_size: int = Field(32, ge=2, description="labeled images a step")
    optimizer: str = Field("Adam", description="any of torch.optim by name")
    optimizer_arguments: dict[str, Any] | None = Field(
        None, description="its further arguments; null: {momentum: 0.9} for SGD and LARS, none for others"
    )
    lr: float | None = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)

    @property
    def learning_rate(self) -> float:
        """`lr`."""
        assert self.lr is not None
        return self.lr

    @property
    def further_arguments(self) -> dict[str, Any]:
        """`optimizer_arguments`, or what the optimizer usually has."""
        usual = {"momentum": 0.9} if self.optimizer in ("LARS", "SGD") else {}
        return usual if self.optimizer_arguments is None else self.optimizer_arguments


class ClassifierConfig(Section):
    """The vectors of the classes: Eq. 3."""

    logit_scale: float | None = Field(16.0, gt=0, description="of cosines; null: W f without one")
    start: Literal["means", "random"] = Field(
        "means",
        description="where they start: at the means of the classes' embeddings, unless the trunk knows "
        "nothing yet, or at random, as the paper's",
    )
    lr: float = Field(3e-3, gt=0, description="of its vectors")


class BasisConfig(ClassifierConfig):
    """The feature basis (Eqs. 2-6), and what we add to it."""

    clusters: bool = Field(
        True,
        description="a vector for each cluster, too, and Eq. 3 over them in place of a ranking loss on the "
        "pool; ours",
    )
    cluster_margin: float = Field(
        0.1, ge=0, description="margin by which the cosine to its own vector must exceed the others"
    )
    regularizer: Literal["sd", "local_ce", "global_ce"] | None = Field(None, description="the paper's is sd")
    margin: float = 0.5
    variance_weight: float = Field(1.0, ge=0)
    momentum: float = Field(0.99, ge=0, lt=1)
    straight_through: bool = True
    warmup: int = Field(0, ge=0, description="first steps, in which the basis alone is trained")


class TrainingConfig(OptimizerConfig):
    """How a teacher or a student is trained."""

    images_per_class: int = Field(
        2, ge=2, description="of each class in a batch, at least: more where few classes have to fill it"
    )
    schedule: Literal["constant", "cosine"] = "constant"
    embedder_lr: float | None = Field(None, gt=0, description="of the embedder; null: lr")
    average: float | None = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of a running average of the weights, which is validated and kept and labels the "
        "pool; null: none",
    )
    loss: NamedConfig = NamedConfig.model_validate(CONTRASTIVE)
    miner: NamedConfig | None = Field(None, description="of labeled pairs")
    basis_weight: float = Field(1.0, ge=0, description="lambda2 of Eq. 9; the paper's is 0.25")
    basis: ClassifierConfig = ClassifierConfig()


class TeacherConfig(TrainingConfig):
    """How the teacher is trained."""

    run: Path | None = Field(
        None, description="folder of a run whose teacher is taken; null: one is trained here"
    )
    classifier: bool = Field(
        True,
        description="the cross-entropy of Eq. 3 beside the ranking loss, in the teacher and in all rows that "
        "start from it; false: the paper's teacher, control and plain student",
    )


class StudentConfig(TrainingConfig):
    """How a student is trained, on top of what a teacher has."""

    unlabeled_batch_size: int = Field(32, ge=2, description="unlabeled images a step")
    clustering: Literal["kmeans", "ward"] = Field(BEST.method, description="the paper's is kmeans")
    whitening: float = Field(
        BEST.whitening,
        ge=0,
        le=1,
        description="first divide the embeddings' principal directions by their deviations to this power",
    )
    smooth: bool = Field(
        BEST.smooth,
        description="then average embeddings with their reciprocal nearest neighbours, as many as a cluster "
        "has images",
    )
    num_clusters: int | None = Field(
        None, ge=2, description="k; null: as many images a cluster as a labeled class has"
    )
    min_cluster_size: int = Field(
        BEST.min_cluster_size, ge=1, description="images of smaller clusters are left out"
    )
    relabel_every: int = Field(
        1, ge=0, description="relabel the pool after so many epochs (see epoch_steps); 0: label it once"
    )
    relabel_passes: float = Field(
        0.1,
        ge=0,
        description="but not before so many passes over the pool: relabeling embeds it, which takes as long "
        "as to train on a tenth of it",
    )
    iterations: int = Field(1, ge=1, description="each student becomes the next one's teacher")
    unlabeled_weight: float = Field(2.0, ge=0, description="lambda1 of Eq. 9; the paper's is 1")
    soup: bool = Field(
        False,
        description="keep a mean of weights: half of the control's and half of those that it started from; "
        "two thirds of a student's with a pool and one third of those that labels alone teach from its start",
    )
    unlabeled_loss: NamedConfig | None = Field(
        None, description="ranks the pool where basis.clusters is false; null: the same as loss"
    )
    mining: Literal["none", "eq7"] = Field(
        "none", description="unlabeled pairs: all by pseudo-label, or Eq. 7 to the letter"
    )
    basis: BasisConfig = BasisConfig()
