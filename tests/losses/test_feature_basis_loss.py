"""FeatureBasisLoss against the loops, its running statistics, and its life among PML's classes."""

import copy
import itertools
import math
import pickle

import pytest
import reference
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses, reducers
from pytorch_metric_learning.regularizers import LpRegularizer
from reference import rows

from pml_slade import FeatureBasisLoss
from pml_slade.compat import LEGACY

NUM_CLASSES, SIZE = 3, 6
DTYPES = [torch.float16, torch.float32, torch.float64]
REGULARIZERS = ["sd", "local_ce", "global_ce", None]
STATISTICS = ["pos_mean", "pos_var", "neg_mean", "neg_var"]
LABELS = {
    "joint": [0, 1, 2, 0, 3, 3, 4, 4, 4, 5],
    "empty": [],
    "one annotated": [1],
    "one pseudo": [4],
    "annotated only": [0, 1, 1, 2],
    "pseudo only": [3, 3, 4, 5, 5],
    "single annotated class": [1, 1, 1],
    "single pseudo class": [4, 4, 4],
    "one positive pair": [0, 4, 4],
    "one negative pair": [0, 4, 5],
    "no positive pair": [0, 1, 3, 4, 5, 6],
}

in_every_regularizer = pytest.mark.parametrize("regularizer", REGULARIZERS)
in_every_batch = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)


def make(**kwargs):
    return FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE, **kwargs)


def batch(labels, dtype=torch.float32, grad=False):
    embeddings = torch.randn(len(labels), SIZE).to(dtype).requires_grad_(grad)
    return embeddings, torch.tensor(labels, dtype=torch.long)


def oracle_of(loss):
    return reference.FeatureBasis(
        rows(loss.W),
        loss.num_classes,
        loss.regularizer,
        loss.margin,
        loss.variance_weight,
        loss.momentum,
        loss.logit_scale,
    )


def parts(loss, embeddings, labels, *args):
    """Mean of Eq. 3 and the regulariser, as the loss hands them to its reducers."""
    loss_dict = loss.compute_loss(embeddings, labels, *args)
    ce = loss_dict["ce_loss"]["losses"]
    reg = loss_dict[f"{loss.regularizer}_loss"]["losses"] if loss.regularizer else 0
    return (ce.mean().item() if torch.is_tensor(ce) else ce), torch.as_tensor(reg).item()


def statistics(loss):
    return [getattr(loss, name).item() for name in STATISTICS]


# Values


@in_every_batch
@in_every_regularizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sub_losses_are_those_of_the_loops(regularizer, labels, dtype):
    loss = make(regularizer=regularizer, margin=0.9, variance_weight=0.7, momentum=0.8)
    oracle = oracle_of(loss)
    for _ in range(3):
        embeddings, label_tensor = batch(labels, dtype)
        expected = oracle(rows(embeddings), labels)
        assert parts(loss, embeddings, label_tensor) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@in_every_regularizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_over_changing_batches_sub_losses_and_statistics_are_those_of_the_loops(regularizer, dtype):
    loss = make(regularizer=regularizer, momentum=0.6, logit_scale=None)
    oracle = oracle_of(loss)
    for labels in LABELS.values():
        embeddings, label_tensor = batch(labels, dtype)
        expected = oracle(rows(embeddings), labels)
        assert parts(loss, embeddings, label_tensor) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        expected = [*(oracle.pos or (0, 0)), *(oracle.neg or (0, 0))]
        assert statistics(loss) == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(LEGACY, reason="losses take a reference set since 1.x")
@in_every_regularizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ref_labels", [[], [0, 1], [3], [3, 4, 4, 0, 7]], ids=str)
def test_a_reference_set_gives_the_regularizer_its_pairs(regularizer, dtype, ref_labels):
    loss = make(regularizer=regularizer)
    (embeddings, labels), (ref_emb, ref) = batch([0, 3, 4, 3], dtype), batch(ref_labels, dtype)
    expected = oracle_of(loss)(rows(embeddings), [0, 3, 4, 3], rows(ref_emb), ref_labels)
    got = parts(loss, embeddings, labels, None, ref_emb, ref)
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert loss(embeddings, labels, ref_emb=ref_emb, ref_labels=ref).isfinite()


