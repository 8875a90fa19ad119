"""Tables of experiments beside the numbers of the paper, and the curve over the number of clusters."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

from ..checkpoints import write_atomic
from ..evaluation import interval
from ..exceptions import ConfigError
from .experiments import CONCATENATED, SEPARATED, Experiment
from .paper import ABLATIONS, DATASETS, FRAMEWORKS, ROWS, Ablation, Line, Row
from .tables import METRICS, MISSING, Cell, Column, Grid

NOT_RUN = "not run"
OURS = "frwk, init and arch/dim are the paper's; ours are all of [1], and Proxy-Anchor¹ has BN-Inception."
_RUNS = Column("runs")
_HOW = "Test classes, %; mean of the runs ± half its 95 % interval (Student's t)."
_PARTS = {
    SEPARATED: "separated: mean over the single models of the folds (128-d in the paper)",
    CONCATENATED: "concatenated: the embeddings of all folds' models joined (512-d in the paper)",
}


def by_dataset(experiments: Sequence[Experiment]) -> dict[str, list[Experiment]]:
    """Experiments by class of their dataset, in the order in which they come.

    Examples:
        >>> experiments = [Experiment(n, d, ()) for n, d in (("t1", "CUB200"), ("t1", "Cars196"))]
        >>> {dataset: len(members) for dataset, members in by_dataset(experiments).items()}
        {'CUB200': 1, 'Cars196': 1}
    """
    datasets = dict.fromkeys(experiment.dataset for experiment in experiments)
    return {name: [e for e in experiments if e.dataset == name] for name in datasets}


def results_table(
    experiments: Sequence[Experiment], setups: Mapping[str, tuple[str, str]] | None = None
) -> Grid:
    """The results table in the paper's layout, what the paper says beside it.

    Args:
        experiments: all of one dataset; those that are no row of the paper come last, by their name.
        setups: by name of the experiment its (init, arch/dim), where they are not the paper's. Without it,
            a dataset that the paper has no results on has no such columns.

    Raises:
        ConfigError: no experiments, of several datasets, or two of one name.

    Examples:
        >>> print(results_table([Experiment("t1", "Omniglot", ())]).texts()[11])
        ['Contrastive T1', '–', '–', '–', '–', '–', '–', 'search not finished']
    """
    dataset, named = _named(experiments)
    known = DATASETS.get(dataset)
    others = named.keys() - {row.key for row in ROWS}
    rows = [*ROWS, *(_own_row(name) for name in named if name in others)]
    columns = [Column("method"), *map(Column, ("frwk", "init", "arch/dim") if known else ())]
    if setups and not known:
        columns += map(Column, ("init", "arch/dim"))
    columns += [Column(metric, part, measured=True) for part in _PARTS for metric in METRICS]
    columns += [_RUNS, *(Column(metric, f"paper, {known}") for metric in METRICS if known)]
    lines = []
    for row in rows:
        line: list[Cell] = [row.title, *_setup(row, known, setups)]
        line += [_values(named.get(row.key), part, metric) for part in _PARTS for metric in METRICS]
        line += [_status(named.get(row.key))]
        line += [row.published[dataset][metric] for metric in METRICS if known]
        lines.append(tuple(line))
    notes = [f"{_HOW} {'; '.join(_PARTS.values()).capitalize()}."]
    notes += [f"Paper: concatenated where the framework is [1]. {FRAMEWORKS}", OURS] if known else []
    names = tuple(row.key for row in rows)
    return Grid(f"Results on {dataset}, %", tuple(columns), names, tuple(lines), tuple(notes))


def ablation_table(ablation: str | Ablation, experiments: Sequence[Experiment]) -> Grid:
    """An ablation, the paper's beside it; changes are those of MAP@R to the line above.

    The paper's numbers are those on the same dataset where there are such, else all.

    Args:
        ablation: a key of `paper.ABLATIONS`, or one of your own lines.
        experiments: all of one dataset; those of the ablation are picked by name.

    Raises:
        ConfigError: there is no such ablation; no experiments, of several datasets, or two of one name.

    Examples:
        >>> grid = ablation_table("components", [Experiment("t2", "CUB200", ())])
        >>> for line in grid.texts():
        ...     print(line[0], line[-3:])
        teacher ['search not finished', '29.29', '–']
        pseudo-labels ['not run', '30.81', '+1.52']
        + basis ['not run', '32.45', '+1.64']
        + mining ['not run', '33.59', '+1.14']
    """
    chosen = find_ablation(ablation) if isinstance(ablation, str) else ablation
    dataset, named = _named(experiments)
    lines = chosen.lines
    ours = [[_values(named.get(line.key), CONCATENATED, m) for m in METRICS] for line in lines]
    means: list[float | None] = [mean(values[0]) if values[0] else None for values in ours]
    columns = [Column(chosen.title), *_score_columns("ours", METRICS, measured=True), _RUNS]
    rows: list[list[Cell]] = [
        [line.title, values[0], change, *values[1:], _status(named.get(line.key))]
        for line, values, change in zip(lines, ours, _changes(means))
    ]
    for source in _sources(chosen, dataset):
        metrics = [m for m in METRICS if any(line.published[source][m] is not None for line in lines)]
        columns += _score_columns(f"paper, {DATASETS[source]}", metrics)
        for row, line, change in zip(rows, lines, _changes([x.published[source]["MAP@R"] for x in lines])):
            score, *others = (line.published[source][m] for m in metrics)
            row += [score, change, *others]
    names = tuple(line.key for line in lines)
    notes = (
        f"{_HOW} {_PARTS[CONCATENATED].capitalize()}. Change: of MAP@R, to the line above.",
        f"Experiments: {', '.join(names)}.",
    )
    title = f"Ablation {chosen.number}, {chosen.title}, on {dataset}, %"
    return Grid(title, tuple(columns), names, tuple(tuple(row) for row in rows), notes)


def find_ablation(name: str) -> Ablation:
    """An ablation of the paper by its name.

    Raises:
        ConfigError: there is no such ablation.

    Examples:
        >>> find_ablation("k").number
        4
    """
    if name not in ABLATIONS:
        raise ConfigError(f"ablation: there is no {name!r}; give one of {', '.join(ABLATIONS)}.")
    return ABLATIONS[name]


def k_curve(experiments: Sequence[Experiment]) -> bytes:
    """Draw MAP@R over the number of clusters: ours with 95 % intervals, and the paper's, each in its panel.

    Args:
        experiments: all of one dataset.

    Returns:
        A PNG.

    Raises:
        ConfigError: no experiments, of several datasets, or two of one name.

    Examples:
        >>> k_curve([Experiment("s2", "CUB200", ())])[1:4]
        b'PNG'
    """
    from matplotlib.figure import Figure

    dataset, named = _named(experiments)
    lines = ABLATIONS["k"].lines
    measured = [(int(line.title), _values(named.get(line.key), CONCATENATED, "MAP@R")) for line in lines]
    found = [(k, mean(values), interval(values)) for k, values in measured if values]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ours, paper = figure.subplots(1, 2, sharey=bool(found) and dataset == "CUB200")
    if found:
        ks, centers, halves = zip(*found)
        bars = [math.nan if half is None else half for half in halves]  # one run alone has none
        ours.errorbar(ks, centers, bars, fmt="o-", capsize=4)
    else:
        ours.text(0.5, 0.5, NOT_RUN, ha="center", va="center", transform=ours.transAxes)
        ours.set_yticks([])
    ticks = [k for k, _ in measured]
    paper.plot(ticks, [line.published["CUB200"]["MAP@R"] for line in lines], "o-", color="tab:gray")
    for axes, title in ((ours, f"ours, {dataset}, 95 % intervals"), (paper, "paper, CUB")):
        axes.set(title=title, xlabel="clusters k", ylabel="MAP@R, %", xticks=ticks)
        axes.set_xlim(ticks[0] - 40, ticks[-1] + 40)
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def write_tables(
    experiments: Sequence[Experiment], output: str | os.PathLike[str], ablation: str | None = None
) -> list[Path]:
    """Write a table as Markdown, CSV and LaTeX (booktabs); for the ablation k the curve, too.

    Args:
        experiments: all of one dataset.
        output: folder; the files are `results-<dataset>.md` and so on, or the ablation's name in its place.
        ablation: a key of `paper.ABLATIONS`; None for the results table.

    Returns:
        The files.

    Raises:
        ConfigError: there is no such ablation; no experiments, of several datasets, or two of one name.
    """
    table = results_table(experiments) if ablation is None else ablation_table(ablation, experiments)
    contents = {
        "md": f"{table.markdown()}\n".encode(),
        "csv": table.csv().encode(),
        "tex": table.latex().encode(),
        **({"png": k_curve(experiments)} if ablation == "k" else {}),
    }
    stem = f"{ablation or 'results'}-{experiments[0].dataset}"
    paths = {Path(output) / f"{stem}.{ending}": content for ending, content in contents.items()}
    for path, content in paths.items():
        write_atomic(path, content)
    return list(paths)


def _named(experiments: Sequence[Experiment]) -> tuple[str, dict[str, Experiment]]:
    datasets = sorted({experiment.dataset for experiment in experiments})
    names = [experiment.name for experiment in experiments]
    if len(datasets) != 1:
        raise ConfigError(f"experiments: a table is of one dataset, got {datasets}; use by_dataset.")
    if len(set(names)) < len(names):
        raise ConfigError(f"experiments: two have the same name, got {names}; give each once.")
    return datasets[0], dict(zip(names, experiments))


def _own_row(name: str) -> Row:
    """An experiment that is no row of the paper."""
    nothing = dict.fromkeys(METRICS)
    return Row(name, name, dict.fromkeys(DATASETS, nothing), "[1]", MISSING, MISSING)


def _setup(row: Row, known: str | None, setups: Mapping[str, tuple[str, str]] | None) -> list[str]:
    """The cells frwk, init and arch/dim that the table has."""
    given = (setups or {}).get(row.key)
    if known:
        return [row.framework, *(given or (row.init, row.arch))]
    return list(given or (MISSING, MISSING)) if setups else []


def _values(experiment: Experiment | None, part: str, metric: str) -> tuple[float, ...]:
    return experiment.values(part, metric) if experiment else ()


def _status(experiment: Experiment | None) -> str:
    return experiment.status if experiment else NOT_RUN


def _score_columns(group: str, metrics: Sequence[str], measured: bool = False) -> list[Column]:
    first, *others = (Column(metric, group, measured=measured) for metric in metrics)
    return [first, Column("change", group, signed=True), *others]


def _changes(scores: Sequence[float | None]) -> list[float | None]:
    """Each score less the one above."""
    return [None, *(b - a if a is not None and b is not None else None for a, b in pairwise(scores))]


def _sources(ablation: Ablation, dataset: str) -> list[str]:
    """The datasets whose published numbers stand beside ours."""

    def has(line: Line, source: str) -> bool:
        return line.published[source]["MAP@R"] is not None

    published = [source for source in DATASETS if any(has(line, source) for line in ablation.lines)]
    return [dataset] if dataset in published else published
