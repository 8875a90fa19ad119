"""The page "Your own method": its code is a row of a table, and is resumed after a kill."""

import json
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import yaml
from images import BEST, SMALL
from typer.testing import CliRunner

from pml_slade.cli import app
from pml_slade.running import stages

pytestmark = pytest.mark.usefixtures("few_letters")
PAGE = (Path(__file__).parents[1] / "docs" / "own_method.md").read_text()
METHOD, SCRIPT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FEW = [setting for setting in (*SMALL, *BEST) if not setting.startswith("data.")]
FEW.append("data.check_duplicates=false")


def killed_in_the_row(arguments):
    """Run the command in a process that is killed when the row has saved its first checkpoint."""
    save = stages.Checkpoints.save

    def killing(self, state, step):
        save(self, state, step)
        if self.folder.parent.name == "triplets":
            os.kill(os.getpid(), signal.SIGKILL)

    stages.Checkpoints.save = killing
    CliRunner().invoke(app, arguments)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the page's module lies, and where its commands are run."""
    (tmp_path / "my_package.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_package", None)


@pytest.mark.once
def test_it_is_a_row_that_is_resumed_after_a_kill(folder):
    command = [*re.search(r"^pml-slade (train .*)$", PAGE, re.MULTILINE)[1].split(), *FEW, "-q"]
    unbroken = CliRunner().invoke(app, [*command, "-o", "runs/unbroken"])
    assert unbroken.exit_code == 0, unbroken.output
    assert "Triplets of pseudo-labels" in unbroken.output
    killed = multiprocessing.get_context("fork").Process(
        target=killed_in_the_row, args=([*command, "-o", "runs/killed"],)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (folder / "runs/killed/triplets/result.json").exists()
    resumed = CliRunner().invoke(app, [*command, "-o", "runs/killed"])
    assert resumed.output.replace("killed", "unbroken") == unbroken.output
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
        ("rows=[pml_slade.methods.TwoViewsMethod]", r"rows: .*TwoViewsMethod lacks pool_loss"),
        ("rows=[my_package.Field]", r"rows: my_package\.Field is no subclass"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config("glyphs", [rows, wrong])


@pytest.mark.once
def test_the_python_of_the_page_runs(folder, capsys):
    pairs = (setting.split("=") for setting in FEW)
    few = {key: yaml.safe_load(value) for key, value in pairs}
    exec(SCRIPT.replace('config="glyphs",', f'config="glyphs", progress=False, **{few!r},'), {})
    assert re.search(r"^Triplets of pseudo-labels: \d", capsys.readouterr().out, re.MULTILINE)
