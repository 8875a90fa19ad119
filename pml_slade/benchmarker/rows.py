"""Every row and ablation of the paper as an experiment: which layers of the YAML tree make it."""

from __future__ import annotations

from dataclasses import dataclass

from ..exceptions import ConfigError

PHOTOS = ("cub200", "cars196", "in_shop")
DRAWINGS = ("omniglot", "glyphs")


@dataclass(frozen=True)
class Row:
    """An experiment, whatever the data.

    Attributes:
        loss: layer of the ranking loss.
        trunk: layer of the trunk on photos; on drawings all rows share one.
        learns: "proxies" or "classifier" where the loss learns a vector per class.
        wide: 512 dimensions a fold in place of 128.
        start: layer of the self-supervised start, where there is one.
        teacher: experiment that labels the pool; None for rows that need no pool.
        more: further layers, of an ablation.
    """

    loss: str
    trunk: str = "bninception"
    learns: str | None = None
    wide: bool = False
    start: str | None = None
    teacher: str | None = None
    more: tuple[str, ...] = ()


_IMAGENET, _SWAV, _FINETUNED = "resnet50_imagenet", "from_swav", "from_swav_finetuned"


def _student(loss: str, teacher: str, *more: str) -> Row:
    trunk = _IMAGENET if teacher in ("t1", "t3") else "resnet50_swav"
    return Row(loss, trunk, teacher=teacher, more=(f"from_{teacher}", *more))


ROWS = {
    "contrastive": Row("contrastive"),
    "triplet": Row("triplet"),
    "proxy_nca": Row("proxy_nca", learns="proxies"),
    "n_softmax": Row("n_softmax", learns="proxies"),
    "cosface": Row("cosface", learns="proxies"),
    "fastap": Row("fastap"),
    "ms_miner": Row("ms_miner"),
    "proxy_anchor_bn": Row("proxy_anchor", learns="proxies"),
    "proxy_anchor": Row("proxy_anchor", _IMAGENET, learns="proxies"),
    "proxy_nca_pp": Row("proxy_nca_pp", _IMAGENET, learns="proxies", wide=True),
    "mutual_info": Row("mutual_info", _IMAGENET, learns="classifier", wide=True),
    "t1": Row("contrastive", _IMAGENET),
    "t2": Row("contrastive", "resnet50_swav", start=_FINETUNED),
    "s1": _student("contrastive", "t1"),
    "s2": _student("contrastive", "t2"),
    "t3": Row("ms_miner", _IMAGENET),
    "t4": Row("ms_miner", "resnet50_swav", start=_FINETUNED),
    "s3": _student("ms_miner", "t3"),
    "s4": _student("ms_miner", "t4"),
}
"""The 19 rows of the results table."""

ABLATIONS = {
    "t2_swav": Row("contrastive", "resnet50_swav", start=_SWAV),
    "s2_swav": _student("contrastive", "t2_swav"),
    "s2_pseudo": _student("contrastive", "t2", "pseudo"),
    "s2_basis": _student("contrastive", "t2", "basis"),
    "s2_local_ce": _student("contrastive", "t2", "local_ce"),
    "s2_global_ce": _student("contrastive", "t2", "global_ce"),
    **{f"s2_k{k}": _student("contrastive", "t2", f"k{k}") for k in (100, 200, 300, 500)},
}
"""What the four ablations need beside the rows."""

STARTS = ("swav", "swav_finetuned")
"""Self-supervised experiments; on photos SwAV is a file of its authors, and only the second is one."""

CONTROLS = {
    "t1_on": Row("contrastive", _IMAGENET, more=("from_t1",)),
    "t2_on": Row("contrastive", "resnet50_swav", more=("from_t2",)),
    "t3_on": Row("ms_miner", _IMAGENET, more=("from_t3",)),
    "t4_on": Row("ms_miner", "resnet50_swav", more=("from_t4",)),
}
"""Controls: teachers that train for as many more steps as their students, without the pool."""

EXPERIMENTS = (*STARTS, *ROWS, *CONTROLS, *ABLATIONS)


