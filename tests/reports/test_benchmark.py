"""Tables of experiments: what is measured, what the paper says, and how it is written."""

import csv
import io
import math
import struct

import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from pml_slade.exceptions import ConfigError
from pml_slade.reports.benchmark import ablation_table, by_dataset, k_curve, results_table, write_tables
from pml_slade.reports.experiments import Experiment, Run
from pml_slade.reports.paper import ABLATIONS, ROWS
from pml_slade.reports.tables import METRICS, Column, Grid, latex_escape

KEYS = [row.key for row in ROWS]


def experiment(name, *values, dataset="CUB200"):
    """One run per value, the MAP@R of its concatenated embeddings; the separated ones are 5 below."""

    def scores(value):
        return {"MAP@R": value, "RP": value + 10, "P@1": value + 40}

    runs = [Run(name, scores(v - 5), scores(v), scores(v), "tested") for v in values]
    return Experiment(name, dataset, tuple(runs))


def unfinished(name, progress, dataset="CUB200"):
    return Experiment(name, dataset, (Run(name, None, None, None, progress),))


def line(grid, name):
    """Cells of a row as text, by heading."""
    headings = [column.heading for column in grid.columns]
    return dict(zip(headings, grid.texts()[grid.names.index(name)]))


def records(grid):
    return {row["experiment"]: row for row in csv.DictReader(io.StringIO(grid.csv()))}


def test_the_results_table_has_the_papers_rows_and_numbers():
    grid = results_table([experiment("t1", 25.0)])
    assert list(grid.names) == KEYS
    for row in ROWS:
        cells = line(grid, row.key)
        assert [cells[c] for c in ("method", "frwk", "init", "arch/dim")] == [
            row.title,
            row.framework,
            row.init,
            row.arch,
        ]
        for metric in METRICS:
            score = row.published["CUB200"][metric]
            assert cells[f"paper, CUB {metric}"] == ("–" if score is None else f"{score:.2f}")


def test_cars_stand_beside_the_papers_cars():
    cells = line(results_table([experiment("s4", 30.0, dataset="Cars196")]), "s4")
    assert cells["paper, Cars MAP@R"] == "37.98"
    assert "paper, CUB MAP@R" not in cells


def test_a_row_shows_separated_and_concatenated_scores_with_their_intervals():
    values = (30.0, 31.0, 32.5, 29.0)
    grid = results_table([experiment("t1", *values)])
    low, high = stats.t.interval(0.95, 3, loc=stats.tmean(values), scale=stats.sem(values))
    half = (high - low) / 2
    cells = line(grid, "t1")
    assert cells["concatenated MAP@R"] == f"30.62 ± {half:.2f}"
    assert cells["separated P@1"] == f"65.62 ± {half:.2f}"
    assert cells["runs"] == "4"
    record = records(grid)["t1"]
    assert math.isclose(float(record["concatenated RP mean"]), 40.625)
    assert math.isclose(float(record["concatenated RP half interval"]), half, abs_tol=1e-4)
    assert record["concatenated RP n"] == "4"


def test_one_run_has_no_interval():
    grid = results_table([experiment("t1", 30.0)])
    assert line(grid, "t1")["concatenated MAP@R"] == "30.00"
    record = records(grid)["t1"]
    assert (record["concatenated MAP@R half interval"], record["concatenated MAP@R n"]) == ("", "1")


def test_what_has_not_been_run_or_tested_says_so():
    grid = results_table([unfinished("t1", "trained, not tested"), Experiment("s1", "CUB200", ())])
    assert line(grid, "t1")["runs"] == "trained, not tested"
    assert line(grid, "s1")["runs"] == "search not finished"
    assert line(grid, "s2")["runs"] == "not run"
    for name in ("t1", "s1", "s2"):
        assert {line(grid, name)[f"separated {m}"] for m in METRICS} == {"–"}
        assert records(grid)[name]["separated RP n"] == "0"
        assert records(grid)[name]["separated RP mean"] == ""


def test_runs_that_are_not_tested_yet_are_counted():
    done, begun = experiment("t1", 30.0, 31.0), unfinished("t1", "training, fold 1 of 4")
    grid = results_table([Experiment("t1", "CUB200", (*done.runs, *begun.runs))])
    assert line(grid, "t1")["runs"] == "2 of 3"
    assert records(grid)["t1"]["separated RP n"] == "2"


