"""Every setting of a run, checked before anything is trained."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .datasets.catalogue import CATALOGUE
from .exceptions import ConfigError

ROWS = {
    "teacher": "Teacher",
    "control": "Teacher trained on",
    "memory": "Cross-batch memory",
    "mean_teacher": "Mean teacher",
    "self_supervised": "Self-supervised views",
    "self_taught": "Self-taught (STML)",
    "pseudo": "Student on pseudo-labels",
    "iterated": "Iterated clustering",
    "basis": "With a feature basis",
    "slade": "SLADE",
    "oracle": "Oracle (true pool labels)",
}
CONTRASTIVE = {"name": "ContrastiveLoss", "pos_margin": 0.0, "neg_margin": 0.5}


class Section(BaseModel):
    """Settings that belong together; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _home(cls, value: Any) -> Any:
        return value.expanduser() if isinstance(value, Path) else value


class DataConfig(Section):
    """Where the images come from."""

    kind: Literal["images", "omniglot", "glyphs"] = Field(
        "images", description="your own folders or CSV lists, Omniglot's layout, or the embedded letters"
    )
    labeled: Path | None = Field(
        None,
        description=f"images: folder root/class/image, CSV of path,label, or one of {', '.join(CATALOGUE)}",
    )
    unlabeled: Path | None = Field(
        None, description="images: folder, CSV or one of these names, then all of it; no labels needed"
    )
    validation: Path | None = Field(
        None, description="images: labeled, of classes not trained on; of a name, its test part"
    )
    test: Path | None = Field(
        None,
        description="images: labeled, looked at once, at the very end; of a name, its test part; null: that "
        "of `labeled` where this is a name",
    )
    gallery: Path | None = Field(
        None,
        description="images: the test images search in these; null: the official one (InShop), else among "
        "themselves",
    )
    root: Path = Field(
        Path("datasets"),
        description="folder of named data sets (holds CUB_200_2011, nabirds, ...) or of Omniglot",
    )
    complete: bool = Field(True, description="named data sets must be whole; false: a part will do")
    exclude_held_out: bool = Field(
        True, description="leave the classes of validation and test, by name, out of a named pool"
    )
    labeled_alphabets: int | list[str] = Field(5, description="omniglot: how many, or which")
    validation_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the labeled classes kept for model selection; 0: none"
    )
    image_size: int = Field(224, ge=16)
    mode: Literal["RGB", "L"] = "RGB"
    transform: Literal["photo", "small"] = Field(
        "photo", description="random crops and flips, or turns, shears and shifts for small drawings"
    )
    augmentation: Literal["mild", "strong"] = Field(
        "strong", description="strong: colours, grey and blur, too; for small drawings, elastic distortion"
    )
    workers: int | None = Field(
        None, ge=0, description="data loader processes; null: one a CPU for images, none for drawings"
    )
    check_duplicates: bool = Field(True, description="look for test images in the pool, and report them")

    @property
    def num_workers(self) -> int:
        """How many data loader processes that comes to."""
        if self.workers is not None:
            return self.workers
        return min(os.cpu_count() or 1, 8) if self.kind == "images" else 0

    @model_validator(mode="after")
    def _paths(self) -> DataConfig:
        if self.gallery is not None and self.test is None:
            raise ValueError("data.gallery is what test images are searched in: give data.test, too")
        return self


class ModelConfig(Section):
    """What embeds the images."""

    trunk: str = Field(
        "resnet50", description="convnet, bninception, or any torchvision or timm model by name"
    )
    weights: str | None = Field("default", description="default (the library's), a file, or null")
    trunk_options: dict[str, Any] = Field(
        {}, description="of the network's size and form, {img_size: 112} for a ViT say; see docs/models.md"
    )
    embedding_size: int = Field(128, ge=1)
    hidden_sizes: list[int] = Field([], description="hidden layers of the embedder; none: linear")
    freeze_batchnorm: bool = Field(
        False, description="keep the trunk's batch norm as it came, as the reality check does"
    )

    @field_validator("trunk_options")
    @classmethod
    def _allowed(cls, options: dict[str, Any]) -> dict[str, Any]:
        from .models.options import check_options  # its room is slow to import, settings are not

        check_options(options)
        return options


