"""Every experiment of the YAML tree is made, object by object, and takes a step."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from catalogue_trees import (
    write_cars196,
    write_compcars,
    write_cub200,
    write_fashion200k,
    write_in_shop,
    write_nabirds,
)
from images import drawings
from torch import nn

pytest.importorskip("powerful_benchmarker")

from powerful_benchmarker import api_parsers as theirs

from pml_slade.benchmarker import api_parsers, datasets, models, rows, run, runner
from pml_slade.datasets import ImageDataset, PseudoLabelDataset, Splits
from pml_slade.models.trunks import resolve_trunk_name

CONFIGS = Path(__file__).parents[2] / "benchmarker_configs"
CLASSES, PER_CLASS, POOL = 16, 4, 64
EXPERIMENTS = [
    (dataset, name)
    for dataset in (*rows.PHOTOS, *rows.DRAWINGS)
    for name in rows.EXPERIMENTS
    if dataset in rows.DRAWINGS or name != "swav"
]
CLASS_OF = dict(zip(rows.PHOTOS, ("CUB200", "Cars196", "InShop"))) | {
    "omniglot": "Omniglot",
    "glyphs": "Glyphs",
}
POOL_OF = {
    "cub200": {"name": "NABirds"},
    "cars196": {"name": "CompCars", "exclude": "Cars196"},
    "in_shop": {"name": "Fashion200k"},
}
LOSS_OF = {
    "contrastive": "ContrastiveLoss",
    "triplet": "TripletMarginLoss",
    "proxy_nca": "ProxyNCALoss",
    "proxy_nca_pp": "ProxyNCALoss",
    "n_softmax": "NormalizedSoftmaxLoss",
    "cosface": "CosFaceLoss",
    "fastap": "FastAPLoss",
    "ms_miner": "MultiSimilarityLoss",
    "proxy_anchor": "ProxyAnchorLoss",
    "mutual_info": "CrossEntropyLoss",
}


class Built(BaseException):
    """Stops a run when the objects of its first fold are there."""


def files(folder):
    return {path.stem for path in (CONFIGS / folder).glob("*.yaml")}


def leaves(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path, value


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_numbers_are_numbers(file):
    """YAML 1.1 takes 1e-3 for text."""
    for path, value in leaves(yaml.safe_load(file.read_text())):
        if isinstance(value, str):
            with pytest.raises(ValueError, match="could not convert"):
                print(path, float(value))


def test_every_file_of_the_tree_is_used():
    names = yaml.safe_load((CONFIGS / "config_foldernames.yaml").read_text())
    used = {folder: set(names[folder]) for folder in names["config_foldernames"]}
    used["config_experiment"] |= {layer for pair in EXPERIMENTS for layer in rows.layers(*pair)}
    searched = [(d, name) for d, name in EXPERIMENTS if name in rows.ROWS]
    used["config_experiment"] |= {layer for pair in searched for layer in rows.search_layers(*pair)}
    assert {folder: files(folder) for folder in used} == used
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir()} == set(used)


@pytest.fixture(scope="module")
def dataset_root(tmp_path_factory):
    """The photos and their pools, in their official layouts."""
    root = tmp_path_factory.mktemp("datasets")
    for write in (write_cub200, write_cars196, write_in_shop, write_nabirds, write_compcars):
        write(root, CLASSES, PER_CLASS)
    write_fashion200k(root)
    return root


class TinyTrunk(nn.Module):
    """In place of a trunk of the name that the settings give."""

    output_size = 12

    def __init__(self, name, in_channels, weights):
        super().__init__()
        self.name, self.weights = resolve_trunk_name(name), weights
        self.features = nn.Linear(in_channels, self.output_size)

    def forward(self, images):
        return self.features(images.mean((2, 3)))


def bninception(pretrained):
    trunk = TinyTrunk("resnet18", 3, pretrained)
    trunk.last_linear = nn.Linear(12, 1000)
    trunk.mean, trunk.std, trunk.input_space, trunk.input_range = [104] * 3, [1] * 3, "BGR", [0, 255]
    return trunk


@pytest.fixture(scope="module")
def splits():
    """In place of Omniglot and Glyphs."""

    def part(name, classes, seed):
        images, labels = drawings(classes, PER_CLASS, seed, size=28)
        return ImageDataset(images, labels, [f"{name} {label}" for label in range(classes)], mode="L")

    return Splits(
        part("labeled", CLASSES, 0), part("pool", POOL // PER_CLASS, 1), None, part("test", 6, 2), "tiny"
    )


@pytest.fixture
def build(dataset_root, splits, tmp_path, monkeypatch):
    """Builds all objects of an experiment; returns its API parser."""
    seen = SimpleNamespace(starts=[], num_clusters=None)

    def build_trunk(name, in_channels, weights, **options):
        if resolve_trunk_name(name) == "convnet":
            return real_trunk(name, in_channels, weights, **options)
        assert not options
        return TinyTrunk(name, in_channels, weights)

    def load(parser, key, made, fold):
        seen.starts.append((key, getattr(parser.args, key), tuple(made), fold))

    def from_teacher(pool, teacher, num_clusters, offset, **kwargs):
        seen.num_clusters = num_clusters
        return PseudoLabelDataset(pool, np.arange(len(pool)) % 9, offset)

    def first_fold(parser):
        seen.parser = parser
        parser.curr_split_count = 0
        parser.split_manager.set_curr_split_scheme(parser.split_manager.split_scheme_names[0])
        parser.set_curr_folders()
        parser.set_models_optimizers_losses()
        parser.built = parser.get_ensemble(), parser.aggregator, parser.record_keeper, parser.hooks
        raise Built

    class Runner(runner.Runner):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            # A function, which powerful-benchmarker's own registry finds in modules only.
            self.pytorch_getter.model.insert(0, fake_models)

    fake_models = type(runner)("fake_models")
    fake_models.bninception = bninception
    real_trunk = models.build_trunk
    monkeypatch.setattr(models, "build_trunk", build_trunk)
    monkeypatch.setattr(datasets, "_omniglot", lambda *_: splits)
    monkeypatch.setattr(datasets, "_glyphs", lambda *_: splits)
    monkeypatch.setattr(api_parsers._Mended, "_load", load)
    monkeypatch.setattr(PseudoLabelDataset, "from_teacher", from_teacher)
    monkeypatch.setattr(theirs.BaseAPIParser, "run_for_each_split_scheme", first_fold)
    monkeypatch.setattr(runner, "Runner", Runner)
    monkeypatch.setattr(runner._runner, "__defaults__", (Runner,))

    def made(dataset, name):
        flags = ["--dataset_root", str(dataset_root), "--root_experiment_folder", str(tmp_path)]
        if dataset in rows.PHOTOS:
            part = {"complete": False}
            flags += ["--dataset", str({CLASS_OF[dataset]: part})]
            flags += ["--pool", str({"CataloguePool": part})]
        with pytest.raises(Built):
            run([*rows.flags(dataset, name), *flags, "--root_config_folder", str(CONFIGS)])
        return seen

    return made


def batch_of(trainer, channels, classes):
    """A batch as the trainer's own loaders would give it, of noise."""
    labels = torch.arange(4).repeat_interleave(4) % classes

    def images():
        return torch.randn(len(labels), channels, 16, 16)

    if type(trainer).__name__ == "SwAVTrainer":
        return [images() for _ in range(4)]
    if type(trainer).__name__ == "SelfTrainingTrainer":
        offset = trainer.unlabeled_dataset.label_offset
        return (images(), labels), (images(), labels + offset)
    return images(), labels


