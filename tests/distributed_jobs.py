"""What test_distributed.py does in one process on the joined batch, and in two on halves of it."""

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper
from torch.nn.parallel import DistributedDataParallel

from pml_slade import FeatureBasisLoss, ThresholdPairMiner

NUM_CLASSES, SIZE, HALF, STEPS = 3, 5, 12, 4
REGULARIZERS = ("sd", "local_ce", "global_ce", None)


def batches():
    """Joint batches of annotated samples and pseudo-labels, different in each step."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES + 4, (STEPS, 2 * HALF), generator=generator)
    return torch.randn(STEPS, 2 * HALF, SIZE, generator=generator, dtype=torch.float64), labels


def parts(regularizer):
    """A model and a loss that are the same in every process."""
    torch.manual_seed(1)
    model = torch.nn.Linear(SIZE, SIZE, dtype=torch.float64)
    return model, FeatureBasisLoss(NUM_CLASSES, SIZE, regularizer=regularizer).double()


def half(rank, tensor):
    """What a process gets of a batch."""
    return tensor[rank * HALF : (rank + 1) * HALF]


def train(rank, regularizer):
    """Losses of some steps, and what they left behind. A rank of None is the one process."""
    model, basis = parts(regularizer)
    alone = rank is None
    network = model if alone else DistributedDataParallel(model)
    loss = basis if alone else DistributedLossWrapper(basis)
    # The wrapper multiplies a loss by the number of processes, for DDP to divide by it. W is in no DDP.
    world = 1 if alone else 2
    optimizer = torch.optim.SGD(
        [{"params": model.parameters(), "lr": 0.1}, {"params": basis.parameters(), "lr": 0.1 / world}]
    )
    losses, gradients = [], []
    for images, labels in zip(*batches()):
        x, y = (images, labels) if alone else (half(rank, images), half(rank, labels))
        value = loss(network(x), y)
        optimizer.zero_grad()
        value.backward()
        losses.append(value.item() / world)
        gradients.append([model.weight.grad.clone(), basis.W.grad / world])
        optimizer.step()
    return losses, gradients, {**model.state_dict(), **basis.state_dict()}


def mine(rank, efficient):
    """Pairs of a batch as numbers of samples, and a contrastive loss on them with its gradient."""
    model, basis = parts("sd")
    images, labels = (each[0] for each in batches())
    basis(model(images), labels)  # the same statistics in every process
    miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
    loss = ContrastiveLoss()
    numbers = torch.arange(2 * HALF)
    if rank is None:
        embeddings = model(images)
        pairs = miner(embeddings, labels)
        value = loss(embeddings, labels, pairs)
        value.backward()
        return numbered(pairs, numbers, numbers), value.item(), model.weight.grad
    network = DistributedDataParallel(model)
    own = half(rank, numbers)
    everywhere = torch.cat([own, half(1 - rank, numbers)])
    embeddings, own_labels = network(half(rank, images)), half(rank, labels)
    pairs = DistributedMinerWrapper(miner, efficient=efficient)(embeddings, own_labels)
    value = DistributedLossWrapper(loss, efficient=efficient)(embeddings, own_labels, pairs)
    value.backward()
    anchors = own if efficient else everywhere
    return numbered(pairs, anchors, everywhere), value.item() / 2, model.weight.grad


def everything(rank):
    """Results of `train` by regulariser and of `mine` by its argument: processes are slow to start."""
    trained = {regularizer: train(rank, regularizer) for regularizer in REGULARIZERS}
    return trained, {efficient: mine(rank, efficient) for efficient in (False, True)}


def numbered(pairs, anchors, others):
    """The pairs as sets of the samples' numbers."""
    a1, p, a2, n = pairs
    return [set(zip(anchors[a].tolist(), others[b].tolist(), strict=True)) for a, b in ((a1, p), (a2, n))]
