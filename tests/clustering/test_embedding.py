"""Embedding that changes nothing."""

import copy

import numpy as np
import pytest
import torch

from pml_slade.clustering import embed
from pml_slade.exceptions import ConfigError, DataError


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


def test_a_collate_function_pads_items_of_unequal_length():
    items = [torch.ones(n) for n in (3, 1, 2)]
    out = embed(
        items,
        lambda_module(lambda x: x),
        collate_fn=lambda batch: torch.nn.utils.rnn.pad_sequence(batch, batch_first=True),
        progress=False,
    )
    assert out.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


def test_a_batch_getter_picks_the_data_of_a_batch():
    items = [(torch.full((2,), float(i)), i) for i in range(5)]
    out = embed(items, torch.nn.Identity(), batch_getter=lambda b: b[0] * 10, batch_size=2, progress=False)
    assert out[:, 0].tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("given", [torch.uint8, torch.float64, torch.float16])
def test_data_are_cast_to_the_type_asked_for(given):
    items = [torch.full((4,), 3, dtype=given)] * 2
    out = embed(items, torch.nn.Linear(4, 2), dtype=torch.float32, progress=False)
    assert out.shape == (2, 2)


@pytest.mark.parametrize("rows", [0, 3, 59, 61])
def test_a_model_that_gives_another_number_of_embeddings_is_refused(rows):
    with pytest.raises(DataError, match=f"a batch of 60 items gave {rows} embeddings"):
        embed([torch.zeros(4)] * 60, lambda_module(lambda x: torch.zeros(rows, 8)), progress=False)


def test_a_collate_function_that_makes_two_views_is_refused():
    with pytest.raises(DataError, match="a batch of 3 items gave 6 embeddings: the model, and collate_fn"):
        embed(
            [torch.zeros(4)] * 3, torch.nn.Identity(), collate_fn=lambda b: torch.stack(b * 2), progress=False
        )


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("batch_size", 2.5), ("num_workers", -1)])
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be an integer of at least"):
        embed([torch.zeros(2)], torch.nn.Identity(), progress=False, **{name: value})


class Stream(torch.utils.data.IterableDataset):
    """Iterable, with a length."""

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([torch.zeros(2)] * 3)


def test_an_iterable_data_set_is_refused_even_with_a_length():
    with pytest.raises(DataError, match=r"dataset must be a map-style dataset.* got Stream"):
        embed(Stream(), torch.nn.Identity(), progress=False)


def lambda_module(function):
    """A module that does what a function does."""

    class Wrapped(torch.nn.Module):
        def forward(self, x):
            return function(x)

    return Wrapped()
