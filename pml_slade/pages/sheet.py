"""What a search found, as a page: a row of thumbnails for each query."""

from __future__ import annotations

from collections.abc import Sequence

from ..datasets.images import ImageDataset
from ..searching import Match
from .rendering import render
from .thumbnails import Thumbnails


def search_page(queries: ImageDataset, matches: Sequence[Sequence[Match]], mode: str = "RGB") -> str:
    """Return a page that shows queries and what was found for each.

    Args:
        queries: the images that were searched with.
        matches: for each of them, the nearest first; their names are paths.
        mode: "RGB" or "L", what the images are shown in.

    Raises:
        DataError: an image cannot be read.
    """
    names = list(dict.fromkeys(match.name for found in matches for match in found))
    images, thumbnails = ImageDataset(names, mode=mode), Thumbnails()
    place = {name: i for i, name in enumerate(names)}
    rows = [
        {
            "name": queries.name(i),
            "picture": thumbnails.of(queries, i),
            "found": [(match, thumbnails.of(images, place[match.name])) for match in found],
        }
        for i, found in enumerate(matches)
    ]
    return render("search.html", "Search", thumbnails, rows=rows)