class NamedConfig(BaseModel):
    """A class of pytorch-metric-learning by name; every other key is an argument of it."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys besides `name`."""
        return dict(self.model_extra or {})


class PretrainingConfig(Section):
    """SwAV on labeled and unlabeled images, before the teacher; reads no labels (Caron et al., 2020)."""

    steps: int = Field(0, ge=0, description="0: none, the teacher starts from model.weights")
    batch_size: int = Field(64, ge=2, description="images a step")
    num_local: int = Field(6, ge=0, description="small crops of an image, beside the two large ones")
    hidden_size: int = Field(2048, ge=0, description="of the projection head; 0: a linear one")
    embedding_size: int = Field(128, ge=1, description="of the projection head")
    num_prototypes: int | None = Field(
        None, ge=2, description="null: those of model.weights if it has any, else 300"
    )
    temperature: float = Field(0.1, gt=0)
    epsilon: float = Field(0.05, gt=0, description="lower helps against collapse")
    sinkhorn_iterations: int = Field(3, ge=1)
    queue_batches: int | None = Field(
        None, ge=0, description="null: until batch and queue hold an image for each prototype"
    )
    queue_from_step: int | None = Field(
        None,
        ge=0,
        description="null: at once with the prototypes of model.weights, else after 15 passes over the "
        "images",
    )
    freeze_prototypes: int | None = Field(
        None, ge=0, description="first steps; null: a pass over the images, at most a tenth of the steps"
    )
    optimizer: str = Field("LARS", description="LARS, as the authors, or any of torch.optim by name")
    optimizer_arguments: dict[str, Any] | None = Field(
        None, description="null: momentum 0.9 for LARS and SGD, none for others"
    )
    lr: float | None = Field(
        None,
        gt=0,
        description="falls by a cosine to a thousandth; null: for LARS, 0.6 for 256 images a step, as theirs",
    )
    weight_decay: float = Field(1e-6, ge=0)

    @property
    def learning_rate(self) -> float:
        """`lr`, or the authors', scaled to the batch."""
        return 0.6 * self.batch_size / 256 if self.lr is None else self.lr

    @property
    def further_arguments(self) -> dict[str, Any]:
        """`optimizer_arguments`, or what the optimizer usually has."""
        usual = {"momentum": 0.9} if self.optimizer in ("LARS", "SGD") else {}
        return usual if self.optimizer_arguments is None else self.optimizer_arguments

    @model_validator(mode="after")
    def _rate(self) -> PretrainingConfig:
        if self.lr is None and self.optimizer != "LARS":
            raise ValueError(f"pretraining.lr missing: {self.optimizer} has no usual one here, give it")
        return self


class TrainingConfig(Section):
    """How one stage is trained."""

    steps: int = Field(2000, ge=1, description="optimizer steps")
    batch_size: int = Field(32, ge=2, description="labeled images a step")
    images_per_class: int = Field(2, ge=2, description="of each class in a batch")
    optimizer: str = Field("Adam", description="any of torch.optim by name")
    optimizer_arguments: dict[str, Any] = Field({}, description="its further arguments, {momentum: 0.9} say")
    lr: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    average: float | None = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of a running average of the weights, which is validated and kept and labels the "
        "pool; null: none",
    )
    loss: NamedConfig = NamedConfig.model_validate(CONTRASTIVE)
    miner: NamedConfig | None = Field(None, description="of labeled pairs")

    @property
    def learning_rate(self) -> float:
        """`lr`."""
        return self.lr

    @property
    def further_arguments(self) -> dict[str, Any]:
        """`optimizer_arguments`."""
        return self.optimizer_arguments


class TeacherConfig(TrainingConfig):
    """How the teacher is trained."""

    classifier: bool = Field(
        True,
        description="the cross-entropy of Eq. 3 beside the ranking loss, in the teacher and in all rows that "
        "start from it; false: the paper's teacher, control and plain student",
    )


