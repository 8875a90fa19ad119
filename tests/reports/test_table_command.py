"""`pml-slade table`, as a person sees it."""

import re
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pml_slade import cli
from pml_slade.cli import comparing
from pml_slade.reports.benchmark import results_table
from pml_slade.reports.experiments import read_experiments


@pytest.fixture
def table(monkeypatch, capsys):
    """Runs `pml-slade table` with arguments; returns exit code, standard output and standard error."""

    def run(*arguments, terminal=False, width=200):
        monkeypatch.setattr(sys, "argv", ["pml-slade", "table", *map(str, arguments)])
        monkeypatch.setattr(comparing, "console", lambda: Console(width=width, force_terminal=terminal))
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def root(tested, tmp_path):
    """Two experiments on CUB, one with a reproduction, and one on Cars."""
    tested("runs/t2", 28.0)
    tested("runs/t2_reproduction0", 29.0)
    tested("runs/s2", 33.0)
    tested("cars/s2", 36.0, dataset="Cars196")
    return tmp_path


def test_it_prints_markdown_that_can_be_piped_and_writes_nothing(root, table):
    before = sorted(root.rglob("*"))
    code, out, err = table(root / "runs")
    assert (code, err) == (0, "")
    assert out == f"{results_table(read_experiments([root / 'runs'])).markdown()}\n\n"
    assert "| 28.50 ± 6.35 |" in out
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal_it_draws_a_table(root, table, width):
    code, out, _ = table(root / "runs", terminal=True, width=width)
    assert code == 0
    assert "| --: |" not in out
    for text in ("28.50 ± 6.35", "not run", "33.59", "Student's t"):
        assert text in out


def test_every_dataset_has_a_table_and_files_of_its_own(root, table):
    output = root / "made"
    code, out, err = table(root / "runs", root / "cars", "-o", output)
    assert code == 0
    assert re.findall(r"\*\*(.*)\*\*", out) == ["Results on CUB200, %", "Results on Cars196, %"]
    files = {f"results-{dataset}.{e}" for dataset in ("CUB200", "Cars196") for e in ("md", "csv", "tex")}
    assert {path.name for path in output.iterdir()} == files
    assert (output / "results-Cars196.md").read_text() in out
    assert all(str(output / name) in err for name in files)


def test_an_experiment_may_be_given_itself_with_its_reproductions(root, table):
    code, out, _ = table(*sorted((root / "runs").iterdir()))
    assert code == 0
    assert out == table(root / "runs")[1]


@pytest.mark.parametrize("name", ["initialisation", "components", "regulariser", "k"])
def test_it_shows_and_writes_an_ablation(root, table, name):
    code, out, _ = table(root / "runs", "--ablation", name, "--output", root / "made")
    assert code == 0
    assert f", {name}, on CUB200, %" in out
    endings = {path.suffix for path in (root / "made").iterdir() if path.stem == f"{name}-CUB200"}
    assert endings == {".md", ".csv", ".tex"} | ({".png"} if name == "k" else set())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone"], "gone: no such folder"),
        (["runs", "--ablation", "basis"], "'basis'; give one of initialisation, components"),
        (["runs", "--ablation", ""], "''; give one of"),
        (["images"], "neither an experiment"),
    ],
)
def test_what_cannot_work_is_refused_without_a_traceback(root, table, monkeypatch, arguments, words):
    (root / "images").mkdir()
    monkeypatch.chdir(root)
    code, out, err = table(*arguments, "-o", "made")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err
    assert not (root / "made").exists()


def test_help_names_the_options_and_the_ablations():
    result = CliRunner().invoke(cli.app, ["table", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    for word in ("EXPERIMENT", "--ablation", "--output", "initialisation", "components", "regulariser"):
        assert word in text
