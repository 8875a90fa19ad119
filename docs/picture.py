"""Draw docs/images/neighbours.png from a run of the demo: `python docs/picture.py runs/demo-0`.

Six queries, drawn at random from as many classes, with their nearest neighbours by the teacher and by SLADE.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pml_slade.datasets.images import ImageDataset
from pml_slade.pages.folder import RunFolder
from pml_slade.pages.pictures import Pictures
from pml_slade.pages.retrieval import Retrieval
from pml_slade.pages.sources import SavedRun

QUERIES, NEIGHBOURS = 6, 7
SIDE, STEP, GAP, TOP = 58, 68, 30, 34
INK, RIGHT, WRONG = "#1c1f23", "#1d7a43", "#b3372f"
DASH = 7


def draw(run: str) -> Image.Image:
    """The whole picture."""
    folder = RunFolder.read(run)
    seen = Pictures(folder, SavedRun(folder, "cpu", 0, 256, False)).seen
    shuffled = np.random.default_rng(0).permutation(len(seen.labels))
    first = np.sort(np.unique(seen.labels[shuffled], return_index=True)[1])[:QUERIES]
    block = GAP + NEIGHBOURS * STEP
    picture = Image.new("RGB", (STEP + 2 * block + 10, TOP + QUERIES * STEP), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(17)
    titles = ["query", folder.before["title"], folder.after["title"]]
    starts = [8, 8 + STEP + GAP, 8 + STEP + GAP + block]
    for x, title in zip(starts, titles):
        pen.text((x, 6), title, INK, font)
    for row, query in enumerate(shuffled[first].tolist()):
        y = TOP + row * STEP
        picture.paste(tile(seen.queries, query), (starts[0], y))
        for x, found in zip(starts[1:], (seen.before, seen.after)):
            strip(picture, x, y, seen.gallery, found, query)
    return picture


def strip(picture: Image.Image, x: int, y: int, images: ImageDataset, found: Retrieval, query: int) -> None:
    """Draw the neighbours of a query: a full frame around right ones, a dashed one around wrong ones."""
    pen = ImageDraw.Draw(picture)
    for i in range(NEIGHBOURS):
        left = x + i * STEP
        picture.paste(tile(images, int(found.positions[query, i])), (left, y))
        right, box = found.right[query, i], (left - 3, y - 3, left + SIDE + 2, y + SIDE + 2)
        pen.rectangle(box, outline=RIGHT if right else WRONG, width=3)
        for at in range(DASH, SIDE + 6, 2 * DASH) if not right else ():
            for spot in ((box[0] + at, box[1]), (box[0] + at, box[3] - 2)):
                pen.rectangle((*spot, spot[0] + DASH - 2, spot[1] + 2), fill="white")
            for spot in ((box[0], box[1] + at), (box[2] - 2, box[1] + at)):
                pen.rectangle((*spot, spot[0] + 2, spot[1] + DASH - 2), fill="white")


def tile(images: ImageDataset, index: int) -> Image.Image:
    """An image, dark on light."""
    image = images.image(index).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image.point(lambda value: 255 - value).convert("RGB")


if __name__ == "__main__":
    file = Path(__file__).parent / "images" / "neighbours.png"
    draw(sys.argv[1]).quantize(64).save(file, optimize=True)