class BasisConfig(Section):
    """The feature basis (Eqs. 2-6), and what we add to it."""

    clusters: bool = Field(
        True,
        description="a vector for each cluster, too, and Eq. 3 over them in place of a ranking loss on the "
        "pool; ours",
    )
    cluster_margin: float = Field(0.1, ge=0, description="by which cosines with one's own vector have to win")
    regularizer: Literal["sd", "local_ce", "global_ce"] | None = Field(None, description="the paper's is sd")
    margin: float = 0.5
    variance_weight: float = Field(1.0, ge=0)
    momentum: float = Field(0.99, ge=0, lt=1)
    logit_scale: float | None = Field(16.0, gt=0)
    straight_through: bool = True
    lr: float = Field(3e-3, gt=0, description="of its vectors")
    warmup: int = Field(0, ge=0, description="first steps, in which the basis alone is trained")


class StudentConfig(TrainingConfig):
    """How the student is trained, on top of what a teacher has."""

    unlabeled_batch_size: int = Field(32, ge=2, description="unlabeled images a step")
    clustering: Literal["kmeans", "ward"] = Field("ward", description="the paper's is kmeans")
    whitening: float = Field(
        0.5,
        ge=0,
        le=1,
        description="first divide the embeddings' principal directions by their deviations to this power",
    )
    smooth: bool = Field(
        True,
        description="then average embeddings with their reciprocal nearest neighbours, as many as a cluster "
        "has images",
    )
    num_clusters: int | None = Field(
        None, ge=2, description="k; null: as many images a cluster as a labeled class has"
    )
    min_cluster_size: int = Field(2, ge=1, description="images of smaller clusters are left out")
    relabel_every: int = Field(
        1,
        ge=0,
        description="label the pool anew after so many epochs (see epoch_steps); 0: once, as the paper",
    )
    iterations: int = Field(1, ge=1, description="each student becomes the next one's teacher")
    unlabeled_weight: float = Field(2.0, ge=0, description="lambda1 of Eq. 9; the paper's is 1")
    basis_weight: float = Field(1.0, ge=0, description="lambda2 of Eq. 9; the paper's is 0.25")
    unlabeled_loss: NamedConfig | None = Field(
        None, description="ranks the pool where basis.clusters is false; null: the same as loss"
    )
    mining: Literal["none", "eq7"] = Field(
        "none", description="unlabeled pairs: all by pseudo-label, or Eq. 7 to the letter"
    )
    basis: BasisConfig = BasisConfig()


class PeersConfig(Section):
    """What other methods need beside the student's settings."""

    memory_size: int = Field(8192, ge=1, description="embeddings that the cross-batch memory holds")
    mean_teacher_weight: float = Field(1.0, gt=0)
    self_supervised_weight: float = Field(3.0, gt=0)
    self_supervised_temperature: float = Field(0.1, gt=0)
    self_taught_weight: float = Field(3.0, gt=0)
    pseudo_weight: float | None = Field(16.0, gt=0, description="null: student.unlabeled_weight")
    iterated_weight: float | None = Field(8.0, gt=0, description="null: student.unlabeled_weight")
    pseudo_loss: NamedConfig | None = Field(
        NamedConfig(name="MultiSimilarityLoss"),
        description="ranks the pool of pseudo and iterated where student.unlabeled_loss does not; null: "
        "student.loss",
    )
    self_taught_neighbours: int = Field(4, ge=1, description="nearest neighbours of each query in a batch")


