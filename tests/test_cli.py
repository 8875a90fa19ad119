"""The command line, as a person sees it: what it prints, writes and exits with."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from images import PER_CLASS, POOL, SMALL, TEST
from typer.main import get_command
from typer.testing import CliRunner

from pml_slade import cli
from pml_slade.cli.outputs import write_embeddings
from pml_slade.datasets.tables import image_csv
from pml_slade.presets import preset_names
from pml_slade.running.describing import list_settings
from pml_slade.running.loading import load_config
from pml_slade.running.run import Run

POOL_IMAGES, TEST_IMAGES = POOL * PER_CLASS, TEST * PER_CLASS
METRICS = ("MAP@R", "RP", "P@1")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `pml-slade` with arguments; returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pml-slade", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return (code, *capsys.readouterr())

    return run


def train_options(folders, output):
    paths = [(f"--{part}", str(folder)) for part, folder in folders.items()]
    return ["train", *(word for pair in paths for word in pair), "-o", str(output), *SMALL]


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """Folder of a finished run, and what training it printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = CliRunner().invoke(cli.app, [*train_options(folders, folder), "rows=[control, slade]"])
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.mark.parametrize("name", ["embed", "report", "export"])
def test_help_shows_defaults_that_are_told_in_words(command, name):
    options = get_command(cli.app).commands[name].params
    told = [words for option in options for words in re.findall(r"\\\[(default: .*?)\]", option.help or "")]
    code, out, _ = command(name, "--help")
    assert (code, bool(told)) == (0, True)
    assert all(f"[{words}]" in " ".join(out.split()) for words in told)


def test_train_prints_a_table_and_writes_it_as_markdown(trained):
    folder, result = trained
    rows = json.loads((folder / "results.json").read_text())
    text, verdict = (folder / "results.md").read_text().split("\n\n")
    assert verdict.startswith("On 2 validation classes SLADE has ")
    assert verdict in result.stdout
    table = text.splitlines()
    assert table[0] == "| test classes, % | steps | images seen | MAP@R | RP | P@1 |"
    assert len(table) == 2 + len(rows)
    for row, line in zip(rows, table[2:]):
        scores = " | ".join(f"{row['test'][m]:.1f}" for m in METRICS)
        assert line == f"| {row['title']} | {row['steps']} | {row['images']} | {scores} |"
        assert row["title"] in result.stdout
        assert f"{row['test']['MAP@R']:.1f}" in result.stdout
    assert str(folder) in result.stdout


def test_train_takes_folders_and_overrides(trained, folders):
    config = yaml.safe_load((trained[0] / "config.yaml").read_text())
    assert {part: config["data"][part] for part in folders} == {p: str(f) for p, f in folders.items()}
    assert config["rows"] == ["teacher", "control", "slade"]
    assert config["model"]["trunk"] == "convnet"


def test_train_shows_progress_on_standard_error(trained):
    _, result = trained
    assert "SLADE" in result.stderr
    assert "8/8" in result.stderr
    assert "8/8" not in result.stdout


@pytest.mark.once
def test_quiet_prints_results_and_no_progress(folders, tmp_path, command):
    code, out, err = command(*train_options(folders, tmp_path / "run"), "rows=[slade]", "--quiet")
    assert (code, err) == (0, "")
    assert "MAP@R" in out


def test_the_same_command_again_shows_the_same_table(trained, folders, command):
    folder = trained[0]
    before = (folder / "results.md").read_text()
    code, out, err = command(*train_options(folders, folder), "rows=[control, slade]")
    assert code == 0
    assert "Control (labels only)" in out
    assert "8/8" not in err
    assert (folder / "results.md").read_text() == before


@pytest.mark.once
def test_without_test_images_the_table_is_that_of_validation(folders, tmp_path, command):
    given = {part: folders[part] for part in ("labeled", "unlabeled")}
    code, out, _ = command(*train_options(given, tmp_path / "run"), "rows=[teacher]", "-q")
    assert code == 0
    assert "validation classes, %" in out


