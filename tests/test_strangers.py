"""Files that claim more than they hold are refused before anything is made room for."""

import io
import json
import os
import struct
import zipfile

import faiss
import numpy as np
import pytest
import torch

from pml_slade.datasets.features import read_shard
from pml_slade.exceptions import CheckpointError, ConfigError
from pml_slade.searching import ImageIndex
from pml_slade.strangers import check_file, check_zip, read_bytes, read_json

HUGE = 1 << 40


def test_a_file_is_read_up_to_its_bound(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"12345")
    assert read_bytes(file, 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_bytes(file, 4)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a": 1', ""])
def test_what_is_no_json_is_a_value_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011  the words are json's
        read_json(tmp_path / "a.json")


def test_a_checkpoint_that_is_packed_is_refused_and_a_plain_one_is_not(tmp_path):
    plain, packed = io.BytesIO(), tmp_path / "packed.pt"
    torch.save({"a": torch.zeros(1 << 16)}, plain)
    (tmp_path / "plain.pt").write_bytes(plain.getvalue() + b"a digest")
    check_zip(tmp_path / "plain.pt")
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(ValueError, match="unpack to more"):
        check_zip(packed)
    packed.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="zip"):
        check_zip(packed)


@pytest.mark.parametrize("shape", [(HUGE, 1, 3), (2, 1, 4), (3, 1, 3), (2, 3)])
def test_features_of_another_shape_than_their_list_says_are_refused(tmp_path, shape):
    file = tmp_path / "shard.json"
    file.write_text(json.dumps(["a", "b"]))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f2", "fortran_order": False, "shape": shape})
    file.with_suffix(".npy").write_bytes(head.getvalue() + bytes(48))
    with pytest.raises(ConfigError, match=r"shard\.json is damaged .*delete it"):
        read_shard(file, (1, 3))


@pytest.mark.parametrize(("start", "number"), [(4, HUGE), (8, HUGE), (8, -1), (8, 3), (37, HUGE), (0, 0)])
def test_an_index_that_is_not_as_long_as_it_says_is_refused_before_faiss_reads_it(
    tmp_path, monkeypatch, start, number
):
    ImageIndex.of(["a", "b"], np.eye(2)).save(tmp_path)
    content = bytearray((tmp_path / "images.faiss").read_bytes())
    content[start : start + 8] = struct.pack("<q", number)
    (tmp_path / "images.faiss").write_bytes(content)
    monkeypatch.setattr(faiss, "deserialize_index", None)
    with pytest.raises(CheckpointError, match="is damaged"):
        ImageIndex.load(tmp_path)


@pytest.mark.parametrize("read", [read_bytes, read_json, check_file])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read(tmp_path / "pipe")
