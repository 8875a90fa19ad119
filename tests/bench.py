"""powerful-benchmarker on tiny images: the YAML tree with layers that make every experiment tiny."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from images import write_images

CONFIGS = Path(__file__).parents[1] / "benchmarker_configs"
FOLDS = ("GivenTest_Partitions2_0", "GivenTest_Partitions2_1")
EMBEDDING_SIZE = 8

TINY = {
    "num_epochs_train": 2,
    "save_interval": 1,
    "dataset~OVERRIDE~": {"Images": {"train": "labeled", "test": "test", "mode": "L"}},
    "pool": {"ImagePool": {"path": "unlabeled", "mode": "L"}},
    "split_manager~APPLY~2": {"num_training_partitions": 2, "num_training_sets": 2},
    "models": {
        "trunk~OVERRIDE~": {"Trunk": {"name": "convnet", "in_channels": 1, "width": 4}},
        "embedder~OVERRIDE~": {"MLP": {"layer_sizes": [EMBEDDING_SIZE]}},
    },
    "trainer~APPLY~2": {"iterations_per_epoch": 2, "batch_size": 8},
    # PML's own length makes a list of 100,000 numbers a fold.
    "sampler~APPLY~2": {"length_before_new_iter": 64},
    "transforms~OVERRIDE~": {use: {"Resize": {"size": "16 16"}} for use in ("train", "eval")},
}
TINY_STUDENT = {
    "trainer~APPLY~2": {
        "unlabeled_batch_size": 8,
        "basis_warmup": 1,
        "loss_weights": {"metric_loss": 1, "unlabeled_metric_loss": 1, "basis_loss": 0.25},
    },
    "loss_funcs": {"basis_loss": {"FeatureBasisLoss": {"embedding_size": EMBEDDING_SIZE}}},
    "num_clusters": 5,
}
TINY_SWAV = {
    "loss_funcs": {"metric_loss": {"SwAVLoss": {"num_prototypes": 6, "embedding_size": EMBEDDING_SIZE}}},
    "crops~OVERRIDE~": {
        "num_local": 1,
        **{use: {"RandomResizedCrop": {"size": 16}} for use in ("global", "local")},
    },
}
TEACHER = ("default", "drawings", "contrastive")
LAYERS = {
    "t1": (*TEACHER, "tiny"),
    "s1": (*TEACHER, "student", "drawings_student", "tiny", "tiny_student", "from_t1"),
    "swav": ("default", "drawings", "swav", "drawings_swav", "tiny", "tiny_swav"),
    "t2": (*TEACHER, "tiny", "from_swav"),
    "s2": (*TEACHER, "student", "drawings_student", "tiny", "tiny_student", "from_t2"),
}


@dataclass(frozen=True)
class Bench:
    """Where tiny experiments are run, and how."""

    data: Path
    configs: Path
    experiments: Path

    def argv(self, name, *flags, layers=None):
        """A command line; the layers are those of the experiment that `name` begins with."""
        chosen = LAYERS[name.split("_")[0]] if layers is None else layers
        return [
            *("--experiment_name", name, "--config_experiment", f"[{', '.join(chosen)}]"),
            *("--dataset_root", str(self.data), "--root_config_folder", str(self.configs)),
            *("--root_experiment_folder", str(self.experiments), "--quiet", *flags),
        ]

    def run(self, name, *flags, layers=None):
        from pml_slade.benchmarker import run

        run(self.argv(name, *flags, layers=layers))

    def fold(self, name, number=0):
        return self.experiments / name / FOLDS[number]

    def models(self, name, suffix="*"):
        """Bytes of the model files of an experiment."""
        folder = self.experiments / name
        return {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob(f"saved_models/*_{suffix}.pth")
        }

    def best(self, name, number=0):
        """Weights of the best trunk and embedder of a fold, by name."""
        folder = self.fold(name, number) / "saved_models"
        epochs = [int(path.stem.removeprefix("trunk_best")) for path in folder.glob("trunk_best*.pth")]
        return self.weights(name, number, f"best{max(epochs)}")

    def weights(self, name, number, suffix):
        folder = self.fold(name, number) / "saved_models"
        return {model: torch.load(folder / f"{model}_{suffix}.pth") for model in ("trunk", "embedder")}


def make_bench(root):
    """Write images, and a copy of the tree with the tiny layers in it."""
    write_images(root / "data")
    shutil.copytree(CONFIGS, root / "configs")
    for layer, settings in {"tiny": TINY, "tiny_student": TINY_STUDENT, "tiny_swav": TINY_SWAV}.items():
        path = root / "configs" / "config_experiment" / f"{layer}.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return Bench(root / "data", root / "configs", root / "experiments")