@in_every_batch
@in_every_regularizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_loss_is_the_sum_of_its_parts(regularizer, labels, dtype):
    loss = make(regularizer=regularizer)
    embeddings, label_tensor = batch(labels, dtype)
    expected = sum(oracle_of(loss)(rows(embeddings), labels))
    got = loss(embeddings, label_tensor)
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, rel=2e-3 if dtype == torch.float16 else 1e-4, abs=1e-4)


def test_pseudo_labels_begin_where_the_annotated_classes_end():
    loss = make()
    embeddings, labels = batch([NUM_CLASSES - 1, NUM_CLASSES, NUM_CLASSES])
    loss_dict = loss.compute_loss(embeddings, labels)
    assert loss_dict["ce_loss"]["indices"].tolist() == [0]
    assert loss.pos_mean != 0


def test_annotated_samples_do_not_touch_the_regularizer():
    loss = make(momentum=0.5)
    embeddings, labels = batch([0, 1, 3, 3, 4])
    _, before = parts(loss, embeddings, labels)
    embeddings[:2] = torch.randn(2, SIZE)
    _, after = parts(make_twin(loss), embeddings, labels)
    assert after == pytest.approx(before)


def make_twin(loss):
    twin = make(momentum=loss.momentum)
    twin.W.data.copy_(loss.W.data)
    return twin


def test_logit_scale_none_is_eq_3_to_the_letter():
    loss = make(logit_scale=None)
    embeddings, labels = batch([0, 1, 2, 2])
    expected = F.cross_entropy(embeddings @ loss.W.t(), labels)
    assert loss(embeddings, labels).item() == pytest.approx(expected.item(), rel=1e-5)


# Gradients


def slow_sd(loss, embeddings, labels):
    """Eq. 5 on this batch alone, differentiable."""
    response = embeddings @ loss.W.t()
    pairs = reference.pseudo_pairs(labels.tolist(), NUM_CLASSES)
    pos, neg = (
        torch.stack([F.cosine_similarity(response[i], response[j], dim=0) for i, j in side]) for side in pairs
    )
    hinge = F.relu(neg.mean() - pos.mean() + loss.margin)
    return hinge + loss.variance_weight * (pos.var(unbiased=False) + neg.var(unbiased=False))


@pytest.mark.parametrize(("straight_through", "share"), [(True, 1.0), (False, 0.1)])
@pytest.mark.parametrize("margin", [3.0, -3.0], ids=["hinge active", "hinge inactive"])
def test_sd_gradient_is_the_batch_gradient_times_what_eq_6_lets_through(straight_through, share, margin):
    loss = make(straight_through=straight_through, momentum=0.9, margin=margin).double()
    loss(*batch([3, 3, 4, 5], torch.float64))
    embeddings, labels = batch([3, 3, 4, 4, 5], torch.float64, grad=True)
    leaves = embeddings, loss.W
    expected = torch.autograd.grad(slow_sd(loss, embeddings, labels), leaves)
    got = torch.autograd.grad(loss(embeddings, labels), leaves)
    for g, e in zip(got, expected):
        assert e.abs().max() > 1e-3
        torch.testing.assert_close(g, share * e, rtol=1e-4, atol=1e-7)


def test_the_default_gradient_is_straight_through():
    loss = make()
    loss(*batch([3, 3, 4, 5]))
    embeddings, labels = batch([3, 3, 4, 4], grad=True)
    loss.margin = 3.0
    expected = torch.autograd.grad(slow_sd(loss, embeddings, labels), embeddings)[0]
    got = torch.autograd.grad(loss(embeddings, labels), embeddings)[0]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("regularizer", ["sd", "global_ce", None])
