"""Images in folders, `root/class/image`, and the choice between a folder and a CSV file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ..exceptions import DataError
from .images import ImageDataset
from .tables import TABLE_SUFFIXES, image_csv

IMAGE_SUFFIXES = frozenset(
    [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"]
)
Transform = Callable[[Image.Image], Any]

logger = logging.getLogger("pml_slade")


def image_folder(
    root: str | os.PathLike[str],
    transform: Transform | None = None,
    mode: str = "RGB",
    labeled: bool = True,
) -> ImageDataset:
    """Reads `root/class/image`, or every image below `root` as unlabeled.

    Folders may be nested: the class of `root/a/b/1.png` is `"a/b"`. The order is that of the sorted
    relative paths. Hidden files and folders and files that are no images are skipped, and their
    number is logged. Symbolic links are followed.

    Args:
        root: The folder.
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        labeled: False takes all images, wherever they lie, without labels.

    Returns:
        The dataset; nothing is decoded yet.

    Raises:
        DataError: `root` is missing or holds no images; or, labeled, images lie directly in it or
            it holds fewer than two classes.

    Examples:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("cat", "dog"):
        ...         pathlib.Path(root, name).mkdir()
        ...         Image.new("L", (2, 2)).save(pathlib.Path(root, name, "1.png"))
        ...     image_folder(root).classes
        ['cat', 'dog']
    """
    base = Path(root)
    if not base.is_dir():
        raise DataError(f"root {str(base)!r} is not a folder; give one that holds images")
    found, skipped = [], 0
    for relative in _visible_files(base):
        if relative.suffix.lower() in IMAGE_SUFFIXES:
            found.append(relative)
        else:
            skipped += 1
    if skipped:
        logger.info("%s: skipped %d files that are no images", base, skipped)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"root {str(base)!r} holds no images ({suffixes})")
    paths = [str(base / relative) for relative in found]
    if not labeled:
        return ImageDataset(paths, transform=transform, mode=mode)
    flat = [relative.name for relative in found if len(relative.parts) == 1]
    if flat:
        raise DataError(
            f"{len(flat)} images lie directly in {str(base)!r}, e.g. {flat[:3]}; move them into "
            "one folder per class, or read them as unlabeled with labeled=False"
        )
    names = [relative.parent.as_posix() for relative in found]
    classes = sorted(set(names))
    if len(classes) < 2:
        raise DataError(
            f"root {str(base)!r} holds the single class {classes[0]!r}; labeled images need two "
            "classes or more, each in its own folder"
        )
    index = {name: label for label, name in enumerate(classes)}
    return ImageDataset(paths, [index[name] for name in names], classes, transform, mode)


def open_images(
    path: str | os.PathLike[str],
    transform: Transform | None = None,
    mode: str = "RGB",
    labeled: bool = True,
    root: str | os.PathLike[str] | None = None,
) -> ImageDataset:
    """Reads a folder of images or a CSV file that lists them, whichever `path` is.

    Args:
        path: A folder (see `image_folder`), or a .csv, .tsv or .txt file (see `image_csv`).
        transform: See `ImageDataset`.
        mode: `"RGB"` or `"L"`.
        labeled: Whether to read class labels.
        root: For a CSV file, the folder that its paths start from.

    Returns:
        The dataset.

    Raises:
        DataError: `path` is neither, or its content cannot be used.

    Examples:
        >>> open_images("no/such/folder")
        Traceback (most recent call last):
        pml_slade.exceptions.DataError: path 'no/such/folder' does not exist; ...
    """
    source = Path(path)
    if source.is_dir():
        return image_folder(source, transform, mode, labeled)
    if not source.exists():
        raise DataError(f"path {str(source)!r} does not exist; give a folder of images or a CSV file")
    if source.suffix.lower() in TABLE_SUFFIXES:
        return image_csv(source, transform, mode, labeled, root)
    raise DataError(f"path {str(source)!r} is neither a folder nor one of {', '.join(TABLE_SUFFIXES)}")


def _visible_files(base: Path) -> Iterator[Path]:
    """Relative paths of all files below `base` that are not hidden, sorted."""
    files = []
    for folder, subfolders, names in os.walk(base, followlinks=True):
        here = os.path.realpath(folder)
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not _encloses(os.path.join(folder, name), here)
        ]
        files += [Path(folder, name).relative_to(base) for name in names if name[0] != "."]
    yield from sorted(files, key=lambda file: file.parts)


def _encloses(link: str, folder: str) -> bool:
    """Whether `link` leads to `folder` or one of its parents: following it would never end."""
    target = os.path.realpath(link)
    return os.path.commonpath([target, folder]) == target
