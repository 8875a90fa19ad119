"""The command that looks at images before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..faults import in_one_line
from .options import Quiet, start_log

if TYPE_CHECKING:
    from ..datasets.images import ImageDataset
    from ..datasets.looking import Findings, Look


def check(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of images, or CSV lists of them.")
    ],
    decode: Annotated[
        bool, typer.Option("--decode", help="Read every image whole; default: headers alone.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Look at images: which cannot be read, are duplicates, tiny or odd; what training would do with them.

    The exit code is 1 if an image cannot be read.
    """
    start_log(quiet)
    from tqdm import tqdm

    from ..datasets.images import ImageDataset
    from ..datasets.looking import duplicates, examine, look_at

    bad, names, looks = 0, [], []
    for folder in folders:
        images = open_as_it_is(folder)
        bar = tqdm(look_at(images, decode), total=len(images), desc=str(folder), disable=quiet or None)
        looked = list(bar)
        found = examine(images, looked)
        bad += len(found.unreadable)
        names += images.names()
        looks += looked
        _say(f"{folder}: {_overview(images, looked)}")
        for line in [*_lines(images, found), *_prospects(images, found)]:
            _say(f"  {line}")
    for i, first in duplicates(ImageDataset(names), looks).items():
        _say(f"duplicate: {names[i]} = {names[first]}")
    if bad:
        raise typer.Exit(1)


def _say(text: str) -> None:
    typer.echo(in_one_line(text))


def open_as_it_is(path: Path) -> ImageDataset:
    """Open a folder or a list, with classes if every image has one."""
    from ..datasets.folders import open_images
    from ..exceptions import DataError

    try:
        return open_images(path, labeled=True)
    except DataError:  # a pool, or nothing that can be used
        return open_images(path, labeled=False)


def _overview(images: ImageDataset, looks: list[Look]) -> str:
    sizes = sorted((look.size for look in looks if not look.error), key=lambda size: size[0] * size[1])
    classes = f" in {images.num_classes} classes" if images.num_classes else ""
    if not sizes:
        return f"{len(images)} images{classes}"
    (w0, h0), (w1, h1) = sizes[0], sizes[-1]
    return f"{len(images)} images{classes}, {w0} x {h0} to {w1} x {h1} pixels"


def _lines(images: ImageDataset, found: Findings) -> list[str]:
    lines = [
        f"{kind}: {images.name(i)}: {what}"
        for kind in ("unreadable", "tiny", "odd")
        for i, what in getattr(found, kind).items()
    ]
    return lines + [f"class of one image: {name}: {images.name(i)}" for name, i in found.alone.items()]


def _prospects(images: ImageDataset, found: Findings) -> list[str]:
    """What training would do with these images."""
    from ..methods.settings import TeacherConfig
    from ..running.data import MIN_CLASSES_FOR_VALIDATION

    said = []
    if found.unreadable:
        said.append(
            f"training stops before it begins, since {len(found.unreadable)} of {len(images)} images cannot "
            "be read; with data.unreadable=skip it leaves them out"
        )
    if images.labels is None:
        return [*said, "these images can be the pool; as labeled images, they need a folder for each class"]
    if found.alone:
        said.append(
            f"as labeled images: {len(found.alone)} classes of one image have no pair to learn from, and as "
            "test images nothing to be found"
        )
    if images.num_classes < MIN_CLASSES_FOR_VALIDATION:
        said.append(
            f"as labeled images: fewer than {MIN_CLASSES_FOR_VALIDATION} classes, so that none is kept for "
            "validation unless data.validation is given"
        )
    teacher = TeacherConfig()
    needed, most = (
        teacher.batch_size // teacher.images_per_class,
        images.num_classes * teacher.images_per_class,
    )
    if images.num_classes < needed:
        said.append(
            f"as labeled images: a batch takes {needed} classes: give teacher.batch_size and "
            f"student.batch_size of at most {most}"
        )
    return said or ["training can read all of these images"]
