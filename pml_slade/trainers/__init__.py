"""Trainers."""

from .self_training_trainer import SelfTrainingTrainer

__all__ = ["SelfTrainingTrainer"]