@pytest.mark.parametrize(("dataset", "name"), EXPERIMENTS, ids=lambda value: value)
def test_every_experiment_is_made_and_takes_a_step(build, dataset, name):
    seen = build(dataset, name)
    parser, row = seen.parser, None if name in rows.STARTS else rows._row(name)
    args, trainer = parser.args, parser.trainer
    drawing = dataset in rows.DRAWINGS

    check_data(parser, dataset)
    check_start(seen, dataset, name)
    assert type(trainer).__name__ == next(iter(args.trainer))
    assert type(parser).__name__ == f"API{type(trainer).__name__}"
    for key in ("models", "optimizers", "loss_funcs", "mining_funcs"):
        assert {*getattr(trainer, key)} - {"unlabeled_metric_loss"} == {*getattr(args, key)}
    for use in ("train", "eval"):
        steps = [type(step).__name__ for step in parser.transforms[use].transforms]
        assert list(args.transforms[use]) == [s for s in steps if s in args.transforms[use]]
        assert "ToTensor" in steps
    assert len(parser.split_manager.split_scheme_names) == 4
    if row is not None:
        loss = trainer.loss_funcs["classifier_loss" if row.learns == "classifier" else "metric_loss"]
        assert type(loss).__name__ == LOSS_OF[row.loss]
        check_trunk(trainer.models["trunk"].module, "convnet" if drawing else row.trunk)
        assert trainer.models["embedder"].module.net[-1].out_features == (512 if row.wide else 128)
        assert (type(trainer).__name__ == "SelfTrainingTrainer") == (row.teacher is not None)
    check_all_trained(trainer)

    trainer.set_to_train()
    trainer.iteration, trainer.epoch = 0, 1000  # after every warm-up
    trainer.zero_losses()
    classes = parser.split_manager.get_num_labels("train", "train")
    trainer.calculate_loss(batch_of(trainer, 1 if drawing else 3, classes))
    trainer.loss_tracker.update(trainer.loss_weights)
    trainer.backward()
    trainer.step_optimizers()
    assert torch.isfinite(torch.as_tensor(trainer.losses["total_loss"]))
    assert trainer.losses["total_loss"] > 0


