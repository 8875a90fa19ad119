"""ModelAverage against the loop it stands for."""

import copy

import pytest
import torch

from pml_slade.averages import ModelAverage
from pml_slade.exceptions import ConfigError


def models():
    return {
        "trunk": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)),
        "embedder": torch.nn.Linear(4, 2),
    }


def step(parts):
    """Change every weight, and the statistics of batch norm."""
    for part in parts.values():
        part.train()
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter))
    parts["trunk"](torch.randn(8, 3))


def test_it_is_the_average_of_the_weights_since_the_beginning():
    parts = models()
    expected = {f"{k}.{n}": v.clone() for k, m in parts.items() for n, v in m.state_dict().items()}
    average = ModelAverage(parts, 0.9)
    for _ in range(5):
        step(parts)
        average.update(parts)
        for k, m in parts.items():
            for n, v in m.state_dict().items():
                if v.dtype.is_floating_point:
                    expected[f"{k}.{n}"] = 0.9 * expected[f"{k}.{n}"] + 0.1 * v
    for k, m in average.models.items():
        for n, v in m.state_dict().items():
            if v.dtype.is_floating_point:
                assert torch.allclose(v, expected[f"{k}.{n}"], atol=1e-6), n


def test_the_models_are_followed_but_not_touched():
    parts = models()
    before = copy.deepcopy(parts["trunk"].state_dict())
    average = ModelAverage(parts, 0.5)
    average.models["trunk"](torch.randn(4, 3))
    assert all(torch.equal(v, before[k]) for k, v in parts["trunk"].state_dict().items())
    assert not any(p.requires_grad for m in average.models.values() for p in m.parameters())
    assert all(p.requires_grad for m in parts.values() for p in m.parameters())


def test_it_goes_on_from_its_state():
    parts = models()
    first = ModelAverage(parts, 0.9)
    step(parts)
    first.update(parts)
    second = ModelAverage(models(), 0.9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(parts)
    for average in (first, second):
        average.update(parts)
    for name, model in first.models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, second.models[name].state_dict()[key])


class Still(torch.nn.Module):
    """Has statistics of batch norm and nothing to learn."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2, affine=False)


def test_parts_without_parameters_just_follow():
    parts = {"trunk": torch.nn.Linear(3, 2), "embedder": torch.nn.Identity(), "still": Still()}
    average = ModelAverage(parts, 0.5)
    assert isinstance(average.models["embedder"], torch.nn.Identity)
    before = parts["trunk"].weight.detach().clone()
    with torch.no_grad():
        parts["trunk"].weight.add_(2)
        parts["still"].norm.running_mean.add_(2)
    average.update(parts)
    assert torch.allclose(average.models["trunk"].weight, before + 1)
    assert average.models["still"].norm.running_mean.tolist() == [1, 1]
    again = ModelAverage(parts, 0.5)
    again.load_state_dict(average.state_dict())
    assert torch.equal(again.models["trunk"].weight, average.models["trunk"].weight)


def test_an_embedder_that_a_trainer_adds_later_is_not_looked_at():
    parts = {"trunk": torch.nn.Linear(3, 2)}
    average = ModelAverage(parts, 0.5)
    average.update({**parts, "embedder": torch.nn.Identity()})
    assert set(average.models) == {"trunk"}


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ConfigError, match=rf"decay.*{decay}"):
        ModelAverage(models(), decay)
