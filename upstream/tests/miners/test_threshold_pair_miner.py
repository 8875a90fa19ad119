import unittest

import torch
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import ContrastiveLoss, FeatureBasisLoss
from pytorch_metric_learning.miners import ThresholdPairMiner

from .. import TEST_DEVICE, TEST_DTYPES, WITH_COLLECT_STATS


def loop(mat, pos, neg, inverted, labels, ref_labels, same, use_labels):
    positives, negatives = set(), set()
    for i in range(mat.shape[0]):
        for j in range(mat.shape[1]):
            if same and i == j:
                continue
            close = mat[i, j] >= pos if inverted else mat[i, j] <= pos
            far = mat[i, j] <= neg if inverted else mat[i, j] >= neg
            if close and not (use_labels and labels[i] != ref_labels[j]):
                positives.add((i, j))
            if far and not (use_labels and labels[i] == ref_labels[j]):
                negatives.add((i, j))
    return positives, negatives


def as_sets(indices_tuple):
    a1, p, a2, n = (x.tolist() for x in indices_tuple)
    return set(zip(a1, p)), set(zip(a2, n))


class TestThresholdPairMiner(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_threshold_pair_miner(self):
        settings = (
            (CosineSimilarity(), 0.4, -0.2),
            (LpDistance(normalize_embeddings=False), 2.0, 3.5),
        )
        for dtype in TEST_DTYPES:
            emb = torch.randn(12, 6, dtype=dtype, device=TEST_DEVICE)
            ref = torch.randn(9, 6, dtype=dtype, device=TEST_DEVICE)
            labels = torch.randint(0, 3, (12,), device=TEST_DEVICE)
            ref_labels = torch.randint(0, 3, (9,), device=TEST_DEVICE)
            for distance, pos, neg in settings:
                for use_labels in (False, True):
                    miner = ThresholdPairMiner(pos, neg, distance=distance, use_labels=use_labels)
                    for r, rl in ((None, None), (ref, ref_labels)):
                        pairs = miner(emb, labels, r, rl)
                        others = labels if rl is None else rl
                        mat = distance(emb, r)
                        correct = loop(
                            mat, pos, neg, distance.is_inverted, labels, others, r is None, use_labels
                        )
                        self.assertEqual(as_sets(pairs), correct)
                        if WITH_COLLECT_STATS:
                            self.assertEqual(miner.num_pos_pairs, len(correct[0]))
                            self.assertEqual(miner.num_neg_pairs, len(correct[1]))

    def test_thresholds_of_a_basis(self):
        for dtype in TEST_DTYPES:
            basis = FeatureBasisLoss(num_classes=3, embedding_size=8).to(TEST_DEVICE)
            miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
            labels = torch.arange(16, device=TEST_DEVICE) % 8
            emb = torch.nn.functional.one_hot(labels, 8).to(dtype)
            emb = emb + 0.05 * torch.randn(16, 8, dtype=dtype, device=TEST_DEVICE)
            self.assertTrue(all(len(x) == 0 for x in miner(emb)))
            basis(emb, labels)
            pos, neg = basis.thresholds()
            self.assertEqual((pos, neg), (basis.pos_mean.item(), basis.neg_mean.item()))
            mat = basis.similarity(emb)
            correct = loop(mat, pos, neg, True, labels, labels, True, False)
            self.assertEqual(as_sets(miner(emb)), correct)
            self.assertTrue(all(correct))
            loss = ContrastiveLoss()(emb, labels, miner(emb, labels))
            self.assertTrue(torch.isfinite(loss))

    def test_what_is_refused(self):
        self.assertRaises(ValueError, ThresholdPairMiner, 0.1, 0.9)
        self.assertRaises(ValueError, ThresholdPairMiner, 0.9, 0.1, distance=LpDistance())
        self.assertRaises(ValueError, ThresholdPairMiner, "high", 0.1)
        miner = ThresholdPairMiner(0.9, 0.1, use_labels=True)
        self.assertRaises(ValueError, miner, torch.randn(3, 2, device=TEST_DEVICE))
