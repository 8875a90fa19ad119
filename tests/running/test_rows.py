"""What a row's folder remembers, and what may be changed, added and taken further because of it."""

import json
import shutil

import numpy as np
import pytest
from images import BEST, drawings, png, small_config, write_images
from PIL import Image

from pml_slade.exceptions import CheckpointError, ConfigError, SladeError
from pml_slade.models import load_model
from pml_slade.running.run import Run

pytestmark = pytest.mark.once


@pytest.fixture
def folders(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def run(folders, tmp_path):
    def run(*overrides, output="run"):
        config = small_config(folders, tmp_path / output, *BEST, *overrides)
        return {r.row: r for r in Run(config, progress=False).run()}

    return run


def model(tmp_path, row, output="run"):
    return (tmp_path / output / row / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("student.min_cluster_size=100", "min_cluster_size=100 leaves no cluster"),
        ("student.lr=1e30", r"SLADE: .* Lower the learning rate"),
    ],
)
def test_a_failed_students_settings_can_be_mended(run, tmp_path, wrong, message):
    with pytest.raises(SladeError, match=message):
        run(wrong, "student.optimizer=SGD")
    teacher = model(tmp_path, "teacher")
    mended = run()
    assert model(tmp_path, "teacher") == teacher
    assert mended == run(output="never failed")
    assert model(tmp_path, "slade") == model(tmp_path, "slade", "never failed")
    assert not (tmp_path / "run" / "slade" / "failed.json").exists()


def test_settings_of_a_row_are_free_until_it_has_begun(run):
    run("rows=[teacher]", "student.lr=0.5")
    assert "slade" in run("student.lr=0.01")


def test_a_row_may_be_added_with_settings_of_its_own(run, tmp_path):
    run("rows=[teacher, slade]")
    slade = model(tmp_path, "slade")
    added = run("rows=[teacher, slade, pseudo]", "methods.pseudo.weight=2")
    assert list(added) == ["teacher", "slade", "pseudo"]
    assert model(tmp_path, "slade") == slade
    with pytest.raises(ConfigError, match=r"methods\.pseudo\.weight: 2\.0, now 3\.0"):
        run("rows=[teacher, slade, pseudo]", "methods.pseudo.weight=3")
    assert "iterated" in run(
        "rows=[teacher, iterated]", "student.lr=0.01"
    )  # rows that it does not name are free
    with pytest.raises(
        ConfigError, match=r"slade was begun with other settings.*Changed: student\.lr: 0\.001, now 0\.01"
    ):
        run("rows=[teacher, slade, iterated]", "student.lr=0.01")


def test_a_finished_row_is_trained_further_as_if_it_had_never_ended(run, tmp_path):
    run()
    teacher = model(tmp_path, "teacher")
    further = run("student.steps=16")
    assert further["slade"].steps == 16
    assert model(tmp_path, "teacher") == teacher
    assert further == run("student.steps=16", output="at once")
    assert model(tmp_path, "slade") == model(tmp_path, "slade", "at once")
    with pytest.raises(ConfigError, match=r"student\.steps: 16, now 8"):
        run()


def test_a_rate_that_has_fallen_is_not_trained_further(run):
    run("student.schedule=cosine")
    with pytest.raises(ConfigError, match=r"student\.steps: 8, now 16"):
        run("student.schedule=cosine", "student.steps=16")


def test_a_teacher_is_not_trained_further_under_its_students(run):
    run()
    with pytest.raises(ConfigError, match="the model that it starts from has other weights now"):
        run("teacher.steps=16")
    assert run("rows=[teacher]", "teacher.steps=16")["teacher"].steps == 16


def replaced(folder):
    """Put another image in the place of one; return its name."""
    file = sorted(p for p in folder.rglob("*") if p.suffix == ".png")[3]
    Image.fromarray(drawings(1, seed=77)[0][0]).save(file)
    return file.name


@pytest.mark.parametrize("part", ["labeled", "unlabeled", "test"])
@pytest.mark.parametrize("change", ["replaced", "added", "removed", "renamed"])
def test_changed_images_are_refused_with_their_names(run, folders, part, change):
    run()
    file = sorted(p for p in folders[part].rglob("*") if p.suffix == ".png")[3]
    if change == "replaced":
        name, what = replaced(folders[part]), r"1 changed \(.*{}\)"
    elif change == "added":
        name, what = "new.png", r"1 new \(.*{}\)"
        (file.parent / name).write_bytes(png(drawings(1, seed=77)[0][0]))
    elif change == "removed":
        name, what = file.name, r"1 gone \(.*{}\)"
        file.unlink()
    else:
        name, what = file.name, r"1 gone \(.*{}\), 1 new \(.*renamed\.png\)"
        file.rename(file.with_name("renamed.png"))
    with pytest.raises(ConfigError, match=f"{part} images: {what.format(name)}"):
        run()


