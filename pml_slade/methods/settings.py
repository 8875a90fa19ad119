"""Settings that several methods share. A method's own stand beside its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ..clustering.settings import ClusteringSettings

BEST = ClusteringSettings()
"""How the preset `best` clusters."""
CONTRASTIVE = {"name": "ContrastiveLoss", "pos_margin": 0.0, "neg_margin": 0.5}


class Section(BaseModel):
    """Settings that belong together; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes and on as true, which pydantic would take for 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        kinds = {kind, *get_args(kind)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise PydanticCustomError("truth_value", "Input should be a number")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _home(cls, value: Any) -> Any:
        return value.expanduser() if isinstance(value, Path) else value


def is_section(kind: Any) -> TypeGuard[type[Section]]:
    """Whether an annotation is a `Section`; to Python 3.10, list[int] is a class, too.

    Examples:
        >>> is_section(OptimizerConfig), is_section(list[int]), is_section(None)
        (True, False, False)
    """
    return get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, Section)


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
    optimizer: str = Field("Adam", description="name of an optimizer of torch.optim")
    optimizer_arguments: dict[str, Any] | None = Field(
        None,
        description="further arguments of the optimizer; null: {momentum: 0.9} for SGD and LARS, else none",
    )
    lr: float | None = Field(1e-5, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimizer")

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

    logit_scale: float | None = Field(
        16.0, gt=0, description="factor of the cosines in Eq. 3; null: the plain product W f"
    )
    start: Literal["means", "random"] = Field(
        "means",
        description="start of the classes' vectors; means: the mean embedding of each class, unless the "
        "trunk is untrained; random: as in the paper",
    )
    lr: float = Field(3e-3, gt=0, description="learning rate of the classes' vectors")


class BasisConfig(ClassifierConfig):
    """The feature basis (Eqs. 2-6), and what we add to it."""

    clusters: bool = Field(
        True,
        description="one vector for each cluster, and Eq. 3 over them in place of a ranking loss on the "
        "pool; not in the paper",
    )
    cluster_margin: float = Field(
        0.1, ge=0, description="margin by which the cosine to its own vector must exceed the others"
    )
    regularizer: Literal["sd", "local_ce", "global_ce"] | None = Field(
        None, description="regulariser of the basis; the paper's is sd, Eq. 5"
    )
    margin: float = Field(0.5, description="m of Eq. 5, between the two mean similarities")
    variance_weight: float = Field(1.0, ge=0, description="weight of the variances in Eq. 5")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the running means and variances, Eq. 6")
    straight_through: bool = Field(True, description="let a batch have the whole gradient of Eq. 6")
    warmup: int = Field(0, ge=0, description="first steps, in which only the basis is trained")


class TrainingConfig(OptimizerConfig):
    """How a teacher or a student is trained."""

    images_per_class: int = Field(
        2,
        ge=2,
        description="images of a class in a batch; more if there are too few classes to fill the batch",
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="of the learning rate")
    embedder_lr: float | None = Field(None, gt=0, description="learning rate of the embedder; null: lr")
    average: float | None = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of the running average of the weights; the average is validated, kept, and "
        "labels the pool; null: no average",
    )
    loss: NamedConfig = Field(
        NamedConfig.model_validate(CONTRASTIVE),
        description="ranking loss on labeled images: a loss of pytorch-metric-learning and its arguments",
    )
    miner: NamedConfig | None = Field(None, description="miner of labeled pairs; null: all pairs")
    basis_weight: float = Field(1.0, ge=0, description="λ2 of Eq. 9; the paper's is 0.25")
    basis: ClassifierConfig = ClassifierConfig()


class TeacherConfig(TrainingConfig):
    """How the teacher is trained."""

    run: Path | None = Field(None, description="folder of a run whose teacher is used; null: one is trained")
    classifier: bool = Field(
        True,
        description="add the cross-entropy of Eq. 3 to the ranking loss, in the teacher and in all rows that "
        "start from it; the paper's teacher does not have it",
    )


class StudentConfig(TrainingConfig):
    """How a student is trained, on top of what a teacher has."""

    unlabeled_batch_size: int = Field(32, ge=2, description="unlabeled images a step")
    clustering: Literal["kmeans", "ward"] = Field(
        BEST.method, description="how the pool is clustered; the paper's is kmeans"
    )
    whitening: float = Field(
        BEST.whitening,
        ge=0,
        le=1,
        description="before clustering, divide principal directions of the embeddings by their standard "
        "deviations to this power",
    )
    smooth: bool = Field(
        BEST.smooth,
        description="before clustering, average each embedding with its reciprocal nearest neighbours",
    )
    num_clusters: int | None = Field(
        None,
        ge=2,
        description="number of clusters; null: a cluster has as many images as a labeled class on average",
    )
    min_cluster_size: int = Field(
        BEST.min_cluster_size, ge=1, description="leave out images of smaller clusters"
    )
    relabel_every: int = Field(
        1, ge=0, description="cluster the pool again after this many epochs (see epoch_steps); 0: only once"
    )
    iterations: int = Field(
        1, ge=1, description="how many students follow each other; each is the teacher of the next"
    )
    unlabeled_weight: float | None = Field(
        None,
        ge=0,
        description="λ1 of Eq. 9: how much the pool counts; the paper's is 1; null: 2, or, where SLADE "
        "learns from neighbours in the pool, 4 times the share of them that is estimated to be right",
    )
    relabel_passes: float = Field(
        0.1,
        ge=0,
        description="least number of passes over the pool between two clusterings; embedding takes as long "
        "as training on a tenth of it",
    )
    soup: bool = Field(
        False,
        description="keep a mean of weights (a model soup). Control: half its own weights, half those it "
        "started from. Students with a pool: two thirds their own weights, one third those of a student that "
        "learned from labels alone",
    )
    unlabeled_loss: NamedConfig | None = Field(
        None, description="ranking loss on the pool, if basis.clusters is false; null: the same as loss"
    )
    mining: Literal["none", "eq7"] = Field(
        "none", description="pairs of the pool; none: all pairs, by pseudo-label; eq7: those of Eq. 7"
    )
    basis: BasisConfig = BasisConfig()
