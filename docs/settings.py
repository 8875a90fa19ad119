"""Write docs/settings.md and docs/settings.schema.json from the settings: `python docs/settings.py`."""

import json
from pathlib import Path

from pml_slade.reports.tables import markdown
from pml_slade.running.describing import list_settings
from pml_slade.running.settings import EMBEDDER_RATE, PHOTOGRAPHS, Config

INTRO = """# Settings

Beside a `pml-slade train` command, `--print-config` prints its settings instead of running it. Each can stand
in a YAML file (`--config FILE`) or on the command line as `student.lr=0.0001`. An unknown key is refused with
the nearest one that exists. `pml-slade settings WORD` lists those with a word in
their name or meaning. Settings under `methods` are those of one row each.

[settings.schema.json](settings.schema.json) describes them for editors, which then complete names and mark
what does not fit. With the YAML language server, put this line at the top of a file, with the schema's path:

```yaml
# yaml-language-server: $schema=settings.schema.json
```
"""


PHOTOGRAPHS_INTRO = """\
Where a trunk with weights learns photographs, which is where `model.weights` is not null, `data.transform` is
photo, and neither `model.train=all` nor `pretraining.steps` is given, these are the defaults, and
`embedder_lr` is {rate:g} times `lr`: {usual}.
"""


def usual() -> str:
    """What a run has by default where it learns photographs."""
    flat = {
        f"{key}.{name}" if name else key: value
        for key, section in PHOTOGRAPHS.items()
        for name, value in (section.items() if isinstance(section, dict) else [("", section)])
    }
    shown = ", ".join(f"`{name}={value}`" for name, value in flat.items())
    return PHOTOGRAPHS_INTRO.format(rate=EMBEDDER_RATE, usual=shown)


def page() -> str:
    """The whole page."""
    rows = [[f"`{setting.name}`", f"`{setting.default}`", setting.meaning] for setting in list_settings()]
    return f"{INTRO}\n{usual()}\n{markdown(['setting', 'default', ''], rows)}\n"


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
