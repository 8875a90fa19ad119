"""Trainers of peers: what the teacher sees, and when neighbours are found."""

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss

from pml_slade import PseudoLabelDataset
from pml_slade.averages import ModelAverage
from pml_slade.exceptions import ConfigError, DataError
from pml_slade.losses import MeanTeacherLoss, SelfTaughtLoss
from pml_slade.trainers import MomentumTrainer, SelfTaughtTrainer


def two_views(items):
    data, labels = torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])
    return torch.cat([data, -data]), torch.cat([labels, labels])


def build(images, pool, kind=MomentumTrainer, loss=None, **kwargs):
    models = {"trunk": torch.nn.Linear(4, 3)}
    average = ModelAverage(models, 0.5)
    settings = {
        "teacher": average.models,
        "unlabeled_dataset": PseudoLabelDataset(pool, range(len(pool)), label_offset=2),
        "unlabeled_collate_fn": two_views,
        "end_of_iteration_hook": average,
        "iterations_per_epoch": 3,
        "dataloader_num_workers": 0,
        **kwargs,
    }
    losses = {"metric_loss": ContrastiveLoss(), "unlabeled_metric_loss": loss or MeanTeacherLoss()}
    optimizers = {"trunk_optimizer": torch.optim.SGD(models["trunk"].parameters(), lr=0.05)}
    return kind(models, optimizers, 8, losses, images, **settings)


def test_the_student_sees_first_views_and_the_teacher_second_ones(images, pool):
    seen = []

    class Spy(MeanTeacherLoss):
        def forward(self, student, teacher):
            seen.append((student, teacher))
            return super().forward(student, teacher)

    trainer = build(images, pool, loss=Spy())
    trainer.train(num_epochs=1)
    assert len(seen) == 3
    for student, teacher in seen:
        assert (student.requires_grad, teacher.requires_grad) == (True, False)
        assert student.shape == teacher.shape == (8, 3)
        # The views are mirror images, so under one linear model they would add up to twice the bias.
        assert not torch.allclose(student, teacher, atol=1e-3)


def test_a_teacher_is_needed(images, pool):
    with pytest.raises(ConfigError, match="teacher"):
        build(images, pool, teacher=None)


def test_batches_of_single_views_are_refused(images, pool):
    trainer = build(images, pool, unlabeled_collate_fn=None)
    with pytest.raises(DataError, match="two views"):
        trainer.train(num_epochs=1)


def test_neighbours_are_found_anew_each_epoch(images, pool):
    trainer = build(images, pool, SelfTaughtTrainer, SelfTaughtLoss(2), neighbours=2)
    made, make = [], trainer._default_unlabeled_sampler
    trainer._default_unlabeled_sampler = lambda: made.append(trainer.epoch) or make()
    trainer.train(num_epochs=3)
    assert made == [1, 2, 3]


@pytest.mark.parametrize("progress", [True, False])
def test_finding_neighbours_is_silent_where_progress_is_off(images, pool, progress, capfd):
    settings = {"neighbours": 2, "cluster_kwargs": {"progress": progress}}
    trainer = build(images, pool, SelfTaughtTrainer, SelfTaughtLoss(2), **settings)
    trainer.initialize_dataloader()
    capfd.readouterr()
    trainer.epoch = 1
    trainer.set_to_train()
    assert ("embedding" in capfd.readouterr().err) == progress
