"""Small pictures for a page: all of them in one image, each cut out of it by CSS."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, ImageOps

from ..datasets.images import ImageDataset

SIDE = 72
"""Pixels of a thumbnail."""
COLUMNS = 32
QUALITY = 78
BACKGROUND = (128, 128, 128)


@dataclass(frozen=True)
class Thumbnail:
    """Where a picture lies in the sheet.

    Attributes:
        x: its column.
        y: its row.
        name: for those who do not see it.
    """

    x: int
    y: int
    name: str


class Thumbnails:
    """Collects the images that a page shows; each image is kept once.

    Examples:
        >>> import numpy as np
        >>> images = ImageDataset(np.zeros((2, 8, 8), np.uint8), mode="L")
        >>> thumbnails = Thumbnails()
        >>> thumbnails.of(images, 1), thumbnails.of(images, 1) is thumbnails.of(images, 1)
        (Thumbnail(x=0, y=0, name='#1'), True)
        >>> thumbnails.sheet()[:22]
        'data:image/jpeg;base64'
    """

    def __init__(self) -> None:
        self._pictures: list[Image.Image] = []
        self._known: dict[tuple[object, ...], Thumbnail] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def of(self, images: ImageDataset, index: int) -> Thumbnail:
        """Return the thumbnail of an image.

        Raises:
            DataError: the image cannot be read.
        """
        name = images.name(index)
        key = (id(images), index) if name.startswith("#") else (name,)
        if key not in self._known:
            place = divmod(len(self), COLUMNS)
            self._pictures.append(_thumbnail(images.image(index)))
            self._known[key] = Thumbnail(place[1], place[0], name)
        return self._known[key]

    @property
    def columns(self) -> int:
        """Pictures in a row of the sheet."""
        return COLUMNS

    @property
    def rows(self) -> int:
        """Rows of the sheet."""
        return max(1, -(-len(self) // COLUMNS))

    def sheet(self) -> str:
        """All pictures in one JPEG, as a `data:` address."""
        sheet = Image.new("RGB", (COLUMNS * SIDE, self.rows * SIDE), BACKGROUND)
        for number, picture in enumerate(self._pictures):
            row, column = divmod(number, COLUMNS)
            sheet.paste(picture, (column * SIDE, row * SIDE))
        file = io.BytesIO()
        sheet.save(file, "JPEG", quality=QUALITY, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _thumbnail(image: Image.Image) -> Image.Image:
    """The whole image in a square; small drawings are enlarged."""
    small = ImageOps.contain(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    return ImageOps.pad(small, (SIDE, SIDE), color=BACKGROUND)
