"""The report of one run or several: what they came to, in a page that needs nothing else."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from ..checkpoints import write_atomic
from ..datasets.splits import PARTS
from ..exceptions import ConfigError, DataError
from ..reports.tables import METRICS, cell
from ..running.describing import list_settings, values_of
from ..running.pool import PoolFacts
from .curves import COLOURS, Chart, Line, chart
from .folder import RunFolder
from .pictures import Pictures
from .rendering import render
from .sources import SavedRun, Source
from .thumbnails import Thumbnails

logger = logging.getLogger("pml_slade")


def report_page(
    runs: Sequence[str | os.PathLike[str]],
    device: str = "auto",
    workers: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    source: Source | None = None,
) -> str:
    """Return the report of runs as one HTML page.

    Table and curves are about all runs; images, clusters and settings are those of the first one.

    Args:
        runs: their folders, such as those of the same settings with several seeds.
        device: that embeds images.
        workers: processes that read images; None: one a CPU.
        batch_size: images at once; default as suits the device.
        progress: show progress bars.
        source: images and models of the first run; None: they are read from its folder and its images.

    Raises:
        ConfigError: no run; runs of which some were measured on test images and some were not.
        CheckpointError: a folder that is no run, or is damaged.
    """
    if not runs:
        raise ConfigError("runs: give the folder of one run or more.")
    folders = [RunFolder.read(run) for run in runs]
    first = folders[0]
    if len({folder.part for folder in folders}) > 1:
        raise ConfigError("runs: some have test images and some have none; report them apart.")

    def found() -> Source:
        return source or SavedRun(first, device, workers, batch_size, progress)

    pictures, shown = _pictures(first, found)
    return render(
        "report.html",
        f"Report on {', '.join(folder.folder.resolve().name for folder in folders)}",
        pictures.thumbnails if pictures else Thumbnails(),
        runs=[str(folder.folder) for folder in folders],
        part=first.part,
        before=first.before["title"],
        after=first.after["title"],
        verdict=_sentences(folders),
        rows=table(folders),
        metrics=METRICS,
        charts=charts(folders),
        settings=_settings(first),
        facts=_facts(first),
        **shown,
    )


def write_report(file: str | os.PathLike[str], runs: Sequence[str | os.PathLike[str]], **options: Any) -> int:
    """Write the report of runs, see `report_page`.

    Args:
        file: to write; UTF-8.
        runs: their folders.
        options: of `report_page`.

    Returns:
        How many bytes it has.
    """
    page = report_page(runs, **options).encode("utf-8", "backslashreplace")  # names may be any bytes
    write_atomic(file, page)
    return len(page)


def _pictures(run: RunFolder, source: Callable[[], Source]) -> tuple[Pictures | None, dict[str, Any]]:
    """What is shown of images, or why nothing is."""
    try:
        found = Pictures(run, source())
        shown: dict[str, Any] = {
            "queries": found.queries(),
            "classes": found.classes(),
            "pairs": found.pairs(),
            "clusters": found.clusters(),
            "pool": found.neighbourhoods(),
            "map": found.map(),
            "missing": "",
        }
        return found, shown
    except (ConfigError, DataError) as error:
        logger.warning("the report is without images: %s", error)
        nothing: dict[str, Any] = dict.fromkeys(("queries", "classes", "pairs", "clusters", "pool", "map"))
        return None, nothing | {"missing": str(error)}


def _sentences(runs: Sequence[RunFolder]) -> list[str]:
    """What stands at the top: the verdict of a single run, and the figures of all."""
    told = runs[0].verdict if len(runs) == 1 else ""
    return [told, summary(runs)] if told and runs[0].part == "test" else [told or summary(runs)]


def summary(runs: Sequence[RunFolder]) -> str:
    """Say in a sentence what came of it: the row that is looked at beside the control, else the teacher.

    Args:
        runs: folders of the same rows.
    """
    first = runs[0]
    after, part = first.after, first.part
    reference = _reference(first)
    before = first.before if reference == after else reference
    pairs = [
        (one[part]["MAP@R"], other[part]["MAP@R"])
        for run in runs
        if (one := run.result(before["row"])) and (other := run.result(after["row"]))
        and one[part] and other[part]
    ]  # fmt: skip
    if not pairs or before == after:
        return f"{after['title']} was trained; there is nothing to compare it with."
    gain = cell([other - one for one, other in pairs])
    old, new = cell([one for one, _ in pairs]), cell([other for _, other in pairs])
    over = f", mean of {len(pairs)} runs and 95 % interval" if len(pairs) > 1 else ""
    return (
        f"{after['title']} has {new} MAP@R on the {part} classes, {before['title']} {old}: a difference of "
        f"{gain} points{over}."
    )


def table(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """A row of the report's table for each row of the runs: figures as text, and the numbers to sort by."""
    part, reference = runs[0].part, _reference(runs[0])
    rows = []
    for key in dict.fromkeys(result["row"] for run in runs for result in run.results):
        results = [result for run in runs if (result := run.result(key))]
        measured = [result for result in results if result[part]]
        pairs = [
            (result[part]["MAP@R"], other[part]["MAP@R"])
            for run in runs
            if (result := run.result(key)) and (other := run.result(reference["row"]))
            and result[part] and other[part]
        ]  # fmt: skip
        rows.append(
            {
                "title": results[0]["title"],
                "runs": len(results),
                "steps": results[0]["steps"],
                "images": results[0]["images"],
                "figures": [_figure([result[part][metric] for result in measured]) for metric in METRICS],
                "over": _figure([ours - theirs for ours, theirs in pairs])
                if key != reference["row"]
                else ("", ""),
                "reference": reference["title"],
            }
        )
    return rows