class Config(Section):
    """A whole run."""

    output: Path = Field(Path("runs/run"), description="folder of the run; the same command goes on in it")
    seed: int = Field(0, ge=0)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    rows: list[str] = Field(
        ["teacher", "slade"],
        description=f"what to train and compare: any of {', '.join(ROWS)}; none for `pml-slade pretrain`",
    )
    epoch_steps: int = Field(250, ge=1, description="steps between validations and checkpoints")
    tolerance: float = Field(
        1.0,
        ge=0,
        description="keep the last epoch whose validation MAP@R is below the best by no more than so many "
        "points; 0: the best one",
    )
    data: DataConfig
    model: ModelConfig = ModelConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    peers: PeersConfig = PeersConfig()

    @field_validator("rows")
    @classmethod
    def _known(cls, rows: list[str]) -> list[str]:
        for row in rows:
            if row not in ROWS:
                near = difflib.get_close_matches(row, ROWS, n=1, cutoff=0.0)
                raise ValueError(f"rows: no row {row!r}; did you mean {near[0]}? There are {', '.join(ROWS)}")
        return rows

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        self._check_data()
        steps = self.pretraining.steps
        if not self.rows and not steps:
            raise ValueError("rows is empty, and pretraining.steps is 0: there is nothing to do")
        if steps and steps % min(steps, self.epoch_steps):
            raise ValueError(
                f"pretraining.steps={steps} must be a multiple of epoch_steps={self.epoch_steps}"
            )
        for name, stage in (("teacher", self.teacher), ("student", self.student)):
            if stage.batch_size % stage.images_per_class:
                raise ValueError(
                    f"{name}.batch_size={stage.batch_size} must be a multiple of "
                    f"{name}.images_per_class={stage.images_per_class}"
                )
            if stage.steps % min(stage.steps, self.epoch_steps):
                raise ValueError(
                    f"{name}.steps={stage.steps} must be a multiple of epoch_steps={self.epoch_steps}"
                )
        self._check_students()
        self._check_peers()
        together = self.student.batch_size + self.student.unlabeled_batch_size
        if {"control", "memory"} & set(self.rows) and together % self.student.images_per_class:
            raise ValueError(
                f"student.batch_size={self.student.batch_size} and "
                f"student.unlabeled_batch_size={self.student.unlabeled_batch_size} must come to a multiple "
                f"of student.images_per_class={self.student.images_per_class}: the control takes as many"
            )
        if self.rows and "teacher" not in self.rows:
            self.rows.insert(0, "teacher")
        return self

    def _check_students(self) -> None:
        student, rows = self.student, set(self.rows)
        if rows & {"basis", "slade", "oracle"}:
            if student.basis.warmup >= student.steps:
                raise ValueError(
                    f"student.basis.warmup={student.basis.warmup} leaves nothing of "
                    f"student.steps={student.steps} to train the student in"
                )
            if student.basis.warmup and not student.basis_weight:
                raise ValueError(
                    f"student.basis.warmup={student.basis.warmup} warms a basis up that "
                    "student.basis_weight=0 leaves out"
                )
        if student.mining == "eq7" and (student.basis.regularizer is None or student.basis.clusters):
            raise ValueError(
                "student.mining=eq7 mines pairs for a ranking loss on the pool, by thresholds from "
                "the similarity statistics of the basis: student.basis.clusters must be false and "
                "student.basis.regularizer must not be null, as with -c paper"
            )
        basis = student.basis
        if basis.clusters and basis.cluster_margin and basis.logit_scale is None:
            raise ValueError(
                f"student.basis.cluster_margin={basis.cluster_margin} is of cosines, which "
                "student.basis.logit_scale=null does not take: give a number there, or 0 here"
            )
        if student.unlabeled_loss and student.basis.clusters and not rows & {"pseudo", "iterated"}:
            raise ValueError(
                f"student.unlabeled_loss={student.unlabeled_loss.name}: no row of this run reads it, since "
                "student.basis.clusters=true learns from the pool by Eq. 3; make it false, or leave this out"
            )
        if "basis" in rows and student.mining == "none":
            raise ValueError(
                "rows: basis is slade without its mining, and student.mining=none: leave basis out, or mine"
            )

    def _check_peers(self) -> None:
        student, peers, rows = self.student, self.peers, set(self.rows)
        for row in sorted(rows & {"mean_teacher", "self_taught"}):
            if student.average is None:
                raise ValueError(
                    f"rows: {row} learns from a running average of the weights: give student.average, 0.99 "
                    "say"
                )
        unlabeled = f"student.unlabeled_batch_size={student.unlabeled_batch_size}"
        if "self_taught" in rows and student.unlabeled_batch_size % peers.self_taught_neighbours:
            raise ValueError(
                f"{unlabeled} must be a multiple of "
                f"peers.self_taught_neighbours={peers.self_taught_neighbours}"
            )
        if "self_supervised" in rows and (
            student.unlabeled_batch_size % 2 or student.unlabeled_batch_size < 4
        ):
            raise ValueError(
                f"{unlabeled} must be even, and at least 4: self_supervised takes two views of each"
            )
        together = student.batch_size + student.unlabeled_batch_size
        if "memory" in rows and peers.memory_size < together:
            raise ValueError(
                f"peers.memory_size={peers.memory_size} must hold a batch of {together} images at least"
            )

    def _check_data(self) -> None:
        if self.data.kind != "images":
            return
        missing = [name for name in ("labeled", "unlabeled") if getattr(self.data, name) is None]
        if missing and (self.rows or len(missing) == 2):
            raise ValueError(
                f"data.{' and data.'.join(missing)} missing: give folders of images, or data.kind=glyphs to "
                "try the embedded letters"
            )

    def to_yaml(self) -> str:
        """The resolved settings as YAML that `load_config` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_config(
    source: str | Path | Sequence[str | Path] | None = None,
    overrides: list[str] | None = None,
    values: dict[str, Any] | None = None,
    fallback: dict[str, Any] | None = None,
) -> Config:
    """Read settings from YAML and from ``key.sub=value`` overrides.

    Args:
        source: a YAML file, or the name of one that comes with the package (see `presets`); of several,
            the later ones win; None starts from the defaults.
        overrides: values are YAML; they win over the file.
        values: further settings by dotted key, taken as they are; they win over the file, too.
        fallback: likewise, for settings that are 0 or not given by any of these.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (with the nearest name), a bad value.

    Examples:
        >>> load_config("glyphs", ["student.lr=0.01"]).student.lr
        0.01
        >>> load_config("glyphs", ["student.step=10"])
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: student.step: unknown key; did you mean student.steps?
    """
    settings: dict[str, Any] = {"data": {}}
    for each in [source] if isinstance(source, str | Path) else source or []:
        _merge(settings, _read(each))
    for key, value in (values or {}).items():
        _assign(settings, key.split("."), value)
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is not an override: write key=value, student.lr=0.001 say.")
        _assign(settings, key.strip().split("."), _parse(text, override))
    for key, value in (fallback or {}).items():
        if not _find(settings, key.split(".")):
            _assign(settings, key.split("."), value)
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(e) for e in error.errors())) from None


def presets() -> list[str]:
    """Names of the settings that come with the package.

    Examples:
        >>> "glyphs" in presets()
        True
    """
    folder = resources.files("pml_slade") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def _read(source: str | Path) -> dict[str, Any]:
    if str(source) in presets():
        text = (resources.files("pml_slade") / "presets" / f"{source}.yaml").read_text()
    elif Path(source).is_file():
        try:
            text = Path(source).read_text()
        except UnicodeDecodeError:
            raise ConfigError(f"config: {source} is not a text file; give a YAML file.") from None
    else:
        raise ConfigError(f"config: no file {source}, and no preset of that name; presets: {presets()}.")
    values = _parse(text, str(source)) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"config: {source} must hold a mapping of settings, got {type(values).__name__}.")
    return values


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number; YAML 1.1 wants a dot in it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = values.setdefault(key, {})
        if not isinstance(below, dict):
            below = values[key] = {}
        values = below
    values[keys[-1]] = value


def _merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        # What is passed on to a class of others is one thing: arguments of another class would not fit it.
        whole = not isinstance(value, dict) or "name" in value or key == "optimizer_arguments"
        if not whole and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value


def _find(values: Any, keys: list[str]) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _all_keys(Config), n=1, cutoff=0.0)
        return f"{key}: unknown key; did you mean {near[0]}?"
    if error["type"] == "missing":
        return f"{key}: missing; give it in the config file or as {key}=..."
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{key}: {error['msg']}, got {error['input']!r}"


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            keys += _all_keys(kind, f"{prefix}{name}.")
    return keys
