"""Tables and sentences on what `why.py` measured: numbers, and no more than these say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from why_measures import Numbers
from why_plots import SET_NAMES
from writing import machine

from pml_slade.reports.tables import markdown

ABOUT = """\
`python benchmarks/why.py FOLDER --seed {seed}`: students of the presets `paper` and `best` on Omniglot,
five of its background alphabets labeled, ten the development classes, the rest the pool. After each epoch,
{batches} pool batches drawn by pseudo-label, as pair losses get them, were embedded by the student as it
stood, under the transform for evaluation: similarities are those of undistorted images. Pairs are counted
once, and pairs of an image with itself not at all. The pool's true labels are read by these measurements
alone. Cells: {which} epoch."""
ABOUT_PAIRS = """\
Distorted as in training: the same images under training's transform, beside a labeled batch, with batch
norm by the batch's own statistics, which is what the thresholds come from and what training mines.
Precision and recall are against the true classes. The hardest tenth are, of all truly matching pairs, those
of the lowest cosine, and of all others those of the highest. The loss is the contrastive one by the run's
margins; in its place `best, SLADE` classifies the pool, and `best, iterated clustering` ranks it by
multi-similarity."""
ABOUT_SIMILARITIES = """\
Running means are those of training, on distorted images, and are the thresholds of Eq. 7. Match and other:
mean similarity of truly matching pairs and of others in the measured batches. AUC: the chance that a random
matching pair is more similar than a random other one. In the last epoch, the AUC of Eq. 4 and of cosine:
{compared}."""
ABOUT_CLUSTERS = """\
The pool has {classes} true classes. Labels are those that the epoch was trained on; sizes are the smallest,
the quartiles and the largest. Points from the first epoch's labels to the last's: {changes}."""
OF_PAIRS: dict[str, tuple[float, str]] = {
    "number": (1, ".1f"),
    "share": (100, ".1f"),
    "precision": (100, ".1f"),
    "recall": (100, ".1f"),
    "hardest": (100, ".1f"),
    "cosine": (1, ".2f"),
    "loss": (1, ".3f"),
    "active": (100, ".0f"),
}
"""Columns of the tables of pairs: what, times what, in which form."""


@dataclass(frozen=True)
class Found:
    """What a student came to.

    Attributes:
        title: of the student.
        epochs: measurements after each epoch.
        history: what training itself recorded of each.
        score: MAP@R on the development classes.
    """

    title: str
    epochs: list[Numbers]
    history: list[dict[str, float]]
    score: float


def section(seed: int, batches: int, found: Mapping[str, Found], device: str) -> str:
    """Tables, plots, and what the numbers say; `found` is by the names of `why.STUDENTS`."""
    about = ABOUT.format(seed=seed, batches=batches, which=_which(next(iter(found.values())).epochs))
    parts = [
        *_pairs_part([run for name, run in found.items() if name != "paper-literal"]),
        *_similarities_part(list(found.values())),
        *_gradient_part(found),
        *_clusters_part(list(found.values())),
    ]
    return "\n\n".join(["## Why it works", about, *parts, machine(device=device)])


def _pairs_part(runs: Sequence[Found]) -> list[str]:
    return [
        "### Which pairs are kept",
        _pairs_table("pos", "positives", runs),
        _pairs_table("neg", "negatives", runs),
        ABOUT_PAIRS,
        "\n".join(f"- {_said_of_pairs(run)}" for run in runs),
        _image("pairs", "Precision and recall of pairs"),
    ]


def _pairs_table(side: str, kind: str, runs: Sequence[Found]) -> str:
    header = [
        *("student", kind, "a batch", "% of all pairs", "precision, %", "recall, %"),
        *("hardest tenth kept, %", "mean cosine", "mean loss", "with a loss, %"),
    ]
    lines = [
        [
            run.title,
            about,
            *(cells(run.epochs, ("pairs", chosen, side, key), *form) for key, form in OF_PAIRS.items()),
        ]
        for run in runs
        for chosen, about in SET_NAMES.items()
        if chosen in run.epochs[-1]["pairs"]
    ]
    return markdown(header, lines)


def _said_of_pairs(run: Found) -> str:
    """Of the last epoch."""
    pairs = run.epochs[-1]["pairs"]
    pos, neg = pairs["pseudo"]["pos"], pairs["pseudo"]["neg"]
    text = (
        f"`{run.title}`, last epoch: {percent(pos['precision'])} of the positives by pseudo-label truly "
        f"match, {percent(neg['precision'])} of the negatives truly do not"
    )
    if "mined" not in pairs:
        return f"{text}."
    mined_pos, mined_neg = pairs["mined"]["pos"], pairs["mined"]["neg"]
    trained_pos, trained_neg = pairs["trained"]["pos"], pairs["trained"]["neg"]
    return (
        f"{text}. By its thresholds, Eq. 7 takes {mined_pos['number']:.1f} positives a batch, of which "
        f"{percent(mined_pos['precision'])} truly match, and {mined_neg['number']:.1f} negatives, of which "
        f"{percent(mined_neg['precision'])} truly do not. Of the hardest tenth of true positives it takes "
        f"{percent(mined_pos['hardest'])} (labels alone {percent(pos['hardest'])}), of the hardest tenth of "
        f"true negatives {percent(mined_neg['hardest'])} (labels alone {percent(neg['hardest'])}); "
        f"{percent(mined_neg['active'])} of its negatives have a loss (labels alone "
        f"{percent(neg['active'])})."
        f" On images distorted as in training it takes {trained_pos['number']:.1f} positives, of which "
        f"{percent(trained_pos['precision'])} truly match, {percent(trained_pos['hardest'])} of the hardest "
        f"tenth, and {trained_neg['number']:.1f} negatives with {percent(trained_neg['hardest'])} of the "
        f"hardest tenth.{_said_of_training(run)}"
    )


def _said_of_training(run: Found) -> str:
    if not run.history or "mined_pos" not in run.history[-1]:
        return ""
    pos, neg = (run.history[-1][key] / 2 for key in ("mined_pos", "mined_neg"))  # there in both directions
    return f" In training itself it took {pos:.1f} and {neg:.1f} a batch, the mean of the epoch."


def _similarities_part(runs: Sequence[Found]) -> list[str]:
    columns: dict[tuple[str, ...], str] = {
        ("mu_pos",): "running μ⁺",
        ("mu_neg",): "running μ⁻",
        ("basis", "mean_match"): "Eq. 4, match",
        ("basis", "mean_other"): "Eq. 4, other",
        ("cosine", "mean_match"): "cosine, match",
        ("cosine", "mean_other"): "cosine, other",
        ("basis", "auc"): "AUC of Eq. 4",
        ("cosine", "auc"): "AUC of cosine",
    }
    lines = [
        [
            run.title,
            *(
                cells(run.epochs, ("similarities", *path), 1, ".3f" if "auc" in path else ".2f")
                for path in columns
            ),
        ]
        for run in runs
    ]
    return [
        "### What the basis adds to cosine",
        markdown(["student", *columns.values()], lines),
        ABOUT_SIMILARITIES.format(compared="; ".join(filter(None, map(_said_of_auc, runs))) or "–"),
        _image("similarities", "Histograms of similarities"),
    ]


def _said_of_auc(run: Found) -> str:
    last = run.epochs[-1]["similarities"]
    basis, cosine = (last.get(kind, {}).get("auc") for kind in ("basis", "cosine"))
    if basis is None or cosine is None:
        return ""
    return f"`{run.title}` {basis:.3f} and {cosine:.3f} ({basis - cosine:+.3f})"


def _gradient_part(found: Mapping[str, Found]) -> list[str]:
    forms = {"paper-basis": "whole", "paper-literal": "literal"}
    said = [_said_of_gradient(found[name], form) for name, form in forms.items()]
    scores = "; ".join(f"`{run.title}` {run.score:.1f}" for run in found.values())
    return [
        "### What Eq. 6 leaves of the gradient",
        "Norms are those of the gradient with respect to a batch's embeddings, before the weights of Eq. 9.",
        "\n".join(f"- {text}" for text in said),
        f"MAP@R of all students on the development classes, in the epoch that validation chose: {scores}.",
        _image("means", "Running means with either gradient"),
    ]


def _said_of_gradient(run: Found, form: str) -> str:
    gaps = [_gap(epoch) for epoch in _shown(run.epochs)]
    text = (
        f"Trained with the {form} gradient (`{run.title}`): μ⁺ − μ⁻ {_form(gaps, 1, '.2f')}, MAP@R on the "
        f"development classes {run.score:.1f}"
    )
    norms = run.epochs[-1]["gradients"]
    if not norms or not norms["literal"]:
        return f"{text}."
    literal, whole = norms["literal"], norms["straight_through"]
    return (
        f"{text}; in the last epoch, L_SD's gradient has the norm {literal:.2g} in the literal form and "
        f"{whole:.2g} straight through, {whole / literal:.1f} times as much; that of the ranking loss by "
        f"pseudo-label is {norms['ranking']:.2g}."
    )


def _gap(epoch: Numbers) -> float | None:
    similar = epoch["similarities"]
    return similar["mu_pos"] - similar["mu_neg"] if "mu_pos" in similar else None


def _clusters_part(runs: Sequence[Found]) -> list[str]:
    def line(run: Found) -> list[str]:
        sizes = [[f"{size:.0f}" for size in e["clusters"]["sizes"]] for e in _shown(run.epochs)]
        return [
            run.title,
            *(cells(run.epochs, ("clusters", key), 100, ".1f") for key in ("nmi", "purity", "ari")),
            cells(run.epochs, ("clusters", "clusters"), 1, ".0f"),
            " → ".join("/".join(each) for each in sizes),
            cells(run.epochs, ("clusters", "left_out"), 100, ".1f"),
        ]

    changes = "; ".join(
        f"`{run.title}` {_change(run, 'nmi')} NMI, {_change(run, 'purity')} purity, {_change(run, 'ari')} ARI"
        for run in runs
    )
    header = ["student", "NMI, %", "purity, %", "ARI, %", "clusters", "sizes", "left out, %"]
    return [
        "### How good the clusters are",
        markdown(header, [line(run) for run in runs]),
        ABOUT_CLUSTERS.format(classes=runs[0].epochs[0]["clusters"]["classes"], changes=changes),
        _image("clusters", "Agreement of clusters and true classes"),
    ]


def _change(run: Found, key: str) -> str:
    first, last = (run.epochs[i]["clusters"][key] for i in (0, -1))
    return f"{100 * (last - first):+.1f}"


def _shown(epochs: Sequence[Numbers]) -> list[Numbers]:
    """First, middle and last, or what there is of them."""
    last = len(epochs) - 1
    return [epochs[i] for i in dict.fromkeys((0, last // 2, last))]


def _which(epochs: Sequence[Numbers]) -> str:
    return {1: "the only", 2: "first → last"}.get(len(epochs), "first → middle → last")


def cells(epochs: Sequence[Numbers], path: Sequence[str], factor: float, spec: str) -> str:
    """A number of the shown epochs, reached by these keys.

    Examples:
        >>> cells([{"a": {"b": 0.5}}, {"a": {}}], ("a", "b"), 100, ".0f")
        '50 → –'
    """
    values: list[Any] = list(_shown(epochs))
    for key in path:
        values = [None if value is None else value.get(key) for value in values]
    return _form(values, factor, spec)


def _form(values: Sequence[float | None], factor: float, spec: str) -> str:
    if all(value is None for value in values):
        return "–"
    return " → ".join("–" if value is None else f"{factor * value:{spec}}" for value in values)


def percent(share: float | None) -> str:
    """For sentences."""
    return "–" if share is None else f"{100 * share:.1f} %"


def _image(name: str, about: str) -> str:
    return f"![{about}](images/why-{name}.svg)"
