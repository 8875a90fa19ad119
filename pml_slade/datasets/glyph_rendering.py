"""Letters drawn with the fonts that matplotlib installs: plain for comparing, distorted as data."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from ..exceptions import DataError

_STYLES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
FACES = tuple(family + style for family, styles in _STYLES.items() for style in styles)
"""The 16 faces, none of which draws a box for a letter that it lacks without saying so."""

EM_PIXELS = 64
MIN_INK = 16
"""A letter no side of which reaches this many pixels is a mark; enlarged it would be a blot."""
MARGIN = 0.08
"""Free border on each side, as a share of the image."""
MAX_ROTATION = np.deg2rad(12)
MAX_SHEAR = 0.15
MIN_SCALE = 0.82
MAX_SHIFT = 0.04
MAX_STROKE_CHANGE = 0.7
OVERSAMPLING = 2


class Face:
    """One font file: which letters it has, and their shapes.

    Args:
        name: One of `FACES`.

    Raises:
        DataError: matplotlib's fonts do not include it.

    Examples:
        >>> face = Face("DejaVuSans")
        >>> ord("a") in face.code_points, 0x4E00 in face.code_points
        (True, False)
    """

    def __init__(self, name: str) -> None:
        import matplotlib
        from matplotlib.ft2font import FT2Font

        path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
        if not path.is_file():
            raise DataError(f"matplotlib came without the font {path}; reinstall matplotlib")
        self.name = name
        self.code_points = frozenset(
            code for code, glyph in FT2Font(str(path)).get_charmap().items() if glyph != 0
        )
        # BASIC layout, so that it does not matter which shaping library Pillow was built with.
        self._font = ImageFont.truetype(str(path), EM_PIXELS, layout_engine=ImageFont.Layout.BASIC)

    def draw(self, letter: str) -> Image.Image | None:
        """The letter white on black, cut to its ink; None where the face has no such letter."""
        if ord(letter) not in self.code_points:
            return None
        mask = self._font.getmask(letter, "L")
        if 0 in mask.size:
            return None
        image = Image.frombytes("L", mask.size, bytes(mask))
        ink = image.getbbox()
        if ink is None or max(ink[2] - ink[0], ink[3] - ink[1]) < MIN_INK:
            return None
        return image.crop(ink)


def fit(glyph: Image.Image, size: int) -> np.ndarray:
    """Scales a cut letter to fill a square, centred, without distortion.

    Args:
        glyph: White on black, cut to its ink.
        size: Side of the square in pixels.

    Returns:
        uint8 array (size, size).

    Examples:
        >>> from PIL import Image
        >>> fit(Image.new("L", (2, 4), 255), 4)[0].tolist()
        [0, 255, 255, 0]
    """
    scale = size / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    canvas = Image.new("L", (size, size))
    resized = glyph.resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste(resized, ((size - width) // 2, (size - height) // 2))
    return np.asarray(canvas)


def distort(glyph: Image.Image, size: int, *key: int | str) -> np.ndarray:
    """Scales a cut letter into a square, mildly turned, sheared, shrunk, moved, bolder or thinner.

    What is drawn depends on `key` alone, not on the process or on what was drawn before.

    Args:
        glyph: White on black, cut to its ink.
        size: Side of the square in pixels.
        *key: Seeds the distortion, such as the face and the letter.

    Returns:
        uint8 array (size, size).

    Examples:
        >>> from PIL import Image
        >>> glyph = Image.new("L", (20, 40), 255)
        >>> bool((distort(glyph, 28, "Sans", 65) == distort(glyph, 28, "Sans", 65)).all())
        True
    """
    rng = np.random.default_rng([zlib.crc32(str(part).encode()) for part in key])
    turn, shear, stretch, shrink, right, down, stroke = rng.random(7) * 2 - 1
    canvas = size * OVERSAMPLING
    angle = turn * MAX_ROTATION
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1.0, shear * MAX_SHEAR], [0.0, 1.0]])
    matrix = matrix @ np.diag([1 + 0.1 * stretch, 1 - 0.1 * stretch])

    half = np.array(glyph.size) / 2
    reach = np.abs(matrix) @ half  # half the box around the distorted letter
    scale = canvas * (0.5 - MARGIN) / reach.max()
    matrix *= scale * (MIN_SCALE + (1 - MIN_SCALE) * (shrink + 1) / 2)
    centre = canvas / 2 + canvas * MAX_SHIFT * np.array([right, down])

    inverse = np.linalg.inv(matrix)  # PIL asks where each output pixel comes from
    offset = half - inverse @ centre
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    drawn = glyph.transform((canvas, canvas), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    bolder_or_thinner = ImageFilter.MaxFilter(3) if stroke > 0 else ImageFilter.MinFilter(3)
    changed = drawn.filter(bolder_or_thinner)
    drawn = Image.blend(drawn, changed, abs(stroke) * MAX_STROKE_CHANGE)
    return np.asarray(drawn.reduce(OVERSAMPLING))
