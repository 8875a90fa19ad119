"""Forgeries of the files of a run's folder, one field at a time, each with a digest that fits."""

import csv
import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from faults.strangers import Evil

from pml_slade.checkpoints import _MAGIC
from pml_slade.models.model_file import read_model_file, write_model_file

DECOY = "decoy"
"""Folder beside the run's, in which nothing may be read or written."""
HUGE = 1 << 40
LONG = 1 << 21


def values(decoy, rng):
    """What a field is replaced by."""
    deep = current = []
    for _ in range(100):
        current.append([])
        current = current[0]
    all_of_them = [
        *(None, True, -1, 0, 1, 10**9, HUGE, -(1 << 63), 1 << 64, 1e308, float("nan"), float("inf"), ""),
        *("x" * LONG, "\0", "\ud800", "evil.Method", "rows", "../../" + DECOY, f"../{DECOY}/notes"),
        *(str(decoy), str(decoy / "notes"), f"file://{decoy}/notes", "http://127.0.0.1:9/evil", "/dev/zero"),
        *([], {}, [[]], {"a": 1}, ["x"] * 10_000, [str(decoy / "notes")], deep),
    ]
    return all_of_them[rng.integers(len(all_of_them))]


@dataclass(frozen=True)
class Forgery:
    """One field of one file, forged.

    Attributes:
        file: relative to the run's folder.
        field: for people.
        value: likewise.
    """

    file: str
    field: str
    value: str

    def __str__(self):
        return f"{self.file}, {self.field[:80]} = {self.value[:60]}"


def forge(run, file, decoy, rng):
    """Forge a field of a file, drawn at random.

    Args:
        run: folder, a copy.
        file: in it.
        decoy: folder that values name.
        rng: draws field and value.
    """
    how = BY_SUFFIX.get(file.suffix, _bytes)
    field, value = how(file, decoy, rng)
    return Forgery(str(file.relative_to(run)), str(field), repr(value)[:200])


def _places(tree, path=()):
    """Paths of all values below a value, the inner ones, too."""
    items = (
        tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    )
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _replaced(tree, path, value):
    if not path:
        return value
    if isinstance(tree, dict):
        return {
            key: _replaced(each, path[1:], value) if key == path[0] else each for key, each in tree.items()
        }
    kept = [_replaced(each, path[1:], value) if i == path[0] else each for i, each in enumerate(tree)]
    return type(tree)(kept)


def _field(tree, decoy, rng):
    """A tree with one of its values forged, or with one more, or another tree."""
    places = [(), *_places(tree)]
    path, value = places[rng.integers(len(places))], values(decoy, rng)
    if rng.random() < 0.1 and isinstance(tree, dict):
        return {**tree, "more": value}, ("more",), value
    return _replaced(tree, path, value), path, value


def _json(file, decoy, rng):
    if rng.random() < 0.05:
        file.write_bytes(b"[" * (1 << 20) if rng.random() < 0.5 else b"[" + b"[]," * (1 << 23) + b"0]")
        return "all", "a bomb"
    tree, path, value = _field(json.loads(file.read_text()), decoy, rng)
    file.write_text(json.dumps(tree))
    return path, value


def _yaml(file, decoy, rng):
    if rng.random() < 0.05:
        laughs = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 12))
        file.write_text([laughs, "rows: !!python/object/apply:os.mkdir [x]\n"][rng.integers(2)])
        return "all", "aliases or tags"
    tree, path, value = _field(yaml.safe_load(file.read_text()), decoy, rng)
    file.write_text(yaml.safe_dump(tree))
    return path, value


