"""Finding images that look like others: the index, `search` in Python and on the command line."""

import csv
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from images import write_model
from typer.testing import CliRunner

import pml_slade
from pml_slade.cli import app
from pml_slade.datasets.glyphs import glyphs_splits
from pml_slade.exceptions import CheckpointError, ConfigError, DataError
from pml_slade.searching import ImageIndex

pytestmark = pytest.mark.once


@pytest.fixture
def command(model):
    """Runs a command with the model; gives what it printed."""

    def run(name, *arguments):
        options = ["--device", "cpu", "--workers", "0", "-q"]
        result = CliRunner(env={"COLUMNS": "250"}).invoke(
            app, [name, str(model), *map(str, arguments), *options], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_search_finds_what_evaluate_counts(trained, folders):
    images = trained.open(folders["test"], labeled=True)
    matches = trained.search(images, images, k=1)
    right = [images.labels[found[0].position] == label for found, label in zip(matches, images.labels)]
    assert 100 * np.mean(right) == pytest.approx(trained.evaluate(images)["P@1"])
    assert trained.search(folders["test"], folders["test"], k=1) == matches


def test_search_finds_for_20_letters_what_evaluate_counts(tmp_path):
    letters = glyphs_splits().test
    for label in range(4):
        for position in np.flatnonzero(letters.labels == label)[:5]:
            file = tmp_path / "letters" / str(label) / f"{position}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            letters.image(int(position)).save(file)
    trained = pml_slade.load(write_model(tmp_path, image_size=28), "cpu", workers=0)
    images = trained.open(tmp_path / "letters", labeled=True)
    files = images.names()
    matches = trained.search(files, tmp_path / "letters", k=1)
    right = [Path(found[0].name).parent == Path(file).parent for found, file in zip(matches, files)]
    assert len(right) == 20
    assert 0 < sum(right) < 20
    assert 100 * np.mean(right) == pytest.approx(trained.evaluate(images)["P@1"])


def test_matches_are_the_largest_cosines(trained, folders):
    paths = sorted(folders["unlabeled"].iterdir())
    cosines = trained.embed(paths[:1]) @ trained.embed(folders["unlabeled"]).T
    cosines[0, 0] = -2  # a query does not find itself
    [found] = trained.search(paths[0], folders["unlabeled"], k=5)
    order = np.argsort(-cosines[0])[:5]
    assert [match.score for match in found] == pytest.approx(cosines[0][order].tolist(), abs=1e-5)
    assert {match.name for match in found} == {str(paths[i]) for i in order}


def test_images_in_memory_are_searched_and_a_copy_is_found(trained):
    images = np.random.default_rng(0).integers(0, 255, (6, 16, 16), dtype=np.uint8)
    [found] = trained.search(images[2:3], images, k=2)
    assert (found[0].name, found[0].position) == ("#2", 2)
    assert found[0].score == pytest.approx(1, abs=1e-5)


def test_an_index_keeps_what_it_knows_and_adds_what_is_new(trained, folders, tmp_path, monkeypatch):
    pool = shutil.copytree(folders["unlabeled"], tmp_path / "pool")
    files = sorted(pool.iterdir())
    ImageIndex.save(trained.index(pool), tmp_path / "index")
    known = ImageIndex.load(tmp_path / "index")
    embedded = []
    embed = trained.embed
    monkeypatch.setattr(trained, "embed", lambda d, n=128: embedded.extend(d.names()) or embed(d, n))
    assert trained.index(pool, known).names == known.names
    assert not embedded
    files[0].unlink()
    shutil.copy(files[2], files[1])
    shutil.copy(files[3], pool / "new.png")
    again = trained.index(pool, known)
    assert sorted(embedded) == sorted([str(files[1]), str(pool / "new.png")])
    assert set(again.names) == {str(file) for file in pool.iterdir()}
    monkeypatch.undo()
    fresh = trained.index(pool)
    for name in (files[1], files[5]):
        assert [m.score for m in trained.search(name, again, 3)[0]] == pytest.approx(
            [m.score for m in trained.search(name, fresh, 3)[0]], abs=1e-5
        )


def test_another_folder_is_added_to_an_index(trained, folders):
    first = trained.index(folders["unlabeled"])
    both = trained.index(folders["test"], first)
    assert len(both) == len(set(both.names)) == 64 + 32


def test_an_index_of_another_model_is_refused(trained, folders, tmp_path):
    other = pml_slade.load(write_model(tmp_path, seed=1), "cpu", workers=0)
    found = other.index(folders["test"])
    with pytest.raises(DataError, match="index: it was made with another model"):
        trained.search(folders["test"], found)
    with pytest.raises(DataError, match="index: it was made with another model"):
        trained.index(folders["test"], found)


def test_ten_thousand_images_are_searched_in_less_than_50_ms():
    vectors = np.random.default_rng(0).normal(size=(10_000, 128))
    index = ImageIndex.of([str(i) for i in range(10_000)], vectors)
    index.search(vectors[:1])
    seconds = []
    for query in vectors[:5]:
        start = time.perf_counter()
        index.search(query[None])
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_a_damaged_or_missing_index_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no index .*pml-slade index RUN FOLDER"):
        ImageIndex.load(tmp_path)
    ImageIndex.of(["a"], np.ones((1, 2))).save(tmp_path)
    whole = (tmp_path / "images.json").read_text()
    (tmp_path / "images.json").write_text(whole[:20])
    with pytest.raises(CheckpointError, match=r"index .* is damaged"):
        ImageIndex.load(tmp_path)
    (tmp_path / "images.json").write_text(whole.replace('"a"', '"a", "b"'))
    with pytest.raises(CheckpointError, match="1 vectors and 2 names"):
        ImageIndex.load(tmp_path)
    (tmp_path / "images.json").write_text(whole)
    (tmp_path / "images.faiss").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"index .* is damaged"):
        ImageIndex.load(tmp_path)


