"""Images in folders, `root/class/image`, and the choice between a folder, tar shards and a CSV file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ..exceptions import DataError
from .images import ImageDataset
from .paths import Paths
from .shards import image_shards, shards_in
from .tables import TABLE_SUFFIXES, image_csv
from .walking import walk

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
    relative paths. Hidden files and folders are skipped, files that are no images are counted in the
    log, see `walking.walk`. Symbolic links are followed; each real folder is read once.

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
    walked = walk(base)
    found = walked.images
    if said := walked.left_out(labeled):
        level = logging.WARNING if walked.is_strange(labeled) else logging.INFO
        logger.log(level, "%s: %s", base, said)
    if not found:
        more = f"; {said}" if said else ""
        raise DataError(
            f"root {str(base)!r} holds no images (such as .jpg or .png); give one that does{more}"
        )
    prefix = "" if base == Path() else os.path.join(base, "")
    paths = Paths(prefix + relative for relative in found)
    if not labeled:
        return ImageDataset(paths, transform=transform, mode=mode)
    flat = [relative for relative in found if os.sep not in relative]
    if flat:
        raise DataError(
            f"{len(flat)} images lie directly in {str(base)!r}, e.g. {flat[:3]}; move them into "
            "one folder per class, or read them as unlabeled with labeled=False"
        )
    names = [os.path.dirname(relative).replace(os.sep, "/") for relative in found]
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
    """Reads a folder of images, tar shards, or a CSV file that lists images, whichever `path` is.

    Args:
        path: A folder (see `image_folder`), a .tar file or a folder of such files without images or folders
            beside them (see `image_shards`), or a .csv, .tsv or .txt file (see `image_csv`).
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
        if shards := shards_in(source):
            return image_shards(shards, transform, mode, labeled)
        return image_folder(source, transform, mode, labeled)
    if not source.exists():
        raise DataError(f"path {str(source)!r} does not exist; give a folder of images or a CSV file")
    if source.suffix.lower() in TABLE_SUFFIXES:
        return image_csv(source, transform, mode, labeled, root)
    if source.suffix.lower() == ".tar":
        return image_shards([source], transform, mode, labeled)
    raise DataError(f"path {str(source)!r} is neither a folder nor one of {', '.join(TABLE_SUFFIXES)}, .tar")
