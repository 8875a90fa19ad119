"""The feature basis as a contribution to pytorch-metric-learning, made from our modules, tested in a copy.

    python upstream/contribution.py           # writes upstream/src
    python upstream/contribution.py --try     # and lays it over a copy of the installed PML and tests it

Our modules are the source: upstream/src holds what they become with PML's imports, without annotations and
examples, which PML has none of. Tests and documentation, which differ in kind, are written by hand.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import libcst as cst
import pytorch_metric_learning

HERE = Path(__file__).parent
PACKAGE = "pytorch_metric_learning"
SOURCES = {
    "functional.py": "utils/feature_basis.py",
    "distances/basis_similarity.py": "distances/basis_similarity.py",
    "losses/feature_basis_loss.py": "losses/feature_basis_loss.py",
    "miners/threshold_pair_miner.py": "miners/threshold_pair_miner.py",
}
EXPORTS = {
    "distances": "from .basis_similarity import BasisSimilarity",
    "losses": "from .feature_basis_loss import FeatureBasisLoss",
    "miners": "from .threshold_pair_miner import ThresholdPairMiner",
}
# Imports as they stand in our modules, and in PML. What is not here stays as it is.
IMPORTS = {
    "from .. import functional": "from ..utils import feature_basis as functional",
    "from ..functional import Moments": "from ..utils.feature_basis import Moments",
    "from ..functional import threshold_masks": "from ..utils.feature_basis import threshold_masks",
    "from ..compat import BaseTupleMiner": "from .base_miner import BaseMiner",
    "from pytorch_metric_learning.distances import BaseDistance": "from .base_distance import BaseDistance",
    "from pytorch_metric_learning.distances import CosineSimilarity": (
        "from ..distances import CosineSimilarity"
    ),
    "from pytorch_metric_learning.losses import BaseMetricLossFunction, WeightRegularizerMixin": (
        "from .base_metric_loss_function import BaseMetricLossFunction\\n"
        "from .mixins import WeightRegularizerMixin"
    ),
    "from pytorch_metric_learning.utils import loss_and_miner_utils as lmu": (
        "from ..utils import loss_and_miner_utils as lmu"
    ),
}
NAMES = {"BaseTupleMiner": "BaseMiner"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--try", action="store_true", dest="trying", help="lay it over a copy of PML, test it"
    )
    args = parser.parse_args()
    write(HERE / "src")
    if args.trying:
        with tempfile.TemporaryDirectory() as folder:
            changed = lay_over(Path(folder))
            print(f"Laid over {PACKAGE} {pytorch_metric_learning.__version__}: {', '.join(changed)}")
            raise SystemExit(test(Path(folder)))


def write(folder: Path) -> None:
    """Write PML's modules, and the lines of its ``__init__`` files, as a source tree."""
    modules = {t: as_theirs((HERE.parent / "pml_slade" / s).read_text()) for s, t in SOURCES.items()}
    for target, text in modules.items():
        file = folder / PACKAGE / target
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(formatted(needed(text, "\n".join(modules.values()))))
    for package, line in EXPORTS.items():
        (folder / PACKAGE / package / "__init__.py").write_text(line + "\n")


def as_theirs(text: str) -> str:
    """A module of ours as PML would have it."""
    for ours, theirs in IMPORTS.items():
        text = re.sub(f"^{re.escape(ours)}$", theirs, text, flags=re.MULTILINE)
    for ours, theirs in NAMES.items():
        text = re.sub(rf"\b{ours}\b", theirs, text)
    text = cst.parse_module(text).visit(Plain()).code
    if foreign := re.findall(
        r"^(?:from|import) (?:\.\.compat|pytorch_metric_learning).*$", text, re.MULTILINE
    ):
        raise SystemExit(f"IMPORTS does not say what becomes of: {foreign}")
    return text


class Plain(cst.CSTTransformer):
    """Takes annotations out, and examples out of docstrings."""

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        """A NamedTuple is made of its annotations."""
        return not any(isinstance(b.value, cst.Name) and b.value.value == "NamedTuple" for b in node.bases)

    def leave_Param(self, original_node: cst.Param, updated_node: cst.Param) -> cst.Param:
        """Parameters."""
        return updated_node.with_changes(annotation=None)

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        """Results."""
        return updated_node.with_changes(returns=None)

    def leave_AnnAssign(
        self, original_node: cst.AnnAssign, updated_node: cst.AnnAssign
    ) -> cst.Assign | cst.RemovalSentinel:
        """Variables."""
        if updated_node.value is None:
            return cst.RemoveFromParent()
        return cst.Assign([cst.AssignTarget(updated_node.target)], updated_node.value)

    def leave_SimpleString(
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.SimpleString:
        """Docstrings; examples come last in them."""
        text = re.sub(r'\n\s*\n\s*Examples:\n.*"""$', '\n"""', updated_node.value, flags=re.DOTALL)
        return updated_node.with_changes(value=text)


def needed(text: str, everything: str) -> str:
    """Leave out a module's functions that nothing in the contribution calls."""
    module = cst.parse_module(text)

    def called(name: str) -> bool:  # beside where it is defined
        return len(re.findall(rf"\b{name}\(", everything)) > 1

    kept = [part for part in module.body if not isinstance(part, cst.FunctionDef) or called(part.name.value)]
    return module.with_changes(body=kept).code


def formatted(text: str) -> str:
    """As PML's black and isort leave it; names that are not needed any more are not imported."""
    for command in (
        ["check", "--select", "F401,I", "--fix-only", "--quiet"],
        ["format", "--line-length", "88"],
    ):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--stdin-filename", "module.py", "-"]
        text = subprocess.run(ruff, input=text, text=True, check=True, capture_output=True).stdout
    return text


def lay_over(folder: Path) -> list[str]:
    """Copy the installed PML, put the contribution over it, and say which files that changes."""
    theirs = Path(pytorch_metric_learning.__file__).parent
    ours, tree = HERE / "src" / PACKAGE, folder / PACKAGE
    shutil.copytree(theirs, tree, ignore=shutil.ignore_patterns("__pycache__"))
    for file in sorted(ours.rglob("*.py")):
        target = tree / file.relative_to(ours)
        if file.name == "__init__.py":
            lines = [*target.read_text().splitlines(), *file.read_text().splitlines()]
            target.write_text("\n".join(sorted(lines)) + "\n")
        else:
            if target.exists():
                raise SystemExit(f"{target.relative_to(folder)} is a module of PML already.")
            shutil.copy(file, target)
    shutil.copytree(HERE / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    return [
        str(file.relative_to(tree))
        for file in sorted(tree.rglob("*.py"))
        if not (same := theirs / file.relative_to(tree)).exists() or not filecmp.cmp(file, same, False)
    ]


def test(folder: Path) -> int:
    """Run the tests in the copy, as PML runs its own, with and without collected statistics."""
    for collect in ("false", "true"):
        environment = {**os.environ, "PYTHONPATH": str(folder), "WITH_COLLECT_STATS": collect}
        command = [sys.executable, "-m", "unittest", "discover", "-s", "tests", "-t", "."]
        done = subprocess.run(command, cwd=folder, env=environment)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    main()