def _reference(run: RunFolder) -> dict[str, Any]:
    """The row that others are compared with: the control if there is one, else the teacher."""
    return run.result("control") or run.before


def _figure(values: Sequence[float]) -> tuple[str, float | str]:
    """Mean and interval as text, and the mean."""
    return (cell(values), sum(values) / len(values)) if values else ("–", "")


def charts(runs: Sequence[RunFolder]) -> list[Chart]:
    """Learning curves: validation, and the loss."""
    keys = list(dict.fromkeys(result["row"] for run in runs for result in run.results))
    drawn = []
    for title, column in (("Validation MAP@R, %", "MAP@R"), ("Training loss", "total_loss")):
        lines = [
            Line(_title(run, key), keys.index(key) % COLOURS, _steps(run, key, curve, column))
            for run in runs
            for key in keys
            for curve in run.curves.get(key, [])
        ]
        if (found := chart(title, lines)) is not None:
            drawn.append(found)
    return drawn


def _title(run: RunFolder, key: str) -> str:
    result = run.result(key)
    return key if result is None else str(result["title"])


def _steps(run: RunFolder, key: str, curve: list[dict[str, float]], column: str) -> list[tuple[float, float]]:
    """A column by the step at which each epoch ended; a row of few steps has one shorter epoch."""
    result = run.result(key)
    epoch_steps = run.config.epoch_steps if result is None else min(run.config.epoch_steps, result["steps"])
    return [(row["epoch"] * epoch_steps, row[column]) for row in curve if column in row]


def _settings(run: RunFolder) -> list[dict[str, Any]]:
    """Every setting: its value, its default where that is another one, and its meaning."""
    values = values_of(run.config)
    known = {setting.name: setting for setting in list_settings()}
    rows = []
    for name, value in values.items():
        setting = known.get(name)
        default = None if setting is None else _as_written(setting.default)
        rows.append(
            {
                "name": name,
                "value": value,
                "default": default if default is not None and default != value else "",
                "meaning": setting.meaning if setting else "",
            }
        )
    return rows


def _as_written(value: Any) -> str:
    return json.dumps(value, default=str)


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """What the run worked with, for people."""
    environment = run.environment
    data = environment.get("data", {})
    facts = [(f"{part} images", _count(data[part])) for part in PARTS if data.get(part)]
    if (pool := PoolFacts.read(run.folder)) is not None:
        facts.append(("learned from", f"{pool.learned_from:,} of the pool's {pool.images:,} images"))
        facts.append(("neighbours in the pool", f"about {pool.neighbours_right:.0f} % show an image's class"))
    if duplicates := environment.get("duplicates"):
        facts.append(("duplicates", duplicates))
    if versions := environment.get("versions"):
        facts.append(("versions", ", ".join(f"{name} {number}" for name, number in versions.items())))
    for key in ("python", "machine", "device", "threads", "seed"):
        if key in environment:
            facts.append((key, str(environment[key])))
    return facts


def _count(part: dict[str, Any]) -> str:
    classes = part["classes"]
    return f"{part['images']:,}" + (f" of {classes:,} classes" if classes else ", no labels")
