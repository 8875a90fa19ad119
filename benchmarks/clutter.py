"""Useless images, white on black: what a pool holds that nobody cleaned. No two belong to one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Draw = Callable[[int, int, np.random.Generator], np.ndarray]
"""How many images, side in pixels, generator -> uint8 of shape (N, side, side)."""

PAPER = 105
"""Side of Omniglot's originals in pixels; scribbles are drawn and made smaller like these."""
PENS = (4, 5)
"""Widths of a line on that paper."""
LENGTHS = (0.35, 0.85)
"""Longer side of a scribble, as a share of the paper."""
STROKES = (0.35, 0.35, 0.2, 0.07, 0.03)
"""Share of scribbles with one stroke, with two, ..."""
BEZIER = np.array([[1, 0, 0, 0], [-3, 3, 0, 0], [3, -6, 3, 0], [-1, 3, -3, 1]])
CURVE = np.vander(np.linspace(0, 1, 16), 4, increasing=True) @ BEZIER
INK = 128


def scribbles(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """One to five strokes of a pen, curved or with corners."""
    return _each(count, lambda: _scribble(side, rng), side)


def _scribble(side: int, rng: np.random.Generator) -> np.ndarray:
    paper = Image.new("L", (PAPER, PAPER))
    draw = ImageDraw.Draw(paper)
    width = int(rng.choice(PENS))
    number = 1 + rng.choice(len(STROKES), p=STROKES)
    fewest = 3 if number == 1 else 2  # lines alone would be a class
    strokes = [_stroke(int(rng.integers(fewest, 5)), rng) for _ in range(number)]
    joined = np.concatenate(strokes)
    low, high = joined.min(axis=0), joined.max(axis=0)
    middle, length = rng.normal(PAPER / 2, PAPER / 20, 2), rng.uniform(*LENGTHS) * PAPER
    for stroke in strokes:
        points = middle + (stroke - (low + high) / 2) / (high - low).max() * length
        points = points.clip(width, PAPER - 1 - width)
        draw.line([tuple(p) for p in points], fill=255, width=width, joint="curve")
        for x, y in points[[0, -1]]:
            draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=255)
    return np.asarray(paper.resize((side, side), Image.Resampling.LANCZOS))


def _stroke(knots: int, rng: np.random.Generator) -> np.ndarray:
    """Points of a stroke through so many knots, as a hand draws it: never quite straight."""
    stops = rng.uniform(-1, 1, (knots, 2))
    if rng.random() < 0.4:  # corners; else one flowing line, in which a piece leaves as the last arrived
        bends = [stops[[i, i, i + 1, i + 1]] for i in range(knots - 1)]
        bends = [bend + rng.normal(0, 0.1, (4, 2)) * [[0], [1], [1], [0]] for bend in bends]
        return np.concatenate([CURVE @ bend for bend in bends])
    leaving = stops[0] + rng.normal(0, 0.5, 2)
    pieces = []
    for start, end in pairwise(stops):
        arriving = end + rng.normal(0, 0.4, 2)
        pieces.append(CURVE @ np.stack([start, leaving, arriving, end]))
        leaving = 2 * end - arriving
    return np.concatenate(pieces)


