"""Write docs/settings.md and docs/settings.schema.json from the settings: `python docs/settings.py`."""

import json
from pathlib import Path
from typing import Any

from pml_slade.running.describing import list_settings
from pml_slade.running.settings import EMBEDDER_RATE, PHOTOGRAPHS, Config

INTRO = """# Settings

[Which settings matter](which_settings.md) names the few to begin with. This page lists all.

Give a setting at the end of a command, as `student.lr=0.0001`, or in a YAML file with `--config FILE`. An
unknown setting is refused, and the nearest name is shown. `pml-slade settings WORD` lists the settings with a
word in their name or meaning. `pml-slade train ... --print-config` prints all settings of a run instead of
training.

Below each name is its default.
"""
EDITORS = """
## In an editor

[settings.schema.json](settings.schema.json) describes all settings for editors, which then complete names and
mark mistakes. With the YAML language server, put this line at the top of a file, with the schema's path:

```yaml
# yaml-language-server: $schema=settings.schema.json
```
"""
PHOTOGRAPHS_INTRO = """\
## Defaults for photographs

If the network has pretrained weights and learns photographs, these are the defaults, and `embedder_lr` is
{rate:g} times `lr`: {usual}. This is so unless `model.weights=null`,
`data.transform=small`, `model.train=all` or `pretraining.steps` is given.
"""
GROUPS = {
    "": "The run",
    "data": "Images",
    "model": "The network",
    "pretraining": "SwAV before the teacher",
    "teacher": "The teacher",
    "student": "The student",
    "student.basis": "The student's feature basis",
    "methods": "Rows of their own",
}
"""Headings, by the prefix of the settings below them."""


def usual() -> str:
    """What a run has by default where it learns photographs."""
    flat = {
        f"{key}.{name}" if name else key: value
        for key, section in PHOTOGRAPHS.items()
        for name, value in (section.items() if isinstance(section, dict) else [("", section)])
    }
    shown = ", ".join(f"`{name}={value}`" for name, value in flat.items())
    return PHOTOGRAPHS_INTRO.format(rate=EMBEDDER_RATE, usual=shown)


def group_of(name: str) -> str:
    """The longest prefix of a setting's name that has a heading."""
    return max((prefix for prefix in GROUPS if name.startswith(f"{prefix}.") or not prefix), key=len)


def written(default: Any) -> str:
    """A default as it is written on the command line."""
    return json.dumps(default, default=str, ensure_ascii=False).strip('"') or '""'


def page() -> str:
    """The whole page."""
    parts = [INTRO]
    for prefix, heading in GROUPS.items():
        rows = [
            f"| `{setting.name}`<br>{written(setting.default)} | {setting.meaning} |"
            for setting in list_settings()
            if group_of(setting.name) == prefix
        ]
        parts.append("\n".join([f"## {heading}\n\n| setting | meaning |\n| :-- | :-- |", *rows, ""]))
    return "\n".join([*parts, usual()]) + EDITORS


def schema() -> str:
    """The JSON schema of a file of settings, in which nothing is required."""
    found = Config.model_json_schema()
    for section in (found, *found["$defs"].values()):
        if section.get("title") != "NamedConfig":
            section.pop("required", None)
    return json.dumps(found, indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
    Path(__file__).with_suffix(".schema.json").write_text(schema())
