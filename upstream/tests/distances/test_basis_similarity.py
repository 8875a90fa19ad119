import unittest

import torch
from pytorch_metric_learning.distances import BasisSimilarity
from pytorch_metric_learning.losses import ContrastiveLoss

from .. import TEST_DEVICE, TEST_DTYPES


class TestBasisSimilarity(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_basis_similarity(self):
        for dtype in TEST_DTYPES:
            W = torch.randn(5, 8, dtype=dtype, device=TEST_DEVICE)
            distance = BasisSimilarity(W)
            emb = torch.randn(7, 8, dtype=dtype, device=TEST_DEVICE)
            ref = torch.randn(9, 8, dtype=dtype, device=TEST_DEVICE)
            for ref_emb in (None, ref):
                mat = distance(emb, ref_emb)
                others = emb if ref_emb is None else ref_emb
                self.assertEqual(mat.shape, (7, len(others)))
                self.assertIn(mat.dtype, (torch.float32, torch.float64))
                for i in range(7):
                    for j in range(len(others)):
                        r_i, r_j = (W.double() @ x.double() for x in (emb[i], others[j]))
                        correct = torch.dot(r_i, r_j) / (r_i.norm() * r_j.norm())
                        self.assertAlmostEqual(mat[i, j].item(), correct.item(), places=3)
            pairwise = distance.pairwise_distance(emb, ref[:7])
            torch.testing.assert_close(pairwise, distance(emb, ref[:7]).diagonal())

    def test_the_basis_is_shared(self):
        W = torch.nn.Parameter(torch.randn(5, 8, device=TEST_DEVICE))
        distance = BasisSimilarity(W)
        self.assertIs(distance.W, W)
        self.assertTrue(distance.is_inverted)
        emb = torch.randn(6, 8, device=TEST_DEVICE, requires_grad=True)
        labels = torch.tensor([0, 0, 1, 1, 2, 2], device=TEST_DEVICE)
        loss = ContrastiveLoss(pos_margin=1, neg_margin=-1, distance=distance)(emb, labels)
        loss.backward()
        self.assertGreater(W.grad.abs().sum(), 0)
        self.assertGreater(emb.grad.abs().sum(), 0)

    def test_a_basis_must_be_a_matrix(self):
        for W in (None, [[1.0]], torch.randn(3), torch.randn(2, 3, 4)):
            self.assertRaises(ValueError, BasisSimilarity, W)
