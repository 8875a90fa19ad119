"""The folder of a row: what the row depends on, how far it got, and whether it may go on."""

from __future__ import annotations

import gzip
import logging
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import strangers
from ..checkpoints import write_atomic, write_json_atomic
from ..datasets.fingerprints import difference, digest, list_images
from ..datasets.splits import PARTS, Splits, parts
from ..exceptions import CheckpointError, ConfigError
from ..methods import Method
from .models import build_trunk_input
from .settings import Config

logger = logging.getLogger("pml_slade")

OF_EVERY_ROW = (
    "seed",
    "tolerance",
    "data.image_size",
    "data.mode",
    "data.transform",
    "data.augmentation",
    "data.leave_out_unlike",
    "model.",
)
"""Settings that every row depends on. Where images lie is none of them: the images are compared."""
MOST_LISTED = 1 << 27
"""Bytes of a list of images, unpacked."""
MOST_COUNTED = 1 << 63
"""Steps, or images in them."""
KEY = re.compile(r"\w[\w-]*")
"""Of a row, which is the name of its folder."""
DIGEST = re.compile("[0-9a-f]{64}")
FIGURES = {"MAP@R", "RP", "P@1"}
NONE = type(None)
INPUTS: dict[str, tuple[type, ...]] = {"settings": (dict,), "images": (dict,), "starts_from": (str, NONE)}
RESULT: dict[str, tuple[type, ...]] = {
    "row": (str,),
    "title": (str,),
    "steps": (int,),
    "images": (int,),
    "validation": (dict, NONE),
    "test": (dict, NONE),
    "model": (str,),
    "validation_classes": (list, NONE),
}
"""What the files of a row hold, see `Inputs` and `run.Result`."""
OF_A_RUN = (
    *("config.yaml", "results.json", "environment.json", "model.safetensors", "README.md", "report.html"),
    *("pool.json", "trust.json", "left_out.csv", "run.lock", "images", "pretraining"),
)
"""What lies in a run's folder beside the folders of its rows."""
OURS = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
"""Names of files that a killed run was about to write."""


@dataclass(frozen=True)
class Inputs:
    """What a row is made from.

    Attributes:
        settings: by dotted name.
        images: digest of each part of the images, by name.
        starts_from: digest of the file with the models that it starts from, or None.
    """

    settings: dict[str, Any]
    images: dict[str, str]
    starts_from: str | None = None


@dataclass(frozen=True)
class Result:
    """What one row came to.

    Attributes:
        row: key of its method.
        title: for people.
        steps: optimizer steps, those of the teacher it started from not counted.
        images: training images seen in them.
        validation: MAP@R, RP, P@1 on the validation classes in percent, or None.
        validation_classes: MAP@R of each of these, or None.
        test: likewise on the test classes.
        model: file of the final models, relative to the run's folder.
    """

    row: str
    title: str
    steps: int
    images: int
    validation: dict[str, float] | None
    test: dict[str, float] | None
    model: str
    validation_classes: list[float] | None = None


