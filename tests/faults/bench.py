"""The fault bench: what is tried, each in processes of its own, and what they print.

A case is a function that puts a fault in place, runs commands or scripts, makes sure that nothing is wrong or
lost, and returns what a user reads. `make reliability` writes all of these into docs/reliability.md.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from images import SMALL, write_images
from processes import Forked, pml_slade_command, script

TABLES = (
    "Wrong without a word",
    "The pool is embedded by other rules than the labeled images",
    "Lets strangers in",
    "Says it badly",
)
SHORT = ("rows=[teacher]", "teacher.steps=8")
STUDENT = ("rows=[teacher, slade]",)


@dataclass(frozen=True)
class Case:
    """Something that is tried.

    Attributes:
        table: one of `TABLES`.
        kind: of fault.
        tried: for people.
        run: given a bench, tries it; returns what a user reads, in one line.
    """

    table: str
    kind: str
    tried: str
    run: Callable

    @property
    def name(self):
        return re.sub(r"\W+", "-", f"{self.kind} {self.tried}").strip("-")[:80]


CASES: dict[tuple[str, str], Case] = {}
"""By kind and what is tried, since doctest imports a module once more."""


def case(table, kind, tried):
    """Make a function a case."""

    def keep(function):
        CASES[kind, tried] = Case(TABLES[table], kind, tried, function)
        return function

    return keep


class Bench:
    """A folder in which faults are tried, with images and a run that nothing has happened to.

    Args:
        folder: empty.
    """

    def __init__(self, folder):
        self.folder = folder
        self._made = Counter()

    @cached_property
    def images(self):
        """Folders by part; to be left as they are."""
        return write_images(self.folder / "images")

    @cached_property
    def run(self):
        """Folder of a finished run of a teacher and a student; to be left as it is."""
        return self._undisturbed("run", *STUDENT)

    @cached_property
    def teacher(self):
        """Folder of a finished run of a teacher alone; to be left as it is."""
        return self._undisturbed("teacher", *SHORT)

    def _undisturbed(self, name, *settings):
        run = self.folder / name
        self.done(self.train(self.images, run, *settings))
        return run

    def new(self, name="new"):
        """A path where nothing is."""
        self._made[name] += 1
        return self.folder / f"{name}-{self._made[name]}"

    def copy(self, folder):
        """A copy of a folder."""
        return shutil.copytree(folder, self.new(folder.name))

    def copied_images(self):
        """The same images in folders that may be changed."""
        root = self.copy(self.images["labeled"].parent)
        return {part: root / part for part in self.images}

    # What is run

    def command(self, *arguments, **kwargs):
        return Forked(pml_slade_command, *arguments, **kwargs)

    def train(self, folders, run, *settings, **kwargs):
        paths = [word for part, folder in folders.items() for word in (f"--{part}", folder)]
        return self.command("train", *paths, "-o", run, *SMALL, *settings, "-q", **kwargs)

    def python(self, code, **kwargs):
        return Forked(script, code, **kwargs)

    # What came of it

    def refused(self, running, *words, code=2):
        """The one line with which it ended."""
        ended, lines = running.end()
        assert ended == code, (ended, lines)
        assert len(lines) == 1, lines
        self._has(lines[0], words)
        return lines[0]

    def warned(self, running, *words):
        """The one line of warning of what ended well."""
        code, lines = running.end()
        assert code == 0, lines
        assert len(lines) == 1, lines
        assert lines[0].startswith("WARNING: "), lines
        self._has(lines[0], words)
        return lines[0]

    def done(self, running, *words):
        """What it printed, ending well without a warning."""
        code, lines = running.end()
        assert (code, lines) == (0, []), (code, lines)
        self._has(running.out, words)
        return running.out.strip()

    @staticmethod
    def _has(text, words):
        assert [word for word in words if word not in text] == [], text


def weights(run):
    """The bytes of a run's model."""
    return (run / "model.safetensors").read_bytes()


def flip(file, position=-1):
    """Flip a bit of a file."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