def test_wrong_arguments_are_named(trained, folders):
    with pytest.raises(ConfigError, match="k must be 1 or more, got 0"):
        trained.search(folders["test"], folders["test"], k=0)
    with pytest.raises(DataError, match="embeddings have 3 dimensions, the index has 2"):
        ImageIndex.of(["a"], np.ones((1, 2))).search(np.ones((1, 3)))
    with pytest.raises(DataError, match="embeddings has 1 rows for 2 names"):
        ImageIndex.of(["a", "b"], np.ones((1, 2)))


def test_the_commands_print_and_write_the_same_matches(command, folders, tmp_path):
    query = sorted(folders["unlabeled"].iterdir())[0]
    index = tmp_path / "index"
    assert "64 images in" in command("index", folders["unlabeled"], "-o", index)
    assert "64 images in" in (again := command("index", folders["unlabeled"], "-o", index))
    assert ", 0 of them new" in again
    printed = command("search", query, "--in", folders["unlabeled"], "-k", 3)
    for name in ("out.csv", "out.json", "out.html"):
        command("search", query, "--index", index, "--k", 3, "-o", tmp_path / name)
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], float(row["score"])) for row in rows] == [
        (row["path"], row["score"]) for row in json.loads((tmp_path / "out.json").read_text())
    ]
    page = (tmp_path / "out.html").read_text()
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        assert f"{float(row['score']):.3f}" in printed
        assert row["path"] in printed
        assert row["path"] in page


def test_the_command_says_where_to_search_and_what_it_writes(model, folders, tmp_path):
    (tmp_path / "a.csv").mkdir()
    query = sorted(folders["unlabeled"].iterdir())[0]
    for name, message in (("gone.png", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(ConfigError, match=rf"query .*{message}; give image files"):
            CliRunner().invoke(
                app, ["search", str(model), str(name), "--in", str(tmp_path)], catch_exceptions=False
            )
    for arguments, message in (
        ([], "--in FOLDER or --index INDEX: give one"),
        (["--in", str(folders["test"]), "--index", str(tmp_path)], "give one of them"),
        (["--in", str(folders["test"]), "-o", "out.xls"], r"out\.xls: the name must end with one of \.csv"),
        (["--in", str(folders["test"]), "-o", str(tmp_path / "a.csv")], r"a\.csv is a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, ["search", str(model), str(query), *arguments], catch_exceptions=False)
