"""How long an index of many images takes to answer, beside loading it: `python benchmarks/search_speed.py`.

It measures the lookup alone, and the whole answer of the page of `pml-slade serve`: it reads an uploaded
photograph, embeds it and looks it up. The vectors are random: a search compares the query with each of them,
so what they are does not matter. The networks have random weights. Times are those of the processor, on one
core, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from PIL import Image
from writing import ROOT, machine, put_section

import pml_slade
from pml_slade.models import build_model, save_model
from pml_slade.reports.tables import markdown
from pml_slade.searching import ImageIndex
from pml_slade.serving import build_app

PAGE = ROOT / "docs" / "search.md"
DIMENSION, UPLOAD = 128, (1024, 768)
"""Of embeddings; of the uploaded photograph, in pixels."""
NETWORKS: dict[str, dict[str, Any]] = {
    "ConvNet, 28 pixels (the letters of the demo)": {
        "trunk": "convnet",
        "image_size": 28,
        "transform": "small",
    },
    "EfficientNet-Lite0, 96 pixels": {
        "trunk": "tf_efficientnet_lite0",
        "image_size": 96,
        "transform": "photo",
    },
    "ResNet-50, 224 pixels (the default)": {"trunk": "resnet50", "image_size": 224, "transform": "photo"},
}


def milliseconds(ask: Callable[[], Any], times: int) -> float:
    """Median time of the processor for a call, after a first call that is not counted."""
    ask()
    taken = []
    for _ in range(times):
        start = time.process_time()
        ask()
        taken.append(1000 * (time.process_time() - start))
    return statistics.median(taken)


def photograph() -> bytes:
    """A JPEG of smooth noise, as large as a photograph from the web."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(UPLOAD, Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
    return file.getvalue()


def network(about: dict[str, Any]) -> pml_slade.TrainedModel:
    """A model that nothing has trained, loaded from its file."""
    models = build_model(about["trunk"], embedding_size=DIMENSION, in_channels=3, weights=None)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, models, {**about, "embedding_size": DIMENSION, "in_channels": 3, "mode": "RGB"})
        return pml_slade.load(folder, "cpu", workers=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="in the index")
    parser.add_argument("--times", type=int, default=50, help="queries for each line")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    vectors = np.random.default_rng(0).normal(size=(given.images, DIMENSION))
    index = ImageIndex.of([f"{i}.jpg" for i in range(given.images)], vectors)
    upload = photograph()
    lines = [["the lookup alone", f"{milliseconds(lambda: index.search(vectors[:1], 24), given.times):.1f}"]]
    for title, about in NETWORKS.items():
        model = network(about)
        index.model = model.digest
        client = build_app(model, index).test_client()

        def ask(client: Any = client) -> None:
            assert client.post("/search", data=upload).status_code == 200

        lines.append([f"whole answer, {title}", f"{milliseconds(ask, given.times):.0f}"])
        print(*lines[-1], flush=True)
    text = (
        f"`python benchmarks/search_speed.py`: the median time of the processor, of {given.times} "
        f"queries to an index of {given.images:,} images,\nafter model and index are loaded, on one core. "
        "The whole answer reads a "
        f"photograph of {UPLOAD[0]} x {UPLOAD[1]} pixels, embeds it\nand looks it up."
    )
    put_section(
        given.page,
        "speed",
        "\n\n".join([text, markdown(["", "ms"], lines), machine("faiss-gpu", device="cpu")]),
    )


if __name__ == "__main__":
    main()
