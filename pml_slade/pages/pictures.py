"""The part of a report that shows images: neighbours, classes, clusters and a map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..clustering import unit_rows
from ..datasets.images import ImageDataset
from ..datasets.splits import shared_labels
from ..exceptions import CheckpointError, DataError
from ..methods import find_method
from .folder import RunFolder
from .maps import plane
from .retrieval import Retrieval, by_class, confusions, retrieve
from .sources import Source
from .thumbnails import Thumbnails

QUERIES, NEIGHBOURS = 24, 8
HARDEST, PAIRS, OF_A_CLASS = 30, 16, 4
CLUSTERS, OF_A_CLUSTER = 12, 12
OF_A_GROUP = 6
"""Images of the pool that are shown with their neighbours: the closest, the most doubtful, some at random."""
MOST_OF_POOL = 5_000
"""Images of the pool that are embedded; of a larger one, whole clusters are drawn at random."""
ON_THE_MAP, CLASSES_ON_THE_MAP = 700, 40


@dataclass(frozen=True)
class Seen:
    """Queries and gallery, and what two models find.

    Attributes:
        queries: images.
        gallery: what they are searched in; the queries themselves where there is no other.
        labels: of the queries.
        theirs: of the gallery.
        classes: names, by label.
        before: what the teacher finds.
        after: what the model that is looked at finds.
        embeddings: of the queries, by that model.
    """

    queries: ImageDataset
    gallery: ImageDataset
    labels: np.ndarray
    theirs: np.ndarray
    classes: list[str]
    before: Retrieval
    after: Retrieval
    embeddings: np.ndarray

    @cached_property
    def gain(self) -> np.ndarray:
        """Average precision of each query after, less before, in points; NaN where nothing can be found."""
        return 100 * (self.after.precision - self.before.precision)


class Pictures:
    """Computes what a report shows of a run's images.

    Args:
        run: its folder.
        source: its images, and its models.
    """

    def __init__(self, run: RunFolder, source: Source) -> None:
        self.run, self.source, self.splits = run, source, source.splits
        self.thumbnails = Thumbnails()

    @cached_property
    def seen(self) -> Seen:
        """What is found among the images that the results are about."""
        queries: ImageDataset | None = getattr(self.splits, self.run.part)
        if queries is None:
            raise DataError("this run has neither test nor validation images.")
        gallery = self.splits.gallery if self.run.part == "test" else None
        labels, theirs = shared_labels(queries, gallery or queries)
        names = _names(queries, labels) | _names(gallery or queries, theirs)
        found, vectors = [], np.zeros(0)
        for result in (self.run.before, self.run.after):
            vectors = self.source.embed(result["model"], queries)
            others = None if gallery is None else self.source.embed(result["model"], gallery)
            found.append(retrieve(vectors, labels, others, None if gallery is None else theirs))
        classes = [names[label] for label in range(len(names))]
        before, after = found
        return Seen(queries, gallery or queries, labels, theirs, classes, before, after, vectors)

    def queries(self) -> list[dict[str, Any]]:
        """Queries with their neighbours: those that gained and lost most, and some at random."""
        seen = self.seen
        return [
            {
                "picture": self.thumbnails.of(seen.queries, i),
                "class": seen.classes[seen.labels[i]],
                "name": seen.queries.name(i),
                "gain": round(float(seen.gain[i]), 1),
                "before": self._neighbours(seen.before, i),
                "after": self._neighbours(seen.after, i),
                "kind": kind,
            }
            for i, kind in _chosen(seen.gain, seen.labels)
        ]

    def _neighbours(self, found: Retrieval, query: int) -> list[dict[str, Any]]:
        seen = self.seen
        return [
            {
                "picture": self.thumbnails.of(seen.gallery, position),
                "class": seen.classes[seen.theirs[position]],
                "score": float(score),
                "right": bool(right),
            }
            for position, score, right in zip(
                found.positions[query, :NEIGHBOURS].tolist(), found.scores[query], found.right[query]
            )
        ]

    def classes(self) -> list[dict[str, Any]]:
        """The classes that are hardest to retrieve, the hardest first."""
        seen, number = self.seen, len(self.seen.classes)
        before = 100 * by_class(seen.before.precision, seen.labels, number)
        after = 100 * by_class(seen.after.precision, seen.labels, number)
        mistaken: dict[int, int] = {}
        for pair in confusions(seen.after, seen.labels, seen.theirs, 10 * number):
            mistaken.setdefault(pair.first, pair.second)
            mistaken.setdefault(pair.second, pair.first)
        order = [label for label in np.argsort(after, kind="stable").tolist() if not np.isnan(after[label])]
        return [
            {
                "name": seen.classes[label],
                "pictures": self._of_class(label),
                "images": int((seen.labels == label).sum()),
                "before": float(before[label]),
                "after": float(after[label]),
                "mistaken": seen.classes[mistaken[label]] if label in mistaken else "",
            }
            for label in order[:HARDEST]
        ]

    def pairs(self) -> list[dict[str, Any]]:
        """The pairs of classes that are taken for each other most often."""
        seen = self.seen
        return [
            {
                "names": [seen.classes[label] for label in (pair.first, pair.second)],
                "pictures": [self._of_class(label) for label in (pair.first, pair.second)],
                "share": 100 * pair.share,
            }
            for pair in confusions(seen.after, seen.labels, seen.theirs, PAIRS)
        ]

    def _of_class(self, label: int) -> list[Any]:
        images = np.flatnonzero(self.seen.labels == label)[:OF_A_CLASS].tolist()
        if images:
            return [self.thumbnails.of(self.seen.queries, i) for i in images]
        others = np.flatnonzero(self.seen.theirs == label)[:OF_A_CLASS].tolist()
        return [self.thumbnails.of(self.seen.gallery, i) for i in others]

    def neighbourhoods(self) -> dict[str, Any] | None:
        """Images of the pool with their neighbours there; None for a row that did not learn from these."""
        if not find_method(self.run.after["row"]).uses_pool or self._labels_file.is_file():
            return None
        pool = self.source.pool
        looked_at = np.random.default_rng(0).permutation(len(pool))[:MOST_OF_POOL]
        vectors = self.source.embed(self.run.after["model"], pool.subset(looked_at))
        found = retrieve(vectors, np.zeros(len(looked_at), dtype=np.int64))
        order = np.argsort(-found.scores[:, :NEIGHBOURS].mean(axis=1), kind="stable")
        groups = {"Closest": order, "Most doubtful": order[::-1], "At random": np.arange(len(order))}
        few = {title: part[:OF_A_GROUP].tolist() for title, part in groups.items()}

        def shown(i: int) -> dict[str, Any]:
            near = zip(found.positions[i, :NEIGHBOURS].tolist(), found.scores[i].tolist())
            return {
                "picture": self.thumbnails.of(pool, int(looked_at[i])),
                "found": [(self.thumbnails.of(pool, int(looked_at[j])), score) for j, score in near],
            }

        return {
            "looked_at": len(looked_at),
            "groups": {title: [shown(i) for i in part] for title, part in few.items()},
        }

    @property
    def _labels_file(self) -> Path:
        """The clusters that the row learned from, if it learned from any."""
        return (self.run.folder / self.run.after["model"]).parent / "pseudo_labels.npy"

    def clusters(self) -> dict[str, Any] | None:
        """The pool's tightest and most doubtful clusters; None for a run that has none."""
        file, pool = self._labels_file, self.source.pool
        if not file.is_file():
            return None
        try:
            labels = np.array(np.load(file, mmap_mode="r"))
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); delete it.") from None
        if labels.ndim != 1 or labels.dtype.kind != "i":
            raise CheckpointError(f"{file} is damaged: labels are whole numbers; delete it.")
        if len(labels) != len(pool):
            raise DataError(f"{file} has {len(labels)} labels for the pool's {len(pool)} images.")
        return self._sheets(labels, pool)

    def _sheets(self, labels: np.ndarray, pool: ImageDataset) -> dict[str, Any]:
        kept = _whole_clusters(labels, MOST_OF_POOL)
        vectors = unit_rows(self.source.embed(self.run.after["model"], pool.subset(kept)))
        vectors = unit_rows(vectors - vectors.mean(axis=0))  # all embeddings may lie close to one direction
        numbers, members = np.unique(labels[kept], return_inverse=True)
        sizes = np.bincount(members)
        centres = unit_rows(
            np.stack([np.bincount(members, vectors[:, j]) for j in range(vectors.shape[1])], axis=1)
        )
        cosines = np.einsum("nd,nd->n", vectors, centres[members])
        tightness = np.bincount(members, cosines) / sizes
        order = np.argsort(-tightness, kind="stable")
        order = order[sizes[order] >= min(4, int(sizes.max()))]
        all_sizes = np.bincount(labels[labels >= 0])
        chosen = {"tight": order[:CLUSTERS], "doubtful": order[CLUSTERS:][::-1][:CLUSTERS]}
        sheets = {
            name: [
                self._sheet(int(numbers[c]), float(tightness[c]), kept[members == c], cosines[members == c])
                for c in few.tolist()
            ]
            for name, few in chosen.items()
        }
        return {
            **sheets,
            "number": int((all_sizes > 0).sum()),
            "sizes": [int(v) for v in np.percentile(all_sizes[all_sizes > 0], [0, 25, 50, 75, 100])],
            "left_out": int((labels < 0).sum()),
            "looked_at": len(kept),
            "purity": _purity(labels, pool.labels),
        }

    def _sheet(
        self, number: int, tightness: float, images: np.ndarray, cosines: np.ndarray
    ) -> dict[str, Any]:
        """A cluster with its images, the one that is nearest to the centre first."""
        pool = self.source.pool
        nearest = images[np.argsort(-cosines, kind="stable")].tolist()
        if len(nearest) > OF_A_CLUSTER:  # the centre and the edge
            half = OF_A_CLUSTER // 2
            nearest = nearest[:half] + nearest[-half:]
        known = None if pool.labels is None else pool.labels[images]
        return {
            "number": number,
            "size": len(images),
            "tightness": tightness,
            "pictures": [self.thumbnails.of(pool, i) for i in nearest],
            "purity": None if known is None else 100 * float(np.bincount(known).max()) / len(known),
        }

    def map(self) -> dict[str, Any]:
        """Embeddings of some classes in a plane."""
        seen = self.seen
        images = _whole_clusters(seen.labels, ON_THE_MAP, CLASSES_ON_THE_MAP)
        places, how = plane(seen.embeddings[images])
        classes = np.unique(seen.labels[images], return_inverse=True)[1]
        number = int(classes.max()) + 1
        points = [
            {
                "x": round(20 + 960 * float(x), 1),
                "y": round(20 + 560 * float(y), 1),
                "hue": round(360 * int(c) / number),
                "picture": self.thumbnails.of(seen.queries, i),
                "class": seen.classes[seen.labels[i]],
            }
            for (x, y), c, i in zip(places, classes, images.tolist())
        ]
        return {"points": points, "how": how, "classes": number}