def noise(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Pixel noise, patches of blurred noise, salt and pepper."""
    return _in_parts([_pixels, _patches, _salt_and_pepper], count, side, rng)


def _pixels(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    return _gray(rng.random((count, side, side)) ** _vary(rng, count, 1, 4) * _vary(rng, count, 0.4, 1))


def _patches(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    def patch() -> np.ndarray:
        blurred = gaussian_filter(rng.random((side, side)), rng.uniform(0.03, 0.1) * side)
        edge = np.quantile(blurred, rng.uniform(0.6, 0.95))
        return _gray(0.5 + (blurred - edge) / blurred.std() * 4)  # soft like the edge of a small drawing

    return _each(count, patch, side)


def _salt_and_pepper(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    salt, pepper = _vary(rng, count, 0.02, 0.3), _vary(rng, count, 0.02, 0.3)
    ground = _vary(rng, count, 0, 0.4) * (_vary(rng, count, 0, 1) < 0.5)  # every other one is black
    dice = rng.random((count, side, side))
    return _gray(np.where(dice < salt, 1, np.where(dice > 1 - pepper, 0, ground)))


def textures(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Gradients, stripes, checkerboards, blobs, polygons and smooth fields like those of photos."""
    return _in_parts([_gradients, _stripes, _checkers, _blobs, _polygons, _fields], count, side, rng)


def _turned(count: int, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates from -1 to 1, turned and moved at random, both of shape (N, side, side)."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle = _vary(rng, count, 0, 2 * np.pi)
    x, y = x - _vary(rng, count, -0.5, 0.5), y - _vary(rng, count, -0.5, 0.5)
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _gradients(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    x, y = _turned(count, side, rng)
    is_round = _vary(rng, count, 0, 1) < 0.5
    ramp = np.where(is_round, 1 - np.hypot(x, y), (x + 1) / 2)
    return _gray(ramp * _vary(rng, count, 0.5, 1))


def _stripes(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    x, _ = _turned(count, side, rng)
    wave = np.cos(_vary(rng, count, 1, 6) * np.pi * x) - _vary(rng, count, -0.3, 0.8)
    return _gray(wave * _vary(rng, count, 0.6, 5))


def _checkers(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    fields = _vary(rng, count, 1, 4) * np.pi
    x, y = _turned(count, side, rng)
    return _gray((np.cos(fields * x) * np.cos(fields * y)) * _vary(rng, count, 2, 8) + 0.5)


def _blobs(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    light = np.zeros((count, side, side))
    for _ in range(5):
        far = (x - _vary(rng, count, -0.9, 0.9)) ** 2 + (y - _vary(rng, count, -0.9, 0.9)) ** 2
        light += _vary(rng, count, 0.1, 0.8) * np.exp(-far / _vary(rng, count, 0.1, 0.5) ** 2)
    return _gray(light)


def _polygons(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    def polygons() -> np.ndarray:
        paper = Image.new("L", (PAPER, PAPER))
        for _ in range(rng.integers(1, 4)):
            corners = rng.integers(3, 8)
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            reach = rng.uniform(0.1, 0.4) * PAPER * rng.uniform(0.5, 1, corners)
            x, y = rng.uniform(0.2, 0.8, (2, 1)) * PAPER + reach * np.stack([np.cos(angles), np.sin(angles)])
            ImageDraw.Draw(paper).polygon(list(zip(x, y)), fill=int(rng.integers(96, 256)))
        return np.asarray(paper.resize((side, side), Image.Resampling.LANCZOS))

    return _each(count, polygons, side)


def _fields(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls with frequency, 1/f to 1/f^2, as that of photos does."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(count, side, side))) / frequency ** _vary(rng, count, 1, 2)
    smooth = np.fft.irfft2(spectrum, s=(side, side))
    smooth /= np.abs(smooth).max(axis=(1, 2), keepdims=True)
    return _gray(0.5 + 0.5 * smooth - _vary(rng, count, 0, 0.3))


def composites(drawings: np.ndarray, labels: np.ndarray) -> Draw:
    """Drawings of two classes one over the other, or one torn into quarters that change places.

    Args:
        drawings: uint8 of shape (M, side, side).
        labels: Their classes, at least two.

    Returns:
        What draws them.
    """
    height = drawings.shape[1] // 2
    corners = [(slice(r, r + height), slice(c, c + height)) for r, c in _corners(drawings.shape[1])]
    inked = np.all([drawings[:, r, c].max(axis=(1, 2)) > INK for r, c in corners], axis=0)
    # With ink in one quarter alone a character would only move.
    tearable = np.flatnonzero(inked) if inked.any() else np.arange(len(drawings))

    def overlaid(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
        first = rng.integers(len(drawings), size=count)
        second = np.array([rng.choice(np.flatnonzero(labels != labels[i])) for i in first], dtype=int)
        return np.maximum(drawings[first], drawings[second])

    def torn(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
        whole = drawings[rng.choice(tearable, count)]
        pieces = np.zeros_like(whole)
        for piece, drawing in zip(pieces, whole):
            places = rng.permutation(4)
            while (places == np.arange(4)).any():
                places = rng.permutation(4)
            for corner, place in zip(corners, places):
                piece[corner] = np.rot90(drawing[corners[place]], int(rng.integers(4)))
        return pieces

    return lambda count, side, rng: _in_parts([overlaid, torn], count, side, rng)


def _corners(side: int) -> list[tuple[int, int]]:
    far = side - side // 2
    return [(row, column) for row in (0, far) for column in (0, far)]


def _in_parts(draws: Sequence[Draw], count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Each of them as often as the others."""
    counts = [len(part) for part in np.array_split(np.arange(count), len(draws))]
    return np.concatenate([draw(n, side, rng) for draw, n in zip(draws, counts)])


def _each(count: int, draw: Callable[[], np.ndarray], side: int) -> np.ndarray:
    return np.array([draw() for _ in range(count)], dtype=np.uint8).reshape(count, side, side)


def _vary(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """A number for each image."""
    return rng.uniform(low, high, (count, 1, 1))


def _gray(light: np.ndarray) -> np.ndarray:
    """From 0..1, what is beyond cut off."""
    return (light.clip(0, 1) * 255).astype(np.uint8)