def test_other_experiments_come_last_by_their_name():
    grid = results_table([experiment("mine|x", 20.0), experiment("t1", 30.0), experiment("also", 10.0)])
    assert list(grid.names) == [*KEYS, "mine|x", "also"]
    cells = line(grid, "mine|x")
    assert (cells["method"], cells["init"], cells["paper, CUB RP"]) == ("mine|x", "–", "–")
    assert "| mine\\|x |" in grid.markdown()


def test_other_datasets_have_no_columns_of_the_paper():
    grid = results_table([experiment("t1", 30.0, dataset="Omniglot")])
    headings = [column.heading for column in grid.columns]
    assert headings == [
        "method",
        *(f"{p} {m}" for p in ("separated", "concatenated") for m in METRICS),
        "runs",
    ]


def test_the_caller_says_what_was_trained():
    setups = {"t1": ("random", "ConvNet/512")}
    grid = results_table([experiment("t1", 30.0, dataset="Omniglot")], setups)
    assert [line(grid, "t1")[c] for c in ("init", "arch/dim")] == list(setups["t1"])
    assert [line(grid, "t2")[c] for c in ("init", "arch/dim")] == ["–", "–"]
    grid = results_table([experiment("t1", 30.0)], setups)
    assert [line(grid, "t1")[c] for c in ("init", "arch/dim")] == list(setups["t1"])
    assert [line(grid, "t2")[c] for c in ("init", "arch/dim")] == ["SwAV", "R50/512"]


def test_an_ablation_shows_changes_to_the_line_above_ours_and_the_papers():
    grid = ablation_table("components", [experiment("t2", 20.0, 22.0), experiment("s2_pseudo", 20.5)])
    assert list(grid.names) == ["t2", "s2_pseudo", "s2_basis", "s2"]
    cells = [line(grid, name) for name in grid.names]
    assert [c["ours MAP@R"] for c in cells] == ["21.00 ± 12.71", "20.50", "–", "–"]
    assert [c["ours change"] for c in cells] == ["–", "-0.50", "–", "–"]
    assert [c["paper, CUB change"] for c in cells] == ["–", "+1.52", "+1.64", "+1.14"]
    assert [c["runs"] for c in cells] == ["2", "1", "not run", "not run"]
    assert "paper, CUB RP" not in cells[0]


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("dataset", ["CUB200", "Cars196", "Omniglot"])
def test_an_ablation_stands_beside_the_papers_of_the_same_dataset_or_all(name, dataset):
    grid = ablation_table(name, [experiment("s2", 30.0, dataset=dataset)])
    both = name in ("initialisation", "components")
    wanted = {
        "CUB200": ["CUB"],
        "Cars196": ["Cars"] if both else ["CUB"],
        "Omniglot": ["CUB", "Cars"][: both + 1],
    }
    papers = dict.fromkeys(c.group for c in grid.columns if c.group.startswith("paper"))
    assert list(papers) == [f"paper, {source}" for source in wanted[dataset]]
    for column in grid.columns:
        if column.name == "MAP@R" and column.group.startswith("paper"):
            source = {"paper, CUB": "CUB200", "paper, Cars": "Cars196"}[column.group]
            shown = [line(grid, n)[column.heading] for n in grid.names]
            assert shown == [f"{x.published[source]['MAP@R']:.2f}" for x in ABLATIONS[name].lines]


def test_an_unknown_ablation_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"'basis'.*initialisation, components, regulariser, k"):
        ablation_table("basis", [experiment("s2", 30.0)])


@pytest.mark.parametrize("make", [results_table, k_curve, lambda given: ablation_table("k", given)])
def test_a_table_is_of_one_dataset_and_each_name_stands_once(make):
    with pytest.raises(ConfigError, match=r"\['CUB200', 'Cars196'\]"):
        make([experiment("t1", 30.0), experiment("t2", 30.0, dataset="Cars196")])
    with pytest.raises(ConfigError, match="same name"):
        make([experiment("t1", 30.0), experiment("t1", 30.0)])
    with pytest.raises(ConfigError, match="one dataset"):
        make([])


def test_experiments_are_parted_by_dataset_in_their_order():
    given = [experiment("b", 1.0), experiment("c", 1.0, dataset="Cars196"), experiment("a", 1.0)]
    parted = by_dataset(given)
    assert {k: [e.name for e in v] for k, v in parted.items()} == {"CUB200": ["b", "a"], "Cars196": ["c"]}


