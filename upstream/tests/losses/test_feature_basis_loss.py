import itertools
import math
import unittest

import torch
from pytorch_metric_learning.losses import FeatureBasisLoss
from pytorch_metric_learning.reducers import (
    AvgNonZeroReducer,
    MeanReducer,
    MultipleReducers,
    SumReducer,
    ThresholdReducer,
)
from pytorch_metric_learning.regularizers import LpRegularizer

from .. import TEST_DEVICE, TEST_DTYPES, WITH_COLLECT_STATS

NUM_CLASSES, SIZE = 3, 6
LABELS = [0, 1, 2, 0, 3, 3, 4, 4, 4, 5]


def moments(values):
    if not values:
        return None
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


class Loop:
    """Eqs. 3 to 6 over Python floats."""

    def __init__(self, loss):
        self.loss = loss
        self.running = {"pos": None, "neg": None}

    def cross_entropy(self, emb, labels):
        W = torch.nn.functional.normalize(self.loss.W.detach().double(), dim=1)
        losses = []
        for x, y in zip(emb, labels):
            if y < NUM_CLASSES:
                logits = [self.loss.logit_scale * float(w @ x) / float(x.norm()) for w in W]
                losses.append(math.log(sum(math.exp(z - logits[y]) for z in logits)))
        return losses

    def regularizer(self, emb, labels, ref, ref_labels, same):
        sims = {"pos": [], "neg": []}
        W = self.loss.W.detach().double()
        for i, j in itertools.product(range(len(emb)), range(len(ref))):
            if min(labels[i], ref_labels[j]) < NUM_CLASSES or (same and i == j):
                continue
            s = torch.cosine_similarity(W @ emb[i], W @ ref[j], dim=0).item()
            sims["pos" if labels[i] == ref_labels[j] else "neg"].append(s)
        beta = self.loss.momentum
        for side, values in sims.items():
            batch, old = moments(values), self.running[side]
            if batch and old:
                batch = tuple(beta * o + (1 - beta) * b for o, b in zip(old, batch))
            self.running[side] = batch or old
        if not (self.running["pos"] and self.running["neg"]):
            return 0.0
        (mu_pos, var_pos), (mu_neg, var_neg) = self.running["pos"], self.running["neg"]
        hinge = max(mu_neg - mu_pos + self.loss.margin, 0)
        return hinge + self.loss.variance_weight * (var_pos + var_neg)


class TestFeatureBasisLoss(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def make(self, **kwargs):
        return FeatureBasisLoss(NUM_CLASSES, SIZE, **kwargs).to(TEST_DEVICE)

    def batch(self, dtype, size=len(LABELS)):
        emb = torch.randn(size, SIZE, dtype=dtype, device=TEST_DEVICE)
        return emb, torch.tensor(LABELS[:size], device=TEST_DEVICE)

    def test_feature_basis_loss(self):
        for dtype, with_ref in itertools.product(TEST_DTYPES, (False, True)):
            loss_fn = self.make(momentum=0.8, variance_weight=0.7)
            oracle = Loop(loss_fn)
            for _ in range(3):
                emb, labels = self.batch(dtype)
                emb.requires_grad_()
                ref, ref_labels = self.batch(dtype) if with_ref else (None, None)
                loss = loss_fn(emb, labels, ref_emb=ref, ref_labels=ref_labels)
                others, other_labels = (ref, ref_labels) if with_ref else (emb, labels)
                x, y = emb.detach().double(), others.detach().double()
                ce = oracle.cross_entropy(x, labels)
                sd = oracle.regularizer(x, labels, y, other_labels, not with_ref)
                correct = sum(ce) / len(ce) + sd
                delta = correct * (5e-3 if dtype == torch.float16 else 1e-5)
                self.assertAlmostEqual(loss.item(), correct, delta=delta)
                loss.backward()
                self.assertTrue(torch.isfinite(emb.grad).all())
                for side in ("pos", "neg"):
                    mean, var = oracle.running[side]
                    self.assertAlmostEqual(getattr(loss_fn, f"{side}_mean").item(), mean, places=3)
                    self.assertAlmostEqual(getattr(loss_fn, f"{side}_var").item(), var, places=3)
                    if WITH_COLLECT_STATS:
                        self.assertAlmostEqual(getattr(loss_fn, f"mu_{side}"), mean, places=3)

    def test_reducers(self):
        emb, labels = self.batch(torch.float32)
        parts = self.make(reducer=None).eval()
        reducers = {"ce_loss": SumReducer(), "sd_loss": MeanReducer()}
        for reducer in (MeanReducer(), SumReducer(), AvgNonZeroReducer(), ThresholdReducer(low=0)):
            loss_fn = self.make(reducer=reducer)
            loss_fn.load_state_dict(parts.state_dict())
            losses = loss_fn.compute_loss(emb, labels)
            self.assertEqual(set(losses), {"ce_loss", "sd_loss"})
            ce, sd = losses["ce_loss"]["losses"], losses["sd_loss"]["losses"]
            total = ce.sum() if isinstance(reducer, SumReducer) else ce.mean()
            loss_fn.load_state_dict(parts.state_dict())
            torch.testing.assert_close(loss_fn(emb, labels), total + sd)
        loss_fn = self.make(reducer=MultipleReducers(reducers))
        self.assertTrue(torch.isfinite(loss_fn(emb, labels)))

    def test_regularizers(self):
        emb, labels = self.batch(torch.float32)
        loss_fn = self.make(weight_regularizer=LpRegularizer(), embedding_regularizer=LpRegularizer())
        self.assertEqual(
            set(loss_fn.sub_loss_names()), {"ce_loss", "sd_loss", "weight_reg_loss", "embedding_reg_loss"}
        )
        plain = self.make()
        plain.load_state_dict(loss_fn.state_dict())
        extra = loss_fn.W.norm(dim=1).mean() + emb.norm(dim=1).mean()
        torch.testing.assert_close(loss_fn(emb, labels), plain(emb, labels) + extra)

    def test_batches_without_pairs(self):
        for dtype, labels in itertools.product(TEST_DTYPES, ([], [1], [4], [0, 1], [3, 3], [3, 4])):
            for regularizer in ("sd", "local_ce", "global_ce", None):
                loss_fn = self.make(regularizer=regularizer)
                emb, _ = self.batch(dtype, len(labels))
                emb.requires_grad_()
                y = torch.tensor(labels, dtype=torch.long, device=TEST_DEVICE)
                loss = loss_fn(emb, y)
                loss.backward()
                self.assertTrue(torch.isfinite(loss))

    def test_what_is_refused(self):
        for kwargs in (
            {"num_classes": 0},
            {"embedding_size": 0},
            {"regularizer": "kl"},
            {"momentum": 1},
            {"logit_scale": 0},
        ):
            given = {"num_classes": 3, "embedding_size": 6, **kwargs}
            self.assertRaises(ValueError, FeatureBasisLoss, **given)
        loss_fn = self.make()
        emb, labels = self.batch(torch.float32)
        self.assertRaises(ValueError, loss_fn, emb[:, :4], labels)
        self.assertRaises(ValueError, loss_fn, emb, labels - 1)
