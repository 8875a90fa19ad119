"""Write docs/compatibility.md by trying each class of PML with ours: `python docs/compatibility.py`."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, samplers
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper

from pml_slade import FeatureBasisLoss, PseudoLabelDataset, SelfTrainingTrainer, ThresholdPairMiner
from pml_slade.compat import silent_epochs
from pml_slade.reports.tables import markdown

NUM_CLASSES, CLUSTERS, SIZE, BATCH, STEPS = 4, 3, 6, 16, 3
ALL = NUM_CLASSES + CLUSTERS
ABSTRACT = (
    "BaseMetricLossFunction",
    "BaseLossWrapper",
    "GenericPairLoss",
    "BaseMiner",
    "BaseDistance",
    "BaseReducer",
)
# Arguments of classes that neither nothing nor (num_classes, embedding_size) builds.
ARGUMENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "CrossBatchMemory": lambda classes: {"loss": losses.ContrastiveLoss(), "embedding_size": SIZE},
    "HistogramLoss": lambda classes: {"n_bins": 10},
    "ManifoldLoss": lambda classes: {"l": SIZE},
    "MultipleLosses": lambda classes: {"losses": [losses.ContrastiveLoss(), losses.NTXentLoss()]},
    "P2SGradLoss": lambda classes: {"descriptors_dim": SIZE, "num_classes": classes},
    "RankedListLoss": lambda classes: {"margin": 0.4, "Tn": 10},
    "SubCenterArcFaceLoss": lambda classes: {"num_classes": classes, "embedding_size": SIZE},
    "SelfSupervisedLoss": lambda classes: {"loss": losses.NTXentLoss()},
}


def images() -> list[tuple[torch.Tensor, int]]:
    """Four classes that a linear model tells apart, eight images each."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(SIZE, generator=generator) + 2 * torch.eye(SIZE)[i % 4], i % 4) for i in range(32)]


def by_class() -> samplers.MPerClassSampler:
    """Batches of four images of each class."""
    return samplers.MPerClassSampler([label for _, label in images()], 4, BATCH, STEPS * BATCH)


def classes(module: ModuleType) -> dict[str, Any]:
    """Every concrete class that a package of PML exports."""
    named = inspect.getmembers(module, inspect.isclass)
    return {name: kind for name, kind in named if name not in ABSTRACT and not name.endswith("Mixin")}


def build(name: str, kind: Any, num_classes: int) -> Any:
    """A loss with what it needs."""
    if name in ARGUMENTS:
        return kind(**ARGUMENTS[name](num_classes))
    try:
        return kind()
    except TypeError:
        return kind(num_classes=num_classes, embedding_size=SIZE)


def train(labeled: Any = None, pool: Any = None, **kwargs: Any) -> None:
    """Train some steps by one loss alone, that on the labeled images or that on the pool.

    Raises:
        Exception: whatever PML or our trainer has against it.
        ArithmeticError: the loss is not finite, or the model learns nothing from it.
    """
    torch.manual_seed(0)
    trunk = torch.nn.Linear(SIZE, SIZE)
    before = trunk.weight.detach().clone()
    loss_funcs = {
        "metric_loss": labeled or losses.ContrastiveLoss(),
        "unlabeled_metric_loss": pool or losses.ContrastiveLoss(),
        "basis_loss": FeatureBasisLoss(NUM_CLASSES, SIZE, momentum=0.5),
    }
    parts = {"trunk": trunk, **{k: v for k, v in loss_funcs.items() if list(v.parameters())}}
    weights = {"metric_loss": float(labeled is not None), "unlabeled_metric_loss": float(pool is not None)}
    mined = "unlabeled_miner" in kwargs.get("mining_funcs", {})
    usual = {
        "batch_size": BATCH,
        "sampler": by_class(),
        "iterations_per_epoch": STEPS,
        "dataloader_num_workers": 0,
        "unlabeled_dataset": [image for image, _ in images()],
        "unlabeled_batch_size": 4 * CLUSTERS,
        "num_clusters": CLUSTERS,
        "cluster_kwargs": {"progress": False},
    }
    trainer = SelfTrainingTrainer(
        {"trunk": trunk},
        {f"{name}_optimizer": torch.optim.SGD(part.parameters(), lr=0.01) for name, part in parts.items()},
        loss_funcs=loss_funcs,
        loss_weights={**weights, "basis_loss": float(mined)},
        dataset=images(),
        **(usual | kwargs),
    )
    with silent_epochs():
        trainer.train(num_epochs=1)
    if not all(torch.isfinite(torch.as_tensor(value)) for value in trainer.losses.values()):
        raise ArithmeticError(f"losses {trainer.losses} are not finite")
    if torch.equal(trunk.weight, before):
        raise ArithmeticError("the model learns nothing")


