"""Every setting of a run, checked before anything is trained."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from ..clustering.settings import MOST_SEED
from ..methods import METHODS, Method, PoolMethod, find_method
from ..methods.settings import (
    OptimizerConfig,
    Section,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
    is_section,
)
from ..methods.teacher import Teacher

USUAL_TRUNK = "resnet50"
MOST_WORKERS = 512
PHOTOGRAPHS: dict[str, Any] = {
    "epoch_steps": 50,
    "teacher": {"steps": 50, "lr": 1e-4},
    "student": {
        "steps": 200,
        "lr": 1e-4,
        "batch_size": 48,
        "unlabeled_batch_size": 16,
        "soup": True,
    },
}
"""Where nothing else is said and a trunk with weights learns photographs: it soon forgets what it knew."""
EMBEDDER_RATE = 3.0
"""Of the embedder, times that of such a trunk."""


class DataConfig(Section):
    """Where the images come from."""

    kind: Literal["images", "omniglot", "glyphs", "given"] = Field(
        "images",
        description="images: your own folders or CSV lists; omniglot: Omniglot's folders; glyphs: letters "
        "that come with the package; given: data sets handed over in Python",
    )
    labeled: Path | None = Field(
        None,
        description="labeled images: a folder with one folder for each class, a CSV file with the columns "
        "path and label, or the name of a data set, such as CUB200",
    )
    unlabeled: Path | None = Field(
        None,
        description="the pool: a folder, a CSV file, or the name of a data set, of which all images are "
        "taken; no labels are read",
    )
    pool_labels: bool = Field(
        False,
        description="the folders of the pool are its true classes; only the row oracle reads them",
    )
    validation: Path | None = Field(
        None,
        description="labeled images of further classes, to choose the best epoch; if it names a data set, "
        "its test split; null: a share of the labeled classes, see validation_fraction",
    )
    test: Path | None = Field(
        None,
        description="labeled images of other classes, measured once, at the end; if it names a data set, "
        "its test split; null: the test split of data.labeled if that names a data set, else none",
    )
    gallery: Path | None = Field(
        None,
        description="labeled images that the test images are searched in; null: the official gallery "
        "(InShop), else the test images themselves",
    )
    root: Path = Field(
        Path("datasets"),
        description="folder that holds named data sets (CUB_200_2011, nabirds, ...) or Omniglot",
    )
    complete: bool = Field(True, description="refuse a named data set of which images are missing")
    exclude_held_out: bool = Field(
        True,
        description="if the pool is a named data set, leave out its classes that have the name of a "
        "validation or test class",
    )
    labeled_alphabets: int | list[str] = Field(
        5, description="omniglot: how many alphabets are labeled, or their names"
    )
    validation_fraction: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the labeled classes that are not trained on, to choose the best epoch; 0: none",
    )
    image_size: int = Field(224, ge=16, description="side of the network's input, in pixels")
    mode: Literal["RGB", "L"] = Field("RGB", description="RGB: colour; L: grey")
    transform: Literal["photo", "small"] = Field(
        "photo",
        description="photo: random crops and flips; small: turns, shears and shifts, for small drawings",
    )
    augmentation: Literal["mild", "strong"] | None = Field(
        None,
        description="how much training changes images; strong adds colours, grey and blur to photographs, "
        "and elastic distortion to drawings; null: mild for photographs, strong for drawings",
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=MOST_WORKERS,
        description="processes that read images; null: one for each processor for image files, none for "
        "drawings",
    )
    unreadable: Literal["stop", "skip"] = Field(
        "stop",
        description="what to do with images that cannot be read; stop: name them and train nothing; skip: "
        "leave them out and count them, for which every image is read once before training",
    )
    check_duplicates: bool = Field(
        True,
        description="look for pool and labeled images that equal validation, test or gallery images, or "
        "nearly do, and report them",
    )
    leave_out_duplicates: bool = Field(
        False,
        description="leave such images out of the pool, whenever a run is started; every image is decoded "
        "once for it",
    )
    leave_out_unlike: bool | None = Field(
        None,
        description="leave images out of the pool that the trunk finds less like the labeled images than "
        "95 % of these are like other labeled classes; null: true for photographs with a pretrained trunk",
    )

    @model_validator(mode="after")
    def _paths(self) -> DataConfig:
        if self.gallery is not None and self.test is None:
            raise ValueError("data.gallery is what test images are searched in: give data.test, too")
        return self


class ModelConfig(Section):
    """What embeds the images."""

    trunk: str = Field(
        "",
        description="the network: convnet, bninception, or the name of any model of torchvision or timm; "
        "empty: the one that the file of weights belongs to, else resnet50",
    )
    weights: str | None = Field(
        "default",
        description="what the network starts from: default (the library's weights), a file, or null (random)",
    )
    trunk_options: dict[str, Any] = Field(
        {}, description="arguments of the network itself, such as {img_size: 112} for a ViT"
    )
    embedding_size: int = Field(128, ge=1, description="dimensions of an embedding")
    hidden_sizes: list[int] = Field(
        [], description="sizes of hidden layers between trunk and embedding; []: one linear layer"
    )
    embedder_init: Literal["auto", "random", "principal"] = Field(
        "auto",
        description="start of a linear embedder: random, or principal components of the trunk's features of "
        "labeled images and pool; auto: principal if the trunk has weights",
    )
    embedder_whitening: float = Field(
        0.25, ge=0, le=1, description="divide these components by their standard deviations to this power"
    )
    train: str | None = Field(
        None,
        description="which part of the trunk is trained; all; head: none, its features are computed once; "
        "last: the last stages, with at least a quarter of the weights; or the name of the first trained "
        "module, such as layer4; null: last for photographs with a pretrained trunk, else all",
    )
    feature_views: int = Field(
        5,
        ge=1,
        description="augmented views of each image that are computed, if a part of the trunk is frozen",
    )
    features: Path = Field(
        Path("features"), description="folder that keeps what a frozen part gives; runs share it"
    )
    freeze_batchnorm: bool | None = Field(
        None,
        description="do not change the trunk's batch norm; null: true if only its last stages are trained",
    )

    @field_validator("trunk_options")
    @classmethod
    def _allowed(cls, options: dict[str, Any]) -> dict[str, Any]:
        if options:
            from ..models.options import check_options  # its room is slow to import, settings are not

            check_options(options)
        return options


class PretrainingConfig(OptimizerConfig):
    """SwAV on labeled and unlabeled images, before the teacher; reads no labels (Caron et al., 2020)."""

    steps: int = Field(0, ge=0, description="optimizer steps; 0: no pretraining")
    batch_size: int = Field(64, ge=2, description="images a step")
    num_local: int = Field(6, ge=0, description="small crops of each image, beside the two large ones")
    hidden_size: int = Field(2048, ge=0, description="hidden units of the projection head; 0: it is linear")
    embedding_size: int = Field(128, ge=1, description="outputs of the projection head")
    num_prototypes: int | None = Field(
        None, ge=2, description="number of prototypes; null: those of model.weights if it has any, else 300"
    )
    temperature: float = Field(0.1, gt=0, description="of the softmax over prototypes")
    epsilon: float = Field(0.05, gt=0, description="of Sinkhorn's algorithm; lower it against collapse")
    sinkhorn_iterations: int = Field(3, ge=1, description="of Sinkhorn's algorithm")
    queue_batches: int | None = Field(
        None, ge=0, description="past batches in the queue; null: as many as give each prototype one image"
    )
    queue_from_step: int | None = Field(
        None,
        ge=0,
        description="first step that uses the queue; null: 0 with the prototypes of model.weights, else "
        "after 15 passes over the images",
    )
    freeze_prototypes: int | None = Field(
        None,
        ge=0,
        description="first steps, in which the prototypes do not move; null: one pass over the images, at "
        "most a tenth of the steps",
    )
    optimizer: str = Field(
        "LARS", description="LARS, which the authors use, or the name of any optimizer of torch.optim"
    )
    lr: float | None = Field(
        None,
        gt=0,
        description="learning rate; a cosine lowers it to a thousandth; null: for LARS, 0.6 for 256 images "
        "a step",
    )
    weight_decay: float = Field(1e-6, ge=0, description="weight decay of the optimizer")

    @property
    def learning_rate(self) -> float:
        """`lr`, or the authors', scaled to the batch."""
        return 0.6 * self.batch_size / 256 if self.lr is None else self.lr

    @model_validator(mode="after")
    def _rate(self) -> PretrainingConfig:
        if self.lr is None and self.optimizer != "LARS":
            raise ValueError(f"pretraining.lr missing: {self.optimizer} has no usual one here, give it")
        return self


