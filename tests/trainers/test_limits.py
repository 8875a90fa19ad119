"""Where SelfTrainingTrainer stops: losses that are not finite, and numbers out of range."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss

from pml_slade import FeatureBasisLoss, SelfTrainingTrainer
from pml_slade.exceptions import ConfigError, DataError, DivergedError, SladeError


class Diverging(torch.nn.Module):
    """Gives `value` for one embedding in its n-th step of training."""

    def __init__(self, step, value):
        super().__init__()
        self.linear, self.left, self.value = torch.nn.Linear(4, 3), step, value

    def forward(self, x):
        x = self.linear(x)
        if not self.training:
            return x
        self.left -= 1
        return x if self.left else torch.cat([x[:-1], x[-1:] * self.value])


class NotFinite(ContrastiveLoss):
    """Gives `value` from its n-th call on."""

    def __init__(self, step, value):
        super().__init__()
        self.left, self.value = step, value

    def forward(self, *args, **kwargs):
        self.left -= 1
        return super().forward(*args, **kwargs) + (self.value if self.left <= 0 else 0)


def build(images, pool, trunk=None, loss=None, **kwargs):
    models = {"trunk": trunk or torch.nn.Linear(4, 3)}
    losses = {
        "metric_loss": loss or ContrastiveLoss(),
        "unlabeled_metric_loss": ContrastiveLoss(),
        "basis_loss": FeatureBasisLoss(num_classes=2, embedding_size=3),
    }
    optimizers = {
        f"{name}_optimizer": torch.optim.SGD(part.parameters(), lr=0.05)
        for name, part in {**models, "basis_loss": losses["basis_loss"]}.items()
    }
    settings = {
        "batch_size": 8,
        "dataset": images,
        "unlabeled_dataset": pool,
        "num_clusters": 3,
        "dataloader_num_workers": 0,
        "cluster_kwargs": {"progress": False},
        **kwargs,
    }
    return SelfTrainingTrainer(models, optimizers, loss_funcs=losses, **settings)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.models["trunk"].parameters()]).clone()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize("loss", [ContrastiveLoss(), TripletMarginLoss()], ids=["contrastive", "triplet"])
def test_embeddings_that_are_not_finite_stop_training_in_that_step(images, pool, step, value, loss):
    # PML's contrastive loss takes a NaN for a pair that costs nothing, so that its loss stays finite.
    trainer = build(images, pool, Diverging(step, value), loss)
    steps, seen = [], []
    trainer.end_of_iteration_hook = lambda t: steps.append(t.iteration) or seen.append(weights(t))
    with pytest.raises(DivergedError, match=f"embeddings are not finite in step {step}: "):
        trainer.train(num_epochs=4)
    assert len(steps) == step - 1
    assert torch.isfinite(weights(trainer)).all()
    assert step == 1 or torch.equal(weights(trainer), seen[-1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 5])
def test_a_loss_that_is_not_finite_stops_training_before_the_weights_are_touched(images, pool, step, value):
    trainer = build(images, pool, loss=NotFinite(step, value))
    seen = [weights(trainer)]
    trainer.end_of_iteration_hook = lambda t: seen.append(weights(t))
    with pytest.raises(
        SladeError, match=rf"the loss became {value} in step {step} \(\{{'metric_loss'.*Lower"
    ):
        trainer.train(num_epochs=4)
    assert len(seen) == step
    assert torch.equal(weights(trainer), seen[-1])


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "8"])
@pytest.mark.parametrize("name", ["batch_size", "unlabeled_batch_size", "unlabeled_images_per_class"])
def test_sizes_out_of_range_are_refused_at_once(images, pool, name, bad):
    with pytest.raises(ConfigError, match=f"{name} must be an integer of at least 1, got {bad!r}"):
        build(images, pool, **{name: bad})


@pytest.mark.parametrize("name", ["relabel_every", "basis_warmup"])
@pytest.mark.parametrize("bad", [-1, 0.5])
def test_schedules_out_of_range_are_refused_at_once(images, pool, name, bad):
    with pytest.raises(ConfigError, match=f"{name} must be an integer of at least 0, got {bad}"):
        build(images, pool, **{name: bad})


@pytest.mark.parametrize("k", [0, -3, 2.5])
@pytest.mark.parametrize("labels", [None, [0, 1] * 12])
def test_a_number_of_clusters_out_of_range_is_refused_at_once_and_means_no_default(images, pool, k, labels):
    with pytest.raises(DataError, match=f"num_clusters must be an integer of at least 1, got {k}"):
        build(images, pool, num_clusters=k, dataset_labels=labels)


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["metric_loss", "unlabeled_metric_loss", "basis_loss"])
def test_weights_of_losses_out_of_range_are_refused_at_once(images, pool, name, weight):
    with pytest.raises(ConfigError, match=f"loss_weights: {name} must be 0 or more, got {weight}"):
        build(images, pool, loss_weights={name: weight})


@pytest.mark.parametrize("setting", [{"batch_size": 0}, {"min_cluster_size": 0}, {"seed": -1}, {"niter": 0}])
def test_settings_of_clustering_and_embedding_out_of_range_are_refused_at_once(images, pool, setting):
    ((name, _),) = setting.items()
    with pytest.raises(ConfigError, match=f"{name} must be an integer of at least"):
        build(images, pool, cluster_kwargs=setting)


def test_a_model_that_gives_too_few_embeddings_is_refused(images, pool):
    class Short(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x)[:3]

    with pytest.raises(DataError, match="a batch of 36 items gave 3 embeddings"):
        build(images, pool, Short(4, 3)).train(num_epochs=1)
