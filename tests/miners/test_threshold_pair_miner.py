"""ThresholdPairMiner against a loop over all pairs, and its output in PML's losses."""

import copy
import pickle

import pytest
import reference
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from reference import rows

from pml_slade import FeatureBasisLoss, ThresholdPairMiner
from pml_slade.compat import LEGACY

DTYPES = [torch.float16, torch.float32, torch.float64]
NUM_CLASSES, SIZE = 3, 6

PAIR_LOSSES = [
    "AngularLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SupConLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
]
PAIR_LOSSES = [name for name in PAIR_LOSSES if hasattr(losses, name)]


class Thresholds:
    """Stands for a FeatureBasisLoss: says what it is told to say."""

    def __init__(self, *now):
        self.now = now or None

    def thresholds(self):
        return self.now


def seen_basis():
    """A basis whose statistics are usable: alike within pseudo-classes, not between."""
    basis = FeatureBasisLoss(num_classes=NUM_CLASSES, embedding_size=SIZE)
    with torch.no_grad():
        basis.W.copy_(torch.eye(NUM_CLASSES, SIZE))
    basis(torch.eye(SIZE)[[0, 0, 1, 1]] + 0.1 * torch.rand(4, SIZE), torch.tensor([3, 3, 4, 4]))
    assert basis.thresholds() is not None
    return basis


def of_basis():
    basis = seen_basis()
    return ThresholdPairMiner(basis, basis, distance=basis.similarity)


# What must hold for every miner is stated once and run over all of these.
MINERS = {
    "cosine": lambda: ThresholdPairMiner(0.3, -0.2),
    "distance": lambda: ThresholdPairMiner(1.1, 1.5, distance=LpDistance()),
    "labels": lambda: ThresholdPairMiner(0.1, 0.0, use_labels=True),
    "distance and labels": lambda: ThresholdPairMiner(1.1, 1.3, LpDistance(), use_labels=True),
    "object": lambda: ThresholdPairMiner(Thresholds(0.3, -0.2), Thresholds(0.9, 0.1)),
    "fixed positive": lambda: ThresholdPairMiner(0.4, Thresholds(0.9, 0.1)),
    "fixed negative": lambda: ThresholdPairMiner(Thresholds(0.4, 0.3), 0.0),
    "basis": of_basis,
    "everything": lambda: ThresholdPairMiner(-0.4, -0.5),
    "nothing": lambda: ThresholdPairMiner(2, -2),
    "no thresholds": lambda: ThresholdPairMiner(Thresholds(), Thresholds()),
}
EFFECTIVE = {"object": (0.3, 0.1), "fixed positive": (0.4, 0.1), "fixed negative": (0.4, 0.0)}

in_every_miner = pytest.mark.parametrize("name", MINERS)


def slow_similarity(miner, embeddings, ref_emb):
    """The miner's distance by loops."""
    distance = miner.distance
    if isinstance(distance, CosineSimilarity):
        return [[reference.cosine(f, g) for g in ref_emb] for f in embeddings]
    if isinstance(distance, LpDistance):
        unit = [[[x / reference.norm(f) for x in f] for f in side] for side in (embeddings, ref_emb)]
        return [[reference.euclidean(f, g) for g in unit[1]] for f in unit[0]]
    return reference.basis_similarity(embeddings, rows(distance.W), ref_emb)


def slow_pairs(name, miner, embeddings, labels, ref_emb=None, ref_labels=None):
    """Eq. 7 by loops; also how far the nearest similarity lies from a threshold."""
    same_set = ref_emb is None
    ref_emb, ref_labels = (embeddings, labels) if same_set else (ref_emb, ref_labels)
    if name == "no thresholds":
        return set(), set(), 1.0
    thresholds = EFFECTIVE.get(name)
    if thresholds is None:
        thresholds = miner._sources[0].thresholds() if name == "basis" else miner._sources
    similarity = slow_similarity(miner, embeddings, ref_emb)
    inverted = miner.distance.is_inverted
    positive, negative = reference.threshold_pairs(similarity, *thresholds, same_set, inverted)
    if miner.use_labels:
        positive = {(i, j) for i, j in positive if labels[i] == ref_labels[j]}
        negative = {(i, j) for i, j in negative if labels[i] != ref_labels[j]}
    gaps = [abs(s - t) for i, row in enumerate(similarity) for j, s in enumerate(row) for t in thresholds
            if not (same_set and i == j)]  # fmt: skip
    return positive, negative, min(gaps, default=1.0)


