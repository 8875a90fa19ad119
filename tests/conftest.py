"""Every test starts from the same seeds; fixtures are named by the role that they play."""

import random
import signal

import numpy as np
import pytest
import torch
from few_letters import draw_few
from images import write_images, write_model
from pytorch_metric_learning.utils import common_functions as c_f

import pml_slade
from pml_slade import FeatureBasisLoss
from pml_slade.datasets import glyphs as drawn

NUM_CLASSES = 3
EMBEDDING_SIZE = 6


@pytest.fixture(autouse=True)
def same_seeds():
    """Fix torch, numpy and random, and PML's own generator with them."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - PML draws from the global generator
    torch.manual_seed(0)
    yield
    c_f.NUMPY_RANDOM = np.random


@pytest.fixture(autouse=True)
def same_signals():
    """See that no test, and nothing it calls, keeps Ctrl-C for itself."""
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) == before


@pytest.fixture(autouse=True, scope="session")
def memory_goes_back():
    """Give memory back, as a run on CPUs does not: a process for each core has many tests to come."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pml_slade.runtime.keep_freed_memory", bool)
        yield


@pytest.fixture
def labels():
    """A joint batch: three annotated classes, pseudo-labels from 3 on, one of them alone."""
    return torch.tensor([0, 1, 2, 0, 3, 3, 4, 4, 4, 5])


@pytest.fixture
def embeddings(labels):
    """Embeddings of the joint batch."""
    return torch.randn(len(labels), EMBEDDING_SIZE)


@pytest.fixture
def basis():
    """The loss with the default settings."""
    return FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=EMBEDDING_SIZE)


@pytest.fixture
def images():
    """Labeled images: two classes that a linear trunk can tell apart."""
    return [(torch.randn(4) + 3 * (i % 2), i % 2) for i in range(24)]


@pytest.fixture
def pool():
    """Unlabeled images of three further classes."""
    return [torch.randn(4) * 0.3 + torch.eye(4)[i % 3] * 4 for i in range(36)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of labeled, unlabeled and test images, by name."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The file of a model for them."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model):
    """That model, loaded."""
    return pml_slade.load(model, "cpu", workers=0)


@pytest.fixture(scope="module")
def few_letters():
    """Glyphs of some letters in half of the faces."""
    with pytest.MonkeyPatch.context() as patch:
        draw_few(patch.setattr)
        yield
    drawn.glyphs.cache_clear()