def test_without_anything_to_measure_the_table_has_dashes(folders, tmp_path, command):
    given = {part: folders[part] for part in ("labeled", "unlabeled")}
    arguments = [*train_options(given, tmp_path / "run"), "rows=[teacher]", "data.validation_fraction=0"]
    assert command(*arguments, "-q")[0] == 0
    assert "| Teacher | 8 | 64 | - | - | - |" in (tmp_path / "run" / "results.md").read_text()


def test_print_config_shows_the_resolved_settings_and_trains_nothing(folders, tmp_path, command):
    arguments = [*train_options(folders, tmp_path / "run"), "student.lr=0.25"]
    code, out, err = command(*arguments, "--print-config")
    assert (code, err) == (0, "")
    file = tmp_path / "config.yaml"
    file.write_text(out)
    assert load_config(file).student.lr == 0.25
    assert load_config(file).data.labeled == folders["labeled"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["2024", "1e5", "run #1", "a: b", "yes", "[old]"])
def test_a_folder_may_have_any_name(folders, command, name):
    code, out, err = command(*train_options(folders, name), "--print-config")
    assert (code, err) == (0, "")
    assert yaml.safe_load(out)["output"] == name


def test_a_config_file_and_a_preset_are_read_and_overrides_win(tmp_path, command):
    file = tmp_path / "mine.yaml"
    file.write_text("data: {kind: glyphs}\nseed: 3\nstudent: {lr: 0.5}\n")
    _, out, _ = command("train", "-c", file, "seed=4", "--print-config")
    assert (yaml.safe_load(out)["seed"], yaml.safe_load(out)["student"]["lr"]) == (4, 0.5)
    for data in set(preset_names()) - {"s2", "best", "paper"}:
        _, out, _ = command("train", "-c", "s2", "-c", data, "--print-config")
        assert yaml.safe_load(out)["output"] == f"runs/{data}"


def refused(result, *words):
    """A refusal for people: exit code 2, the message on standard error, no traceback."""
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err


def test_an_unknown_key_is_refused(folders, tmp_path, command):
    result = command(*train_options(folders, tmp_path / "run"), "student.step=3")
    refused(result, "student.step: unknown key; did you mean student.steps?")
    assert not (tmp_path / "run").exists()


def test_training_without_any_data_says_what_to_give(command):
    refused(command("train"), "data.labeled", "data.unlabeled")


def test_a_missing_folder_of_images_is_named(folders, tmp_path, command):
    refused(command(*train_options({**folders, "test": tmp_path / "gone"}, tmp_path / "run")), "gone")


@pytest.mark.parametrize("name", ["none.yaml", "runs[old].yaml", "[/old].yaml"])
def test_a_missing_config_file_is_named_in_full_with_the_presets(command, name):
    refused(command("train", "-c", name), name, *preset_names())


def test_other_settings_in_the_same_folder_are_refused_with_the_change(trained, folders, command):
    result = command(*train_options(folders, trained[0]), "rows=[control, slade]", "student.lr=0.5")
    refused(result, trained[0], "student.lr: 0.001, now 0.5")


@pytest.mark.parametrize("name", ["embed", "evaluate", "cluster"])
def test_a_missing_model_is_named(folders, tmp_path, command, name):
    options = ["-k", "3"] if name == "cluster" else []
    refused(command(name, tmp_path / "gone.safetensors", folders["test"], *options), "gone.safetensors")


@pytest.mark.parametrize("name", ["embed", "evaluate", "cluster"])
def test_a_device_that_cannot_be_used_is_named(trained, folders, command, name):
    options = ["-k", "3"] if name == "cluster" else []
    result = command(name, trained[0], folders["test"], "--device", "cude", *options)
    refused(result, "cude")


def test_quiet_and_verbose_exclude_each_other(folders, tmp_path, command):
    refused(command(*train_options(folders, tmp_path / "run"), "-q", "-v"), "--quiet", "--verbose")


def test_ctrl_c_says_how_to_go_on(folders, tmp_path, command, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "run", interrupted)
    code, _, err = command(*train_options(folders, tmp_path / "run"))
    assert code == 130
    assert "repeat the command to resume from the last checkpoint" in err
    assert "Traceback" not in err


