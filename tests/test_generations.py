"""What is left out under another PML: nothing that can reach it, however it is written."""

from pathlib import Path

import pytest
from generations import DIFFERENT, reaches_pml

ROOT = Path(__file__).parents[1]
TESTS = sorted(ROOT.glob("tests/**/test_*.py"))
PACKAGE = {
    "__init__.py": "from .losses import Loss\n__version__ = '1'\ndef __getattr__(name): ...",
    "plain.py": "import torch\ndef plain(): ...",
    "losses/__init__.py": "from .loss import Loss\nfrom ..plain import plain\nNAMES = {'a': Loss}\nSIZE = 3",
    "losses/loss.py": "def f():\n    from pytorch_metric_learning import losses",
    "above.py": "from . import losses\nfrom .losses.loss import Loss",
    "beside.py": "from .losses import plain, SIZE\nfrom .circle import x",
    "circle.py": "import pml_slade.beside as b\nimport importlib",
}
HELPERS = {
    "conftest.py": "from pml_slade.losses import Loss\ndef helper(): return Loss\n"
    "def basis(): return helper()\ndef above(basis): ...\ndef number(): return 3",
    "help.py": "from pml_slade.above import Loss",
    "other.py": "from pml_slade.plain import plain",
}


@pytest.fixture
def reaches(tmp_path):
    for folder, files in (("pml_slade", PACKAGE), ("tests", HELPERS)):
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)

    def written(text):
        file = tmp_path / "tests" / "room" / "test_it.py"
        file.parent.mkdir()
        file.write_text(text)
        return reaches_pml(file, tmp_path)

    return written


@pytest.mark.parametrize(
    "text",
    [
        *(f"import {package}" for package in DIFFERENT),
        "def test():\n    from pytorch_metric_learning.losses import ContrastiveLoss",
        "pytest.importorskip('pytorch_metric_learning.losses')",
        "import pml_slade",
        "from pml_slade import Loss",
        "from pml_slade import made_when_asked_for",
        "from pml_slade import above",
        "from pml_slade.above import anything",
        "import pml_slade.above as a",
        "from pml_slade.losses import *",
        "from pml_slade.losses import NAMES",
        "from pml_slade.losses import made_when_asked_for",
        "from pml_slade import losses",
        "patch.setattr('pml_slade.above.Loss.forward', None)",
        "'''\n>>> from pml_slade.losses import Loss\n'''",
        "from help import Loss",
        "def test(basis): ...",
        "def test(above): ...",
        "import subprocess",
        "from torch import multiprocessing",
        "from importlib.util import find_spec",
        "exec('')",
    ],
)
def test_what_reaches_pml_or_cannot_be_read_runs_everywhere(reaches, text):
    assert reaches(text)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\nmodel.eval()",
        "from pml_slade import plain",
        "from pml_slade import __version__",
        "from pml_slade.plain import plain",
        "from pml_slade.losses import plain, SIZE",
        "from pml_slade.beside import x",
        "patch.setattr('pml_slade.plain.plain.attribute', None)",
        "'''\n>>> from pml_slade.losses import plain\n'''",
        "from other import plain",
        "def test(number): ...",
        "log = 'pml_slade'",
    ],
)
def test_what_does_not_runs_once(reaches, text):
    assert not reaches(text)


def test_both_kinds_are_here():
    assert {reaches_pml(file, ROOT) for file in TESTS} == {True, False}


def test_each_room_that_uses_pml_is_tested_with_both():
    users = {
        f.relative_to(ROOT / "pml_slade").parts[0]
        for f in ROOT.glob("pml_slade/*/**/*.py")
        if any(f"import {p}" in f.read_text() or f"from {p}" in f.read_text() for p in DIFFERENT)
    }
    tested = {file.parent.name for file in TESTS if reaches_pml(file, ROOT)}
    rooms = {file.parent.name for file in TESTS}
    assert users
    assert users & rooms <= tested
