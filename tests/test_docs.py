"""What is generated is what the code gives."""

import importlib.util
import json
import re
from pathlib import Path

import pydantic
import pytest
from packaging.version import Version

from pml_slade.compat import LEGACY
from pml_slade.running.describing import list_settings

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


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    lost = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_setting_has_a_meaning():
    assert [setting.name for setting in list_settings() if not setting.meaning] == []


@pytest.mark.skipif(Version(pydantic.VERSION) < Version("2.11"), reason="older pydantic words it otherwise")
def test_the_schema_for_editors_is_what_its_script_writes():
    schema = json.loads(script("settings").schema())
    kept = json.loads((ROOT / "docs" / "settings.schema.json").read_text())
    assert kept == schema, "run: python docs/settings.py"
    student = schema["$defs"]["StudentConfig"]["properties"]
    assert student["clustering"]["enum"] == ["kmeans", "ward"]
    assert [name for name, section in schema["$defs"].items() if "required" in section] == ["NamedConfig"]
    assert schema["additionalProperties"] is False


@pytest.mark.skipif(LEGACY, reason="it is about the classes of PML 2.9")
def test_the_page_of_compatibility_is_what_trying_each_class_gives():
    page = script("compatibility").page()  # which fails for a "no" that has no reason, or another one
    assert (ROOT / "docs" / "compatibility.md").read_text() == page, "run: python docs/compatibility.py"
    assert "| no" in page
    assert not [line for line in page.splitlines() if "| no" in line and line.endswith("|  |")]
