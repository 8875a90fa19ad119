"""Memory goes on where it was stopped, in both generations of PML."""

import copy

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner

from pml_slade.losses import Memory


def batch():
    return torch.nn.functional.normalize(torch.randn(6, 4)), torch.tensor([0, 0, 1, 1, 2, 2])


def test_a_restored_queue_gives_the_same_loss():
    memory = Memory(ContrastiveLoss(), 4, 20)
    for _ in range(5):
        memory(*batch())
    restored = Memory(ContrastiveLoss(), 4, 20)
    restored.load_state_dict(copy.deepcopy(memory.state_dict()))
    fresh = Memory(ContrastiveLoss(), 4, 20)
    for _ in range(3):
        following = batch()
        expected = memory(*following)
        assert restored(*following) == expected
        assert fresh(*following) != expected
    assert (restored.queue_idx, restored.has_been_filled) == (memory.queue_idx, memory.has_been_filled)


def test_a_miner_mines_among_the_memory():
    seen = []

    class Miner(MultiSimilarityMiner):
        def forward(self, embeddings, labels, ref_emb=None, ref_labels=None):
            seen.append(len(ref_emb))
            return super().forward(embeddings, labels, ref_emb, ref_labels)

    memory = Memory(ContrastiveLoss(), 4, 20, Miner())
    for _ in range(4):
        memory(*batch())
    assert seen == [6, 12, 18, 20]