PROXIES = "On the pool its weights stand for pseudo-classes: `relabel_every` must be 0."
TWO_VIEWS = "It compares two views of each image, without labels; our trainer gives it one, with labels."
NO_PAIRS = ("indices_tuple is not supported", "It takes no pairs from a miner, of PML's neither.")
BY_NAME = ("not supported for FeatureBasisLoss", "PML 2.9 wraps losses of a fixed list of names.")
# Why a class does not go: what its error says, and a sentence. A "no" for another reason is a mistake here.
WHY = {
    "DynamicSoftMarginLoss": ("second time", "Its histogram keeps the graph of the step before (PML 2.9)."),
    "InstanceLoss": NO_PAIRS,
    "ManifoldLoss": ("labels are ref_labels are not", "It takes no labels, and PML's trainers give them."),
    "P2SGradLoss": NO_PAIRS,
    "PNPLoss": NO_PAIRS,
    "RankedListLoss": NO_PAIRS,
    "SelfSupervisedLoss": ("forward.* takes 3", TWO_VIEWS),
    "VICRegLoss": ("not supported for this loss", TWO_VIEWS),
    "HierarchicalSampler": ("list", "It draws whole batches; PML's trainers take samplers of single images."),
    "BatchedDistance": (
        "not callable",
        "It gives distances in parts, to a function of yours; miners look at all of them.",
    ),
    "DivisorReducer": (
        "divisor",
        "It divides by a number that the loss must name; ours, as most, names none.",
    ),
    "DoNothingReducer": (
        "backward",
        "It leaves the parts as they are; there is nothing to go backward from.",
    ),
    "CrossBatchMemory(FeatureBasisLoss)": BY_NAME,
    "SelfSupervisedLoss(FeatureBasisLoss)": BY_NAME,
}
# What to know of a class that goes.
TWO_PROCESSES = "`tests/test_distributed.py` compares two processes with one."
NOTES = {
    "ClassWeightedReducer": "With a weight for each annotated class and pseudo-class.",
    "EmbeddingsAlreadyPackagedAsTriplets": "In batches of whole triplets, which `FixedSetOfTriplets` draws.",
    "MultipleReducers": "By names of the parts: `ce_loss`, `sd_loss`.",
    "SmoothAPLoss": "With as many images of each class in a batch, as MPerClassSampler draws them.",
    "DistributedLossWrapper(FeatureBasisLoss)": TWO_PROCESSES,
    "DistributedMinerWrapper(ThresholdPairMiner)": TWO_PROCESSES,
}


def tried(trial: Callable[[], Any]) -> str:
    """Nothing, or the error of what does not work."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        logging.disable(logging.NOTSET)
    return ""


def line(name: str, errors: list[str], note: str = "") -> list[str]:
    """A line of a table: yes or no for each trial, and a sentence.

    Raises:
        AssertionError: something does not work for a reason that WHY does not give.
    """
    expected, sentence = WHY.get(name, ("an entry of WHY", ""))
    for error in filter(None, errors):
        assert re.search(expected, error), f"{name}: {error}"
    failed = any(errors)
    assert failed or name not in WHY, f"{name} works: WHY says it does not"
    return [
        f"`{name}`",
        *("no" if error else "yes" for error in errors),
        sentence if failed else NOTES.get(name, note),
    ]


def by_losses() -> list[list[str]]:
    """On the labeled images, on the pool, and there with pairs of a ThresholdPairMiner."""
    lines = []
    for name, kind in classes(losses).items():
        mined = {"unlabeled_miner": ThresholdPairMiner(0.5, 0.2)}
        errors = [
            tried(lambda: train(labeled=build(name, kind, NUM_CLASSES))),
            tried(lambda: train(pool=build(name, kind, ALL))),
            tried(lambda: train(pool=build(name, kind, ALL), mining_funcs=mined)),
        ]
        lines.append(line(name, errors, PROXIES if list(build(name, kind, ALL).parameters()) else ""))
    return lines


def by_miners() -> list[list[str]]:
    """Of the labeled pairs or triplets, and of the pool's, for a triplet loss."""
    lines = []
    for name, kind in classes(miners).items():
        triplets = {"batch_size": 12} if name == "EmbeddingsAlreadyPackagedAsTriplets" else {}
        loss = losses.TripletMarginLoss(margin=2)
        errors = [
            tried(lambda: train(labeled=loss, mining_funcs={"tuple_miner": kind()}, **triplets)),
            tried(lambda: train(pool=loss, mining_funcs={"unlabeled_miner": kind()})),
        ]
        lines.append(line(name, errors))
    return lines


def by_samplers() -> list[list[str]]:
    """Of labeled images, and of a pool that has its pseudo-labels."""
    labels = np.array([label for _, label in images()])
    pool = PseudoLabelDataset([image for image, _ in images()], labels % CLUSTERS, NUM_CLASSES)
    loss, lines = losses.TripletMarginLoss(margin=2), []

    def made(name: str, dataset: Any, given: np.ndarray) -> Any:
        arguments: dict[str, tuple[Any, ...]] = {
            "FixedSetOfTriplets": (given, 50),
            "HierarchicalSampler": (np.stack([given, given % 2], 1), 8, 2, 40),
            "MPerClassSampler": (given, 4, 12, STEPS * 12),
            "TuplesToWeightsSampler": (torch.nn.Linear(SIZE, SIZE), miners.BatchHardMiner(), dataset),
        }
        return getattr(samplers, name)(*arguments[name])

    for name in classes(samplers):
        errors = [
            tried(lambda: train(labeled=loss, sampler=made(name, images(), labels), batch_size=12)),
            tried(
                lambda: train(
                    pool=loss,
                    unlabeled_dataset=pool,
                    unlabeled_sampler=made(name, pool, pool.labels),
                )
            ),
        ]
        lines.append(line(name, errors))
    return lines


