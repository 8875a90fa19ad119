"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

from pml_slade.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(code):
    exec(
        compile(code.replace('"iterations_per_epoch": 100', '"iterations_per_epoch": 25'), "README", "exec"),
        {},
    )


def test_there_are_blocks_to_run():
    assert len(PYTHON) == 2
    assert len(COMMANDS) >= 6


def test_make_targets_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    targets = [command.split()[1] for command in COMMANDS if command.startswith("make ")]
    assert targets == ["demo", "test", "benchmark-smoke"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_commands_use_options_that_exist():
    from typer.main import get_command

    known = get_command(app).commands
    for line in (c for c in COMMANDS if c.startswith("pml-slade ")):
        name, *arguments = line.split()[1:]
        options = {opt for param in known[name].params for opt in param.opts}
        assert {a for a in arguments if a.startswith("-")} <= options, line