def _model(file, decoy, rng):
    meta, tensors = read_model_file(file)
    kind = rng.integers(3)
    if kind == 0:  # the description
        tree, path, value = _field(meta, decoy, rng)
        write_model_file(file, json.dumps(tree), tensors)
        return path, value
    if kind == 1:  # a tensor
        name = list(tensors)[rng.integers(len(tensors))]
        value = [torch.zeros(3), torch.zeros(0), torch.full((2, 2), float("nan")), None][rng.integers(4)]
        kept = {key: tensor for key, tensor in tensors.items() if key != name}
        write_model_file(file, json.dumps(meta), kept if value is None else {**kept, name: value})
        return name, value
    content = file.read_bytes()  # the head of safetensors itself
    (size,) = struct.unpack("<Q", content[:8])
    head, path, value = _field(json.loads(content[8 : 8 + size]), decoy, rng)
    packed = json.dumps(head).encode()
    length = len(packed) if rng.random() < 0.8 else HUGE
    file.write_bytes(struct.pack("<Q", length) + packed + content[8 + size :])
    return path, value


def _checkpoint(file, decoy, rng):
    state = torch.load(file, weights_only=True)
    kind = rng.random()
    if kind < 0.1:
        value, path = Evil(decoy / "made"), "all"
        content = _saved({"trainer": value})
    elif kind < 0.2:
        path, value = "all", "a packed zip"
        content = _packed(_saved({"trainer": torch.zeros(1 << 26)}))
    else:
        tree, path, value = _field(state, decoy, rng)
        if rng.random() < 0.3:
            value = torch.zeros(1).expand(1 << 40)
            tree = _replaced(state, path, value)
        content = _saved(tree)
    file.write_bytes(content + _MAGIC + hashlib.sha256(content).digest())
    return path, value if not isinstance(value, torch.Tensor) else "a tensor of 2**40 values in four bytes"


def _saved(state):
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def _packed(content):
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return packed.getvalue()


def _array(file, decoy, rng):
    kind = rng.integers(4)
    if kind == 0:
        np.save(file, np.array([Evil(decoy / "made")], dtype=object), allow_pickle=True)
        return "dtype", "objects"
    if kind == 1:
        file.write_bytes(pickle.dumps(Evil(decoy / "made")))
        return "all", "a pickle"
    array = np.load(file)
    other = [array[:1], array.astype(np.float64), array[..., None], np.full_like(array, -3)][rng.integers(4)]
    head = io.BytesIO()
    shape = other.shape if kind == 2 else (HUGE, *other.shape[1:])
    np.lib.format.write_array_header_1_0(
        head, {"descr": other.dtype.str, "fortran_order": False, "shape": shape}
    )
    file.write_bytes(head.getvalue() + other.tobytes())
    return "shape and type", (shape, other.dtype)


def _packed_text(file, decoy, rng):
    if rng.random() < 0.3:
        file.write_bytes(gzip.compress(b"\0" * (1 << 28)))
        return "all", "a bomb"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    number, value = rng.integers(len(lines)), str(values(decoy, rng)).encode("utf-8", "replace").decode()
    lines[number] = value
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return f"line {number}", value


def _table(file, decoy, rng):
    rows = list(csv.reader(file.read_text().splitlines()))
    tree, path, value = _field(rows, decoy, rng)
    rows = tree if isinstance(tree, list) else [tree]
    text = "\n".join(",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows)
    file.write_bytes(text.encode("utf-8", "replace"))
    return path, value


def _index(file, decoy, rng):
    content = bytearray(file.read_bytes())
    start = int(rng.integers(48))
    content[start : start + 8] = struct.pack("<q", [HUGE, -1, 0, 3][rng.integers(4)])
    file.write_bytes(content)
    return f"bytes from {start}", "another number"


def _bytes(file, decoy, rng):
    """Of files that are not read, or as text alone."""
    content = [b"", b"\xff" * 100, os.urandom(1000), b"x" * LONG, str(decoy / "notes").encode()][
        rng.integers(5)
    ]
    file.write_bytes(content)
    return "all", content[:20]


BY_SUFFIX = {
    ".json": _json,
    ".yaml": _yaml,
    ".safetensors": _model,
    ".pt": _checkpoint,
    ".npy": _array,
    ".gz": _packed_text,
    ".csv": _table,
    ".faiss": _index,
}


def files_of(run: Path):
    """The files of a run's folder that can be forged, in a fixed order."""
    return sorted(file for file in run.rglob("*") if file.is_file())