class OwnSettings(Section):
    """Settings of methods, by row; those of methods of your own are checked when `rows` names them."""

    model_config = ConfigDict(extra="allow")


_SECTIONS: dict[str, Any] = {
    m.key: (m.Settings, m.Settings()) for m in METHODS.values() if m.Settings.model_fields
}
MethodsConfig: Any = create_model("MethodsConfig", __base__=OwnSettings, **_SECTIONS)


class Config(Section):
    """A whole run."""

    output: Path = Field(Path("runs/run"), description="folder of the run; repeat the command to resume it")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="seed of all random numbers")
    device: str = Field("auto", description="cpu, cuda, cuda:1, ...; auto: the first GPU if there is one")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "auto", description="of the models; losses are in float32; auto: bf16 on a GPU that has it, else fp32"
    )
    channels_last: bool | None = Field(
        None, description="keep the channels of a pixel together in memory; null: for convolutional trunks"
    )
    compile: bool = Field(False, description="compile the models with torch.compile before training")
    rows: list[str] = Field(
        ["start", "teacher", "control", "slade"],
        description=f"what to train and compare: any of {', '.join(METHODS)}, or a method of your own, such "
        "as my_package.MyMethod",
    )
    report: bool = Field(True, description="write report.html at the end of the run")
    log_to: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        ["tensorboard"],
        description="where losses and figures go after each epoch, besides CSV and SQLite files; any of "
        "tensorboard (files in the run's folder), wandb (Weights & Biases), mlflow",
    )
    epoch_steps: int = Field(
        250,
        ge=1,
        description="steps in an epoch; after each, the model is validated and a checkpoint is written",
    )
    checkpoint_minutes: float = Field(
        10.0,
        gt=0,
        description="write a checkpoint after this many minutes, too, at the end of a step",
    )
    tolerance: float = Field(
        1.0,
        ge=0,
        description="keep the last epoch whose validation MAP@R is less than this many points below the best "
        "epoch's; 0: keep the best epoch",
    )
    data: DataConfig
    model: ModelConfig = ModelConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    methods: MethodsConfig = MethodsConfig()

    @property
    def chosen(self) -> list[Method]:
        """The methods of `rows`, in their order."""
        return [find_method(row) for row in self.rows]

    def own(self, method: Method) -> Any:
        """Settings of a method itself."""
        return getattr(self.methods, method.key, None) or method.Settings()

    @property
    def knows_photographs(self) -> bool:
        """Whether the trunk comes with weights, for photographs."""
        model, stage = self.model, self.pretraining
        return model.weights is not None and not stage.steps and self.data.transform == "photo"

    @field_validator("rows", "log_to", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        return [name.strip() for name in names.split(",")] if isinstance(names, str) else names

    @field_validator("rows")
    @classmethod
    def _known(cls, rows: list[str]) -> list[str]:
        methods = [find_method(row) for row in rows]
        keys = [method.key for method in methods]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"rows: {', '.join(twice)} more than once; a row's folder holds one training")
        return rows if not rows or any(m.is_teacher for m in methods) else [Teacher.key, *rows]

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: Any) -> Any:
        """Say what was not said, where the last stages of a trunk with weights learn photographs."""
        sections = [values.get(key) or {} for key in ("data", "model", "pretraining", "teacher", "student")]
        if not all(isinstance(section, dict) for section in sections):
            return values  # which is refused in a moment
        data, model, before, *_ = sections
        photographs = data.get("transform", "photo") == "photo" and not before.get("steps")
        if not photographs or model.get("weights", "default") is None or model.get("train") == "all":
            return values
        stages = {key: {**PHOTOGRAPHS[key], **(values.get(key) or {})} for key in ("teacher", "student")}
        for stage in stages.values():
            if isinstance(stage["lr"], float):
                stage.setdefault("embedder_lr", EMBEDDER_RATE * stage["lr"])
        return {"epoch_steps": PHOTOGRAPHS["epoch_steps"], **values, **stages}

    @field_validator("output")
    @classmethod
    def _named_in_utf8(cls, value: Path) -> Path:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            from ..checkpoints import escaped  # which needs torch

            raise ValueError(
                f"output: {escaped(str(value))} is no UTF-8, which records need; give another name"
            ) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        self._fill_in()
        self._check_data()
        if not self.rows and not self.pretraining.steps:
            raise ValueError("rows is empty, and pretraining.steps is 0: there is nothing to do")
        self._check_steps()
        self._read_own_settings()
        for method in self.chosen:
            method.check_settings(self.teacher, self.student, self.own(method))
        students = [method for method in self.chosen if isinstance(method, PoolMethod)]
        if (
            self.student.unlabeled_loss
            and students
            and not any(m.reads_unlabeled_loss(self.student) for m in students)
        ):
            raise ValueError(
                f"student.unlabeled_loss={self.student.unlabeled_loss.name}: no row of this run reads it, "
                "since student.basis.clusters=true learns from the pool by Eq. 3; make it false, or leave "
                "this out"
            )
        return self

    def _fill_in(self) -> None:
        """Give settings that depend on others their values."""
        data, model = self.data, self.model
        model.trunk = model.trunk or _trunk_of(model.weights)
        if data.augmentation is None:
            data.augmentation = "mild" if data.transform == "photo" else "strong"
        if model.train is None:
            model.train = "last" if self.knows_photographs else "all"
        if model.freeze_batchnorm is None:
            model.freeze_batchnorm = model.train != "all"
        if data.leave_out_unlike is None:
            data.leave_out_unlike = self.knows_photographs
        if data.leave_out_unlike and model.weights is None and not self.pretraining.steps:
            raise ValueError(
                "data.leave_out_unlike=true asks what is like what of a trunk that knows nothing yet: give "
                "model.weights, or make it false"
            )

    def _check_steps(self) -> None:
        stages: dict[str, OptimizerConfig] = {"pretraining": self.pretraining}
        if self.rows:
            stages |= {"teacher": self.teacher, "student": self.student}
        for name, stage in stages.items():
            if stage.steps and stage.steps % min(stage.steps, self.epoch_steps):
                raise ValueError(
                    f"{name}.steps={stage.steps} must be a multiple of epoch_steps={self.epoch_steps}"
                )
            if isinstance(stage, TrainingConfig) and stage.batch_size % stage.images_per_class:
                raise ValueError(
                    f"{name}.batch_size={stage.batch_size} must be a multiple of "
                    f"{name}.images_per_class={stage.images_per_class}"
                )

    def _read_own_settings(self) -> None:
        """Check what stands under `methods` for methods that do not come with the package."""
        given: dict[str, Any] = self.methods.__pydantic_extra__ or {}
        theirs = {
            method.key: method for method in self.chosen if method.key not in type(self.methods).model_fields
        }
        for key in given:
            if key not in theirs:
                known = [*type(self.methods).model_fields, *theirs]
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
                raise ValueError(f"methods.{key}: unknown key; did you mean methods.{near[0]}?")
        for key, method in theirs.items():
            values = given.get(key, {})
            try:
                dumped = values.model_dump() if isinstance(values, Section) else values
                setattr(self.methods, key, method.Settings.model_validate(dumped))
            except ValidationError as error:
                wrong = [explain(e, method.Settings, f"methods.{key}.") for e in error.errors()]
                raise ValueError("; ".join(wrong)) from None

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


def _trunk_of(weights: str | None) -> str:
    """The trunk that a file of weights is of."""
    if weights in (None, "default"):
        return USUAL_TRUNK
    from ..models import named_trunk  # its room is slow to import

    return named_trunk(Path(weights).expanduser()) or USUAL_TRUNK


def explain(error: Any, section: type[BaseModel], prefix: str = "") -> str:
    """Say what is wrong with a setting, from one of pydantic's errors."""
    path = prefix + ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, all_keys(section, prefix), n=1, cutoff=0.0)
        return f"{path}: unknown key" + (
            f"; did you mean {near[0]}?" if near else "; there is no setting here"
        )
    if error["type"] == "missing":
        return f"{path}: missing; give it in the config file or as {path}=..."
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{path}: {error['msg']}, got {error['input']!r:.200}"


def all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting of a section by its dotted name, sections of it included."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        if is_section(kind):
            keys += all_keys(kind, f"{prefix}{name}.")
    return keys