def test_csv_has_plain_numbers_and_the_same_columns_whatever_has_been_run():
    none, some = (results_table([experiment("t1", *values)]) for values in ((), (30.0, 32.0)))
    frames = [pd.read_csv(io.StringIO(grid.csv())) for grid in (none, some)]
    assert list(frames[0].columns) == list(frames[1].columns)
    text = {"experiment", "method", "frwk", "init", "arch/dim", "runs"}
    assert all(frames[1][name].dtype.kind in "fi" for name in frames[1].columns if name not in text)
    frame = pd.read_csv(io.StringIO(ablation_table("k", [experiment("s2", 30.0)]).csv()), index_col=0)
    assert frame.loc["s2", "paper, CUB change"] == pytest.approx(0.78)


def test_latex_is_a_booktabs_table_with_as_many_cells_in_every_line():
    given = [experiment("t1", 30.0, 31.0), experiment("my_own 50% & more", 10.0)]
    for grid in (results_table(given), ablation_table("components", [experiment("t2", 30.0)])):
        lines = grid.latex().splitlines()
        body = [text for text in lines if text.endswith(r"\\")]
        assert lines[0].startswith("% ")
        assert [text for text in lines if text.startswith("\\") and "rule" in text and "c" not in text] == [
            r"\toprule",
            r"\midrule",
            r"\bottomrule",
        ]
        for text in body[1:]:
            assert text.replace(r"\&", "").count("&") == len(grid.columns) - 1
        spans = sum(
            int(part.split("{")[1].split("}")[0]) for part in body[0].split("&") if "multicolumn" in part
        )
        assert spans + body[0].count("&") + 1 - body[0].count("multicolumn") == len(grid.columns)
    text = results_table(given).latex()
    assert r"my\_own 50\% \& more" in text
    assert r"30.50 $\pm$ 6.35" in text
    assert "Proxy-Anchor$^1$" in text
    assert r"\cmidrule(lr){5-7}\cmidrule(lr){8-10}\cmidrule(lr){12-14}" in text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a_b", r"a\_b"),
        ("5 % & $x #{1}", r"5 \% \& \$x \#\{1\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("1.0 ± 0.1", r"1.0 $\pm$ 0.1"),
        ("–", "--"),
        ("-0.51", "$-0.51$"),
        ("+ basis", "+ basis"),
        ("[1]", "{[}1]"),
    ],
)
def test_latex_is_escaped(text, written):
    assert latex_escape(text) == written


def shown(grid, width):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    grid.show(console)
    return console.file.getvalue()


def test_a_narrow_terminal_shows_a_group_of_columns_at_a_time():
    grid = results_table([experiment("t1", 30.0, 31.0), experiment("[red]mine", 30.0)])
    wide, narrow = shown(grid, 220), shown(grid, 80)
    assert (wide.count("Results on CUB200, %"), narrow.count("Results on CUB200, %")) == (1, 3)
    assert max(map(len, narrow.splitlines())) <= 80
    for text in (wide, narrow):
        assert "…" not in text
        assert text.count("30.50 ± 6.35") == 1
        assert "25.50 ± 6.35" in text
        assert "[red]mine" in text
        assert "33.59" in text


def test_a_grid_without_groups_is_shown_whole():
    grid = Grid("Title", (Column("a"), Column("b")), ("x",), (("1", "2" * 60),))
    assert shown(grid, 40).count("Title") == 1


def test_files_are_written_for_a_table_and_the_curve_for_k(tmp_path):
    given = [experiment("s2", 30.0, 31.0), experiment("s2_k100", 28.0)]
    paths = write_tables(given, tmp_path / "made")
    assert [path.name for path in paths] == [f"results-CUB200.{e}" for e in ("md", "csv", "tex")]
    grid = results_table(given)
    assert [path.read_text() for path in paths] == [f"{grid.markdown()}\n", grid.csv(), grid.latex()]
    paths = write_tables(given, tmp_path / "made", "k")
    assert [path.name for path in paths] == [f"k-CUB200.{e}" for e in ("md", "csv", "tex", "png")]
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize("names", [["s2_k100", "s2"], ["s2"], ["t1"]])
def test_the_curve_is_a_png_whatever_has_been_run(names):
    png = k_curve([experiment(name, 30.0, 31.0) for name in names])
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert width > 2 * height > 800
