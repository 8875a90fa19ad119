"""Every setting with its default and its meaning, for people who look for one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel

from ..methods.settings import is_section
from .settings import Config


@dataclass(frozen=True)
class Setting:
    """A setting of a run.

    Attributes:
        name: dotted.
        default: what it is where nobody says.
        meaning: what it does.
    """

    name: str
    default: Any
    meaning: str

    def matches(self, words: list[str]) -> bool:
        """Whether each word stands in its name or its meaning, in upper or lower case."""
        text = f"{self.name} {self.meaning}".lower()
        return all(word.lower() in text for word in words)


def list_settings(section: type[BaseModel] = Config, prefix: str = "") -> list[Setting]:
    """Return the settings of a section, those of its own sections among them.

    Examples:
        >>> [s.name for s in list_settings() if s.matches(["alphabets"])]
        ['data.labeled_alphabets']
    """
    found: list[Setting] = []
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if is_section(kind):
            found += list_settings(kind, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            default = default.model_dump() if isinstance(default, BaseModel) else default
            found.append(Setting(f"{prefix}{name}", default, field.description or ""))
    return found


def nearest_settings(word: str, most: int = 3) -> list[str]:
    """Return the names that are nearest to a word, by the whole name or by its last part.

    Examples:
        >>> nearest_settings("clusterin", 1)
        ['student.clustering']
    """
    near: dict[str, float] = {}
    for setting in list_settings():
        name = setting.name
        near[name] = max(SequenceMatcher(None, word, text).ratio() for text in (name, name.split(".")[-1]))
    return sorted(near, key=lambda name: -near[name])[:most]


def values_of(config: Config) -> dict[str, str]:
    """Return the value of each setting of a run as JSON, by dotted name.

    Examples:
        >>> from pml_slade.running.loading import load_config
        >>> values_of(load_config("glyphs"))["student.steps"]
        '1000'
    """
    names = {setting.name for setting in list_settings()}
    found: dict[str, str] = {}

    def read(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if prefix + key in names or not isinstance(value, dict):
                found[prefix + key] = json.dumps(
                    float(f"{value:.12g}") if isinstance(value, float) else value
                )
            else:
                read(value, f"{prefix}{key}.")

    read(config.model_dump(mode="json"), "")
    return found
