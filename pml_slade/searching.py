"""Which images are nearest to a query: a faiss index with the names of its images."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from .checkpoints import write_atomic, write_json_atomic
from .clustering import checked_embeddings, unit_rows
from .exceptions import CheckpointError, ConfigError, DataError
from .strangers import read_json

VECTORS, NAMES = "images.faiss", "images.json"
FORMAT = 1
NAME_BYTES = 1 << 12
"""Of the file of names for each vector, at most, and 16 times as many for all."""
HEAD = struct.Struct("<4siqqq?iQ")
"""Of faiss' file of a flat index: kind, size, number, two of no use, trained, metric, values."""
KINDS = (b"IxFI", b"IxFl")


@dataclass(frozen=True)
class Match:
    """An image that was found.

    Attributes:
        name: its path, or "#position" for an image in memory.
        score: cosine of its embedding and the query's, 1 at most.
        position: in what was searched.
    """

    name: str
    score: float
    position: int


@dataclass
class ImageIndex:
    """Embeddings of images, their names, and what they were made from.

    Attributes:
        names: of the images, in the order of the vectors.
        vectors: a faiss index of N vectors of unit length, compared by their inner product.
        model: digest of the model file that embedded them; None: not known.
        contents: a key of each image's content, by which a later call sees what is new; empty for images
            that are not kept.

    Examples:
        >>> index = ImageIndex.of(["a.png", "b.png"], np.eye(2))
        >>> index.search(np.array([[3.0, 1.0]]), k=1)
        [[Match(name='a.png', score=0.94868..., position=0)]]
    """

    names: list[str]
    vectors: Any
    model: str | None = None
    contents: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        embeddings: np.ndarray,
        model: str | None = None,
        contents: Sequence[str] = (),
    ) -> ImageIndex:
        """Return an index of embeddings.

        Args:
            names: N.
            embeddings: (N, d), brought to unit length here.
            model: digest of the model file.
            contents: N keys, or none.

        Raises:
            DataError: embeddings that are not finite, or not one for each name.
        """
        unit = unit_rows(checked_embeddings(embeddings)).astype(np.float32)
        if len(unit) != len(names):
            raise DataError(f"embeddings has {len(unit)} rows for {len(names)} names; give one per name.")
        vectors = faiss.IndexFlatIP(unit.shape[1])
        vectors.add(np.ascontiguousarray(unit))
        return cls(list(names), vectors, model, list(contents))

    def __len__(self) -> int:
        return len(self.names)

    def without_changed(self, now: Mapping[str, str]) -> ImageIndex:
        """The part whose files are there and have the content that they had.

        Args:
            now: keys of contents by name; a file that is not among them is taken to be unchanged.
        """
        kept = [
            i
            for i, (name, content) in enumerate(zip(self.names, self.contents))
            if now.get(name, content) == content and os.path.exists(name)
        ]
        part = faiss.IndexFlatIP(self.vectors.d)
        part.add(self.vectors.reconstruct_n(0, len(self))[kept])
        return ImageIndex([self.names[i] for i in kept], part, self.model, [self.contents[i] for i in kept])

    def extended(self, names: Sequence[str], embeddings: np.ndarray, contents: Sequence[str]) -> ImageIndex:
        """This index with further images added at its end; see `of`."""
        added = ImageIndex.of(names, embeddings)
        self.vectors.add(added.vectors.reconstruct_n(0, len(added)))
        return ImageIndex([*self.names, *names], self.vectors, self.model, [*self.contents, *contents])

    def vector(self, position: int) -> np.ndarray:
        """Return the embedding of an image, (1, d), of unit length."""
        found: np.ndarray = self.vectors.reconstruct(position)[None]
        return found

    def search(
        self, embeddings: np.ndarray, k: int = 10, without: Sequence[str | None] | None = None
    ) -> list[list[Match]]:
        """Find the nearest images of each query, the nearest first.

        Args:
            embeddings: (n, d) queries.
            k: how many images to find, at most.
            without: for each query, a name that is not to be found: that of the query itself.

        Raises:
            ConfigError: k below 1.
            DataError: queries of another size than the index.
        """
        if k < 1:
            raise ConfigError(f"k must be 1 or more, got {k}.")
        queries = unit_rows(checked_embeddings(embeddings)).astype(np.float32)
        if queries.shape[1] != self.vectors.d:
            raise DataError(
                f"embeddings have {queries.shape[1]} dimensions, the index has {self.vectors.d}: it was "
                "made with another model; make it again."
            )
        own = [None] * len(queries) if without is None else without
        scores, positions = self.vectors.search(queries, min(k + (without is not None), len(self)))
        return [
            self._matches(row, found, name)[:k]
            for row, found, name in zip(scores, positions, own, strict=True)
        ]

    def _matches(self, scores: np.ndarray, positions: np.ndarray, own: str | None) -> list[Match]:
        return [
            Match(self.names[position], min(float(score), 1.0), int(position))
            for score, position in zip(scores, positions)
            if self.names[position] != own
        ]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `images.faiss`, which faiss reads, and `images.json` into a folder.

        Returns:
            The folder.
        """
        folder = Path(folder)
        write_atomic(folder / VECTORS, faiss.serialize_index(self.vectors).tobytes())
        facts = {"format": FORMAT, "model": self.model, "names": self.names, "contents": self.contents}
        write_json_atomic(folder / NAMES, facts)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> ImageIndex:
        """Read what `save` wrote.

        Raises:
            CheckpointError: there is no index, or a damaged one.
        """
        folder = Path(folder)
        if not (folder / NAMES).is_file() or not (folder / VECTORS).is_file():
            raise CheckpointError(
                f"There is no index {folder}: write one with `pml-slade index RUN FOLDER -o {folder}`."
            )
        try:
            found = _vectors_in(folder / VECTORS)
            facts = _facts(read_json(folder / NAMES, most=(16 + found) * NAME_BYTES))
            if found != len(facts["names"]):
                raise CheckpointError(
                    f"The index {folder} has {found} vectors and {len(facts['names'])} names: writing it "
                    "was stopped halfway; delete it, and write it again."
                )
            vectors = faiss.deserialize_index(np.frombuffer((folder / VECTORS).read_bytes(), np.uint8))
            if not isinstance(vectors, faiss.IndexFlat) or vectors.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise ValueError("it compares otherwise")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"The index {folder} is damaged ({error}); delete it.") from None
        return cls(facts["names"], vectors, facts["model"], facts["contents"])


def _facts(found: Any) -> dict[str, Any]:
    """What `save` wrote beside the vectors: names and contents are as many strings, or no contents."""
    lists = [found[key] for key in ("names", "contents")]
    if not all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in lists):
        raise ValueError("it must list names")
    if lists[1] and len(lists[0]) != len(lists[1]):
        raise ValueError("names and contents differ in number")
    if not isinstance(found["model"], str | None):
        raise ValueError("it must name a model")
    return dict(found)


def _vectors_in(file: Path) -> int:
    """How many vectors a faiss file of `save` has, by its head, before faiss makes room for them.

    Raises:
        ValueError: its length is not that of so many vectors.
    """
    with file.open("rb") as opened:
        head = opened.read(HEAD.size)
    if len(head) < HEAD.size:
        raise ValueError("it is cut short")
    kind, size, number, *_, values = HEAD.unpack(head)
    if kind not in KINDS or size < 1 or number < 0 or values != size * number:
        raise ValueError("it is no flat index")
    if file.stat().st_size != HEAD.size + values * np.dtype(np.float32).itemsize:
        raise ValueError("its length is not that of its vectors")
    return int(number)
