"""ClusterBasisLoss: Eq. 3 over labeled classes and clusters."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import MultipleLosses

from pml_slade import FeatureBasisLoss
from pml_slade.losses import ClusterBasisLoss

NUM_CLASSES, NUM_CLUSTERS, SIZE = 3, 4, 6


def make(logit_scale=16.0, clusters=NUM_CLUSTERS, margin=0.0):
    basis = FeatureBasisLoss(NUM_CLASSES, SIZE, logit_scale=logit_scale)
    return basis, ClusterBasisLoss(basis, clusters, margin)


@pytest.mark.parametrize(("logit_scale", "margin"), [(16.0, 0.0), (16.0, 0.2), (None, 0.0)])
def test_it_is_the_cross_entropy_over_both_sets_of_vectors(logit_scale, margin):
    basis, loss = make(logit_scale, margin=margin)
    loss.start_from(torch.randn(3, SIZE))
    embeddings, labels = torch.randn(5, SIZE), torch.tensor([3, 4, 5, 3, 0])
    total = 0.0
    for f, label in zip(embeddings, labels):
        vectors = [*basis.W, *loss.V[:3]]
        if logit_scale is None:
            logits = torch.stack([v @ f for v in vectors])
        else:
            logits = torch.stack([logit_scale * F.cosine_similarity(v, f, dim=0) for v in vectors])
            logits[label] -= logit_scale * margin
        total = total - logits.log_softmax(0)[label]
    assert torch.allclose(loss(embeddings, labels), total / 5, atol=1e-5)


def test_gradients_reach_both_and_spare_vectors_of_no_cluster():
    basis, loss = make()
    loss.start_from(torch.randn(2, SIZE))
    embeddings = torch.randn(4, SIZE, requires_grad=True)
    loss(embeddings, torch.tensor([3, 4, 3, 4])).backward()
    for grad in (basis.W.grad, loss.V.grad[:2], embeddings.grad):
        assert (grad.norm(dim=1) > 0).all()
    assert (loss.V.grad[2:] == 0).all()


def test_w_belongs_to_the_basis_alone():
    basis, loss = make()
    assert [name for name, _ in loss.named_parameters()] == ["V"]
    assert all(p is not basis.W for p in loss.parameters())


def test_clusters_start_at_their_centroids():
    _, loss = make()
    centroids = torch.randn(3, SIZE)
    loss.start_from(centroids)
    assert torch.equal(loss.V[:3], centroids)
    assert int(loss.num_active) == 3
    fresh = make()[1]
    fresh.load_state_dict(loss.state_dict())
    assert int(fresh.num_active) == 3


@pytest.mark.parametrize("shape", [(0, SIZE), (NUM_CLUSTERS + 1, SIZE), (2, SIZE - 1), (SIZE,)])
def test_centroids_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"centroids must have shape"):
        make()[1].start_from(torch.randn(shape))


def test_a_margin_needs_cosines_and_is_in_range():
    with pytest.raises(ValueError, match=r"margin=0.1 is of cosines.*logit_scale=None"):
        make(logit_scale=None, margin=0.1)
    with pytest.raises(ValueError, match="margin must not be negative, got -1"):
        make(margin=-1)
    with pytest.raises(ValueError, match="margin must be finite, got inf"):
        make(margin=float("inf"))


def test_labels_of_no_cluster_are_refused():
    _, loss = make()
    loss.start_from(torch.randn(2, SIZE))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 5\).*3 to 5"):
        loss(torch.randn(3, SIZE), torch.tensor([3, 4, 5]))
    with pytest.raises(ValueError, match="embeddings have size 2"):
        loss(torch.randn(3, 2), torch.tensor([3, 4, 4]))


def test_pairs_are_refused():
    _, loss = make()
    embeddings, labels = torch.randn(4, SIZE), torch.tensor([3, 4, 5, 6])
    with pytest.raises(ValueError, match="leave miners out"):
        loss(embeddings, labels, (labels,) * 4)
    with pytest.raises(ValueError, match="leave miners out"):
        loss.compute_loss(embeddings, labels, ref_emb=embeddings.clone(), ref_labels=labels)


@pytest.mark.parametrize("clusters", [0, -1, 1.5])
def test_a_number_of_clusters_that_is_none_is_refused(clusters):
    with pytest.raises(ValueError, match="num_clusters"):
        make(clusters=clusters)


def test_it_lives_among_pml_s_classes():
    _, loss = make()
    embeddings, labels = torch.randn(4, SIZE), torch.tensor([3, 4, 5, 6])
    value = loss(embeddings, labels)
    both = MultipleLosses({"pool": loss}, weights={"pool": 2.0})
    assert torch.allclose(both(embeddings, labels), 2 * value)
    assert torch.allclose(pickle.loads(pickle.dumps(loss))(embeddings, labels), value)
    assert torch.allclose(copy.deepcopy(loss)(embeddings, labels), value)
    assert loss(embeddings[:0], labels[:0]) == 0
