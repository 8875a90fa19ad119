"""A step: how models compute, and that nothing in it waits for the device."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss

from pml_slade import FeatureBasisLoss, PseudoLabelDataset, SelfTrainingTrainer
from pml_slade.averages import ModelAverage
from pml_slade.exceptions import ConfigError, DivergedError
from pml_slade.losses import ClusterBasisLoss, MeanTeacherLoss, NeighbourLoss, TwoViewsLoss
from pml_slade.numerics import Numerics, is_convolutional, laid_out_for
from pml_slade.running.stages import Stage, _train_step
from pml_slade.trainers import MomentumTrainer, NeighbourTrainer, SupervisedTrainer

pytestmark = pytest.mark.once("precision and devices are torch's")
# There the meta device tells less, and CPUs have no scaler and no fused steps.
recent = pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="not with torch 2.2")

CLASSES, CLUSTERS, SIZE, BATCH = 4, 3, 6, 8
CPU, META = torch.device("cpu"), torch.device("meta")


def images(count=24, classes=CLASSES, seed=0):
    """Noisy images, a mean colour for each class."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randn(classes, 3, 1, 1, generator=generator)
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return [(noise[i] + colours[i % classes], i % classes) for i in range(count)]


def models(device=CPU):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d
    trunk = torch.nn.Sequential(
        conv(3, 8, 3), torch.nn.ReLU(), conv(8, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    return {"trunk": trunk.to(device), "embedder": torch.nn.Linear(8, SIZE).to(device)}


def views(items):
    return torch.stack([x for x, _ in items] * 2), torch.tensor([label for _, label in items] * 2)


def losses_of(kind, device):
    """Losses without pairs: PML's losses and miners of pairs wait to count them."""
    basis = FeatureBasisLoss(CLASSES, SIZE, regularizer="sd").to(device)
    found = {"metric_loss": NormalizedSoftmaxLoss(CLASSES, SIZE).to(device)}
    if kind is SupervisedTrainer:
        return found
    on_pool = {
        SelfTrainingTrainer: lambda: ClusterBasisLoss(basis, CLUSTERS, margin=0.1),
        MomentumTrainer: MeanTeacherLoss,
        NeighbourTrainer: lambda: NeighbourLoss(num_neighbours=5),
    }[kind]()
    return {**found, "basis_loss": basis, "unlabeled_metric_loss": on_pool.to(device)}


def build(kind=SelfTrainingTrainer, device=CPU, numerics=None, loss=None, **kwargs):
    parts = models(device)
    torch.manual_seed(1)
    losses = losses_of(kind, device)
    if loss is not None:
        losses["unlabeled_metric_loss"] = loss
    average = ModelAverage(parts, 0.9)
    if kind is not SupervisedTrainer:
        data = [x for x, _ in images(seed=1)]
        labels = np.arange(24) if kind is NeighbourTrainer else np.arange(24) % CLUSTERS
        kwargs |= {
            "unlabeled_dataset": PseudoLabelDataset(data, labels, CLASSES),
            "unlabeled_images_per_class": None,
            "unlabeled_collate_fn": views if kind is MomentumTrainer else None,
            "teacher": average.models,
        }
    trainer = kind(
        models=parts,
        optimizers={
            f"{name}_optimizer": torch.optim.Adam(part.parameters(), lr=0.01)
            for name, part in {**parts, **losses}.items()
            if list(part.parameters())
        },
        batch_size=BATCH,
        loss_funcs=losses,
        dataset=images(),
        iterations_per_epoch=20,
        dataloader_num_workers=0,
        data_device=device,
        **kwargs,
    )
    if numerics is not None:
        trainer.numerics = numerics
    trainer.end_of_iteration_hook = average
    return trainer


def with_scale(trainer, scale):
    """Scale gradients by so much from the first step on."""
    if trainer.scaler is not None:
        trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": scale})
    return trainer


def record(trainer):
    """Train 20 steps; losses of each."""
    found = []
    follow = trainer.end_of_iteration_hook

    def hook(t):
        follow(t)
        found.append([float(torch.as_tensor(loss).detach()) for loss in t.losses.values()])

    trainer.end_of_iteration_hook = hook
    torch.manual_seed(2)
    trainer.train()
    return torch.tensor(found)


KINDS = (SupervisedTrainer, SelfTrainingTrainer, MomentumTrainer, NeighbourTrainer)


@recent
@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_for_the_device(kind, monkeypatch, tmp_path):
    # On the meta device there are no values: whatever waits for one raises. It has no autocast either.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    trainer = build(kind, META)
    monkeypatch.setattr(trainer.finite, "losses", lambda t: None)
    monkeypatch.setattr(trainer.finite, "embeddings", lambda t, x: None)
    if kind is SelfTrainingTrainer:
        trainer._vectors_started = True  # centroids are means of embeddings, which are none here
    if kind is NeighbourTrainer:
        pool = torch.randn(24, SIZE, device=META)
        near = torch.zeros(24, 3, dtype=torch.int64, device=META)
        trainer.neighbour_loss.remember(pool, near, torch.ones(24, 3, device=META))
        trainer._epoch_begun = 1
    trainer.epoch = 1
    trainer.initialize_dataloader()
    trainer.set_to_train()
    stage = Stage("Meta", tmp_path, trainer, epochs=1, seed=0, validate=None)
    for trainer.iteration in range(2):
        _train_step(stage)
    assert stage.totals["total_loss"].is_meta
    with pytest.raises(RuntimeError):
        float(stage.totals["total_loss"])


@recent
def test_what_waits_is_found_on_the_meta_device(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())

    class Waiting(TwoViewsLoss):
        def forward(self, *args):
            loss = super().forward(*args)
            return loss if loss > 0 else -loss

    trainer = build(MomentumTrainer, META, loss=Waiting())
    trainer.finite.embeddings = lambda *args: None
    trainer.epoch, trainer.iteration = 1, 0
    trainer.initialize_dataloader()
    trainer.set_to_train()
    with pytest.raises(RuntimeError, match=r"meta|boolean"):
        _train_step(Stage("Meta", tmp_path, trainer, epochs=1, seed=0, validate=None))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("numerics", "tolerance"),
    [(Numerics("bf16"), 0.05), (Numerics("fp16"), 0.02), (Numerics(channels_last=True), 1e-4)],
    ids=["bf16", "fp16", "channels_last"],
)
def test_numerics_change_nothing_but_rounding(kind, numerics, tolerance):
    plain, other = build(kind), with_scale(build(kind, numerics=numerics), 16.0)
    if numerics.channels_last:
        numerics.place(other.models["trunk"], CPU)
        assert not other.models["trunk"][0].weight.is_contiguous()
    expected, found = record(plain), record(other)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert expected[-5:, -1].mean() < 0.95 * expected[:5, -1].mean()  # something was learned


def test_losses_get_float32_whatever_the_models_compute_in():
    seen = []

    class Seeing(MeanTeacherLoss):
        def forward(self, student, teacher):
            seen.append((student.dtype, teacher.dtype, torch.is_autocast_cpu_enabled()))
            return super().forward(student, teacher)

    record(build(MomentumTrainer, numerics=Numerics("bf16"), loss=Seeing()))
    assert set(seen) == {(torch.float32, torch.float32, False)}


@recent
def test_gradients_that_overflow_cost_a_step_and_the_scale_is_part_of_the_state():
    trainer = with_scale(build(numerics=Numerics("fp16")), 2.0**120)
    before = copy.deepcopy(trainer.models["trunk"].state_dict())
    trainer.epoch, trainer.iteration = 1, 0
    trainer.initialize_dataloader()
    trainer.set_to_train()
    trainer.forward_and_backward()
    assert all(torch.equal(before[k], v) for k, v in trainer.models["trunk"].state_dict().items())
    other = build(numerics=Numerics("fp16"))
    other.load_state_dict(trainer.state_dict())
    assert other.scaler.state_dict() == trainer.scaler.state_dict()
    assert other.scaler.get_scale() == 2.0**119


def test_gradients_are_clipped_as_they_are():
    def first_norm(numerics):
        norms, trainer = [], with_scale(build(numerics=numerics), 16.0)
        parameters = [*trainer.models["trunk"].parameters()]
        trainer.gradient_clippers = {
            "trunk_grad_clipper": lambda: norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        }
        trainer.train()
        return norms[0].item()

    assert first_norm(Numerics("fp16")) == pytest.approx(first_norm(Numerics()), rel=0.02)


@pytest.mark.parametrize("kind", [SupervisedTrainer, SelfTrainingTrainer])
def test_on_a_gpu_a_loss_that_is_not_finite_is_seen_one_step_later(kind, monkeypatch):
    trainer = build(kind)
    monkeypatch.setattr("pml_slade.trainers.checks._fetch", lambda values: (values.clone(), lambda: None))
    trainer.finite.late = True
    steps = []

    def spoil(t):
        steps.append(t.iteration + 1)
        if t.iteration == 2:
            with torch.no_grad():
                t.loss_funcs["metric_loss"].W.fill_(torch.nan)

    trainer.end_of_iteration_hook = spoil
    with pytest.raises(DivergedError, match="the loss became nan in step 4"):
        trainer.train()
    assert steps == [1, 2, 3, 4]


def test_what_a_gpu_has_not_told_yet_is_waited_for_before_a_checkpoint(monkeypatch):
    trainer = build()
    monkeypatch.setattr("pml_slade.trainers.checks._fetch", lambda values: (values.clone(), lambda: None))
    trainer.finite.late = True
    trainer.epoch, trainer.iteration = 1, 0
    trainer.initialize_dataloader()
    trainer.set_to_train()
    with torch.no_grad():
        trainer.models["embedder"].weight.fill_(torch.inf)
    trainer.forward_and_backward()
    with pytest.raises(DivergedError, match="embeddings are not finite in step 1"):
        trainer.finite.settle()


def test_convolutional_trunks_and_their_images_are_laid_out_and_others_stay():
    numerics = Numerics(channels_last=None)
    trunk = numerics.place(models()["trunk"], CPU)
    assert is_convolutional(trunk)
    x = torch.randn(2, 3, 8, 8)
    assert laid_out_for(trunk, x).is_contiguous(memory_format=torch.channels_last)
    linear = numerics.place(torch.nn.Linear(4, 2), CPU)
    for left in (torch.randn(2, 4), x):
        assert laid_out_for(linear, left) is left
    plain = Numerics(channels_last=False).place(models()["trunk"], CPU)
    assert laid_out_for(plain, x) is x


def test_auto_is_fp32_without_a_gpu_and_tf32_is_refused():
    assert Numerics("auto").on(CPU) == Numerics("fp32")
    with pytest.raises(ConfigError, match="precision: cpu has no tf32; give auto, fp32, bf16 or fp16"):
        Numerics("tf32").on(CPU)


def made(name, **arguments):
    from pml_slade.methods.building import build_optimizer
    from pml_slade.methods.settings import OptimizerConfig

    stage = OptimizerConfig(optimizer=name, lr=0.1, optimizer_arguments=arguments or None)
    return build_optimizer(stage, [{"params": [torch.nn.Parameter(torch.ones(1))]}])


@recent
def test_optimizers_step_in_one_go():
    assert made("Adam").defaults["fused"]
    assert not made("Adam", foreach=True).defaults["fused"]
    assert "fused" not in made("RMSprop").defaults


def test_optimizers_step_one_by_one_where_torch_has_no_other_way(monkeypatch):
    class OnGPUsAlone(torch.optim.Adam):
        def __init__(self, params, fused=None, **arguments):
            super().__init__(params, **arguments)
            if fused:
                raise RuntimeError("fused=True requires CUDA")

    monkeypatch.setattr(torch.optim, "Adam", OnGPUsAlone)
    optimizer = made("Adam")
    assert not optimizer.defaults["fused"]
    assert not optimizer.param_groups[0]["fused"]