def as_sets(indices):
    a1, p, a2, n = (x.tolist() for x in indices)
    positive, negative = list(zip(a1, p)), list(zip(a2, n))
    assert len(a1) == len(p)
    assert len(a2) == len(n)
    assert len(set(positive)) == len(positive), "a pair comes twice"
    assert len(set(negative)) == len(negative), "a pair comes twice"
    return set(positive), set(negative)


def batch(n, dtype=torch.float32):
    return torch.randn(n, SIZE).to(dtype), torch.randint(0, 3, (n,))


def clear_batch(name, miner, n, dtype, ref_size):
    """A batch in which no similarity is so near a threshold that rounding decides."""
    for _ in range(100):
        (embeddings, labels), (ref_emb, ref_labels) = batch(n, dtype), batch(ref_size or 0, dtype)
        ref = () if ref_size is None else (ref_emb, ref_labels)
        slow_ref = () if ref_size is None else (rows(ref_emb), ref_labels.tolist())
        *expected, gap = slow_pairs(name, miner, rows(embeddings), labels.tolist(), *slow_ref)
        if gap > (2e-3 if dtype is torch.float16 else 1e-5):
            return (embeddings, labels, *ref), tuple(expected)
    raise AssertionError("no clear batch was drawn")


# What must hold for every miner


@in_every_miner
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ref_size", [None, 1, 7])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_pairs_are_those_of_the_loop(name, dtype, ref_size, n):
    miner = MINERS[name]()
    args, expected = clear_batch(name, miner, n, dtype, ref_size)
    assert as_sets(miner(*args)) == expected


@in_every_miner
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pairs_come_both_ways_never_with_oneself_and_on_one_side_only(name, dtype):
    miner = MINERS[name]()
    for _ in range(10):
        embeddings, labels = batch(12, dtype)
        embeddings[3:6] = embeddings[:3]
        positive, negative = as_sets(miner(embeddings, labels))
        assert positive == {(j, i) for i, j in positive}
        assert negative == {(j, i) for i, j in negative}
        assert not positive & negative
        assert all(i != j for i, j in positive | negative)


@in_every_miner
@pytest.mark.parametrize("ref_size", [None, 5])
def test_output_is_four_integer_index_vectors_without_a_graph(name, ref_size):
    embeddings, labels = batch(8)
    ref = () if ref_size is None else batch(ref_size)
    output = MINERS[name]()(embeddings.requires_grad_(), labels, *ref)
    assert len(output) == 4
    for index in output:
        assert index.dtype == torch.long
        assert index.ndim == 1
        assert not index.requires_grad


@in_every_miner
@pytest.mark.parametrize("n", [0, 1])
def test_a_batch_without_a_pair_gives_four_empty_tensors(name, n):
    assert [len(x) for x in MINERS[name]()(*batch(n))] == [0, 0, 0, 0]


@in_every_miner
def test_mining_changes_nothing_but_stats(name):
    miner, (embeddings, labels) = MINERS[name](), batch(8)
    kept = embeddings.clone()
    first = miner(embeddings, labels)
    assert torch.equal(embeddings, kept)
    assert as_sets(miner(embeddings, labels)) == as_sets(first)


@in_every_miner
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_a_duplicate_mines_the_same(name, duplicate):
    miner, (embeddings, labels) = MINERS[name](), batch(8)
    assert as_sets(duplicate(miner)(embeddings, labels)) == as_sets(miner(embeddings, labels))