class Row:
    """The folder of a row.

    Its files are ``inputs.json``, written when it begins, ``failed.json``, where it could not be trained to
    the end, and ``result.json``, written when it is done.

    Args:
        run: folder of the run.
        key: of the row.
    """

    def __init__(self, run: Path, key: str) -> None:
        self.run, self.key, self.folder = run, key, run / key

    @property
    def begun(self) -> bool:
        """Whether anything of it was trained."""
        return (self.folder / "inputs.json").exists()

    def result(self) -> dict[str, Any] | None:
        """What it came to, or None while it is not done."""
        file = self.folder / "result.json"
        if not file.exists():
            return None
        return _checked_result(file, read_json(file))

    def admit(self, now: Inputs, lists: Mapping[str, list[str]]) -> None:
        """Make sure that the row may be begun, or go on, with these inputs.

        A row that failed may be begun again with other settings, and one that is done be trained further.

        Args:
            now: what it would be made from.
            lists: the images behind ``now.images``, see `list_images`.

        Raises:
            ConfigError: it was begun with other settings, images or another teacher; the message lists them.
        """
        if not self.begun:
            return
        before = self.inputs()
        images = [self._changed(part, before, lists) for part in _differing(before.images, now.images)]
        settings = {k: v for k, v in before.settings.items() if k in now.settings and now.settings[k] != v}
        other_start = now.starts_from is not None and before.starts_from not in (None, now.starts_from)
        if self.failed or (not images and not other_start and _is_further(settings, now.settings)):
            return
        changes = [f"{key}: {value!r:.80}, now {now.settings[key]!r}" for key, value in settings.items()]
        if other_start:
            changes.append("the model that it starts from has other weights now")
        if changes or images:
            raise ConfigError(
                f"output: {self.folder} was begun with other {_what(changes, images)}; give another output "
                f"folder, or delete {self.folder} to begin this row again. Changed: "
                + "; ".join([*changes, *images])
            )

    def begin(self, now: Inputs) -> None:
        """Write down what the row is made from, after `admit`.

        What failed with other inputs is cleared away; a row that is to be trained further is done no more.
        """
        if self.begun and self.inputs() != now:
            if self.failed:
                logger.warning("%s failed with other settings or images: it begins again", self.key)
                shutil.rmtree(self.folder)
            elif self.inputs().settings.keys() == now.settings.keys():
                for name in ("result.json", "model.safetensors"):
                    (self.folder / name).unlink(missing_ok=True)
        if not self.begun or self.inputs() != now:
            write_json_atomic(self.folder / "inputs.json", asdict(now))
        (self.folder / "failed.json").unlink(missing_ok=True)

    def is_done_with(self, now: Inputs) -> bool:
        """Whether it is done, and nothing is left to train."""
        if self.result() is None:
            return False
        before = self.inputs().settings
        return all(now.settings.get(key, value) == value for key, value in before.items())

    def finish(self, result: dict[str, Any]) -> None:
        """Write down what it came to."""
        write_json_atomic(self.folder / "result.json", result)

    @property
    def failed(self) -> bool:
        """Whether its training ended with an error."""
        return (self.folder / "failed.json").exists()

    def fail(self, error: Exception) -> None:
        """Write down that it cannot be trained with these settings."""
        write_json_atomic(self.folder / "failed.json", {"error": str(error)})

    def inputs(self) -> Inputs:
        """What it was begun with."""
        file = self.folder / "inputs.json"
        found = read_fields(file, INPUTS)
        for part, number in found["images"].items():
            if part not in PARTS or not isinstance(number, str) or not DIGEST.fullmatch(number):
                raise _damaged(file, f"its images of {part!r:.50} are none")
        return Inputs(found["settings"], found["images"], found["starts_from"])

    def _changed(self, part: str, before: Inputs, lists: Mapping[str, list[str]]) -> str:
        old = before.images.get(part)
        if old is None or part not in lists:
            return f"{part} images: {'there were none' if old is None else 'there are none now'}"
        lines = read_list(self.run, part, old)
        return f"{part} images: {'other ones' if lines is None else difference(lines, lists[part])}"


def row_settings(config: Config, method: Method) -> dict[str, Any]:
    """The settings that a row depends on, by dotted name; those of its teacher are behind `starts_from`."""
    prefixes = [*OF_EVERY_ROW, f"methods.{method.key}."]
    if method.starts_from_teacher:
        prefixes.append("teacher.classifier")
    elif config.pretraining.steps:
        prefixes.append("pretraining.")
    if not method.trains:
        return _chosen(config, prefixes, 1)
    if method.is_teacher and config.teacher.run is not None:
        return _chosen(config, prefixes, 1) | {"teacher.run": True}
    chosen = _chosen(config, [*prefixes, f"{method.stage}."], getattr(config, method.stage).steps)
    return chosen | ({"teacher.run": False} if method.is_teacher else {})


def pretraining_settings(config: Config) -> dict[str, Any]:
    """Likewise, of the stage before the teacher."""
    later = ("tolerance", "data.augmentation", "data.leave_out_unlike", "model.")
    data = [prefix for prefix in OF_EVERY_ROW if prefix not in later]
    trunk = ["model.trunk", "model.weights", "model.trunk_options."]
    return _chosen(config, [*data, *trunk, "pretraining."], config.pretraining.steps)


def list_parts(splits: Splits) -> dict[str, list[str]]:
    """The images of each part, a line each."""
    return {name: list_images(images) for name, images in parts(splits).items()}


def keep_lists(run: Path, lists: Mapping[str, list[str]]) -> None:
    """Write down the images that digests stand for, so that a later run can say which have changed."""
    for part, lines in lists.items():
        file = _list_file(run, part, digest(lines))
        if not file.exists():
            write_atomic(file, gzip.compress("\n".join(lines).encode(), mtime=0))