def test_embed_writes_unit_vectors_and_names_in_order(trained, folders, tmp_path, command):
    file = tmp_path / "made" / "vectors.npz"
    code, out, _ = command("embed", trained[0], folders["unlabeled"], "-o", file)
    assert code == 0
    assert f"{POOL_IMAGES} embeddings of size 8" in out
    with np.load(file) as written:
        assert written["embeddings"].shape == (POOL_IMAGES, 8)
        assert np.allclose(np.linalg.norm(written["embeddings"], axis=1), 1, atol=1e-5)
        names = written["names"].tolist()
    assert names == sorted(str(p) for p in folders["unlabeled"].iterdir())


@pytest.mark.once
def test_embed_takes_a_model_file_and_any_batch_size(trained, folders, tmp_path, command):
    for name, options in (("a", []), ("b", ["--batch-size", "7"])):
        model = trained[0] / "slade" / "model.safetensors"
        assert command("embed", model, folders["test"], "-o", tmp_path / name, "-q", *options)[0] == 0
    first, second = (np.load(tmp_path / name)["embeddings"] for name in ("a", "b"))
    assert np.allclose(first, second, atol=1e-5)


@pytest.mark.once
def test_embed_writes_a_table_that_says_the_same(trained, folders, tmp_path, command):
    for name in ("vectors.npz", "vectors.csv"):
        assert command("embed", trained[0], folders["test"], "-o", tmp_path / name, "-q")[0] == 0
    with (
        np.load(tmp_path / "vectors.npz") as arrays,
        (tmp_path / "vectors.csv").open(encoding="utf-8") as file,
    ):
        header, *rows = csv.reader(file)
        assert header == ["path", *(f"e{i}" for i in range(8))]
        assert [row[0] for row in rows] == arrays["names"].tolist()
        assert np.array_equal(np.array([row[1:] for row in rows], dtype=np.float32), arrays["embeddings"])


@pytest.mark.once
def test_embed_writes_shards_and_goes_on_where_it_stopped(trained, folders, tmp_path, command):
    embed = ("embed", trained[0], folders["unlabeled"], "-q", "-o")
    assert command(*embed, tmp_path / "whole.npz")[0] == 0
    code, out, _ = command(*embed, tmp_path / "part.npz", "--shard", "30")
    assert (code, "written to 3 shards" in out, "already" in out) == (0, True, False)
    files = [tmp_path / f"part-0000{i}.npz" for i in range(3)]
    files[1].unlink()
    kept = [files[i].stat().st_mtime_ns for i in (0, 2)]
    assert "2 of them were there already" in command(*embed, tmp_path / "part.npz", "--shard", "30")[1]
    assert [files[i].stat().st_mtime_ns for i in (0, 2)] == kept
    whole, parts = np.load(tmp_path / "whole.npz"), [np.load(file) for file in files]
    assert np.concatenate([part["names"] for part in parts]).tolist() == whole["names"].tolist()
    assert np.allclose(np.concatenate([p["embeddings"] for p in parts]), whole["embeddings"], atol=1e-5)
    again = (*embed, tmp_path / "part.npz", "--shard")
    refused(command(*again, "7"), "made with other shard", "part.json", "give another name")
    (tmp_path / "part.json").write_text("{")
    refused(command(*again, "30"), "part.json is damaged", "delete it")


