"""Image files of any kind -> upright 8-bit PIL images."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..exceptions import DataError

with suppress(ImportError):  # the extra `heif`
    from pillow_heif import register_heif_opener

    register_heif_opener()

FORMATS = [
    *("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "HEIF", "JPEG2000", "MPO", "DIB"),
    *("TGA", "ICO", "ICNS", "CUR", "PSD", "QOI", "SGI", "SUN", "PCX", "DDS", "XBM"),
]
"""Names of formats in Pillow that are read: still pictures, and none that Pillow hands to another program, as
it hands EPS to Ghostscript."""
HEIF_SUFFIXES = frozenset([".heic", ".heics", ".heif", ".heifs", ".hif"])
WITHOUT_MARK = ("TGA", "PCX", "XBM", "CUR", "ICO")
"""Formats whose beginning hardly tells them from other files."""

Image.init()
IMAGE_SUFFIXES = frozenset(
    suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS and kind in Image.OPEN
)
"""Suffixes, in lower case, of the files that are taken for images."""

SIXTEEN_BIT_TO_EIGHT = 257
"""65535 / 255: what a 16-bit grey value is divided by."""

TRANSPARENT_MODES = frozenset(["LA", "La", "PA", "RGBA", "RGBa"])


def open_image(path: str | os.PathLike[str] | bytes, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open an image file, or the bytes of one, of which Pillow reads no more than the header."""
    source: Any = io.BytesIO(path) if isinstance(path, bytes) else path
    return Image.open(source, formats=[name for name in formats if name in Image.OPEN])


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as an image of a known format does.

    Examples:
        >>> is_image(__file__)
        False
    """
    try:
        with open_image(path, [name for name in FORMATS if name not in WITHOUT_MARK]):
            return True
    except Exception:  # on damaged files Pillow's plugins raise nearly anything
        return False


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts any PIL image to 8-bit `"RGB"` or `"L"` without losing what it shows.

    Transparency is composited on white, 16-bit greyscale is scaled rather than clipped, palettes
    and CMYK are resolved.

    Args:
        image: A PIL image of any mode but 32-bit floats.
        mode: `"RGB"` or `"L"`.

    Returns:
        The image in `mode`; the same object when nothing has to change.

    Raises:
        ValueError: The image holds floats, whose scale cannot be known.

    Examples:
        >>> from PIL import Image
        >>> to_mode(Image.new("LA", (1, 1), (0, 0)), "L").getpixel((0, 0))
        255
    """
    if image.mode == "F":
        raise ValueError("it holds floats of unknown scale; save it with 8 or 16 bits per channel")
    if image.mode.startswith("I"):  # older Pillow opens 16-bit PNG as 32-bit "I"
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(np.rint(grey / SIXTEEN_BIT_TO_EIGHT).astype(np.uint8))
    elif image.mode == "LAB":  # no direct way to L
        image = image.convert("RGB")
    elif image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image  # no direct way to RGBA
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def read_image(path: str | os.PathLike[str] | bytes, mode: str = "RGB") -> Image.Image:
    """Reads an image file completely: upright (EXIF), first frame, in `mode`.

    Args:
        path: A file in one of `FORMATS`, or the bytes of one.
        mode: `"RGB"` or `"L"`.

    Returns:
        A loaded PIL image; the file is closed again.

    Raises:
        DataError: The file is missing, truncated, damaged or no image.

    Examples:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "grey.png")
        ...     Image.new("L", (3, 2), 7).save(path)
        ...     read_image(path).getpixel((0, 0))
        (7, 7, 7)
    """
    try:
        with open_image(path) as opened:
            opened.load()
            upright: Any = ImageOps.exif_transpose(opened)
            return to_mode(upright, mode).copy()
    except Exception as error:  # on damaged files Pillow's plugins raise nearly anything
        name = "" if isinstance(path, bytes) else f" {os.fspath(path)!r}"
        raise DataError(
            f"image{name} cannot be read ({type(error).__name__}: {error}); "
            "replace the file or take it out of the data"
        ) from error