@in_every_miner
def test_stats_count_the_pairs(name):
    miner = MINERS[name]()
    miner.collect_stats = True
    a1, _, a2, _ = miner(*batch(8))
    assert (miner.num_pos_pairs, miner.num_neg_pairs) == (len(a1), len(a2))


# Every PML loss that takes tuples


def outcome(loss, embeddings, labels, indices):
    """The loss and its gradient, or the kind of error."""
    leaf = embeddings.clone().requires_grad_()
    try:
        value = loss(leaf, labels, indices)
    except Exception as error:
        return type(error).__name__, None, None
    value.backward()
    return None, value.detach(), leaf.grad


def make_loss(loss_name):
    """A loss with margins so wide that every pair counts."""
    settings = {
        "ContrastiveLoss": {"pos_margin": 1, "neg_margin": 0, "distance": CosineSimilarity()},
        "TripletMarginLoss": {"margin": 3},
    }
    return getattr(losses, loss_name)(**settings.get(loss_name, {}))


@in_every_miner
@pytest.mark.parametrize("loss_name", PAIR_LOSSES)
def test_pml_losses_take_the_pairs(name, loss_name):
    embeddings, labels = batch(10)
    indices = MINERS[name]()(embeddings, labels)
    error, value, grad = outcome(make_loss(loss_name), embeddings, labels, indices)
    if error is not None:
        # What PML refuses of its own plain tuples it may refuse here.
        plain = tuple(torch.tensor(x.tolist(), dtype=torch.long) for x in indices)
        assert outcome(make_loss(loss_name), embeddings, labels, plain)[0] == error
        assert min(map(len, indices)) == 0
    else:
        assert value.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("loss_name", PAIR_LOSSES)
def test_pml_losses_learn_from_mined_pairs(loss_name):
    embeddings, labels = batch(10)
    indices = ThresholdPairMiner(0.1, 0.0)(embeddings)
    error, value, grad = outcome(make_loss(loss_name), embeddings, labels, indices)
    assert error is None
    assert value.isfinite()
    assert grad.abs().sum() > 0


@pytest.mark.parametrize(
    "loss_name", ["ContrastiveLoss", "TripletMarginLoss", "MultiSimilarityLoss", "NTXentLoss", "CircleLoss"]
)
def test_four_empty_tensors_teach_the_common_losses_nothing(loss_name):
    embeddings, labels = batch(10)
    indices = MINERS["no thresholds"]()(embeddings)
    error, value, grad = outcome(make_loss(loss_name), embeddings, labels, indices)
    assert (error, value.item(), grad.abs().sum().item()) == (None, 0, 0)


@pytest.mark.skipif(LEGACY, reason="0.9.92 gives its memory to another kind of loss")
def test_cross_batch_memory_takes_it_as_its_miner():
    memory = losses.CrossBatchMemory(
        losses.ContrastiveLoss(), SIZE, memory_size=16, miner=ThresholdPairMiner(0.3, -0.2)
    )
    for _ in range(3):
        embeddings, labels = batch(8)
        loss = memory(embeddings.requires_grad_(), labels)
        loss.backward()
        assert loss.isfinite()


# Labels


def test_without_use_labels_the_labels_do_not_matter():
    miner, (embeddings, labels) = MINERS["cosine"](), batch(8)
    expected = as_sets(miner(embeddings, labels))
    assert as_sets(miner(embeddings)) == expected
    assert as_sets(miner(embeddings, torch.zeros(8).long())) == expected
    assert as_sets(miner(embeddings, torch.arange(8))) == expected


def test_without_labels_a_reference_set_needs_none_either():
    miner, embeddings, ref_emb = MINERS["cosine"](), torch.randn(4, SIZE), torch.randn(5, SIZE)
    with_labels = miner(embeddings, torch.zeros(4).long(), ref_emb, torch.zeros(5).long())
    assert as_sets(miner(embeddings, None, ref_emb)) == as_sets(with_labels)
    assert as_sets(miner(embeddings, ref_emb=ref_emb)) == as_sets(with_labels)


