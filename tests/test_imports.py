"""Imports run one way, read from the source of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pml_slade
from pml_slade.compat import LEGACY

ROOT = Path(pml_slade.__file__).parent
PACKAGE = "pml_slade"

# A unit imports from the floors before its own, and from no other.
FLOORS = (
    {"exceptions"},
    {"checks", "compat", "faults", "functional", "lazy", "presets", "processes", "stopping", "strangers"},
    {"averages", "checkpoints", "clustering", "distances", "joint_norm", "locks", "numerics"},
    {"datasets", "evaluation", "losses", "miners", "searching"},
    {"models", "runtime", "trainers"},
    {"pretraining"},
    {"methods"},
    {"running"},
    {"recipe", "reports"},
    {"pages"},
    {"api"},
    {"exporting", "serving"},
    {"hub"},
    {"benchmarker"},
    {"cli"},
)
FLOOR_OF = {unit: number for number, floor in enumerate(FLOORS) for unit in floor}
# Rooms of the core know even less: what goes upstream takes these along.
ONLY = {
    "functional": set(),
    "distances": {"functional"},
    "losses": {"functional", "distances", "checks", "exceptions"},
    "miners": {"functional", "compat"},
    "checkpoints": {"exceptions", "strangers"},
    "faults": {"exceptions"},
    "locks": {"exceptions"},
    "joint_norm": {"functional", "processes"},
    "numerics": {"exceptions", "functional"},
    "processes": {"exceptions"},
    "stopping": set(),
    "strangers": set(),
    "clustering": {"checks", "exceptions", "lazy", "processes"},
    "reports": {"checkpoints", "evaluation", "exceptions"},
}
FRONTS = ("__init__", "__main__")


def module_name(path):
    parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(source, module, is_package):
    """Dotted names that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            # `from . import x` names a module, `from .x import y` something in it.
            found |= {f"{base}.{a.name}" if base == PACKAGE else base for a in node.names}
    return found


def unit_of(name):
    """The first level below the package, or None for what is outside."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(module):
    path = MODULES[module]
    return imported(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def units_used(module):
    return {unit_of(name) for name in imports_of(module)} - {None, unit_of(module)}


def violations(module, used):
    """What a module uses that the layout forbids it."""
    unit = unit_of(module)
    if unit in FRONTS:
        return set()
    units = {name for name in used if name in FLOOR_OF}
    above = {name for name in units if FLOOR_OF[name] >= FLOOR_OF[unit]}
    return above | (units - ONLY[unit] if unit in ONLY else set())


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    assert violations(module, units_used(module)) == set()


@pytest.mark.parametrize("module", [m for m in MODULES if unit_of(m) == "functional"])
def test_functional_imports_torch_alone(module):
    outside = {name.split(".")[0] for name in imports_of(module)} - set(sys.stdlib_module_names)
    assert outside == {"torch"}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_benchmarker_imports_powerful_benchmarker(module):
    if unit_of(module) != "benchmarker":
        assert not {n for n in imports_of(module) if n.split(".")[0] == "powerful_benchmarker"}


def test_the_public_names_are_what_the_package_offers():
    assert {"FeatureBasisLoss", "PseudoLabelDataset", "SelfTrainingTrainer", "ThresholdPairMiner"} < set(
        pml_slade.__all__
    )
    assert all(hasattr(pml_slade, name) for name in pml_slade.__all__)
    assert set(pml_slade.__all__) <= set(dir(pml_slade))
    with pytest.raises(AttributeError, match="has no attribute 'SelfTraining'"):
        _ = pml_slade.SelfTraining


def test_every_room_stands_on_a_floor():
    assert {unit_of(module) for module in MODULES} - set(FRONTS) == set(FLOOR_OF)


@pytest.mark.skipif(LEGACY, reason="what PML 0.9.92 needs imports torch")
@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "-h",
        "train --help",
        "report --help",
        "settings whitening",
        "search model query.png",
        "train --nope",
        "train --labeled a --unlabeled b student.step=5",
    ],
)
def test_help_and_bad_arguments_are_answered_without_torch(command):
    code = "import sys; sys.argv = ['pml-slade', *sys.argv[1:]]\nfrom pml_slade.cli import main\n"
    code += "try:\n    main()\nfinally:\n    print('heavy:', {'torch', 'numpy', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)
    assert "heavy: set()" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "module", "is_package", "units"),
    [
        ("from .. import functional", "pml_slade.losses.x", False, {"functional"}),
        ("from ..functional import Moments", "pml_slade.losses.x", False, {"functional"}),
        ("from ..cli.deep import app", "pml_slade.losses.x", False, {"cli"}),
        ("from .x import y", "pml_slade.losses", True, {"losses"}),
        ("from .losses import y", "pml_slade", True, {"losses"}),
        ("from . import losses as l", "pml_slade", True, {"losses"}),
        ("import pml_slade.reports.html as h", "pml_slade.models.x", False, {"reports"}),
        ("from pml_slade import cli", "pml_slade.models.x", False, {"cli"}),
        ("def f():\n    from .trainers import T", "pml_slade.api", False, {"trainers"}),
        ("import torch, os.path", "pml_slade.functional", False, {None}),
    ],
)
def test_this_reader_of_imports_finds_every_form(source, module, is_package, units):
    assert {unit_of(name) for name in imported(source, module, is_package)} == units


@pytest.mark.parametrize(
    ("module", "used"),
    [
        ("pml_slade.functional", "compat"),
        ("pml_slade.losses.a", "miners"),
        ("pml_slade.miners.a", "losses"),
        ("pml_slade.distances.a", "losses"),
        ("pml_slade.datasets.a", "losses"),
        ("pml_slade.clustering", "functional"),
        ("pml_slade.models.a", "trainers"),
        ("pml_slade.checkpoints", "miners"),
        ("pml_slade.trainers.a", "methods"),
        ("pml_slade.methods.a", "running"),
        ("pml_slade.running.a", "api"),
        ("pml_slade.running.a", "reports"),
        ("pml_slade.pages.a", "api"),
        ("pml_slade.running.a", "cli"),
        ("pml_slade.reports.a", "cli"),
    ],
)
def test_an_import_against_the_direction_would_be_found(module, used):
    assert violations(module, {used}) == {used}
