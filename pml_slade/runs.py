"""The folder of a run: begun with one set of settings, and continued with the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .checkpoints import write_atomic
from .config import ROWS, Config
from .exceptions import ConfigError

MAY_CHANGE = {"output", "rows", "device"}
OF_ROWS = {"teacher", "student"}
"""Settings that nothing depends on until a row is begun."""


def check_folder(config: Config) -> Path:
    """Make sure that the folder was begun with the same settings; rows may be added, and folders moved.

    Raises:
        ConfigError: it holds a run with other settings; the message lists them.
    """
    folder = Path(config.output)
    file = folder / "config.yaml"
    if not file.exists():
        return folder
    free = MAY_CHANGE if any((folder / row).exists() for row in ROWS) else MAY_CHANGE | OF_ROWS
    before, after = (_flat(yaml.safe_load(text)) for text in (file.read_text(), config.to_yaml()))
    changed = [
        f"{key}: {before.get(key)!r}, now {after.get(key)!r}"
        for key in {**before, **after}
        if key.split(".")[0] not in free and before.get(key) != after.get(key)
    ]
    if changed:
        raise ConfigError(
            f"output: {folder} holds a run with other settings; give another output folder, or delete it. "
            "Changed:\n  " + "\n  ".join(changed)
        )
    return folder


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def begin(config: Config) -> None:
    """Write the settings down, and clear away what a killed run was about to write."""
    folder = Path(config.output)
    for stale in folder.rglob(".*.tmp"):
        stale.unlink(missing_ok=True)
    write_atomic(folder / "config.yaml", config.to_yaml().encode())