@pytest.mark.parametrize("name", ["embed", "cluster"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, command, name):
    options = ["-k", "3"] if name == "cluster" else []
    (tmp_path / "file").touch()
    for output, words in (
        ("e.zip", (".zip", ".csv")),
        ("e.CSV.gz", (".gz", ".csv")),
        (".", ("is a folder",)),
        ("file/e.csv", ("no folder", "e.csv")),
    ):
        refused(command(name, "no model", "no images", "-o", tmp_path / output, *options), "output: ", *words)


def test_the_old_output_stays_when_the_new_one_cannot_be_written(tmp_path):
    file = tmp_path / "e.npz"
    file.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_embeddings(file, np.ones((9, 9), np.float32), ["a"] * 9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("e.npz", "old")]


def test_a_parquet_file_holds_names_and_embeddings(tmp_path):
    pytest.importorskip("pyarrow")
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_embeddings(tmp_path / "e.parquet", vectors, ["a", "caf\udce9"])
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert table["path"].tolist() == ["a", "caf\\udce9"]
    assert np.array_equal(np.stack(table["embedding"]), vectors)


def test_check_names_each_fault_and_says_what_training_would_do(folders, tmp_path, command):
    for folder in sorted(folders["test"].iterdir()):
        (tmp_path / folder.name).mkdir()
        for file in folder.iterdir():
            shutil.copy(file, tmp_path / folder.name / file.name)
    code, out, err = command("check", tmp_path, "-q")
    assert (code, err) == (0, "")
    assert f"{TEST_IMAGES} images in {TEST} classes" in out
    assert "fewer than 10 classes" in out
    first = sorted(tmp_path.glob("*/*"))[0]
    (tmp_path / "alone").mkdir()
    shutil.copy(first, tmp_path / "alone" / first.name)
    (first.parent / "bad.png").write_text("no image")
    code, out, err = command("check", tmp_path, folders["unlabeled"], "-q", "--decode")
    assert (code, err) == (1, "")
    for words in (
        f"unreadable: {first.parent / 'bad.png'}: no image that can be read",
        f"class of one image: alone: {tmp_path / 'alone' / first.name}",
        f"duplicate: {first} = {tmp_path / 'alone' / first.name}",
        "training stops before it begins, since 1 of 34 images",
        f"{folders['unlabeled']}: {POOL_IMAGES} images, 16 x 16 to 24 x 24 pixels",
        "can be the pool",
    ):
        assert words in out


def test_check_refuses_what_holds_no_images(tmp_path, command):
    refused(command("check", tmp_path / "gone"), "gone", "does not exist")
    refused(command("check", tmp_path), "holds no images")


def numbers(out):
    """Numbers of the one line of a printed table."""
    lines = [line for line in out.splitlines() if re.search(r"\d\.\d", line)]
    assert len(lines) == 1
    return [float(n) for n in re.findall(r"[\d.]+", lines[0])]


def test_evaluate_shows_what_training_measured(trained, folders, command):
    code, out, _ = command("evaluate", trained[0] / "slade", folders["test"], "-q")
    assert code == 0
    measured = json.loads((trained[0] / "slade" / "result.json").read_text())["test"]
    assert numbers(out) == [TEST_IMAGES, TEST, *(round(measured[m], 1) for m in METRICS)]


def test_evaluate_searches_a_gallery(trained, folders, command):
    result = command("evaluate", trained[0], folders["test"], "--gallery", folders["labeled"], "-q")
    refused(result, "gallery: none of its classes")
    result = command("evaluate", trained[0], folders["test"], "--gallery", folders["test"], "-q")
    refused(result, "gallery: 32 of its images are queries, too", "would find themselves")


@pytest.mark.once
def test_a_gallery_is_matched_by_class_name_and_not_by_position(trained, folders, tmp_path, command):
    (tmp_path / "a first class").symlink_to(folders["labeled"] / "labeled 00")
    for folder in folders["test"].iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    code, out, _ = command("evaluate", trained[0], folders["test"], "--gallery", tmp_path, "-q")
    assert code == 0
    assert numbers(out)[:2] == [TEST_IMAGES, TEST]
    assert numbers(out)[-1] == 100.0  # each image finds itself first


def test_unlabeled_images_cannot_be_evaluated(trained, folders, command):
    refused(command("evaluate", trained[0], folders["unlabeled"]), "directly in", "one folder per class")


def cluster_csv(command, trained, folders, file, *options):
    assert command("cluster", trained[0], folders["unlabeled"], "-k", 8, "-o", file, *options)[0] == 0
    with file.open() as table:
        return list(csv.DictReader(table))


@pytest.mark.once
def test_cluster_writes_a_list_that_train_reads_as_labeled(trained, folders, tmp_path, command):
    rows = cluster_csv(command, trained, folders, tmp_path / "made" / "clusters.csv")
    assert [row["path"] for row in rows] == sorted(str(p) for p in folders["unlabeled"].iterdir())
    assert {row["label"] for row in rows} == {str(n) for n in range(8)}
    given = {**folders, "labeled": tmp_path / "made" / "clusters.csv"}
    code, _, _ = command(
        *train_options(given, tmp_path / "run"), "rows=[teacher]", "-q", "teacher.batch_size=4"
    )
    assert code == 0
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["data"]["labeled"] == {"images": POOL_IMAGES, "classes": 8}


def test_clusters_are_written_with_paths_that_hold_elsewhere(
    trained, folders, tmp_path, command, monkeypatch
):
    monkeypatch.chdir(folders["unlabeled"].parent)
    relative = {"unlabeled": "unlabeled"}
    rows = cluster_csv(command, trained, relative, tmp_path / "clusters.csv")
    assert all(os.path.isabs(row["path"]) and os.path.isfile(row["path"]) for row in rows)


@pytest.mark.once
def test_what_is_left_out_of_the_clusters_is_no_class_of_its_own(trained, folders, tmp_path, command):
    file = tmp_path / "clusters.csv"
    every = cluster_csv(command, trained, folders, file)
    sizes = np.unique([row["label"] for row in every], return_counts=True)[1]
    cluster_csv(command, trained, folders, file, "--min-cluster-size", sizes.min() + 1)
    data = image_csv(file)
    assert "-1" not in data.classes
    assert data.num_classes == (sizes > sizes.min()).sum()


def test_more_clusters_than_images_are_refused(trained, folders, command):
    refused(command("cluster", trained[0], folders["test"], "-k", 33, "-q"), "num_clusters", 33)


@pytest.mark.once
@pytest.mark.usefixtures("few_letters")
def test_the_demo_needs_no_data_and_says_where_its_run_is(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = [setting for setting in SMALL if not setting.startswith("data.")]
    code, out, err = command("demo", "--seed", 7, "-q", *few, "rows=[teacher]", "teacher.steps=4")
    assert (code, err) == (0, "")
    assert "runs/demo-7" in out
    config = yaml.safe_load((tmp_path / "runs" / "demo-7" / "config.yaml").read_text())
    assert (config["data"]["kind"], config["seed"]) == ("glyphs", 7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "train",
            "--config --labeled --unlabeled --test --output --print-config --quiet --verbose KEY=VALUE",
        ),
        ("demo", "--seed --quiet --verbose KEY=VALUE"),
        ("embed", "--output --shard --device --batch-size --workers --quiet MODEL IMAGES"),
        ("evaluate", "--gallery --device --batch-size --workers --quiet MODEL IMAGES"),
        (
            "cluster",
            "--num-clusters --output --method --seed --min-cluster-size --device --quiet MODEL IMAGES",
        ),
        ("report", "--output --device --batch-size --workers --quiet RUN"),
        ("search", "--in --index --k --output --device --batch-size --workers --quiet MODEL QUERY"),
        ("index", "--output --device --batch-size --workers --quiet MODEL IMAGES"),
        ("export", "--to --output --images --quiet MODEL"),
        ("settings", "WORD"),
    ],
)
def test_help_names_every_option(name, options):
    result = CliRunner().invoke(cli.app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert [option for option in options.split() if option.lower() not in text.lower()] == []


def test_help_lists_the_commands_and_train_the_preset_names():
    result = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "200"})
    groups = re.findall(r"─ ([A-Z][\w ]+) ─", result.stdout)
    assert groups == ["Options", "Train", "See what came of it", "Use a trained model", "Compare experiments"]
    for name in get_command(cli.app).commands:
        assert re.search(rf"│ {name} +\S", result.stdout)
    result = CliRunner().invoke(cli.app, ["train", "--help"], env={"COLUMNS": "200"})
    for preset in preset_names():
        assert preset in result.stdout


def test_settings_are_found_by_words_of_name_and_meaning(command):
    code, out, _ = command("settings", "Whiten", "student")
    assert code == 0
    assert "student.whitening" in out
    assert "model.embedder_whitening" not in out
    assert "divide principal directions of the embeddings" in out
    code, out, _ = command("settings")
    assert all(setting.name in out for setting in list_settings())


def test_a_word_of_no_setting_is_answered_with_the_nearest(command):
    code, _, err = command("settings", "augmentatoin")
    assert code == 2
    assert "none has 'augmentatoin' in its name or meaning. The nearest names: data.augmentation" in err