@pytest.mark.parametrize("labels", [torch.zeros(8).long(), torch.arange(8)], ids=["one", "all differ"])
def test_use_labels_keeps_only_pairs_that_agree_with_the_labels(labels):
    embeddings = torch.randn(8, SIZE)
    positive, negative = as_sets(MINERS["cosine"]()(embeddings))
    got = as_sets(ThresholdPairMiner(0.3, -0.2, use_labels=True)(embeddings, labels))
    assert got == ((positive, set()) if labels[1] == 0 else (set(), negative))


def test_use_labels_asks_for_labels():
    miner = MINERS["labels"]()
    with pytest.raises(ValueError, match="use_labels=True needs labels"):
        miner(torch.randn(4, SIZE))
    with pytest.raises(ValueError, match="ref_labels"):
        miner(torch.randn(4, SIZE), torch.arange(4), torch.randn(3, SIZE))


# Thresholds


@pytest.mark.parametrize(
    ("distance", "pos", "neg"),
    [
        (None, 0.1, 0.2),
        (None, 0.5, 0.5),
        (None, float("nan"), 0.5),
        (None, 0.5, float("nan")),
        (LpDistance(), 1.5, 1.0),
        (LpDistance(), 1.0, 1.0),
    ],
)
def test_fixed_thresholds_that_overlap_or_touch_are_refused(distance, pos, neg):
    with pytest.raises(ValueError, match=r"pos_threshold=.* and neg_threshold=.* overlap"):
        ThresholdPairMiner(pos, neg, distance=distance)


@pytest.mark.parametrize(("distance", "order"), [(None, "above"), (LpDistance(), "below")])
def test_the_message_says_which_way_round_they_belong(distance, order):
    with pytest.raises(ValueError, match=order):
        ThresholdPairMiner(1.0, 1.0, distance=distance)


@pytest.mark.parametrize("bad", [None, "much", [0.5], object()])
@pytest.mark.parametrize("side", ["pos_threshold", "neg_threshold"])
def test_a_threshold_that_is_neither_number_nor_object_is_refused(side, bad):
    settings = {"pos_threshold": 0.5, "neg_threshold": 0.1, side: bad}
    with pytest.raises(ValueError, match=f"{side} must be a number or an object"):
        ThresholdPairMiner(**settings)


