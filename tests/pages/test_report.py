"""The report of a run: what it shows, for images of every kind, and what it says where there are none."""

import html
import json
import re
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from images import BEST, POOL, SMALL, TEST, small_config, splits
from omniglot_tree import write_omniglot
from PIL import Image
from typer.testing import CliRunner

import pml_slade
from pml_slade import api
from pml_slade.cli import app
from pml_slade.exceptions import CheckpointError, ConfigError, DataError
from pml_slade.pages.folder import RunFolder
from pml_slade.pages.report import charts, report_page, summary, table
from pml_slade.reports.tables import cell
from pml_slade.running.loading import load_config
from pml_slade.running.rows import Result
from pml_slade.running.run import Run
from pml_slade.running.verdict import verdict

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    """Folder of a run on image files."""
    output = tmp_path_factory.mktemp("runs") / "files"
    config = small_config(folders, output, "rows=[control,slade]")
    Run(config, progress=False).run()
    return output


def copied(run, tmp_path, name="copy"):
    return shutil.copytree(run, tmp_path / name)


def sections(page):
    return re.findall(r'<h2 id="(\w+)"', page)


ALL = ["results", "curves", "neighbours", "hard", "clusters", "embeddings", "settings"]


def test_the_page_is_one_file_with_every_section(run):
    page = report_page([run], "cpu", 0)
    assert sections(page) == ALL
    assert not re.findall(r"""(?:src|href)=["']?(?!#|data:)[^"'>]+|url\((?!"data:)|@import|https?://""", page)
    assert page.count("<circle") >= TEST * 8
    assert len(page) < 2_000_000
    for result in json.loads((run / "results.json").read_text()):
        assert f'<td class="text">{result["title"]}</td>' in page
        assert f">{result['test']['MAP@R']:.1f}</td>" in page


def test_neighbours_are_marked_as_the_models_find_them(run, folders):
    page = report_page([run], "cpu", 0)
    model = pml_slade.load(run / "slade", "cpu", workers=0)
    images = model.open(folders["test"], labeled=True)
    vectors = model.embed(images)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    right = {}
    for i, row in enumerate(cosines):
        order = np.argsort(-row)
        if row[order[7]] - row[order[8]] > 1e-6:  # else rounding decides which is the eighth
            right[images.name(i)] = int((images.labels[order[:8]] == images.labels[i]).sum())
    cards = re.findall(r'<details class="card".*?</details>', page, re.DOTALL)
    assert len(cards) == 24
    for card in cards:
        name = re.search(r"Query: (.+)</p>", card)[1].replace("<wbr>", "")
        if name not in right:
            continue
        assert f"SLADE: {right[name]} of 8 right" in card
        assert len(re.findall('<figure class="right"', card.split("SLADE:")[1])) == right[name]


def test_clusters_are_those_that_were_learned_from(run):
    page = report_page([run], "cpu", 0)
    labels = np.load(run / "slade" / "pseudo_labels.npy")
    shown = {int(n): int(size) for n, size in re.findall(r"<h3>Cluster (\d+): (\d+) images</h3>", page)}
    assert shown
    for number, size in shown.items():
        assert (labels == number).sum() == size


def test_the_command_writes_the_page_into_the_runs_folder(run, tmp_path):
    folder = copied(run, tmp_path)
    result = CliRunner().invoke(app, ["report", str(folder), "--device", "cpu", "--workers", "0", "-q"])
    assert result.exit_code == 0, result.output
    assert sections((folder / "report.html").read_text()) == ALL
    assert str(folder / "report.html") in result.output.replace("\n", "")


