"""Embedding that changes nothing."""

import copy

import numpy as np
import pytest
import torch

from pml_slade.clustering import embed
from pml_slade.exceptions import DataError


class Recorder(torch.nn.Module):
    """Gives back what comes, and notes how it was called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append((len(x), self.training, torch.is_grad_enabled()))
        return x


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_embeddings_come_in_order_and_in_float32(batch_size, num_workers):
    data = [torch.full((2,), float(i), dtype=torch.float64) for i in range(7)]
    out = embed(data, torch.nn.Identity(), batch_size=batch_size, num_workers=num_workers, progress=False)
    assert out.dtype == np.float32
    assert out.tolist() == [[i, i] for i in range(7)]


def test_the_model_runs_in_eval_mode_without_gradients_in_batches():
    model = Recorder().train()
    embed([torch.zeros(2)] * 7, model, batch_size=3, progress=False)
    assert model.calls == [(3, False, False), (3, False, False), (1, False, False)]
    assert model.training


def mixed_modes():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Sequential(torch.nn.Dropout()))
    model.train()
    model[0].eval()
    model[1].eval()
    model[1][0].train()
    return model


def test_training_modes_of_every_module_and_the_weights_are_restored():
    model = mixed_modes()
    modes, state = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    embed([torch.randn(4)] * 5, model, progress=False)
    assert [m.training for m in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_training_modes_are_restored_after_an_error_as_well():
    model = mixed_modes()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError):
        embed([torch.randn(3)] * 5, model, progress=False)
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_embeddings_come_out_in_float32(dtype):
    out = embed([torch.full((3,), 0.5, dtype=dtype)] * 2, torch.nn.Identity(), progress=False)
    assert out.dtype == np.float32
    assert (out == 0.5).all()


def test_the_data_getter_picks_from_each_item():
    items = [{"image": torch.full((2,), float(i)), "label": 9} for i in range(3)]
    out = embed(items, torch.nn.Identity(), data_getter=lambda item: item["image"], progress=False)
    assert out[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "dataset is empty"),
        ([torch.zeros(2, 2)], r"must give \(n, d\) embeddings, got \(1, 2, 2\)"),
        ([torch.zeros(2), torch.full((2,), torch.nan)], "1 of 2 embeddings are not finite"),
    ],
)
def test_what_cannot_be_embedded_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        embed(data, torch.nn.Identity(), progress=False)