def layers(dataset: str, name: str) -> list[str]:
    """Return the value of `config_experiment` for an experiment on a dataset.

    Args:
        dataset: one of PHOTOS or DRAWINGS.
        name: one of EXPERIMENTS.

    Raises:
        ConfigError: no such dataset or experiment.

    Examples:
        >>> layers("omniglot", "s2")
        ['default', 'drawings', 'omniglot', 'contrastive', 'student', 'drawings_student', 'from_t2']
        >>> layers("cub200", "s2")
        ['default', 'cub200', 'resnet50_swav', 'contrastive', 'student', 'from_t2']
    """
    if dataset not in (*PHOTOS, *DRAWINGS):
        raise ConfigError(f"dataset: {dataset!r} is none of {', '.join((*PHOTOS, *DRAWINGS))}.")
    if name not in EXPERIMENTS:
        raise ConfigError(f"experiment: {name!r} is none of {', '.join(EXPERIMENTS)}.")
    if dataset in DRAWINGS:
        return ["default", "drawings", dataset, *_drawing_layers(name)]
    return ["default", dataset, *_photo_layers(name)]


def _drawing_layers(name: str) -> list[str]:
    if name in STARTS:
        return ["swav", "drawings_swav", "pool_only" if name == "swav" else _SWAV]
    row = _row(name)
    chosen = [row.loss]
    chosen += [f"drawings_{row.learns}"] if row.learns else []
    chosen += ["wide"] if row.wide else []
    chosen += [row.start] if row.start else []
    chosen += ["student", "drawings_student"] if row.teacher else []
    return [*chosen, *row.more]


def _photo_layers(name: str) -> list[str]:
    if name == "swav":
        raise ConfigError("experiment: on photos swav is a file of its authors, no experiment.")
    if name == "swav_finetuned":
        return ["resnet50_swav", "swav"]
    row = _row(name)
    chosen = [row.trunk, row.loss]
    chosen += [row.learns] if row.learns else []
    chosen += ["wide"] if row.wide else []
    chosen += [row.start] if row.start == _FINETUNED else []
    return [*chosen, *(["student"] if row.teacher else []), *row.more]


def _row(name: str) -> Row:
    return {**ROWS, **CONTROLS, **ABLATIONS}[name]


def needs(dataset: str, name: str) -> list[str]:
    """Return the experiments that one starts from, which must be there before it.

    Examples:
        >>> needs("omniglot", "s2"), needs("omniglot", "t2"), needs("cub200", "t1")
        (['t2'], ['swav_finetuned'], [])
    """
    chosen = layers(dataset, name)
    if name in CONTROLS:
        return [name.removesuffix("_on")]
    if name not in STARTS and _row(name).teacher is not None:
        return [str(_row(name).teacher)]
    return [layer.removeprefix("from_") for layer in (_SWAV, _FINETUNED) if layer in chosen]


def search_layers(dataset: str, name: str) -> list[str]:
    """Return the layers that, put after those of a row, let `--bayes_opt_iters` search its settings.

    Args:
        dataset: one of PHOTOS or DRAWINGS.
        name: one of ROWS.

    Examples:
        >>> search_layers("omniglot", "proxy_anchor")
        ['search_proxy_anchor', 'search_drawings_proxies']
        >>> search_layers("cub200", "s2")
        ['search_contrastive', 'search_student']
    """
    row, chosen = _row(name), layers(dataset, name)
    optimizers = [
        f"{prefix}{row.learns}" for prefix in ("drawings_", "") if f"{prefix}{row.learns}" in chosen
    ]
    return [f"search_{layer}" for layer in (row.loss, *optimizers, *(["student"] if row.teacher else []))]


def flags(dataset: str, name: str) -> list[str]:
    """Return the flags that make `pml-slade benchmark` train an experiment.

    Examples:
        >>> " ".join(flags("glyphs", "t1"))
        '--experiment_name t1 --config_experiment [default, drawings, glyphs, contrastive]'
    """
    return ["--experiment_name", name, "--config_experiment", f"[{', '.join(layers(dataset, name))}]"]