def test_a_run_ends_with_its_report(folders, tmp_path):
    settings = [*SMALL, "rows=[control,slade]", "report=true", f"output={tmp_path / 'run'}"]
    paths = [f"--{part}={folder}" for part, folder in folders.items()]
    result = CliRunner().invoke(app, ["train", *settings, *paths, "-q"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = (tmp_path / "run" / "report.html").read_text()
    assert sections(written) == ALL
    assert written == report_page([tmp_path / "run"], "cpu", 0)
    assert "report.html" in result.output.replace("\n", "")


def test_images_given_in_python_are_in_the_report_of_the_runs_end(tmp_path):
    settings = load_config(None, [*SMALL, *BEST, "data.kind=given", "report=true"]).model_dump(mode="json")
    trained = pml_slade.train(splits=splits(), progress=False, **settings | {"output": str(tmp_path / "run")})
    assert sections(trained.report.read_text()) == ALL


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), DataError("gone"), MemoryError()])
def test_a_report_that_fails_does_not_fail_the_run(tmp_path, monkeypatch, caplog, error):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr(api, "write_report", fails)
    config = small_config({}, tmp_path / "run", "data.kind=given", "rows=[teacher]", "report=true")
    trained = api.train_rows(config, False, splits())
    assert trained.report is None
    assert [result.row for result in trained.results] == ["teacher"]
    assert f"its report could not be written: {type(error).__name__}: {error}" in caplog.text


def test_a_run_without_clusters_shows_neighbours_in_the_pool(folders, tmp_path):
    settings = ("rows=[slade]", "methods.slade.neighbours=true", "student.basis.regularizer=null")
    Run(small_config(folders, tmp_path / "run", *BEST, *settings), progress=False).run()
    page = report_page([tmp_path / "run"], "cpu", 0)
    assert sections(page) == [name if name != "clusters" else "pool" for name in ALL]
    shown = page.split('id="pool"')[1].split("<h2")[0]
    model = pml_slade.load(tmp_path / "run" / "slade", "cpu", workers=0)
    vectors = model.embed(folders["unlabeled"])
    cosines = np.sort(vectors @ vectors.T - 2 * np.eye(len(vectors)), axis=1)[:, ::-1][:, :8]
    closest = cosines[np.argmax(cosines.mean(axis=1))]
    first = shown.split("</h3>")[1].split("</div>")[0]
    assert [float(c) for c in re.findall(r"<figcaption>([\d.-]+)<", first)] == pytest.approx(
        closest, abs=2e-3
    )
    assert shown.count('class="query"') == 3 * 6


def test_several_runs_have_intervals_and_a_curve_each(run, tmp_path):
    other = copied(run, tmp_path)
    results = json.loads((other / "results.json").read_text())
    for result in results:
        result["test"]["MAP@R"] += 3
    (other / "results.json").write_text(json.dumps(results))
    folders = [RunFolder.read(run), RunFolder.read(other)]
    values, controls = ([f.result(row)["test"]["MAP@R"] for f in folders] for row in ("slade", "control"))
    rows = {row["title"]: row for row in table(folders)}
    assert rows["SLADE"]["figures"][0] == (cell(values), pytest.approx(np.mean(values)))
    assert rows["SLADE"]["over"][0].endswith("± 0.0")
    assert rows["Control (labels only)"]["over"] == ("", "")
    assert "mean of 2 runs" in summary(folders)
    gain = cell([value - other for value, other in zip(values, controls)])
    assert f", Control (labels only) {cell(controls)}: a difference of {gain} points" in summary(folders)
    page = report_page([run, other], "cpu", 0)
    assert page.count('class="curve"') == 2 * report_page([run], "cpu", 0).count('class="curve"')


