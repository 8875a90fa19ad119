"""What is generated is what the code gives."""

import importlib.util
from pathlib import Path

import pytest

from pml_slade.compat import LEGACY

ROOT = Path(__file__).parent.parent


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_what_its_script_writes():
    assert (ROOT / "docs" / "settings.md").read_text() == script("settings").page(), (
        "run: python docs/settings.py"
    )


@pytest.mark.skipif(LEGACY, reason="it is about the classes of PML 2.9")
def test_the_page_of_compatibility_is_what_trying_each_class_gives():
    compatibility = script("compatibility")
    written = (ROOT / "docs" / "compatibility.md").read_text()
    assert written == compatibility.page(), "run: python docs/compatibility.py"
    lines = [line for line in written.splitlines() if line.startswith("| `")]
    assert {f"`{name}`" for name in compatibility.WHY} == {
        line.split(" | ")[0].removeprefix("| ") for line in lines if "| no" in line
    }
    for line in lines:
        assert not ("| no" in line and line.endswith("|  |")), f"unexplained: {line}"
