"""The files of a row are read as a stranger's: what does not fit is refused in one line."""

import gzip
import json
import os
import re

import numpy as np
import pytest

from pml_slade.checkpoints import write_json_atomic
from pml_slade.datasets.fingerprints import digest
from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.running.rows import Inputs, Row, check_run, keep_lists, read_list
from pml_slade.strangers import MOST_BYTES

pytestmark = pytest.mark.once

LINES = ["0\t1\t2\ta.png"]
SOUND = {"settings": {"seed": 0}, "images": {"labeled": digest(LINES)}, "starts_from": None}
FIGURES = {"MAP@R": 1.0, "RP": 2.0, "P@1": 3.0}
RESULT = {
    "row": "slade",
    "title": "SLADE",
    "steps": 8,
    "images": 64,
    "validation": FIGURES,
    "test": None,
    "model": "slade/model.safetensors",
    "validation_classes": [1.0, 0.5],
}
STRANGE = (
    None,
    True,
    -1,
    1e400,
    "x" * 100,
    "../../outside",
    [],
    [[]],
    {},
    {"a": {"b": []}},
    {"MAP@R": "high"},
)


@pytest.fixture
def row(tmp_path):
    row = Row(tmp_path / "run", "slade")
    row.begin(Inputs(**SOUND))
    row.finish(RESULT)
    return row


def read(row):
    """All that is read of a row, or None where it is refused; a refusal is one line with the folder."""
    try:
        return row.inputs(), row.result()
    except CheckpointError as error:
        said = str(error)
    assert str(row.folder) in said
    assert "\n" not in said
    assert len(said) < 1000
    return None


def test_what_was_written_is_what_is_read(row):
    assert read(row) == (Inputs(**SOUND), RESULT)


@pytest.mark.parametrize("name", ["inputs.json", "result.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"settings": {}}',
        b" " * (MOST_BYTES + 1),
        b'{"a": 1' + b"0" * 5000 + b"}",
    ],
    ids=range(9),
)
def test_a_file_of_another_kind_is_refused(row, name, content):
    (row.folder / name).write_bytes(content)
    assert read(row) is None


def test_forged_fields_are_refused_or_harmless(row):
    for name, sound in (("inputs.json", SOUND), ("result.json", RESULT)):
        for key in sound:
            for value in STRANGE:
                (row.folder / name).write_text(json.dumps({**sound, key: value}))
                found = read(row)
                if found is not None:
                    assert type(value) in {type(sound[key]), bool, int, str, type(None), dict}
        (row.folder / name).write_text(json.dumps(sound))


@pytest.mark.parametrize("value", [*STRANGE, "x" * 100_000], ids=range(12))
def test_a_number_of_steps_of_another_kind_is_another_setting(row, value):
    now = {"teacher.steps": 8, "teacher.schedule": "constant"}
    write_json_atomic(row.folder / "inputs.json", SOUND | {"settings": {"teacher.steps": value}})
    if value in (True, -1):  # fewer steps: the row is trained further
        return row.admit(Inputs(now, SOUND["images"]), {})
    with pytest.raises(ConfigError, match="begun with other settings") as caught:
        row.admit(Inputs(now, SOUND["images"]), {})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", -1),
        ("images", 10**400),
        ("validation_classes", [10**400]),
        ("validation", {**FIGURES, "RP": 10**400}),
        ("test", {**FIGURES, "RP": float("nan")}),
    ],
    ids=range(5),
)
def test_numbers_that_no_run_comes_to_are_refused(row, key, value):
    (row.folder / "result.json").write_text(json.dumps({**RESULT, key: value}))
    assert read(row) is None


@pytest.mark.parametrize("name", ["config.yaml", "run.lock", "images/a.gz", "slade", "slade/checkpoints"])
@pytest.mark.parametrize("put", ["file", "folder", "nowhere", "pipe"])
def test_links_out_of_a_run_and_pipes_in_it_are_refused(tmp_path, name, put):
    run, out = tmp_path / "run", tmp_path / "out"
    (run / name).parent.mkdir(parents=True)
    if put == "pipe":
        os.mkfifo(run / name)
    else:
        out.mkdir()
        (out / "file").touch()
        (run / name).symlink_to({"file": out / "file", "folder": out, "nowhere": tmp_path / "no"}[put])
    with pytest.raises(CheckpointError, match=re.escape(str(run / name))):
        check_run(run, ["slade"])


def test_links_within_a_run_and_a_run_that_is_a_link_itself_are_no_strangers(tmp_path):
    run = tmp_path / "run"
    (run / "slade").mkdir(parents=True)
    (run / "slade/model.safetensors").touch()
    (run / "model.safetensors").symlink_to(run / "slade/model.safetensors")
    (run / "notes").symlink_to(tmp_path / "elsewhere")  # none of ours
    (tmp_path / "link").symlink_to(run)
    check_run(run, ["slade"])
    check_run(tmp_path / "link", ["slade", "teacher"])


def test_random_damage_never_ends_in_another_error(row):
    rng = np.random.default_rng(0)
    for name in ("inputs.json", "result.json"):
        whole = (row.folder / name).read_bytes()
        for _ in range(300):
            damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for position in rng.integers(0, len(damaged), 3):
                damaged[position] = rng.integers(256)
            (row.folder / name).write_bytes(damaged)
            read(row)
        (row.folder / name).write_bytes(whole)


@pytest.mark.parametrize("number", ["../../outside", "", "a" * 63, "/etc/passwd", 7])
def test_a_list_is_looked_for_by_a_digest_alone(row, number):
    (row.folder / "inputs.json").write_text(json.dumps({**SOUND, "images": {"labeled": number}}))
    assert read(row) is None


def test_lists_that_are_others_or_grow_without_end_are_not_believed(tmp_path):
    keep_lists(tmp_path, {"labeled": LINES})
    [file] = (tmp_path / "images").iterdir()
    assert read_list(tmp_path, "labeled", digest(LINES)) == LINES
    file.write_bytes(gzip.compress(b"0\t1\t2\tb.png"))
    with pytest.raises(CheckpointError, match="lists other images"):
        read_list(tmp_path, "labeled", digest(LINES))
    file.write_bytes(gzip.compress(bytes(1 << 20)) * 200)
    assert read_list(tmp_path, "labeled", digest(LINES)) is None
