"""Plots of what `why.py` measured; readable by somebody who sees them for the first time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from why_measures import BINS

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
"""Of Okabe and Ito, whom colour-blind people can follow."""
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.handlelength": 3,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # letters, not outlines
    "svg.hashsalt": "why",  # the same numbers make the same file
}
SET_NAMES = {
    "pseudo": "all pairs, sides by pseudo-label",
    "mined": "pairs that Eq. 7 mines",
    "agreeing": "mined pairs that agree with the pseudo-label",
    "trained": "pairs that Eq. 7 mines, distorted as in training",
}
STEPS = "student's step"
SPAN = 10
"""Points that an axis of clusters shows at least, so that noise does not look like a trend."""

Epochs = Sequence[Mapping[str, Any]]
Runs = Mapping[str, Epochs]
"""What was measured of each run, by its title."""


def plot_pairs(run: str, epochs: Epochs, file: Path) -> None:
    """Precision, recall and hard pairs of each set, over steps."""
    columns = {
        "precision": "Precision: share of the chosen pairs\nthat are right by true class",
        "recall": "Recall: share of the right pairs\nthat are chosen",
        "hardest": "Hard pairs: share of the hardest tenth\nof the right pairs that is chosen",
    }
    sides = {"pos": "chosen as positives, %", "neg": "chosen as negatives, %"}

    def draw(figure: Figure, axes: Any) -> None:
        figure.suptitle(
            f"Which pairs of the pool does Eq. 7 keep, and are they right and hard? (student: {run})"
        )
        for number, (name, label) in enumerate(sides.items()):
            row = axes[number]
            for (key, title), axis in zip(columns.items(), row):
                _lines_of_sets(axis, epochs, name, key)
                axis.set(ylim=(-3, 103))
                if number == 0:
                    axis.set_title(title)
                else:
                    axis.set_xlabel(STEPS)
            row[0].set_ylabel(label)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)

    _save(file, draw, 2, 3, (10.5, 7.4), sharex=True, sharey=True)


def _lines_of_sets(axis: Axes, epochs: Epochs, side: str, key: str) -> None:
    looks = (  # thinner lines on wider ones
        (GREY, "-s", 4.0),
        (ORANGE, "-o", 2.5),
        (BLUE, "-^", 1.2),
        (GREEN, "--D", 1.8),
    )
    for (chosen, about), (color, style, width) in zip(SET_NAMES.items(), looks):
        points = [(e["step"], e["pairs"][chosen][side][key]) for e in epochs if chosen in e["pairs"]]
        steps = [step for step, _ in points]
        values = [np.nan if value is None else 100 * value for _, value in points]
        axis.plot(steps, values, style, color=color, lw=width, label=about)


def plot_means(forms: Runs, margin: float, file: Path) -> None:
    """The running means of Eq. 6 with either gradient, and how far they are apart."""

    def draw(figure: Figure, axes: Any) -> None:
        figure.suptitle(
            "Does $L_{SD}$ part the similarities more when Eq. 6 lets its whole gradient through?"
        )
        means, gap = axes[0]
        for (color, width), (run, epochs) in zip(((BLUE, 3.5), (ORANGE, 1.5)), forms.items()):
            known = [e for e in epochs if "mu_pos" in e["similarities"]]
            steps = [e["step"] for e in known]
            pos, neg = (np.array([e["similarities"][k] for e in known]) for k in ("mu_pos", "mu_neg"))
            means.plot(steps, pos, "-o", color=color, lw=width, label=f"μ⁺, {run}")
            means.plot(steps, neg, "--s", color=color, lw=width, label=f"μ⁻, {run}")
            gap.plot(steps, pos - neg, "-o", color=color, lw=width, label=run)
        gap.axhline(
            margin, color=GREY, linestyle=":", label=f"margin m = {margin:g} that $L_{{SD}}$ asks for"
        )
        means.set(title="Running means of both kinds of pairs", ylabel="similarity (Eq. 4), −1 to 1")
        gap.set(title="How far they are apart", ylabel="μ⁺ − μ⁻, difference of similarities")
        gap.set_ylim(bottom=min(0, gap.get_ylim()[0]))
        for axis in (means, gap):
            axis.set(xlabel=STEPS)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))

    _save(file, draw, 1, 2, (10.5, 5.2))


def plot_similarities(run: str, epochs: Epochs, file: Path) -> None:
    """Histograms of cosine and Eq. 4 of truly matching pairs and of others, first and last epoch."""
    ends = dict.fromkeys((0, len(epochs) - 1))
    kinds = {"cosine": "cosine of the embeddings", "basis": "similarity on the basis (Eq. 4)"}

    def draw(figure: Figure, axes: Any) -> None:
        figure.suptitle(
            "What does the similarity of Eq. 4 tell apart that plain cosine does not?\n"
            f"Student: {run}; AUC: chance that a matching pair is the more similar one of two"
        )
        lowest = min(_lowest(epochs[i]["similarities"].get(kind, {})) for i in ends for kind in kinds)
        for index, row in zip(ends, axes):
            for (kind, label), axis in zip(kinds.items(), row):
                found = epochs[index]["similarities"]
                _histograms(axis, found[kind])
                step, value = epochs[index]["step"], found[kind]["auc"]
                axis.set_title(f"step {step}: {label}, AUC {'–' if value is None else f'{value:.3f}'}")
                axis.set_xlim(lowest - 0.04, 1.04)
                if kind == "basis" and "mu_pos" in found:
                    axis.axvline(
                        found["mu_pos"], color=GREY, linestyle="-", label="μ⁺ of training (threshold T1)"
                    )
                    axis.axvline(
                        found["mu_neg"], color=GREY, linestyle="--", label="μ⁻ of training (threshold T2)"
                    )
                axis.set_xlabel(label)
            row[0].set_ylabel("% of the pairs of that kind")
        handles, labels = axes[0][1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)

    _save(file, draw, len(ends), 2, (10.5, 1.8 + 2.9 * len(ends)), sharex=True, sharey=True)


def _lowest(found: Mapping[str, Any]) -> float:
    """Left edge of the first bin that holds a pair."""
    counts = np.add(found.get("match", 0), found.get("other", 0))
    filled = np.flatnonzero(counts)
    return float(BINS[filled[0]]) if len(filled) else -1.0


def _histograms(axis: Axes, found: Mapping[str, Any]) -> None:
    for name, color, label in (
        ("match", BLUE, "pairs of one true class"),
        ("other", ORANGE, "pairs of two true classes"),
    ):
        counts = np.array(found[name])
        shares = 100 * counts / max(counts.sum(), 1)
        axis.stairs(shares, BINS, color=color, fill=True, alpha=0.3)
        axis.stairs(shares, BINS, color=color, linewidth=1.5, label=label)


def plot_clusters(runs: Runs, file: Path) -> None:
    """NMI, purity and adjusted Rand index of the pseudo-labels that each epoch trains on."""
    measures = {"nmi": "NMI", "purity": "purity", "ari": "adjusted Rand index"}
    groups = same_clusters(runs)

    def draw(figure: Figure, axes: Any) -> None:
        figure.suptitle("How close are the clusters to the pool's true classes?")
        for (key, title), axis in zip(measures.items(), axes[0]):
            marks = zip((BLUE, ORANGE, GREEN, PINK, GREY), "osD^v")
            for (color, mark), (label, epochs) in zip(marks, groups.items()):
                values = [100 * e["clusters"][key] for e in epochs]
                axis.plot(_starts(epochs), values, "-", marker=mark, color=color, label=label)
            axis.set(title=title, xlabel=f"{STEPS} at which the epoch begins")
            low, high = axis.get_ylim()
            middle, half = (low + high) / 2, max((high - low) / 2, SPAN / 2)
            axis.set_ylim(middle - half, middle + half)
        axes[0][0].set_ylabel("% (higher is closer)")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center")

    _save(file, draw, 1, 3, (10.5, 3.7 + 0.22 * len(groups)))


def same_clusters(runs: Runs) -> dict[str, Epochs]:
    """Runs whose clusters are the same become one line."""
    groups: dict[str, Epochs] = {}
    for title, epochs in runs.items():
        for label, others in groups.items():
            if [e["clusters"] for e in others] == [e["clusters"] for e in epochs]:
                del groups[label]
                groups[f"{label}; {title}"] = epochs
                break
        else:
            groups[title] = epochs
    return groups


def _starts(epochs: Epochs) -> list[int]:
    """Steps at which the epochs began, and the pool was labeled where it was."""
    return [0, *(e["step"] for e in epochs[:-1])]


def _save(
    file: Path,
    draw: Callable[[Figure, Any], None],
    rows: int,
    columns: int,
    size: tuple[float, float],
    **kwargs: Any,
) -> None:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=size, squeeze=False, layout="constrained", **kwargs
        )
        draw(figure, axes)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)
