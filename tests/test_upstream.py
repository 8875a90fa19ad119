"""The contribution to PML is made from our modules as they are now, and passes its own tests in PML."""

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import pytorch_metric_learning

from pml_slade import FeatureBasisLoss, ThresholdPairMiner
from pml_slade.compat import LEGACY
from pml_slade.distances import BasisSimilarity

if LEGACY:
    pytest.skip("the contribution is to PML 2.9", allow_module_level=True)

UPSTREAM = Path(__file__).parents[1] / "upstream"
PML = Path(pytorch_metric_learning.__file__).parent
NEW = {
    "distances/basis_similarity.py",
    "losses/feature_basis_loss.py",
    "miners/threshold_pair_miner.py",
    "utils/feature_basis.py",
}
LISTS = {"distances/__init__.py", "losses/__init__.py", "miners/__init__.py"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("contribution", UPSTREAM / "contribution.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files(folder):
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*.py")}


def test_what_is_written_is_made_from_our_modules(script, tmp_path):
    script.write(tmp_path)
    assert files(UPSTREAM / "src") == files(tmp_path), "run: python upstream/contribution.py"


def test_nothing_of_pml_changes_but_its_lists(script, tmp_path):
    assert set(script.lay_over(tmp_path)) == NEW | LISTS
    for name in LISTS:
        before, after = ((root / name).read_text().splitlines() for root in (PML, tmp_path / PML.name))
        added = [line for line in after if line not in before]
        assert sorted([*before, *added]) == sorted(after)
        assert len(added) == 1


def test_it_passes_its_tests_in_a_copy_of_pml(script, tmp_path):
    script.lay_over(tmp_path)
    assert script.test(tmp_path) == 0


def test_it_reads_like_pml(script):
    for text in files(UPSTREAM / "src").values():
        assert "pml_slade" not in text
        assert not re.search(r"def .*->|>>>", text)


def test_an_import_that_has_no_counterpart_is_an_error(script):
    with pytest.raises(SystemExit, match="IMPORTS does not say"):
        script.as_theirs("from ..compat import silent_epochs\n")


@pytest.mark.parametrize("kind", [FeatureBasisLoss, ThresholdPairMiner, BasisSimilarity])
def test_the_documentation_has_the_signature_and_every_parameter(kind):
    package = kind.__module__.split(".")[1]
    text = (UPSTREAM / "docs" / f"{package}.md").read_text()
    code = re.search(rf"{package}\.{kind.__name__}\((.*?)\)\n```", text, re.DOTALL).group(1)
    shown = dict.fromkeys(part.strip() for part in code.split(","))
    parameters = {
        n: p for n, p in inspect.signature(kind).parameters.items() if n not in ("kwargs", "distance")
    }
    given = [
        n if p.default is p.empty else f"{n}={p.default!r}".replace("'", '"') for n, p in parameters.items()
    ]
    assert list(shown) == [*given, "**kwargs"]
    for name in parameters:
        assert f"* **{name}**: " in text
