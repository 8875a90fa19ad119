"""The numbers of the paper (Duan et al., CVPR 2021), to stand beside ours. All in %."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .tables import METRICS

DATASETS = {"CUB200": "CUB", "Cars196": "Cars"}
"""powerful-benchmarker's dataset classes, and what the paper calls them."""

FRAMEWORKS = "[1] powerful-benchmarker (Musgrave et al., ECCV 2020); [2], [3], [4] the authors' own code."

IMAGENET, BN, R50 = "ImageNet", "BN/512", "R50/512"

Published = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Line:
    """A line of a table of the paper.

    Attributes:
        key: name of the experiment that it is compared with.
        title: what the paper calls it.
        published: by dataset (a key of `DATASETS`) and metric (one of `METRICS`); None where not published.
    """

    key: str
    title: str
    published: Published


@dataclass(frozen=True)
class Row(Line):
    """A row of the results table.

    Attributes:
        framework: in which the number was obtained; see `FRAMEWORKS`.
        init: weights that the trunk starts from.
        arch: trunk and embedding size.
    """

    framework: str
    init: str
    arch: str


@dataclass(frozen=True)
class Ablation:
    """An ablation: `title` says what differs between its `lines`, `number` counts as the paper does."""

    number: int
    title: str
    lines: tuple[Line, ...]


def _published(cub: tuple[float | None, ...], cars: tuple[float | None, ...] = ()) -> Published:
    """Scores in the order of METRICS; what is left out at the end was not published."""
    return {
        name: dict(zip(METRICS, (*scores, None, None, None))) for name, scores in zip(DATASETS, (cub, cars))
    }


def _row(key: str, title: str, framework: str, init: str, arch: str, *scores: float | None) -> Row:
    return Row(key, title, _published(scores[:3], scores[3:]), framework, init, arch)


# fmt: off
ROWS = (
    _row("contrastive", "Contrastive", "[1]", IMAGENET, BN, 26.53, 37.24, 68.13, 24.89, 35.11, 81.78),
    _row("triplet", "Triplet", "[1]", IMAGENET, BN, 23.69, 34.55, 64.24, 23.02, 33.71, 79.13),
    _row("proxy_nca", "ProxyNCA", "[1]", IMAGENET, BN, 24.21, 35.14, 65.69, 25.38, 35.62, 83.56),
    _row("n_softmax", "N. Softmax", "[1]", IMAGENET, BN, 25.25, 35.99, 65.65, 26.00, 36.20, 83.16),
    _row("cosface", "CosFace", "[1]", IMAGENET, BN, 26.70, 37.49, 67.32, 27.57, 37.32, 85.52),
    _row("fastap", "FastAP", "[1]", IMAGENET, BN, 23.53, 34.20, 63.17, 23.14, 33.61, 78.45),
    _row("ms_miner", "MS+Miner", "[1]", IMAGENET, BN, 26.52, 37.37, 67.73, 27.01, 37.08, 83.67),
    _row("proxy_anchor_bn", "Proxy-Anchor¹", "[2]", IMAGENET, R50, None, None, 69.9, None, None, 87.7),
    _row("proxy_anchor", "Proxy-Anchor²", "[1]", IMAGENET, R50, 25.56, 36.38, 66.04, 30.70, 40.52, 86.84),
    _row("proxy_nca_pp", "ProxyNCA++", "[3]", IMAGENET, "R50/2048", None, None, 72.2, None, None, 90.1),
    _row("mutual_info", "Mutual-Info", "[4]", IMAGENET, "R50/2048", None, None, 69.2, None, None, 89.3),
    _row("t1", "Contrastive T1", "[1]", IMAGENET, R50, 25.02, 35.83, 65.28, 25.97, 36.40, 81.22),
    _row("t2", "Contrastive T2", "[1]", "SwAV", R50, 29.29, 39.81, 71.15, 31.73, 41.15, 88.07),
    _row("s1", "SLADE S1 (T1)", "[1]", IMAGENET, R50, 29.38, 40.16, 68.92, 31.38, 40.96, 85.8),
    _row("s2", "SLADE S2 (T2)", "[1]", "SwAV", R50, 33.59, 44.01, 73.19, 36.24, 44.82, 91.06),
    _row("t3", "MS T3", "[1]", IMAGENET, R50, 26.38, 37.51, 66.31, 28.33, 38.29, 85.16),
    _row("t4", "MS T4", "[1]", "SwAV", R50, 29.22, 40.15, 70.81, 33.42, 42.66, 89.33),
    _row("s3", "SLADE S3 (T3)", "[1]", IMAGENET, R50, 30.90, 41.85, 69.58, 32.05, 41.50, 87.38),
    _row("s4", "SLADE S4 (T4)", "[1]", "SwAV", R50, 33.90, 44.36, 74.09, 37.98, 46.92, 91.53),
)
"""The results table, in the paper's order; numbers of [1] are those of the concatenated embeddings."""

ABLATIONS = {
    "initialisation": Ablation(1, "initialisation", (
        Line("s1", "ImageNet", _published((29.38,), (31.38,))),
        Line("s2_swav", "SwAV", _published((32.79,), (35.54,))),
        Line("s2", "SwAV, fine-tuned", _published((33.59,), (36.24,))),
    )),
    "components": Ablation(2, "components", (
        Line("t2", "teacher", _published((29.29,), (31.73,))),
        Line("s2_pseudo", "pseudo-labels", _published((30.81,), (31.99,))),
        Line("s2_basis", "+ basis", _published((32.45,), (35.78,))),
        Line("s2", "+ mining", _published((33.59,), (36.24,))),
    )),
    "regulariser": Ablation(3, "regulariser", (
        Line("s2_local_ce", "Local-CE", _published((32.69, 43.20, 72.64))),
        Line("s2_global_ce", "Global-CE", _published((32.23, 42.68, 72.45))),
        Line("s2", "SD", _published((33.59, 44.01, 73.19))),
    )),
    "k": Ablation(4, "k", (
        Line("s2_k100", "100", _published((31.83, 42.25, 72.19))),
        Line("s2_k200", "200", _published((32.61, 43.02, 72.75))),
        Line("s2_k300", "300", _published((32.81, 43.18, 72.21))),
        Line("s2", "400", _published((33.59, 44.01, 73.19))),
        Line("s2_k500", "500", _published((33.26, 43.69, 73.26))),
    )),
}
"""The ablations, by name; MAP@R alone in the first two, CUB alone in the others."""
# fmt: on
