"""Embeddings in a plane: by UMAP where it is installed, else by principal components."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import torch

from pml_slade.evaluation import evaluate
from pml_slade.pages import maps
from pml_slade.pages.maps import plane, principal_plane

pytestmark = pytest.mark.once


def test_the_plane_keeps_what_varies_most():
    rng = np.random.default_rng(0)
    x = np.hstack([np.ones((50, 1)), rng.normal(size=(50, 1)) * 0.3, rng.normal(size=(50, 3)) * 1e-3])
    places, share = principal_plane(x)
    assert abs(np.corrcoef(places[:, 0], x[:, 1])[0, 1]) > 0.95
    assert share > 0.99
    assert places.min() == 0
    assert places.max() == 1


def test_without_umap_the_page_says_how_much_the_components_hold(monkeypatch):
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    x = np.random.default_rng(0).normal(size=(50, 5))
    places, how = plane(x)
    assert (places == principal_plane(x)[0]).all()
    share = f"{100 * principal_plane(x)[1]:.0f} %"
    assert how == f"on the first two principal components, which hold {share} of the variance"


def test_what_umap_places_fills_the_map(monkeypatch):
    """With what UMAP is asked for; a few points are left to the components."""
    asked = []

    class Umap:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, x):
            assert np.linalg.norm(x, axis=1) == pytest.approx(1)
            return (10 * x[:, :2] - 3).astype(np.float32)

    fake = ModuleType("umap")
    fake.UMAP, fake.__spec__ = Umap, ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", fake)
    places, how = plane(np.random.default_rng(0).normal(size=(50, 5)))
    assert "UMAP" in how
    assert (places.min(), places.max()) == (0, 1)
    assert asked == [{"metric": "cosine", "random_state": 0}]
    assert "principal" in plane(np.eye(5))[1]


@pytest.mark.skipif(find_spec("umap") is None, reason="needs umap-learn")
def test_umap_keeps_classes_together():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 20)
    x = 2 * rng.normal(size=(5, 16))[labels] + rng.normal(size=(100, 16))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    places, _ = plane(x)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    assert evaluate(places - 0.5, labels)["P@1"] > 60
    assert (plane(x)[0] == places).all()
