"""What of ours powerful-benchmarker's YAML can name."""

from __future__ import annotations

from typing import Any

from torch.nn import CrossEntropyLoss

from .. import FeatureBasisLoss, SelfTrainingTrainer, ThresholdPairMiner
from ..distances import BasisSimilarity
from ..pretraining import SwAVLoss, SwAVTrainer
from . import api_parsers, datasets, models, split_managers

REGISTERED: dict[str, tuple[type, ...]] = {
    "trainer": (SelfTrainingTrainer, SwAVTrainer),
    "loss": (FeatureBasisLoss, SwAVLoss, CrossEntropyLoss),
    "miner": (ThresholdPairMiner,),
    "distance": (BasisSimilarity,),
    "model": (models.Trunk,),
    # Those of the catalogue replace powerful-benchmarker's own of the same name.
    "dataset": (
        *datasets.FROM_CATALOGUE.values(),
        datasets.Omniglot,
        datasets.Glyphs,
        datasets.Images,
        datasets.ImagePool,
        datasets.CataloguePool,
    ),
    "split_manager": (split_managers.GivenTestSplitManager,),
    "api_parser": (
        api_parsers.BaseAPIParser,
        api_parsers.APIMetricLossOnly,
        api_parsers.APITrainWithClassifier,
        api_parsers.APICascadedEmbeddings,
        api_parsers.APIDeepAdversarialMetricLearning,
        api_parsers.APIUnsupervisedEmbeddingsUsingAugmentations,
        api_parsers.APISelfTrainingTrainer,
        api_parsers.APISwAVTrainer,
    ),
}


def register_all(runner: Any) -> None:
    """Make everything of ours known to one of powerful-benchmarker's runners.

    With it, powerful-benchmarker's own SingleExperimentRunner and BayesOptRunner read `benchmarker_configs`.

    Args:
        runner: any BaseRunner of powerful-benchmarker.

    Examples:
        >>> from powerful_benchmarker.runners.single_experiment_runner import SingleExperimentRunner
        >>> runner = SingleExperimentRunner(root_config_folder="benchmarker_configs")
        >>> register_all(runner)
        >>> runner.pytorch_getter.get("trainer", "SelfTrainingTrainer", return_uninitialized=True)[0].__name__
        'SelfTrainingTrainer'
    """
    for kind, classes in REGISTERED.items():
        for registered in classes:
            runner.register(kind, registered)
