"""What PML, torch and record-keeper do with any loss, miner and distance, they do with ours."""

import copy
import pickle

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, TripletMarginLoss
from pytorch_metric_learning.utils import common_functions as c_f
from pytorch_metric_learning.utils import loss_and_miner_utils as lmu

from pml_slade import FeatureBasisLoss, ThresholdPairMiner

NUM_CLASSES, SIZE = 3, 6
LABELS = torch.tensor([0, 1, 2, 0, 3, 3, 4, 4, 4, 5, 5, 5])
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


def trained(regularizer="sd", dtype=torch.float32):
    """A loss that has seen a batch in which classes lie apart, and that batch."""
    basis = FeatureBasisLoss(NUM_CLASSES, SIZE, regularizer=regularizer).to(dtype)
    embeddings = (torch.randn(len(LABELS), SIZE) + 2 * torch.eye(SIZE)[LABELS % SIZE]).to(dtype)
    basis(embeddings, LABELS)
    return basis, embeddings


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("regularizer", ["sd", "local_ce", "global_ce", None])
def test_loss_miner_and_distance_can_be_copied_together(way, regularizer):
    basis, embeddings = trained(regularizer)
    miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
    same, mines, similar = COPIES[way]((basis, miner, basis.similarity))
    for a, b in zip(miner(embeddings), mines(embeddings)):
        assert torch.equal(a, b)
    assert torch.equal(similar(embeddings), basis.similarity(embeddings))
    assert similar.W is same.W
    assert mines.distance.W is same.W
    assert torch.equal(same(embeddings, LABELS), basis(embeddings, LABELS))
    state = FeatureBasisLoss(NUM_CLASSES, SIZE, regularizer=regularizer)
    state.load_state_dict(basis.state_dict())
    assert torch.equal(state(embeddings, LABELS), basis(embeddings, LABELS))


@pytest.mark.once
@pytest.mark.parametrize("regularizer", ["sd", "local_ce", "global_ce", None])
def test_torch_compile_gives_the_same_loss_gradient_and_statistics(regularizer):
    basis, embeddings = trained(regularizer)
    other = copy.deepcopy(basis)
    compiled = torch.compile(other, backend="aot_eager")  # traced as for any backend, not made faster
    for _ in range(2):
        x, y = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
        loss, same = basis(x, LABELS), compiled(y, LABELS)
        torch.testing.assert_close(same, loss)
        loss.backward()
        same.backward()
        torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(other.W.grad, basis.W.grad)
    torch.testing.assert_close(other.state_dict(), basis.state_dict())


def test_autocast_to_bfloat16_mines_and_learns_as_float32_does():
    basis, embeddings = trained()
    wide = copy.deepcopy(basis)
    layer = torch.nn.Linear(SIZE, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(embeddings)
        assert low.dtype == torch.bfloat16
        loss = basis(low, LABELS)
        pairs = ThresholdPairMiner(basis, basis, distance=basis.similarity)(low, LABELS)
    torch.testing.assert_close(loss.float(), wide(low.float(), LABELS), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(basis.state_dict(), wide.state_dict(), rtol=1e-2, atol=1e-2)
    expected = ThresholdPairMiner(basis, basis, distance=basis.similarity)(low.float(), LABELS)
    assert [len(part) for part in pairs] == [len(part) for part in expected]
    loss.backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.any()


def test_mined_pairs_become_triplets_and_weights():
    basis, embeddings = trained()
    pairs = ThresholdPairMiner(basis, basis, distance=basis.similarity)(embeddings, LABELS)
    a1, p, a2, n = (part.tolist() for part in pairs)
    triplets = lmu.convert_to_triplets(pairs, LABELS)
    positive, negative = set(zip(a1, p)), set(zip(a2, n))
    assert len(triplets[0])
    for anchor, near, far in zip(*(part.tolist() for part in triplets)):
        assert (anchor, near) in positive
        assert (anchor, far) in negative
    weights = lmu.convert_to_weights(pairs, LABELS, dtype=torch.float32)
    counts = torch.bincount(torch.cat(pairs), minlength=len(LABELS))
    assert torch.allclose(weights, counts / counts.max())
    for loss in (ContrastiveLoss(), TripletMarginLoss()):
        assert loss(embeddings, LABELS, pairs).isfinite()


def test_record_keeper_sees_what_they_record(tmp_path, monkeypatch):
    record_keeper = pytest.importorskip("record_keeper")
    monkeypatch.setattr(c_f, "COLLECT_STATS", True, raising=False)  # 0.9.92 always does
    basis, embeddings = trained()
    miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
    miner(embeddings, LABELS)
    keeper = record_keeper.RecordKeeper(
        record_writer=record_keeper.RecordWriter(str(tmp_path)),
        attributes_to_search_for=c_f.list_of_recordable_attributes_list_names(),
    )
    keeper.update_records({"basis_loss": basis, "unlabeled_miner": miner}, 1)
    records = {  # by iteration, or, by the older one, in order
        group: {name: [*(v.values() if isinstance(v, dict) else v)] for name, v in series.items()}
        for group, series in keeper.record_writer.records.items()
    }
    loss, mined = records["basis_loss_FeatureBasisLoss"], records["unlabeled_miner_ThresholdPairMiner"]
    assert loss["mu_pos"] == [pytest.approx(basis.pos_mean.item())]
    assert loss["margin"] == [0.5]
    assert mined["pos_threshold"] == [pytest.approx(basis.pos_mean.item())]
    assert mined["num_pos_pairs"][0] > 0
