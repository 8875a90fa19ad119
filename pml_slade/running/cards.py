"""The model card of a run: a README.md that says what the model is, how it was made and how to use it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoints import write_atomic
from ..strangers import read_bytes
from .describing import list_settings, values_of
from .rows import read_json
from .settings import Config

logger = logging.getLogger("pml_slade")

BEGIN, END = "<!-- begin: written by pml-slade -->", "<!-- end: written by pml-slade -->"
FRAME = f"""---
library_name: pml-slade
pipeline_tag: image-feature-extraction
tags: [metric-learning, image-retrieval, self-training]
license: unknown  # of the weights; fill in
license_of_the_data: unknown  # of the images that it was trained on; fill in
base_model_license: unknown  # of the weights that it started from, if any; fill in
---

# Image embeddings

Say here what the model is for, and what it must not be used for. When the run is repeated, only what stands
between the two marks below is written again.

{BEGIN}
{END}
"""
PARTS = {
    "labeled": "trained on, with labels",
    "unlabeled": "trained on, without labels",
    "validation": "chose the epoch",
    "test": "measured once",
    "gallery": "searched in by the test images",
}


def _read(file: Path) -> str:
    """A card, or nothing, where it is none."""
    try:
        return read_bytes(file).decode()
    except ValueError:
        return ""


def write_card(folder: Path, config: Config, results: Sequence[Any], best: Any) -> None:
    """Write the card into the run's folder; what people wrote around its marks stays, as does another file.

    Args:
        folder: of the run; it has environment.json.
        config: its settings.
        results: a `Result` for each row.
        best: that of the row whose model is the run's.
    """
    file = folder / "README.md"
    text = _read(file) if file.exists() else FRAME
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        logger.warning(
            "%s is no model card of a run, and stays as it is: it lacks %s or %s.", file, BEGIN, END
        )
        return
    rows = [asdict(result) for result in results]
    card = model_card(config, rows, best.title, read_json(folder / "environment.json"))
    write_atomic(file, f"{before}{BEGIN}\n{card}{END}{after}".encode())


def model_card(config: Config, results: Sequence[dict[str, Any]], title: str, facts: dict[str, Any]) -> str:
    """Return what a card says of a run, as Markdown.

    Args:
        config: settings of the run.
        results: of its rows, as results.json has them.
        title: of the row whose model is the run's.
        facts: what environment.json has.
    """
    model, data = config.model, config.data
    usual = "the default weights of its library" if model.weights == "default" else f"`{model.weights}`"
    weights = "no pretrained weights" if model.weights is None else usual
    lines = [
        f"The model is the row *{title}* of a run of pml-slade. A `{model.trunk}` that started from "
        f"{weights} turns an image of {data.image_size} × {data.image_size} pixels, "
        f"{'colour' if data.mode == 'RGB' else 'grey'}, into an embedding. Compare embeddings by their "
        "cosine.",
        _section("Use", _use()),
        _section("Results", _results(results)),
        _section("Data", _data(config, facts)),
        _section("Training", _training(config)),
        _section("Made with", _made_with(facts)),
    ]
    return "\n\n".join(lines) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _use() -> str:
    return (
        '```python\nimport pml_slade\n\nmodel = pml_slade.load("FOLDER")  # that holds this file\n'
        'embeddings = model.embed("IMAGES")  # float32, unit length; a folder, paths or PIL images\n'
        'found = model.search("QUERY.jpg", "IMAGES", k=5)\n```'
    )


def _results(results: Sequence[dict[str, Any]]) -> str:
    rows = [
        [result["title"], part, f"{result['steps']:,}", *(f"{value:.1f}" for value in result[part].values())]
        for part in ("validation", "test")
        for result in results
        if result[part]
    ]
    if not rows:
        return "Nothing was measured: there were neither validation nor test images."
    names = next(iter(r[part] for part in ("validation", "test") for r in results if r[part]))
    return (
        "Retrieval in percent, on classes that the model was not trained on. The epoch was chosen on the "
        "validation classes, so their figures are too good.\n\n"
        + _table(["row", "classes", "steps", *names], rows)
    )


def _data(config: Config, facts: dict[str, Any]) -> str:
    data = facts.get("data", {})
    rows = [
        [part, f"{counts['images']:,}", "–" if counts["classes"] is None else f"{counts['classes']:,}", use]
        for part, use in PARTS.items()
        if (counts := data.get(part))
    ]
    named = [f"`{name}={value}`" for name, value in values_of(config).items() if _names_images(name, value)]
    text = _table(["part", "images", "classes", "use"], rows)
    text += f"\n\nThe images: {', '.join(named)}."
    if duplicates := facts.get("duplicates"):
        text += f" Duplicates: {duplicates}."
    return text + " Whether they may be used, and for what, is for their owners to say."


def _names_images(name: str, value: str) -> bool:
    keys = ("data.kind", *(f"data.{part}" for part in PARTS))
    return name in keys and value != "null"


def _training(config: Config) -> str:
    defaults = {setting.name: json.dumps(setting.default, default=str) for setting in list_settings()}
    other = [
        [f"`{name}`", f"`{value}`", f"`{defaults.get(name, '–')}`"]
        for name, value in values_of(config).items()
        if value != defaults.get(name)
        and name not in ("output", "data.labeled", "data.unlabeled", "data.test")
    ]
    text = f"Rows: {', '.join(config.rows)}; seed {config.seed}. All settings are in `config.yaml`."
    if other:
        text += f" These differ from the defaults:\n\n{_table(['setting', 'value', 'default'], other)}"
    return text


def _made_with(facts: dict[str, Any]) -> str:
    versions = [f"{name} {number}" for name, number in facts.get("versions", {}).items()]
    return ", ".join([*versions, f"Python {facts.get('python')}", f"on {facts.get('device')}"]) + "."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, [":--"] * len(header), *escaped])
