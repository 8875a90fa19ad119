"""A checkpoint is compared with the stage before anything of it is used."""

import pytest
import torch

from pml_slade.exceptions import CheckpointError
from pml_slade.running.restoring import check_best, check_history, check_like, check_optimizer

OWN = {"weight": torch.zeros(2, 3), "steps": 3, "name": "a", "rates": [0.1, 0.2], "state": {}, "later": None}


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.zeros(3, 2)},
        {"weight": torch.zeros(2, 3, dtype=torch.int64)},
        {"weight": [0.0]},
        {"steps": "3"},
        {"name": 1},
        {"rates": [0.1]},
        {"rates": {"a": 1}},
        {"state": [1]},
        {"later": torch.zeros(1).expand(1 << 40)},
        {"more": 1},
    ],
    ids=lambda change: str(change)[:30],
)
def test_other_keys_types_and_shapes_are_refused(change):
    with pytest.raises(CheckpointError, match=next(iter(change))):
        check_like({**OWN, **change}, OWN)


def test_the_same_and_what_came_later_is_let_through():
    check_like(OWN, OWN)
    check_like({**OWN, "steps": 4.0, "state": {0: {"exp_avg": torch.ones(3)}}, "later": [1, "a"]}, OWN)
    older = {key: value for key, value in OWN.items() if key != "name"}
    check_like(older, OWN)
    with pytest.raises(CheckpointError, match="differs in name"):
        check_like(older, OWN, whole=True)


@pytest.mark.parametrize("kept", [{"m": torch.zeros(4)}, {"m": "a"}, [1]])
def test_an_optimizer_keeps_what_fits_its_parameters(kept):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    check_optimizer(optimizer.state_dict(), optimizer, "o")
    for number in (0, 7):
        with pytest.raises(CheckpointError, match="o keeps"):
            check_optimizer({"state": {number: kept}}, optimizer, "o")


def test_history_and_best_models_are_numbers_and_weights():
    check_history([{"epoch": 1.0, "loss": float("nan")}])
    for wrong in ("abc", [1], [{"loss": 1.0}], [{"epoch": "1"}], {}):
        with pytest.raises(CheckpointError, match="history"):
            check_history(wrong)
    models = {"trunk": torch.nn.Linear(1, 1)}
    classes = torch.tensor([0.5, 1.5], dtype=torch.float64)
    best = {"score": 1.0, "classes": classes, "epoch": 2, "models": {"trunk": models["trunk"].state_dict()}}
    check_best(None, models)
    check_best(best, models)
    for change in (
        {"score": "1"},
        {"classes": [1.0]},
        {"classes": classes[:, None]},
        {"models": {}},
        {"models": {"trunk": {}}},
    ):
        with pytest.raises(CheckpointError, match="best"):
            check_best({**best, **change}, models)
