"""The folder of a run: begun with one set of settings, and continued with the same."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml

from .checkpoints import write_atomic
from .config import Config
from .exceptions import ConfigError

MAY_CHANGE = ("output", "rows", "device")


def check_folder(config: Config) -> Path:
    """Make sure that the folder was begun with the same settings; rows may be added, and folders moved.

    Raises:
        ConfigError: it holds a run with other settings; the message lists them.
    """
    folder = Path(config.output)
    file = folder / "config.yaml"
    if not file.exists():
        return folder
    before, after = (
        yaml.safe_dump({k: v for k, v in yaml.safe_load(text).items() if k not in MAY_CHANGE}).splitlines()
        for text in (file.read_text(), config.to_yaml())
    )
    if before != after:
        changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
        raise ConfigError(
            f"output: {folder} holds a run with other settings; give another output folder, or delete it. "
            "Changed:\n  " + "\n  ".join(changed)
        )
    return folder


def begin(config: Config) -> None:
    """Write the settings down, and clear away what a killed run was about to write."""
    folder = Path(config.output)
    for stale in folder.rglob(".*.tmp"):
        stale.unlink()
    write_atomic(folder / "config.yaml", config.to_yaml().encode())
