"""The files below a folder: each real folder once, in a fixed order, and what is no image counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..exceptions import DataError
from .decoding import HEIF_SUFFIXES, IMAGE_SUFFIXES, is_image

BESIDE_IMAGES = frozenset(
    f".{name}"
    for group in ("txt md csv tsv json jsonl xml yaml yml html", "ini log db mat npy npz pkl py")
    for name in group.split()
)
"""Suffixes of what people keep beside images: nobody expects these to be read."""
SHOWN = 3


@dataclass
class Found:
    """What lies below a folder.

    Attributes:
        images: paths relative to the folder, sorted by their parts.
        others: files that are no images, by suffix in lower case.
        without_images: folders that hold such files and no image.
        again: links to folders that are read under another name.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    without_images: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)

    def is_strange(self, labeled: bool) -> bool:
        """Whether something was left out that may have been meant to be read."""
        lost = labeled and self.without_images
        return bool(self.others.keys() - BESIDE_IMAGES or self.again or lost)

    def left_out(self, labeled: bool) -> str:
        """Say what was left out, with numbers and names; empty if nothing was."""
        said = []
        if self.others:
            count = self.others.total()
            kinds = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in self.others.most_common())
            said.append(f"skipped {count} files that are no images ({kinds})")
        if self.others.keys() & HEIF_SUFFIXES:
            said.append("HEIC images are read once pillow-heif is there: pip install 'pml-slade[heif]'")
        if labeled and self.without_images:
            said.append(f"{_names(self.without_images)} so have no image, and are no classes")
        if self.again:
            said.append(f"skipped links to folders that are read already: {_names(self.again)}")
        return "; ".join(said)


def walk(base: Path) -> Found:
    """Find the images below a folder.

    An image has a suffix of a format that is read, or no suffix and a header of one. Hidden files and folders
    are passed over in silence. Links are followed, but each real folder is read once: under its own name, if
    that lies below `base`, else under the first link's.

    Raises:
        DataError: a folder cannot be read.
    """
    found, seen = Found(), {_identity(base)}
    links: list[Path] = []
    folders = [Path()]
    while folders or links:
        if not folders:  # links last, so that a folder keeps its own name
            links.sort(key=lambda link: link.parts, reverse=True)
            link = links.pop()
            if _identity(base / link) in seen:
                found.again += [] if _leads_up(base, link) else [link]
                continue
            seen.add(_identity(base / link))
            folders.append(link)
        here = folders.pop()
        files = []
        for entry in _entries(base / here):
            relative = here / entry.name
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                files.append((relative, entry))
            elif entry.is_symlink():
                links.append(relative)
            else:
                seen.add(_identity(base / relative))
                folders.append(relative)
        _sort_out(found, here, files)
    found.images.sort(key=lambda path: path.replace(os.sep, "\0"))  # by their folders
    found.without_images.sort()
    return found


def _sort_out(found: Found, here: Path, files: list[tuple[Path, os.DirEntry[str]]]) -> None:
    others = 0
    for relative, entry in files:
        # A link that leads nowhere is an image that is lost. A pipe named .png would wait for ever.
        readable = entry.is_file() or entry.is_symlink()
        suffix = relative.suffix.lower()
        if readable and (suffix in IMAGE_SUFFIXES or (not suffix and is_image(entry.path))):
            found.images.append(str(relative))
        else:
            found.others[suffix] += 1
            others += 1
    if others and others == len(files):
        found.without_images.append(here)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"folder {str(folder)!r} cannot be read ({error.strerror}); its images are missed"
        ) from None


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _leads_up(base: Path, link: Path) -> bool:
    """Whether a link leads to a folder that it lies in, where nobody expects more images."""
    return any(os.path.samefile(base / link, base / parent) for parent in link.parents)


def _names(paths: Iterable[Path]) -> str:
    names = [repr(path.as_posix()) for path in paths]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
