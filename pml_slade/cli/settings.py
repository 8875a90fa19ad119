"""The command that finds settings."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..exceptions import ConfigError
from .options import console


def settings(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[WORD]...", help="Words of the name or the meaning.")
    ] = None,
) -> None:
    """List the settings of a run that have all of these words in their name or meaning; without any, all."""
    from rich.table import Table
    from rich.text import Text

    from ..running.describing import list_settings, nearest_settings

    wanted = words or []
    found = [setting for setting in list_settings() if setting.matches(wanted)]
    if not found:
        near = ", ".join(nearest_settings(" ".join(wanted)))
        raise ConfigError(
            f"settings: none has {' and '.join(map(repr, wanted))} in its name or meaning. "
            f"The nearest names: {near}. `pml-slade settings` lists all."
        )
    table = Table("setting", "default", "meaning")
    for setting in found:
        default = Text(json.dumps(setting.default, default=str), overflow="fold")
        table.add_row(Text(setting.name, overflow="fold"), default, Text(setting.meaning))
    console().print(table)