def check_data(parser, dataset):
    """The dataset, its folds and its pool."""
    labeled = parser.split_manager.get_dataset("train", "train")
    assert type(labeled.dataset).__name__ == CLASS_OF[dataset]
    test = set(parser.split_manager.get_labels("eval", "test"))
    others = {label for part in ("train", "val") for label in parser.split_manager.get_labels("eval", part)}
    assert test
    assert not test & others
    if dataset in ("cub200", "cars196"):
        assert test == set(range(CLASSES // 2, CLASSES))
    else:
        assert test == set(labeled.dataset.test_labels)
    if dataset in rows.PHOTOS:
        assert parser.args.pool == {"CataloguePool": {**POOL_OF[dataset], "complete": False}}
    else:
        assert parser.args.pool is None


def check_start(seen, dataset, name):
    """What the experiment starts from is what `rows.needs` says, for every fold and then for the first."""
    folds = seen.parser.split_manager.split_scheme_names
    needed = rows.needs(dataset, name)
    student = type(seen.parser).__name__ == "APISelfTrainingTrainer"
    whole = student or name in rows.CONTROLS
    key, made = ("teacher", ("trunk", "embedder")) if whole else ("initial_experiment", ("trunk",))
    assert set(seen.starts) == {(key, *needed, made, fold) for fold in folds if needed}
    assert not needed or seen.starts[-1][-1] == folds[0]
    if student:
        assert seen.num_clusters == (int(name.removeprefix("s2_k")) if name.startswith("s2_k") else 400)


def check_trunk(trunk, layer):
    if layer == "bninception":
        assert trunk.weights == "imagenet"
    elif layer == "convnet":
        assert type(trunk.trunk).__name__ == "ConvNet"
    else:
        assert trunk.trunk.name == "torchvision/resnet50"
        assert (
            trunk.trunk.weights
            == {"resnet50_imagenet": "default", "resnet50_swav": "swav_800ep_pretrain.pth.tar"}[layer]
        )


def check_all_trained(trainer):
    """Every weight is in one optimizer, and every optimizer holds weights of this trainer."""
    held = [id(p) for o in trainer.optimizers.values() for group in o.param_groups for p in group["params"]]
    modules = {id(m): m for m in (*trainer.models.values(), *trainer.loss_funcs.values())}
    weights = {id(p) for module in modules.values() for p in module.parameters() if p.requires_grad}
    assert len(held) == len(set(held))
    assert set(held) == weights
    for optimizer in trainer.optimizers.values():
        assert all(isinstance(group["lr"], float) for group in optimizer.param_groups)