def read_list(run: Path, part: str, number: str) -> list[str] | None:
    """The images that a digest stands for, or None where they were not written down, or are too many.

    Raises:
        CheckpointError: the list is damaged, or of other images.
    """
    file = _list_file(run, part, number)
    if not file.exists():
        return None
    try:
        strangers.check_file(file)
        with gzip.open(file) as opened:
            content = opened.read(MOST_LISTED + 1)
        if len(content) > MOST_LISTED:
            return None
        lines = content.decode().split("\n")
        if digest(lines) != number:
            raise ValueError("it lists other images")
        return lines
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CheckpointError(f"{file} is damaged ({error}); delete it.") from None


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed run was about to write in a folder of ours, and nothing else."""
    for file in folder.rglob(".*.tmp") if folder.is_dir() else ():
        if OURS.fullmatch(file.name):
            file.unlink(missing_ok=True)


def check_run(run: Path, rows: Iterable[str]) -> None:
    """Make sure that nothing is read from, or written to, a place outside of a run's folder.

    Args:
        run: its folder.
        rows: keys of its rows.

    Raises:
        CheckpointError: there is a link that leads out, or something else than files and folders.
    """
    try:
        strangers.check_folder(run, [*OF_A_RUN, *rows])
    except ValueError as error:
        raise CheckpointError(f"{error}. Put files in its place, or delete it.") from None


def read_json(file: Path) -> Any:
    """Read a JSON file of a run's folder as if a stranger had written it.

    Raises:
        CheckpointError: it is damaged or too large.
    """
    try:
        return strangers.read_json(file)
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from None


def read_results(file: Path) -> list[Result]:
    """Read a run's results.json.

    Raises:
        CheckpointError: it is damaged, or empty.
    """
    found = read_json(file)
    if not isinstance(found, list) or not found:
        raise _damaged(file, "it must list results")
    return [Result(**_checked_result(file, each)) for each in found]


def _checked_result(file: Path, found: Any) -> dict[str, Any]:
    """The fields of a `Result`, which name no other file than a row's model."""
    result = _checked_fields(file, found, RESULT, {"validation_classes": None})
    row, model, by_class = result["row"], result["model"], result["validation_classes"] or []
    if not KEY.fullmatch(row) or not re.fullmatch(rf"{row}/(turn-\d+/)?model\.safetensors", model):
        raise _damaged(file, f"{row!r:.50} is no row with a model of its own")
    numbers = list(by_class)
    for figures in (result["validation"], result["test"]):
        if figures is not None and figures.keys() != FIGURES:
            raise _damaged(file, "its figures are none")
        numbers += [] if figures is None else figures.values()
    if not all(isinstance(value, (int, float)) and 0 <= value <= 100 for value in numbers):
        raise _damaged(file, "its figures are none")
    if not all(0 <= result[count] < MOST_COUNTED for count in ("steps", "images")):
        raise _damaged(file, "its numbers of steps and images are none")
    return result


def read_fields(
    file: Path, kinds: Mapping[str, tuple[type, ...]], newer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        file: of a run's folder.
        kinds: the types that each of its values may have, by key.
        newer: keys that files of before do not have, with what stands for them.

    Raises:
        CheckpointError: it is damaged, too large, or has other keys or values.
    """
    return _checked_fields(file, read_json(file), kinds, newer)


def _checked_fields(
    file: Path, found: Any, kinds: Mapping[str, tuple[type, ...]], newer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    if isinstance(found, dict):
        found = {**(newer or {}), **found}
    if not isinstance(found, dict) or found.keys() != kinds.keys():
        raise _damaged(file, f"it must have {', '.join(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(found[key], kind):
            raise _damaged(file, f"{key} cannot be {found[key]!r:.50}")
    return found


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is damaged ({why}). Restore it from a copy, or delete {file.parent} to begin it again."
    )


def _chosen(config: Config, prefixes: list[str], steps: int) -> dict[str, Any]:
    settings = flat(config.model_dump(mode="json"))
    chosen = {
        k: v
        for k, v in settings.items()
        if any(k == p or (p[-1] == "." and k.startswith(p)) for p in prefixes)
    }
    chosen.pop("model.features", None)  # it may be moved
    expected = build_trunk_input(config)
    return chosen | {
        "epoch_steps": min(config.epoch_steps, steps),
        "model.input": None if expected is None else expected.as_meta(),
    }


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [part for part in {**before, **now} if before.get(part) != now.get(part)]


def _is_further(changed: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether there are more steps and no other change, at a rate that does not depend on their number."""
    if not changed:
        return True
    [key, *others] = changed
    stage, _, name = key.partition(".")
    return (
        not others
        and name == "steps"
        and isinstance(changed[key], int)
        and now[key] > changed[key]
        and now.get(f"{stage}.schedule") == "constant"
        and now.get(f"{stage}.iterations", 1) == 1
    )


def _what(changes: list[str], images: list[str]) -> str:
    return " and ".join(word for word, found in (("settings", changes), ("images", images)) if found)


def _list_file(run: Path, part: str, number: str) -> Path:
    return run / "images" / f"{part}-{number[:16]}.tsv.gz"
