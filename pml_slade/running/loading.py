"""Settings from YAML files, presets and the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..exceptions import ConfigError
from ..methods import METHODS
from ..methods.teacher import Teacher
from ..presets import BEST, PAPER, preset_names, preset_text
from ..strangers import read_bytes
from .settings import Config, explain

MOST_TEXT = 1 << 20
"""Bytes of a file of settings."""


def load_config(
    source: str | Path | Sequence[str | Path] | None = None,
    overrides: list[str] | None = None,
    values: dict[str, Any] | None = None,
    fallback: dict[str, Any] | None = None,
    own_methods: bool = True,
) -> Config:
    """Read settings from YAML and from ``key.sub=value`` overrides.

    Args:
        source: a YAML file, or the name of one that comes with the package (see `preset_names`); of several,
            the later ones win; None starts from the defaults.
        overrides: values are YAML; they win over the file.
        values: further settings by dotted key, or sections as dictionaries; they win over the file, too.
        fallback: likewise, for settings that are 0 or not given by any of these.
        own_methods: import rows that are no methods of this package. False: leave them out, since the file
            may be a stranger's.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (with the nearest name), a bad value.

    Examples:
        >>> load_config("glyphs", ["student.lr=0.01"]).student.lr
        0.01
        >>> load_config("glyphs", ["student.step=10"])
        Traceback (most recent call last):
        pml_slade.exceptions.ConfigError: student.step: unknown key; did you mean student.steps?
    """
    settings: dict[str, Any] = {"data": {}}
    for each in [source] if isinstance(source, str | Path) else source or []:
        if str(each) == BEST:
            _take_back(settings, _read(PAPER))
        else:
            _merge(settings, _read(each))
    for key, value in (values or {}).items():
        _merge(settings, _nested(key, value))
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is not an override: write key=value, student.lr=0.001 say.")
        _assign(settings, key.strip().split("."), _parse(text, override))
    for key, value in (fallback or {}).items():
        if not _find(settings, key.split(".")):
            _assign(settings, key.split("."), value)
    if not own_methods:
        _leave_out_own(settings)
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("; ".join(explain(e, Config) for e in error.errors())) from None


def _read(source: str | Path) -> dict[str, Any]:
    if str(source) in preset_names():
        text = preset_text(str(source))
    elif Path(source).is_file():
        try:
            text = read_bytes(Path(source), MOST_TEXT).decode()
        except UnicodeDecodeError:
            raise ConfigError(f"config: {source} is not a text file; give a YAML file in UTF-8.") from None
        except ValueError as error:
            raise ConfigError(f"config: {source}: {error}; give a YAML file of settings.") from None
    else:
        raise ConfigError(f"config: no file {source}, and no preset of that name; presets: {preset_names()}.")
    values = _parse(text, str(source)) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"config: {source} must hold a mapping of settings, got {type(values).__name__}.")
    return values


def _leave_out_own(settings: dict[str, Any]) -> None:
    """Keep the rows that come with the package, and what is set of their methods."""
    for key in ("rows", "methods"):
        found = settings.get(key)
        if isinstance(found, list):
            settings[key] = [row for row in found if str(row) in METHODS] or [Teacher.key]
        elif isinstance(found, dict):
            settings[key] = {name: value for name, value in found.items() if name in METHODS}


def _take_back(settings: dict[str, Any], method: dict[str, Any]) -> None:
    """Leave those settings at their defaults that a preset of a method sets, but for its rows."""
    for key in settings.keys() & method.keys() - {"rows"}:
        if isinstance(settings[key], dict) and isinstance(method[key], dict) and "name" not in method[key]:
            _take_back(settings[key], method[key])
        else:
            del settings[key]


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number, where YAML 1.1 wants a dot in it, that cannot grow by aliases, and in
    which no key stands twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases are not read", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r:.50} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = _section(values, key)
    values[keys[-1]] = value


def _merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        # What is passed on to a class of others is one thing: arguments of another class would not fit it.
        whole = (
            not isinstance(value, dict) or "name" in value or key in ("optimizer_arguments", "trunk_options")
        )
        if whole:
            below[key] = value
        else:
            _merge(_section(below, key), value)


def _section(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The settings below a key, which is made where there is none."""
    if values.get(key) is None:
        values[key] = {}
    if not isinstance(values[key], dict):
        raise ConfigError(f"{key} must hold settings by name, got {values[key]!r:.50}.")
    section: dict[str, Any] = values[key]
    return section


def _nested(key: str, value: Any) -> dict[str, Any]:
    """`{"a": {"b": value}}` of the key "a.b"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _find(values: Any, keys: list[str]) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values