@pytest.mark.parametrize("logit_scale", [None, 16.0])
def test_gradient_matches_numerical_differences(regularizer, logit_scale):
    # Global-CE is calibrated by moments that get no gradient: a momentum near 1 holds them still.
    momentum = 1 - 1e-7 if regularizer == "global_ce" else 0.5
    loss = make(
        regularizer=regularizer,
        logit_scale=logit_scale,
        straight_through=False,
        momentum=momentum,
        margin=3.0,
    ).double()
    loss(*batch([3, 3, 4, 5], torch.float64))
    loss.eval()
    embeddings, labels = batch([0, 2, 3, 3, 4], torch.float64, grad=True)
    assert torch.autograd.gradcheck(lambda f: loss(f, labels), embeddings, rtol=2e-3)


@in_every_batch
@in_every_regularizer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_works_and_is_finite_for_every_batch(regularizer, labels, dtype):
    loss = make(regularizer=regularizer)
    for _ in range(2):
        embeddings, label_tensor = batch(labels, dtype, grad=True)
        loss(embeddings, label_tensor).backward()
        assert embeddings.grad.isfinite().all()
        assert loss.W.grad is None or loss.W.grad.isfinite().all()


@pytest.mark.parametrize(
    ("regularizer", "dtype", "mode"),
    itertools.product(REGULARIZERS, [torch.float32, torch.float16], ["train", "eval"]),
    ids=str,
)
def test_no_sequence_of_label_patterns_gives_nan(regularizer, dtype, mode):
    loss = make(regularizer=regularizer)
    loss.train(mode == "train")
    for trial in range(40):
        n = trial % 8
        embeddings = torch.randn(n, SIZE) * 10.0 ** torch.randint(-2, 3, (n, 1))
        if n > 1 and trial % 3 == 0:
            embeddings[1] = embeddings[0]
        if n and trial % 4 == 0 and dtype is torch.float32:  # its steep gradient overflows in float16
            embeddings[-1] = 0
        embeddings = embeddings.to(dtype).requires_grad_()
        value = loss(embeddings, torch.randint(0, 7, (n,)))
        value.backward()
        assert value.isfinite()
        assert embeddings.grad.isfinite().all()
        assert all(map(math.isfinite, statistics(loss)))
    if loss.W.grad is not None:
        assert loss.W.grad.isfinite().all()


def test_training_separates_same_and_different_pseudo_labels():
    loss = make(regularizer="sd", margin=0.5)
    embeddings, labels = batch([3, 3, 3, 4, 4, 4])
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(embeddings, labels).backward()
        optimizer.step()
    similarity = rows(loss.similarity(embeddings))
    positive, negative = reference.pseudo_pairs(labels.tolist(), NUM_CLASSES)
    pos, neg = (reference.pair_moments(similarity, pairs)[0] for pairs in (positive, negative))
    assert pos - neg > 0.4


# Running statistics


def test_statistics_are_named_float32_buffers_in_the_state_dict(basis):
    state = basis.state_dict()
    for name in STATISTICS:
        assert state[name].dtype == torch.float32
        assert state[name].shape == ()
    assert {name for name, _ in basis.named_parameters()} == {"W"}
    assert basis.W.shape == (NUM_CLASSES, SIZE)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
def test_statistics_stay_float32_whatever_comes_in(basis, dtype):
    embeddings, labels = batch(LABELS["joint"], dtype)
    basis(embeddings, labels)
    assert all(getattr(basis, name).dtype == torch.float32 for name in STATISTICS)
    similarity = reference.basis_similarity(rows(embeddings), rows(basis.W))
    pairs = reference.pseudo_pairs(labels.tolist(), NUM_CLASSES)
    expected = [x for side in pairs for x in reference.pair_moments(similarity, side)]
    assert statistics(basis) == pytest.approx(expected, abs=1e-5)


@in_every_regularizer
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_does_not_lower_the_precision_of_statistics_or_loss(regularizer, autocast):
    loss = make(regularizer=regularizer)
    oracle = oracle_of(loss)
    layer = torch.nn.Linear(4, SIZE)
    for _ in range(2):
        with torch.autocast("cpu", dtype=autocast):
            embeddings = layer(torch.randn(10, 4))
            assert embeddings.dtype == autocast
            got = parts(loss, embeddings, torch.tensor(LABELS["joint"]))
        expected = oracle(rows(embeddings), LABELS["joint"])
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-4)
        if regularizer:
            assert statistics(loss) == pytest.approx([*oracle.pos, *oracle.neg], abs=1e-5)