def _names(images: ImageDataset, labels: np.ndarray) -> dict[int, str]:
    """The name of each class, by the label that it has here."""
    own = images.known_labels()
    known = images.classes
    first = {int(new): int(old) for new, old in zip(labels, own)}
    return {new: known[old] if known is not None else str(old) for new, old in first.items()}


def _chosen(gain: np.ndarray, labels: np.ndarray) -> list[tuple[int, str]]:
    """Positions of the queries that are shown, and why; of those that are not drawn, one of each class."""
    known = np.flatnonzero(~np.isnan(gain))
    order = known[np.argsort(-gain[known], kind="stable")]
    shuffled = np.random.default_rng(0).permutation(known)
    kinds = {"gained most": order[gain[order] > 0], "lost most": order[::-1][gain[order[::-1]] < 0]}
    chosen: dict[int, str] = {}
    for kind, positions in kinds.items():
        first = np.unique(labels[positions], return_index=True)[1]
        for i in positions[np.sort(first)][: QUERIES // 3].tolist():
            chosen.setdefault(i, kind)
    drawn = [i for i in shuffled.tolist() if i not in chosen][: QUERIES - len(chosen)]
    return [*chosen.items(), *((i, "at random") for i in drawn)]


def _whole_clusters(labels: np.ndarray, most: int, clusters: int | None = None) -> np.ndarray:
    """Positions of whole clusters or classes, drawn at random, `most` at most; labels below 0 are left out.

    A single class with more is cut.
    """
    sizes = np.bincount(labels[labels >= 0])
    order = np.random.default_rng(0).permutation(np.flatnonzero(sizes))[:clusters]
    number = max(1, int((np.cumsum(sizes[order]) <= most).sum()))
    return np.flatnonzero(np.isin(labels, order[:number]))[:most]


def _purity(labels: np.ndarray, known: np.ndarray | None) -> float | None:
    """Share of the images that are of the commonest class of their cluster, in percent."""
    if known is None:
        return None
    kept = labels >= 0
    pairs = np.unique(np.stack([labels[kept], known[kept]]), axis=1, return_counts=True)
    best = np.zeros(int(labels.max()) + 1, dtype=np.int64)
    np.maximum.at(best, pairs[0][0], pairs[1])
    return 100 * float(best.sum()) / int(kept.sum())
