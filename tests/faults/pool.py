"""Second table: the pool is read by the rules for the labeled images."""

from functools import partial

from faults.bench import case
from faults.wrong import TRAINER

case = partial(case, 1)
TRAINED = (
    "before = trunk.weight.clone()\n{}.train(num_epochs=1)\nassert not torch.equal(before, trunk.weight)\n"
)


def trains(bench, code, how):
    """That a script's trainer trains its trunk."""
    bench.done(bench.python(TRAINER + code))
    return how


@case("items of unequal length", "padded by collate_fn, as PML's own trainers take them")
def _(bench):
    code = (
        "from torch.nn.utils.rnn import pad_sequence\n"
        "def pad(items):\n"
        "    data = pad_sequence([x for x, _ in items], batch_first=True)\n"
        "    return data.mean(1), torch.tensor([label for _, label in items])\n"
        "sequences = [x.repeat(1 + i % 5, 1) for i, x in enumerate(pool)]\n"
        "named = [(x.repeat(1 + i % 3, 1), label) for i, (x, label) in enumerate(labeled)]\n"
    )
    code += TRAINED.format("build(named, sequences, collate_fn=pad)")
    return trains(bench, code, "trains: the pool is padded by the same collate_fn")


@case("data of another type", "uint8 and double data with the trainer's dtype")
def _(bench):
    code = "for kind in (torch.uint8, torch.float64):\n    " + TRAINED.format(
        "build([(x.to(kind), y) for x, y in labeled], [x.to(kind) for x in pool], dtype=torch.float32)"
    ).replace("\n", "\n    ")
    return trains(bench, code, "trains: the pool is cast as the labeled images are")


@case("string class names", "with dataset_labels and set_min_label_to_zero, without a basis")
def _(bench):
    code = "named = [(x, ['oak', 'birch'][y]) for x, y in labeled]\n" + TRAINED.format(
        "build(named, num_clusters=None, dataset_labels=[y for _, y in named], set_min_label_to_zero=True)"
    )
    return trains(bench, code, "trains: k and the offset come from the number of classes")


@case("an iterable data set with a length", "as the pool")
def _(bench):
    code = TRAINER + (
        "class Stream(torch.utils.data.IterableDataset):\n"
        "    def __len__(self):\n        return 36\n"
        "    def __iter__(self):\n        return iter(pool)\n"
        "build(pool=Stream())"
    )
    return bench.refused(bench.python(code), "unlabeled_dataset must be a map-style dataset")


@case("models that another PML trainer used before", "with ModelAverage")
def _(bench):
    code = (
        "from pytorch_metric_learning.trainers import MetricLossOnly\n"
        "from pml_slade import ModelAverage\n"
        "models = {'trunk': trunk}\n"
        "optimizers = {'trunk_optimizer': torch.optim.SGD(trunk.parameters(), lr=0.01)}\n"
        "shared = (models, optimizers, 8, {'metric_loss': ContrastiveLoss()})\n"
        "MetricLossOnly(*shared, dataset=labeled, mining_funcs={}, dataloader_num_workers=0).train()\n"
        "assert 'embedder' in models\n"
        "average = ModelAverage(models, 0.5)\n"
        "before = average.models['trunk'].weight.clone()\n"
        "SelfTrainingTrainer(*shared, labeled, pool, 3, average.models, end_of_iteration_hook=average,\n"
        "    dataloader_num_workers=0, cluster_kwargs={'progress': False}).train()\n"
        "assert not torch.equal(before, average.models['trunk'].weight)"
    )
    return trains(bench, code, "trains, and averages; the embedder that PML put there just follows")


@case("a setting that clustering does not have", 'cluster_kwargs={"num_workers": 0}')
def _(bench):
    running = bench.python(TRAINER + "build(cluster_kwargs={'num_workers': 0})")
    return bench.refused(running, "cluster_kwargs", "num_workers; it has method")
