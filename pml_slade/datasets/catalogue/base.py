"""What the data sets of the catalogue share: finding, checking, halving and leaving out."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from ...exceptions import ConfigError, DataError
from ..images import ImageDataset
from .reading import Listing, check_listing, missing_files

logger = logging.getLogger("pml_slade")


class Source(NamedTuple):
    """Where a data set comes from, and how it is known on disk.

    Attributes:
        address: Page to download it from.
        files: What to download there.
        folders: Folders below `root` that may hold it, the official one first.
        markers: Files of it, one of which tells its folder from others.
        archives: Archive names with their md5, None where none is known.
        unpack: Command that unpacks `{file}` into `{folder}`.
    """

    address: str
    files: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    archives: dict[str, str | None]
    unpack: str = "tar -xzf '{file}' -C '{folder}'"


class Counts(NamedTuple):
    """Published numbers: of images, any of several where sources differ; of classes, None if unpublished."""

    images: tuple[int, ...]
    classes: int | None


class CatalogueDataset(ImageDataset, ABC):
    """A published data set, read from its official files.

    Labels are 0..C-1 in the official order of the classes. `"train"` is the first half of the classes,
    `"test"` the second, so that no class is in both.

    Args:
        root: The folder that holds the official folder, or the official folder itself.
        split: `"train"`, `"test"` or `"all"`.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        complete: Whether the numbers of images and classes must be the published ones; False takes a
            part of the data set, and halves the classes that it lists.
        exclude: Names of classes of which no image is wanted, as `Cars196(root, "test").classes`;
            compared by `same_classes`.
        download: Whether to fetch the data set if it is not there.

    Raises:
        DataError: The data set is missing, incomplete or damaged; the message says what to do.
        ConfigError: `split`, `exclude` or `mode` cannot be used.
    """

    source: ClassVar[Source]
    counts: ClassVar[Counts]
    splits: ClassVar[tuple[str, ...]] = ("train", "test", "all")

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "all",
        transform: Callable[[Image.Image], Any] | None = None,
        mode: str = "RGB",
        complete: bool = True,
        exclude: Iterable[str] = (),
        download: bool = False,
    ) -> None:
        if split not in self.splits:
            raise ConfigError(f"split must be one of {self.splits}, got {split!r}")
        if isinstance(exclude, str):
            raise ConfigError(f"exclude must be a list of class names, got the string {exclude!r}")
        self.complete = complete
        try:
            listing = self._filter(self._load(Path(root), download))
            chosen = self._leave_out(self._take(listing, split), set(exclude))
        except DataError as error:
            raise DataError(f"{type(self).__name__}: {error}") from error
        names, used = listing.present(), chosen.present()
        label = {key: number for number, key in enumerate(used)}
        labels = [label[key] for key in chosen.ids]
        super().__init__(chosen.paths, labels, [names[key] for key in used], transform, mode)

    @classmethod
    def same_classes(cls, classes: Sequence[str], others: Iterable[str]) -> list[bool]:
        """Which of `classes` are the same thing as one of `others`, by their names.

        Names are compared without case, underscores, hyphens, a leading number with a dot, text in
        parentheses and the 's of a possessive.

        Args:
            classes: Names of classes of this data set.
            others: Names of classes of another one.

        Returns:
            One truth value for each of `classes`.

        Examples:
            >>> birds = ["Brewer's Blackbird (Female/Juvenile)", "Mallard"]
            >>> CatalogueDataset.same_classes(birds, ["009.Brewer_Blackbird"])
            [True, False]
        """
        known = {words(other) for other in others}
        return [words(name) in known for name in classes]

    @abstractmethod
    def _read(self, base: Path) -> Listing:
        """Reads the annotation files below `base`."""

    def _published(self) -> Counts:
        return self.counts

    def _filter(self, listing: Listing) -> Listing:
        """Leaves out what the data set's own settings leave out."""
        return listing

    def _take(self, listing: Listing, split: str) -> Listing:
        """The images of a split."""
        if split == "all":
            return listing
        classes = list(listing.present())
        half = len(classes) // 2
        wanted = set(classes[:half] if split == "train" else classes[half:])
        if not wanted:
            raise DataError(f"split {split!r} holds no images: half of {len(classes)} classes is none")
        return listing.at(row for row, key in enumerate(listing.ids) if key in wanted)

    def _download(self, root: Path) -> None:
        """Fetches the data set, where a library that is kept up does."""
        raise DataError(
            f"download=True is not possible: no library fetches it. Download {self.source.files} from "
            f"{self.source.address} and unpack it in {str(root)!r}"
        )

    def _load(self, root: Path, download: bool) -> Listing:
        base = self._find(root)
        if base is None and download:
            self._download(root)
            base = self._find(root)
        if base is None:
            raise DataError(self._how_to_get(root))
        listing = self._read(base)
        check_listing(listing)
        if self.complete:
            self._check_counts(listing)
        missing = missing_files(listing.paths)
        if missing:
            raise DataError(
                f"{len(missing)} of {len(listing.paths)} image files are missing: {', '.join(missing[:3])}; "
                + (self._unpacking(base) or f"unpack the images again, from {self.source.address}")
            )
        return listing

    def _find(self, root: Path) -> Path | None:
        """The folder with the markers; or the one of the right name, whose reader tells what is missing."""
        named = [root / folder for folder in self.source.folders]
        for place in (*named, root):
            if any((place / marker).exists() for marker in self.source.markers):
                return place
        named += [root] if root.name in self.source.folders else []
        return next((place for place in named if place.is_dir() and not self._unpacking(place)), None)

    def _how_to_get(self, root: Path) -> str:
        source = self.source
        places = (root, *(root / folder for folder in source.folders))
        hint = next(filter(None, map(self._unpacking, places)), None)
        return f"root {str(root)!r} holds no {source.folders[0]!r}; " + (
            hint or f"download {source.files} from {source.address} and unpack it there"
        )

    def _unpacking(self, folder: Path) -> str | None:
        """What to do with an archive that lies in `folder`; None where there is none."""
        for name, md5 in self.source.archives.items():
            file = folder / name
            if not file.is_file():
                continue
            found = _md5(file) if md5 else None
            if found != md5:
                return (
                    f"{str(file)!r} is not unpacked, and is damaged or not the official one: its md5 is "
                    f"{found}, not {md5}; download it again from {self.source.address}"
                )
            command = self.source.unpack.format(file=file, folder=folder)
            return f"{str(file)!r} is not unpacked; run: {command}"
        return None

    def _check_counts(self, listing: Listing) -> None:
        images, classes = self._published()
        found, found_classes = listing.lines or len(listing.paths), len(listing.present())
        if found not in images or found_classes != (classes or found_classes):
            expected = f"{' or '.join(f'{number:,}' for number in images)} images"
            raise DataError(
                f"found {found:,} images of {found_classes:,} classes, expected {expected}"
                + (f" of {classes:,} classes" if classes else "")
                + "; unpack the whole of it again, or take a part of it with complete=False"
            )

    def _leave_out(self, listing: Listing, exclude: set[str]) -> Listing:
        if not exclude:
            return listing
        present = listing.present()
        same = self.same_classes(list(present.values()), exclude)
        gone = {key for key, out in zip(present, same) if out}
        rest = listing.at(row for row, key in enumerate(listing.ids) if key not in gone)
        if not rest.paths:
            raise DataError(f"exclude leaves no images: all {len(present)} classes are in it")
        log_left_out(self, "are in exclude", listing, rest)
        return rest


def words(name: str) -> str:
    """A class name as `same_classes` compares it.

    Args:
        name: Any class name.

    Returns:
        Lower-case words, with one space between them.

    Examples:
        >>> words("016.Painted_Bunting"), words("Chuck-will's-widow"), words("Painted Bunting (Adult Male)")
        ('painted bunting', 'chuck will widow', 'painted bunting')
    """
    bare = re.sub(r"\([^)]*\)|^\s*\d+\.|['’]s\b", " ", name.lower())
    return " ".join(re.findall(r"\w+", bare.replace("_", " ")))


def log_left_out(dataset: ImageDataset, why: str, before: Listing, after: Listing) -> None:
    """Logs how many classes and images a filter took, and what remains."""
    classes, images = len(set(before.ids)), len(before.paths)
    rest, remaining = len(set(after.ids)), len(after.paths)
    logger.info(
        "%s: left out %d classes with %d images that %s; %d classes with %d images remain",
        *(type(dataset).__name__, classes - rest, images - remaining, why, rest, remaining),
    )


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