def test_the_first_batch_is_taken_whole_and_later_ones_by_momentum():
    loss = make(momentum=0.75)
    seen = []
    for _ in range(2):
        embeddings, labels = batch([3, 3, 4])
        similarity = reference.basis_similarity(rows(embeddings), rows(loss.W))
        seen.append(reference.pair_moments(similarity, [(0, 1), (1, 0)])[0])
        loss(embeddings, labels)
        if len(seen) == 1:
            assert loss.pos_mean.item() == pytest.approx(seen[0], abs=1e-6)
    assert loss.pos_mean.item() == pytest.approx(0.25 * seen[1] + 0.75 * seen[0], abs=1e-6)


@pytest.mark.parametrize(("labels", "moves", "stays"), [([3, 3, 3], "pos", "neg"), ([3, 4, 5], "neg", "pos")])
def test_each_gaussian_starts_and_moves_on_its_own(labels, moves, stays):
    def side(name):
        return [getattr(loss, f"{name}_{what}").item() for what in ("mean", "var")]

    loss = make(momentum=0.5)
    loss(*batch(labels))
    assert side(stays) == [0, 0]
    first = side(moves)
    assert first[0] != 0
    loss(*batch([3, 3, 4, 4]))  # the other side's first batch is taken whole, though not the first
    started = side(stays)
    assert started[0] != 0
    loss(*batch(labels))
    assert side(stays) == started
    assert side(moves) != first


def test_the_second_side_to_start_takes_its_first_batch_whole():
    loss = make(momentum=0.99)
    loss(*batch([3, 4, 5]))
    embeddings, labels = batch([3, 3])
    loss(embeddings, labels)
    expected = reference.basis_similarity(rows(embeddings), rows(loss.W))[0][1]
    assert loss.pos_mean.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("labels", [[], [4], [0, 1, 2], [0, 0, 4]], ids=str)
def test_a_batch_without_unlabeled_pairs_leaves_the_statistics(basis, labels):
    basis(*batch(LABELS["joint"]))
    before = statistics(basis)
    basis(*batch(labels))
    assert statistics(basis) == before


@in_every_regularizer
def test_eval_mode_updates_nothing(regularizer):
    loss = make(regularizer=regularizer)
    loss(*batch(LABELS["joint"]))
    before = copy.deepcopy(loss.state_dict())
    loss.eval()
    assert loss(*batch(LABELS["joint"])).isfinite()
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_statistics_carry_no_graph_from_step_to_step(basis):
    for _ in range(3):
        embeddings, labels = batch(LABELS["joint"], grad=True)
        basis(embeddings, labels).backward()
    assert not any(getattr(basis, name).requires_grad for name in STATISTICS)


@pytest.mark.parametrize("spoilt", [0, 5], ids=["annotated", "pseudo"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_batch_that_overflowed_does_not_spoil_the_statistics_for_good(basis, spoilt, value):
    # Mixed precision meets such batches now and then, and its gradient scaler skips their steps.
    basis(*batch(LABELS["joint"]))
    embeddings, labels = batch(LABELS["joint"])
    embeddings[spoilt, 2] = value
    basis(embeddings, labels)
    assert basis(*batch(LABELS["joint"])).isfinite()
    assert all(map(math.isfinite, statistics(basis)))


def through_state_dict(loss):
    twin = make()
    twin.load_state_dict(loss.state_dict())
    return twin


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss)), through_state_dict],
    ids=["deepcopy", "pickle", "state_dict"],
)
@pytest.mark.parametrize("first", [[3, 3, 3], LABELS["joint"]], ids=str)
def test_a_duplicate_goes_on_as_the_original_would(basis, duplicate, first):
    basis(*batch(first))
    twin = duplicate(basis)
    assert twin.W is not basis.W
    assert twin.thresholds() == basis.thresholds()
    embeddings, labels = batch(LABELS["joint"])
    assert torch.equal(twin(embeddings, labels), basis(embeddings, labels))
    assert statistics(twin) == statistics(basis)
    assert torch.equal(twin.similarity(embeddings), basis.similarity(embeddings))
    with torch.no_grad():
        twin.W.normal_()
    assert not torch.allclose(twin.similarity(embeddings), basis.similarity(embeddings))