def by_distances() -> list[list[str]]:
    """Of a ThresholdPairMiner and of the contrastive loss on what it mines."""

    def contrastive(distance: Any) -> None:
        inverted = distance.is_inverted
        miner = ThresholdPairMiner(*((0.5, 0.2) if inverted else (0.8, 1.2)), distance=distance)
        margins = {"pos_margin": 1, "neg_margin": -1} if inverted else {}
        train(
            pool=losses.ContrastiveLoss(distance=distance, **margins), mining_funcs={"unlabeled_miner": miner}
        )

    def made(name: str, kind: Any) -> Any:
        return kind(distances.LpDistance()) if name == "BatchedDistance" else kind()

    basis = FeatureBasisLoss(NUM_CLASSES, SIZE)
    ours = line("BasisSimilarity", [tried(lambda: contrastive(basis.similarity))])
    found = classes(distances).items()
    return [line(name, [tried(lambda: contrastive(made(name, kind)))]) for name, kind in found] + [ours]


def by_reducers() -> list[list[str]]:
    """Of a FeatureBasisLoss."""
    arguments: dict[str, dict[str, Any]] = {
        "ClassWeightedReducer": {"weights": torch.ones(ALL)},
        "MultipleReducers": {"reducers": {"ce_loss": reducers.SumReducer()}},
        "ThresholdReducer": {"low": 0},
    }

    def backward(reducer: Any) -> None:
        basis = FeatureBasisLoss(NUM_CLASSES, SIZE, reducer=reducer)
        basis(torch.randn(ALL * 3, SIZE), torch.arange(ALL * 3) % ALL).backward()

    found = classes(reducers).items()
    return [line(n, [tried(lambda: backward(kind(**arguments.get(n, {}))))]) for n, kind in found]


def by_wrappers() -> list[list[str]]:
    """Around our loss and our miner."""
    basis = FeatureBasisLoss(NUM_CLASSES, SIZE)
    embeddings, labels = torch.randn(ALL * 3, SIZE), torch.arange(ALL * 3) % ALL
    miner = ThresholdPairMiner(0.5, 0.2)
    trials: dict[str, Callable[[], Any]] = {
        "MultipleLosses": lambda: losses.MultipleLosses([basis, losses.NTXentLoss()])(embeddings, labels),
        "CrossBatchMemory(FeatureBasisLoss)": lambda: losses.CrossBatchMemory(basis, SIZE)(
            embeddings, labels
        ),
        "CrossBatchMemory(..., miner=ThresholdPairMiner)": lambda: losses.CrossBatchMemory(
            losses.ContrastiveLoss(), SIZE, miner=miner
        )(embeddings, labels),
        "SelfSupervisedLoss(FeatureBasisLoss)": lambda: losses.SelfSupervisedLoss(basis)(
            embeddings, embeddings
        ),
        "DistributedLossWrapper(FeatureBasisLoss)": lambda: DistributedLossWrapper(basis)(embeddings, labels),
        "DistributedMinerWrapper(ThresholdPairMiner)": lambda: DistributedMinerWrapper(miner),
    }
    return [line(name, [tried(trial)]) for name, trial in trials.items()]


TABLES: dict[str, tuple[list[str], Callable[[], list[list[str]]]]] = {
    "Losses": (["", "labeled images", "pool", "pool, mined pairs", ""], by_losses),
    "Miners": (["", "labeled images", "pool", ""], by_miners),
    "Samplers": (["", "labeled images", "pool", ""], by_samplers),
    "Distances, of a ThresholdPairMiner and the loss on its pairs": (["", "", ""], by_distances),
    "Reducers, of a FeatureBasisLoss": (["", "", ""], by_reducers),
    "Wrappers": (["", "", ""], by_wrappers),
}
INTRO = """# What goes with pytorch-metric-learning

`python docs/compatibility.py` wrote these tables: it builds each class of PML 2.9, trains some steps of a
SelfTrainingTrainer with it, and says yes if the losses are finite and the model learns. Losses are tried as
`metric_loss`, on the labeled images, and as `unlabeled_metric_loss`, on the pool, each alone, and there also
with pairs that a ThresholdPairMiner finds. Reducers and wrappers are called on a batch, but for
DistributedMinerWrapper, which needs processes.
"""


def page() -> str:
    """The whole page."""
    tables = [f"## {title}\n\n{markdown(header, rows())}\n" for title, (header, rows) in TABLES.items()]
    return "\n".join([INTRO, *tables])


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