def test_thresholds_themselves_are_included():
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    positive, negative = as_sets(ThresholdPairMiner(1.0, 0.0)(embeddings))
    assert positive == {(0, 2), (2, 0)}
    assert negative == {(0, 1), (1, 0), (1, 2), (2, 1)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_thresholds_that_coincide_after_rounding_put_no_pair_in_both_sets(dtype):
    class HalfSimilar(CosineSimilarity):
        def compute_mat(self, query_emb, ref_emb):
            return torch.full((len(query_emb), len(ref_emb)), 0.5, dtype=query_emb.dtype)

    miner = ThresholdPairMiner(0.5 + 1e-9, 0.5, distance=HalfSimilar())
    positive, negative = as_sets(miner(torch.randn(3, SIZE).to(dtype)))
    assert not positive & negative


@pytest.mark.parametrize("thresholds", [(0.5, 0.0), (0.9, 0.5)], ids=["at T1", "at T2"])
def test_a_distance_that_rounds_unevenly_does_not_leave_a_pair_with_one_direction(thresholds):
    class Uneven(CosineSimilarity):
        """s_ij and s_ji in different last digits, as LpDistance gives them."""

        def compute_mat(self, query_emb, ref_emb):
            mat = torch.full((len(query_emb), len(ref_emb)), 0.5)
            return mat + 1e-7 * (torch.ones_like(mat).triu() - torch.ones_like(mat).tril())

    for pairs in as_sets(ThresholdPairMiner(*thresholds, distance=Uneven())(torch.randn(3, SIZE))):
        assert pairs == {(j, i) for i, j in pairs}


def test_objects_are_read_anew_at_each_call():
    source = Thresholds()
    miner, (embeddings, _) = ThresholdPairMiner(source, source), batch(8)
    assert as_sets(miner(embeddings)) == (set(), set())
    source.now = (0.3, -0.2)
    assert as_sets(miner(embeddings)) == as_sets(ThresholdPairMiner(0.3, -0.2)(embeddings))
    source.now = (0.9, -0.9)
    assert as_sets(miner(embeddings)) == as_sets(ThresholdPairMiner(0.9, -0.9)(embeddings))


@pytest.mark.parametrize(
    ("pos", "neg"),
    [
        (Thresholds(), 0.1),
        (0.5, Thresholds()),
        (Thresholds(0.1, 0.0), 0.5),
        (0.5, Thresholds(0.9, 0.5)),
        (Thresholds(float("nan"), 0.0), -0.5),
    ],
)
def test_thresholds_that_are_not_usable_give_four_empty_tensors(pos, neg):
    assert [len(x) for x in ThresholdPairMiner(pos, neg)(torch.randn(8, SIZE))] == [0, 0, 0, 0]


def test_objects_of_distances_turn_round_as_well():
    embeddings = torch.randn(8, SIZE)
    source = Thresholds(1.1, 1.5)
    got = as_sets(ThresholdPairMiner(source, source, distance=LpDistance())(embeddings))
    assert got == as_sets(ThresholdPairMiner(1.1, 1.5, distance=LpDistance())(embeddings))
    source.now = (1.5, 1.1)
    assert as_sets(ThresholdPairMiner(source, source, LpDistance())(embeddings)) == (set(), set())


def test_a_basis_gives_eq_7_with_its_running_means():
    basis = seen_basis()
    miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
    for _ in range(3):
        embeddings = torch.randn(8, SIZE)
        similarity = reference.basis_similarity(rows(embeddings), rows(basis.W))
        expected = reference.threshold_pairs(
            similarity, basis.pos_mean.item(), basis.neg_mean.item(), same_set=True
        )
        assert as_sets(miner(embeddings)) == expected
        basis(torch.eye(SIZE)[[0, 0, 1, 1]] + 0.3 * torch.rand(4, SIZE), torch.tensor([3, 3, 4, 4]))


def test_a_fresh_basis_mines_nothing(basis):
    miner = ThresholdPairMiner(basis, basis, distance=basis.similarity)
    assert [len(x) for x in miner(torch.randn(8, SIZE))] == [0, 0, 0, 0]


def test_a_basis_given_as_threshold_is_no_submodule():
    basis = seen_basis()
    miner = ThresholdPairMiner(basis, basis)
    assert list(miner.parameters()) == []
    assert basis not in list(miner.modules())


def test_a_deepcopy_of_miner_and_basis_together_stays_together():
    basis = seen_basis()
    pair = {"basis": basis, "miner": ThresholdPairMiner(basis, basis, distance=basis.similarity)}
    twin = copy.deepcopy(pair)
    assert twin["miner"].distance.W is twin["basis"].W
    embeddings = torch.randn(8, SIZE)
    before = as_sets(pair["miner"](embeddings))
    twin["basis"].pos_mean.fill_(2.0)
    assert as_sets(twin["miner"](embeddings))[0] == set()
    assert as_sets(pair["miner"](embeddings)) == before


@pytest.mark.parametrize("collect_stats", [True, False])
def test_the_thresholds_in_use_are_recordable(collect_stats):
    source = Thresholds(0.25, -0.5)
    miner = ThresholdPairMiner(source, source, collect_stats=collect_stats)
    assert {"pos_threshold", "neg_threshold"} <= set(miner._record_these)
    assert (miner.pos_threshold, miner.neg_threshold) == (None, None)
    miner(torch.randn(4, SIZE))
    assert (miner.pos_threshold, miner.neg_threshold) == (0.25, -0.5)


def test_fixed_thresholds_can_be_read():
    miner = ThresholdPairMiner(0.5, 0.1)
    assert (miner.pos_threshold, miner.neg_threshold) == (0.5, 0.1)


def test_the_default_distance_is_cosine_similarity():
    assert isinstance(ThresholdPairMiner(0.5, 0.1).distance, CosineSimilarity)