# Thresholds and similarity


def far_apart(loss):
    """Embeddings whose positive pairs are alike and whose negative ones are not."""
    with torch.no_grad():
        loss.W.copy_(torch.eye(NUM_CLASSES, SIZE))
    embeddings = torch.eye(SIZE)[[0, 0, 1, 1]] + 0.1 * torch.rand(4, SIZE)
    return embeddings, torch.tensor([3, 3, 4, 4])


def test_thresholds_are_the_running_means_as_floats(basis):
    basis(*far_apart(basis))
    thresholds = basis.thresholds()
    assert thresholds == (basis.pos_mean.item(), basis.neg_mean.item())
    assert all(type(t) is float for t in thresholds)
    assert thresholds[0] > thresholds[1]


def test_thresholds_are_none_before_anything_was_seen(basis):
    assert basis.thresholds() is None


@pytest.mark.parametrize("labels", [[3, 3, 3], [3, 4, 5], [0, 1, 2], [4]], ids=str)
def test_thresholds_are_none_while_one_side_was_not_seen(basis, labels):
    basis.W.data.abs_()
    basis(torch.rand(len(labels), SIZE), torch.tensor(labels))
    assert basis.thresholds() is None


def test_thresholds_are_none_while_negatives_are_as_similar_as_positives(basis):
    embeddings, _ = far_apart(basis)
    basis(embeddings, torch.tensor([3, 4, 3, 4]))
    assert basis.pos_mean < basis.neg_mean
    assert basis.thresholds() is None
    basis(torch.ones(4, SIZE), torch.tensor([3, 3, 4, 4]))
    basis.neg_mean.copy_(basis.pos_mean)
    assert basis.thresholds() is None


def test_similarity_follows_the_basis_after_an_optimizer_step_and_after_loading(basis):
    embeddings, labels = batch(LABELS["joint"])
    similarity = basis.similarity
    initial = copy.deepcopy(basis.state_dict())

    def check():
        for s in (similarity, basis.similarity):
            expected = reference.basis_similarity(rows(embeddings), rows(basis.W))
            for row, expected_row in zip(rows(s(embeddings)), expected):
                assert row == pytest.approx(expected_row, abs=1e-5)

    check()
    before = similarity(embeddings).detach()
    basis(embeddings, labels).backward()
    torch.optim.SGD(basis.parameters(), lr=1.0).step()
    assert not torch.allclose(similarity(embeddings), before)
    check()
    basis.load_state_dict(initial)
    torch.testing.assert_close(similarity(embeddings), before)
    check()


def test_reading_the_similarity_adds_nothing_to_the_state_dict(basis):
    before = list(basis.state_dict())
    assert basis.similarity is not None
    assert list(basis.state_dict()) == before


# As a PML loss


@pytest.mark.parametrize(
    ("regularizer", "name"),
    [("sd", "sd_loss"), ("local_ce", "local_ce_loss"), ("global_ce", "global_ce_loss")],
)
def test_sub_losses_are_named(regularizer, name):
    loss = make(regularizer=regularizer)
    assert loss.sub_loss_names() == ["ce_loss", name]
    assert set(loss.compute_loss(*batch(LABELS["joint"]))) == {"ce_loss", name}


def test_without_a_regularizer_there_is_the_cross_entropy_alone():
    assert make(regularizer=None).sub_loss_names() == ["ce_loss"]


