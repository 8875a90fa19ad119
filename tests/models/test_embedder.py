import pytest
import torch
from torch import nn

from pml_slade.exceptions import ConfigError
from pml_slade.models import Embedder


@pytest.mark.parametrize(
    ("hidden_sizes", "kinds"),
    [((), [nn.Linear]), ((7, 5), [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear])],
)
def test_hidden_sizes_make_an_mlp_that_ends_linear(hidden_sizes, kinds):
    embedder = Embedder(6, 4, hidden_sizes)
    assert [type(layer) for layer in embedder.layers] == kinds
    assert embedder(torch.randn(3, 6)).shape == (3, 4)


@pytest.mark.parametrize("sizes", [(0, 4), (6, 0), (6, 4, (0,))])
def test_a_size_below_one_is_refused(sizes):
    with pytest.raises(ConfigError, match="pass 1 or more"):
        Embedder(*sizes)
