"""Imports run one way, read from the source of every module."""

import ast
import sys
from pathlib import Path

import pytest

import pml_slade

ROOT = Path(pml_slade.__file__).parent
PACKAGE = "pml_slade"

# Anybody may use these.
LEAVES = {"checks", "compat", "exceptions", "evaluation"}
TOPS = {"cli", "benchmarker", "reports"}

# Units that may import these units (and the leaves), and nothing else of the package.
ONLY = {
    "functional": set(),
    "distances": {"functional"},
    "losses": {"functional", "distances"},
    "miners": {"functional", "distances"},
    "trainers": {"functional", "distances", "losses", "miners", "datasets", "clustering"},
    "averages": set(),
    "exceptions": set(),
    "checks": set(),
    "compat": set(),
    "evaluation": {"clustering"},
}
# Units that know none of these.
NEVER = {
    unit: {"functional", "distances", "losses", "miners", "trainers", "pipeline"}
    for unit in ("datasets", "clustering", "models", "checkpoints")
}


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
    bad = used & TOPS if unit not in {*TOPS, "__main__"} else used & {"cli"}
    if unit == "__main__":
        bad = set()
    if unit in ONLY:
        bad = bad | (used - ONLY[unit] - LEAVES)
    return bad | (used & NEVER.get(unit, set()))


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


def test_the_four_public_names_are_what_the_package_offers():
    public = ["FeatureBasisLoss", "PseudoLabelDataset", "SelfTrainingTrainer", "ThresholdPairMiner"]
    assert sorted(pml_slade.__all__) == public
    assert all(hasattr(pml_slade, name) for name in public)


def test_every_room_of_the_core_is_there():
    assert {unit_of(module) for module in MODULES} >= {*ONLY, "datasets", "clustering"}


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
        ("def f():\n    from .trainers import T", "pml_slade.pipeline", False, {"trainers"}),
        ("import torch, os.path", "pml_slade.functional", False, {None}),
    ],
)
def test_this_reader_of_imports_finds_every_form(source, module, is_package, units):
    assert {unit_of(name) for name in imported(source, module, is_package)} == units


@pytest.mark.parametrize(
    ("module", "used"),
    [
        ("pml_slade.functional", "compatible"),
        ("pml_slade.losses.a", "miners"),
        ("pml_slade.miners.a", "losses"),
        ("pml_slade.distances.a", "losses"),
        ("pml_slade.datasets.a", "losses"),
        ("pml_slade.clustering", "functional"),
        ("pml_slade.models.a", "trainers"),
        ("pml_slade.checkpoints", "miners"),
        ("pml_slade.trainers.a", "pipeline"),
        ("pml_slade.trainers.a", "reports"),
        ("pml_slade.pipeline", "cli"),
        ("pml_slade.reports.a", "cli"),
    ],
)
def test_an_import_against_the_direction_would_be_found(module, used):
    assert violations(module, {used}) == {used}