@in_every_regularizer
@pytest.mark.parametrize(
    "name", ["MeanReducer", "AvgNonZeroReducer", "ThresholdReducer", "SumReducer", "PerAnchorReducer"]
)
def test_pml_reducers_reduce_it(regularizer, name):
    if not hasattr(reducers, name):
        pytest.skip("this generation has no such reducer")
    settings = {"low": 0.5} if name == "ThresholdReducer" else {}
    loss = make(regularizer=regularizer, reducer=getattr(reducers, name)(**settings))
    embeddings, labels = batch(LABELS["joint"], grad=True)
    oracle = oracle_of(loss)
    _, reg = oracle(rows(embeddings), labels.tolist())
    ce = reference.basis_cross_entropy(rows(embeddings)[:4], rows(loss.W), [0, 1, 2, 0], loss.logit_scale)
    kept = [x for x in ce if x > settings.get("low", -1)]
    ce = sum(kept) if name == "SumReducer" else sum(kept) / len(kept)
    got = loss(embeddings, labels)
    assert got.item() == pytest.approx(ce + reg, rel=1e-4)
    got.backward()
    for other in LABELS.values():
        assert loss(*batch(other)).isfinite()


@pytest.mark.parametrize("regularizer", ["sd", "local_ce", "global_ce"])
def test_multiple_reducers_reach_each_sub_loss(regularizer):
    reducer = reducers.MultipleReducers({"ce_loss": reducers.ThresholdReducer(high=-1)})
    loss = make(regularizer=regularizer, reducer=reducer)
    embeddings, labels = batch(LABELS["joint"])
    _, reg = oracle_of(loss)(rows(embeddings), labels.tolist())
    assert loss(embeddings, labels).item() == pytest.approx(reg, rel=1e-4)


@in_every_batch
@in_every_regularizer
def test_weight_and_embedding_regularizers_add_their_share(regularizer, labels):
    loss = make(
        regularizer=regularizer,
        weight_regularizer=LpRegularizer(p=2),
        weight_reg_weight=0.5,
        embedding_regularizer=LpRegularizer(p=2),
        embedding_reg_weight=0.25,
    )
    extra = {"weight_reg_loss", "embedding_reg_loss"}
    assert extra < set(loss.sub_loss_names())
    if not labels:
        return
    embeddings, label_tensor = batch(labels)
    expected = sum(oracle_of(loss)(rows(embeddings), labels))
    expected += 0.5 * sum(map(reference.norm, rows(loss.W))) / NUM_CLASSES
    expected += 0.25 * sum(map(reference.norm, rows(embeddings))) / len(labels)
    assert loss(embeddings, label_tensor).item() == pytest.approx(expected, rel=1e-4)


def test_weight_init_func_makes_the_basis():
    assert torch.equal(make(weight_init_func=torch.nn.init.ones_).W, torch.ones(NUM_CLASSES, SIZE))


@in_every_regularizer
def test_multiple_losses_sum_it_with_others(regularizer):
    loss, contrastive = make(regularizer=regularizer), losses.ContrastiveLoss()
    both = losses.MultipleLosses({"basis": loss, "rank": contrastive}, weights={"basis": 0.25, "rank": 2.0})
    embeddings, labels = batch(LABELS["joint"])
    expected = 0.25 * sum(oracle_of(loss)(rows(embeddings), labels.tolist()))
    expected += 2 * contrastive(embeddings, labels).item()
    assert both(embeddings, labels).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.skipif(LEGACY, reason="0.9.92 has a memory that puts both sets into one batch")
@in_every_regularizer
def test_cross_batch_memory_gives_it_pairs_with_the_memory(regularizer):
    class Memory(losses.CrossBatchMemory):
        @staticmethod
        def supported_losses():
            return [*losses.CrossBatchMemory.supported_losses(), "FeatureBasisLoss"]

    loss = make(regularizer=regularizer)
    memory, oracle = Memory(loss, SIZE, memory_size=32), oracle_of(loss)
    stored_emb, stored_labels = [], []
    for _ in range(3):
        embeddings, labels = batch(LABELS["joint"])
        n, start = len(labels), len(stored_labels)
        stored_emb += rows(embeddings)
        stored_labels += labels.tolist()
        positive, negative = reference.pseudo_pairs(labels.tolist(), NUM_CLASSES, stored_labels)
        positive = [(i, j) for i, j in positive if j != start + i]
        expected = oracle(rows(embeddings), labels.tolist(), stored_emb, stored_labels, (positive, negative))
        assert len(stored_labels) == start + n
        assert memory(embeddings, labels).item() == pytest.approx(sum(expected), rel=1e-4)