def test_a_curve_ends_at_the_steps_that_were_taken(run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("pml_slade.pages.report.chart", lambda title, lines: drawn.append((title, lines)))
    copy = copied(run, tmp_path)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    for epoch_steps, steps in ((4, [4, 8]), (250, [8, 16])):  # an epoch has no more steps than its row
        (copy / "config.yaml").write_text(yaml.safe_dump(config | {"epoch_steps": epoch_steps}))
        drawn.clear()
        charts([RunFolder.read(copy)])
        assert [[step for step, _ in line.points] for _, lines in drawn for line in lines] == [steps] * 6


def test_the_verdict_comes_first(run, tmp_path):
    results = [Result(**result) for result in json.loads((run / "results.json").read_text())]
    said = html.escape(verdict(results, RunFolder.read(run).config.chosen), quote=False)
    assert said.startswith("On 2 validation classes")
    top = report_page([run], "cpu", 0).split("<nav")[0]
    assert said in html.unescape(top)
    assert summary([RunFolder.read(run)]) in html.unescape(top)
    folder = copied(run, tmp_path)
    (folder / "results.json").write_text(
        json.dumps([{k: v for k, v in asdict(r).items() if k != "validation_classes"} for r in results])
    )
    assert "validation classes" not in report_page([folder], "cpu", 0).split("<nav")[0]


def test_without_test_images_validation_is_shown(folders, tmp_path):
    paths = {part: folder for part, folder in folders.items() if part != "test"}
    Run(small_config(paths, tmp_path / "run", "rows=[teacher]"), progress=False).run()
    page = report_page([tmp_path / "run"], "cpu", 0)
    assert "Results on the validation classes" in page
    assert sections(page) == [name for name in ALL if name != "clusters"]


def test_a_gallery_is_searched(folders, tmp_path):
    gallery, queries = tmp_path / "gallery", tmp_path / "queries"
    for folder in folders["test"].iterdir():
        for i, file in enumerate(sorted(folder.iterdir())):
            to = (gallery if i % 2 else queries) / folder.name
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, to)
    paths = folders | {"test": queries, "gallery": gallery}
    Run(small_config(paths, tmp_path / "run", "rows=[teacher]"), progress=False).run()
    page = report_page([tmp_path / "run"], "cpu", 0)
    assert "of 8 right" in page


def test_omniglot_is_read_again(tmp_path):
    write_omniglot(tmp_path, background=3, evaluation=1)
    config = load_config(
        "omniglot",
        [*SMALL, "data.labeled_alphabets=2", f"data.root={tmp_path}", f"output={tmp_path / 'run'}"],
    )
    Run(config, progress=False).run()
    assert sections(report_page([tmp_path / "run"], "cpu", 0)) == ALL


def test_letters_are_read_again_and_their_clusters_purity_is_known(few_letters, tmp_path):
    config = load_config("glyphs", [*SMALL, f"output={tmp_path / 'run'}", "data.image_size=28"])
    Run(config, progress=False).run()
    page = report_page([tmp_path / "run"], "cpu", 0)
    assert sections(page) == ALL
    assert "of one class" in page


def test_images_given_in_python_leave_a_page_without_images(tmp_path, caplog):
    config = load_config(None, [*SMALL, *BEST, "data.kind=given", f"output={tmp_path / 'run'}"])
    Run(config, progress=False, splits=splits()).run()
    page = report_page([tmp_path / "run"], "cpu", 0)
    assert sections(page) == ["results", "curves", "settings"]
    assert "the images of this run came from Python" in page
    assert "the report is without images" in caplog.text


def test_images_that_have_changed_are_not_shown(run, folders, tmp_path):
    folder = copied(run, tmp_path)
    images = shutil.copytree(folders["test"], tmp_path / "test")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["test"] = str(images)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert sections(report_page([folder], "cpu", 0)) == ALL
    Image.new("L", (9, 9)).save(next(iter(sorted(images.rglob("*.png")))))
    assert "the test images have changed" in report_page([folder], "cpu", 0)
    shutil.rmtree(images)
    assert "does not exist" in report_page([folder], "cpu", 0)


def test_what_is_no_run_is_named(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.yaml: give the folder of a run"):
        report_page([tmp_path])
    with pytest.raises(ConfigError, match="runs: give the folder of one run"):
        report_page([])
    folder = copied(run, tmp_path)
    (folder / "results.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"results\.json is damaged"):
        report_page([folder])


def test_the_numbers_of_the_fixtures_are_what_these_tests_assume():
    assert (POOL, TEST) == (8, 4)
