"""The page "Your own method": its code is a row of a table, and is resumed after a kill."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from images import BEST, SMALL

from pml_slade.compat import LEGACY

PAGE = (Path(__file__).parents[1] / "docs" / "own_method.md").read_text()
METHOD, SCRIPT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FEW = [setting for setting in (*SMALL, *BEST) if not setting.startswith("data.")]
KILLED = """
import os, signal, sys
from pml_slade.running import stages
real = stages.Checkpoints.save
def save(self, state, step):
    real(self, state, step)
    if self.folder.parent.name == "triplets":
        os.kill(os.getpid(), signal.SIGKILL)
stages.Checkpoints.save = save
sys.argv = ["pml-slade", *sys.argv[1:]]
from pml_slade.cli import main
main()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the page's module lies, and where its commands are run."""
    (tmp_path / "my_package.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_package", None)


@pytest.mark.skipif(LEGACY, reason="trainings; the parts of a method are tested under both generations")
def test_it_is_a_row_that_is_resumed_after_a_kill(folder):
    command = re.search(r"^pml-slade (train .*)$", PAGE, re.MULTILINE)[1].split()

    def run(output, *start):
        done = subprocess.run(
            [sys.executable, *start, *command, *FEW, "-o", output, "-q"],
            capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"}, check=False,
        )  # fmt: skip
        return done

    unbroken = run("runs/unbroken", "-m", "pml_slade")
    assert unbroken.returncode == 0, unbroken.stderr
    assert "Triplets of pseudo-labels" in unbroken.stdout
    assert run("runs/killed", "-c", KILLED).returncode == -signal.SIGKILL
    assert not (folder / "runs/killed/triplets/result.json").exists()
    resumed = run("runs/killed", "-m", "pml_slade")
    assert resumed.stdout.replace("killed", "unbroken") == unbroken.stdout
    rows = [result["row"] for result in json.loads((folder / "runs/killed/results.json").read_text())]
    assert rows == ["teacher", "control", "triplets", "slade"]
    inputs = json.loads((folder / "runs/killed/triplets/inputs.json").read_text())
    assert inputs["settings"]["methods.triplets.margin"] == 0.2


def test_its_settings_are_checked(folder):
    from pml_slade.exceptions import ConfigError
    from pml_slade.running.loading import load_config

    rows = "rows=[my_package.Triplets]"
    config = load_config("glyphs", [rows, "methods.triplets.weight=2"])
    assert config.own(config.chosen[1]).weight == 2
    assert config.own(load_config("glyphs", [rows]).chosen[1]).margin == 0.1
    assert load_config(None, None, config.model_dump(mode="json")) == config
    for wrong, message in (
        (
            "methods.triplets.margn=1",
            r"methods\.triplets\.margn: unknown key; did you mean methods\.triplets\.margin",
        ),
        ("methods.triplets.margin=-1", r"methods\.triplets\.margin: .*greater than 0"),
        ("rows=[my_package.Triplet]", r"rows: my_package\.Triplet cannot be imported"),
        ("rows=[my_package.Field]", r"rows: my_package\.Field is no subclass"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("glyphs", [rows, wrong])


@pytest.mark.skipif(LEGACY, reason="a training; the parts of a method are tested under both generations")
def test_the_python_of_the_page_runs(folder, capsys):
    few = {
        key: json.loads(value) for key, value in (s.split("=") for s in FEW if s.split("=")[1][0].isdigit())
    }
    exec(SCRIPT.replace('config="glyphs",', f'config="glyphs", progress=False, **{few!r},'), {})
    assert re.search(r"^Triplets of pseudo-labels: \d", capsys.readouterr().out, re.MULTILINE)
