"""The teacher of another run: many runs may share one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..datasets.fingerprints import difference, digest
from ..exceptions import ConfigError
from ..methods.teacher import Teacher
from .rows import Inputs, Row, read_list

FREE = ("seed", "tolerance", "epoch_steps", "teacher.")
"""Settings in which a run may differ from the one whose teacher it takes."""


def teacher_file(run: Path) -> Path:
    """The file with a run's teacher."""
    return run / Teacher.key / "model.safetensors"


def check_teacher_of(run: Path, now: Inputs, lists: Mapping[str, list[str]]) -> None:
    """Make sure that a run may take the teacher of another.

    Args:
        run: folder of the other run.
        now: what the teacher's row would be made from here.
        lists: the images behind ``now.images``.

    Raises:
        ConfigError: no finished teacher, one of other images, or one with other settings of images or model.
    """
    row = Row(run, Teacher.key)
    if not row.begun or row.result() is None or not teacher_file(run).exists():
        raise ConfigError(
            f"teacher.run: {run} holds no finished teacher; give the folder of a run that does, or wait for "
            "it."
        )
    before = row.inputs()
    changes = [
        f"{key}: {value!r} there, {now.settings[key]!r} here"
        for key, value in before.settings.items()
        if key in now.settings and not key.startswith(FREE) and now.settings[key] != value
    ]
    if before.images["labeled"] != digest(lists["labeled"]):
        theirs = read_list(run, "labeled", before.images["labeled"])
        how = "other ones" if theirs is None else difference(theirs, lists["labeled"])
        changes.append(f"labeled images: {how}")
    if changes:
        raise ConfigError(
            f"teacher.run: the teacher of {run} does not go with these settings. Change them, or train a "
            "teacher here, without teacher.run: " + "; ".join(changes)
        )