PAIRS = {
    "pairs": ([4, 5, 6], [5, 4, 7], [4, 6], [6, 4]),
    "one positive": ([4], [5], [], []),
    "no pair": ([], [], [], []),
    "pairs with annotated samples": ([4, 0, 4], [5, 3, 0], [6, 6, 0], [4, 1, 6]),
}


@in_every_regularizer
@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("swapped", [False, True])
def test_pairs_of_an_indices_tuple_restrict_the_regularizer(regularizer, pairs, swapped):
    a1, p, a2, n = pairs
    a1, p, a2, n = (p, a1, n, a2) if swapped else (a1, p, a2, n)
    loss = make(regularizer=regularizer)
    embeddings, labels = batch(LABELS["joint"])
    sides = list(zip(a1, p)), list(zip(a2, n))
    sides = [[(i, j) for i, j in side if min(i, j) >= 4] for side in sides]
    expected = oracle_of(loss)(rows(embeddings), labels.tolist(), pairs=sides)
    indices = tuple(torch.tensor(x, dtype=torch.long) for x in (a1, p, a2, n))
    got = loss(embeddings, labels, indices)
    assert got.item() == pytest.approx(sum(expected), rel=1e-4)


@in_every_regularizer
def test_triplets_restrict_the_regularizer_and_count_each_pair_once(regularizer):
    loss = make(regularizer=regularizer)
    embeddings, labels = batch(LABELS["joint"])
    triplets = tuple(map(torch.tensor, ([4, 4, 6], [5, 5, 7], [6, 9, 4])))
    sides = [(4, 5), (6, 7)], [(4, 6), (4, 9), (6, 4)]
    expected = oracle_of(loss)(rows(embeddings), labels.tolist(), pairs=sides)
    assert loss(embeddings, labels, triplets).item() == pytest.approx(sum(expected), rel=1e-4)


@pytest.mark.parametrize("collect_stats", [True, False])
def test_collected_stats_are_those_of_the_last_batch_s_gaussians(collect_stats):
    loss = make(collect_stats=collect_stats)
    loss(*batch(LABELS["joint"]))
    if collect_stats:
        recorded = [loss.mu_pos, loss.var_pos, loss.mu_neg, loss.var_neg]
        assert recorded == pytest.approx(statistics(loss))
        assert {"mu_pos", "mu_neg"} <= set(loss._record_these_stats)
    else:
        assert not hasattr(loss, "mu_pos")
    assert {"num_classes", "embedding_size", "margin"} <= set(loss._record_these)


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a positive integer"),
        ({"num_classes": 2.5}, "num_classes must be a positive integer"),
        ({"embedding_size": -1}, "embedding_size must be a positive integer"),
        ({"regularizer": "gaussian"}, "regularizer must be one of"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"momentum": -0.1}, "momentum must be in"),
        ({"momentum": math.nan}, "momentum must be in"),
        ({"logit_scale": 0.0}, "logit_scale must be positive"),
        ({"logit_scale": math.nan}, "logit_scale must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FeatureBasisLoss(**{"num_classes": 3, "embedding_size": 6, **settings})


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_embeddings_of_another_size_are_refused(basis, size):
    with pytest.raises(ValueError, match=f"embeddings have size {size}.*embedding_size={SIZE}"):
        basis(torch.randn(4, size), torch.arange(4))


def test_negative_labels_are_refused(basis):
    with pytest.raises(ValueError, match="labels must not be negative, got -1"):
        basis(torch.randn(3, SIZE), torch.tensor([0, -1, 4]))


@pytest.mark.skipif(LEGACY, reason="0.9.92 asks for labels itself")
def test_missing_labels_are_refused(basis):
    with pytest.raises(ValueError, match="labels are required"):
        basis(torch.randn(3, SIZE))
