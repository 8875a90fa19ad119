"""Losses, miners and optimizers by name."""

import pytest
import torch
from images import small_config
from pytorch_metric_learning import losses, miners

from pml_slade.exceptions import ConfigError
from pml_slade.methods.building import build_loss, build_miner, build_optimizer
from pml_slade.methods.settings import NamedConfig

NOWHERE = {"labeled": "nowhere", "unlabeled": "nowhere"}


def named(name, **arguments):
    return NamedConfig(name=name, **arguments)


def test_losses_and_miners_are_those_of_pml_with_their_arguments():
    loss = build_loss(named("TripletMarginLoss", margin=0.2), "teacher.loss")
    assert isinstance(loss, losses.TripletMarginLoss)
    assert loss.margin == 0.2
    miner = build_miner(named("MultiSimilarityMiner", epsilon=0.3), "teacher.miner")
    assert isinstance(miner, miners.MultiSimilarityMiner)
    assert miner.epsilon == 0.3


def test_proxy_losses_get_their_sizes():
    loss = build_loss(named("ProxyAnchorLoss"), "teacher.loss", num_classes=7, embedding_size=5)
    assert sorted(loss.proxies.shape) == [5, 7]


def test_a_size_that_is_given_wins_over_the_known_one():
    sizes = {"num_classes": 7, "embedding_size": 5}
    loss = build_loss(named("ProxyAnchorLoss", num_classes=9), "teacher.loss", **sizes)
    assert sorted(loss.proxies.shape) == [5, 9]


def test_losses_that_ask_for_no_sizes_get_none():
    sizes = {"num_classes": 7, "embedding_size": 5}
    assert build_loss(named("ContrastiveLoss"), "teacher.loss", **sizes)


@pytest.mark.parametrize(
    ("build", "typo", "meant"),
    [
        (build_loss, "ContrastivLoss", "ContrastiveLoss"),
        (build_loss, "multisimilarityloss", "MultiSimilarityLoss"),
        (build_miner, "MultiSimilarityMinner", "MultiSimilarityMiner"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(build, typo, meant):
    with pytest.raises(ConfigError, match=rf"^student\.x\.name: .* no {typo}; did you mean {meant}\?"):
        build(named(typo), "student.x")


def groups(**own):
    return [{"params": list(torch.nn.Linear(2, 2).parameters()), **own}]


def test_an_unknown_optimizer_is_refused_with_the_nearest_one(tmp_path):
    config = small_config(NOWHERE, tmp_path, "student.optimizer=RMSprp")
    with pytest.raises(ConfigError, match=r"RMSprp.*RMSprop"):
        build_optimizer(config.student, groups())


@pytest.mark.parametrize("name", ["LBFGS", "lr_scheduler", "SparseAdam"])
def test_an_optimizer_that_cannot_be_used_is_refused_with_its_name(tmp_path, name):
    config = small_config(NOWHERE, tmp_path, f"student.optimizer={name}")
    with pytest.raises(ConfigError, match=name):
        build_optimizer(config.student, groups())


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop"])
def test_an_optimizer_gets_its_rate_and_decay(tmp_path, name):
    settings = (f"student.optimizer={name}", "student.lr=0.5", "student.weight_decay=0.25")
    student = small_config(NOWHERE, tmp_path, *settings).student
    [group] = build_optimizer(student, groups()).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    [group] = build_optimizer(student, groups(lr=0.125)).param_groups
    assert group["lr"] == 0.125


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (build_loss, named("ContrastiveLoss", margine=0.5)),
        (build_loss, named("ProxyAnchorLoss")),
        (build_miner, named("MultiSimilarityMiner", epsilom=0.1)),
        (build_loss, named("ContrastiveLoss", pos_margin="wide")),
        (build_loss, named("TripletMarginLoss", margin=None)),
        (build_miner, named("MultiSimilarityMiner", epsilon=[0.1])),
    ],
)
def test_arguments_that_pml_refuses_are_shown_with_the_key(build, config):
    with pytest.raises(ConfigError, match=rf"^student\.x: {config.name} refused \{{.*\}}: ."):
        build(config, "student.x")