def test_a_changed_pool_leaves_rows_without_a_pool_alone(run, folders):
    first = run("rows=[teacher, control]")
    replaced(folders["unlabeled"])
    assert run("rows=[teacher, control]") == first


def test_images_may_be_moved(run, folders, tmp_path):
    first = run()
    moved = {part: tmp_path / "elsewhere" / part for part in folders}
    for part, folder in folders.items():
        shutil.move(folder, moved[part])
    config = small_config(moved, tmp_path / "run", *BEST)
    assert {r.row: r for r in Run(config, progress=False).run()} == first


def test_a_teacher_is_shared_by_runs(run, tmp_path):
    first = run("rows=[teacher, slade]", output="first")
    shared = run(
        f"teacher.run={tmp_path / 'first'}", "teacher.steps=400", "rows=[slade, pseudo]", output="second"
    )
    assert shared["teacher"] == first["teacher"]
    assert shared["slade"] == first["slade"]
    assert model(tmp_path, "slade", "first") == model(tmp_path, "slade", "second")
    again = run(
        f"teacher.run={tmp_path / 'first'}", "teacher.steps=400", "rows=[slade, pseudo]", output="second"
    )
    assert again == shared


def test_a_teacher_that_does_not_fit_is_refused_before_training(run, folders, tmp_path):
    shared = f"teacher.run={tmp_path / 'first'}"
    with pytest.raises(ConfigError, match=r"teacher\.run: .*first holds no finished teacher"):
        run(shared, output="second")
    run("rows=[teacher]", output="first")
    with pytest.raises(ConfigError, match=r"model\.embedding_size: 8 there, 4 here"):
        run(shared, "model.embedding_size=4", output="second")
    name = replaced(folders["labeled"])
    with pytest.raises(ConfigError, match=rf"labeled images: 1 changed \(.*{name}\)"):
        run(shared, output="second")
    assert not (tmp_path / "second").exists()


def test_a_teacher_of_ones_own_is_not_exchanged_without_a_word(run, tmp_path):
    run("rows=[teacher]", output="first")
    run("rows=[teacher]", "teacher.lr=0.01")
    with pytest.raises(ConfigError, match=r"teacher\.run: False, now True"):
        run("rows=[teacher]", f"teacher.run={tmp_path / 'first'}")


@pytest.mark.parametrize("file", ["inputs.json", "result.json"])
def test_a_damaged_record_is_named_with_the_way_out(run, tmp_path, file):
    run("rows=[teacher]")
    damaged = tmp_path / "run" / "teacher" / file
    damaged.write_text(damaged.read_text()[:-9])
    with pytest.raises(CheckpointError, match=rf"teacher.{file} is damaged .*delete .*teacher"):
        run("rows=[teacher]")


def test_a_damaged_model_is_not_copied(run, tmp_path):
    run("rows=[teacher]")
    file, copy = tmp_path / "run" / "teacher" / "model.safetensors", tmp_path / "run" / "model.safetensors"
    whole = copy.read_bytes()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its SHA-256"):
        run("rows=[teacher]")
    assert copy.read_bytes() == whole
    load_model(copy)


def test_files_of_others_are_left_alone(run, tmp_path):
    theirs = tmp_path / "run" / "other" / ".editor.tmp"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("notes")
    ours = theirs.with_name(f".model.safetensors.{'0' * 32}.tmp")
    ours.write_text("half")
    run("rows=[teacher]")
    assert theirs.exists()
    assert not ours.exists()


def test_the_lists_of_images_are_kept_once(run, tmp_path):
    run()
    kept = {p.name.split("-")[0] for p in (tmp_path / "run" / "images").iterdir()}
    assert kept == {"labeled", "unlabeled", "validation", "test"}
    inputs = json.loads((tmp_path / "run" / "slade" / "inputs.json").read_text())
    assert set(inputs["images"]) == kept
    assert len({np.str_(number) for number in inputs["images"].values()}) == 4
