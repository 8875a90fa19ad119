"""What explains a student is measured right, against slow loops, and written where it is read."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from omniglot_tree import write_omniglot
from pytorch_metric_learning.losses import ContrastiveLoss
from scripts import load_script, run_script_here

from pml_slade.losses import FeatureBasisLoss

pytestmark = pytest.mark.once
DIM, IMAGES, CLASSES = 6, 40, 5
TINY = (
    *("teacher.steps=4", "student.steps=4", "epoch_steps=2", "student.basis.warmup=1"),
    *("teacher.batch_size=8", "student.batch_size=8", "student.unlabeled_batch_size=8"),
    *("model.embedding_size=8", "student.num_clusters=5"),
)
STUDENTS = ("paper-basis", "paper-slade", "paper-literal", "best-slade", "best-iterated")
PLOTS = ("pairs", "means", "similarities", "clusters")


script = load_script("why_measures")


@pytest.fixture
def points():
    """Embeddings around a center for each class, and pseudo-labels of which three in four are right."""
    rng = np.random.default_rng(0)
    true = np.arange(IMAGES) % CLASSES
    embeddings = rng.normal(size=(CLASSES, DIM))[true] + rng.normal(0, 0.7, (IMAGES, DIM))
    pseudo = np.where(rng.random(IMAGES) < 0.75, true, rng.integers(CLASSES, size=IMAGES))
    return torch.tensor(embeddings, dtype=torch.float32), true, pseudo


@pytest.fixture
def basis(points):
    """A basis whose running statistics are those of the points' true pairs."""
    embeddings, true, _ = points
    torch.manual_seed(0)
    basis = FeatureBasisLoss(num_classes=4, embedding_size=DIM)
    basis(embeddings, torch.from_numpy(true) + 4)
    assert basis.thresholds() is not None
    return basis


@pytest.fixture
def ranking():
    return ContrastiveLoss(pos_margin=0.2, neg_margin=0.9)


@pytest.fixture
def batches(points):
    return script.draw_batches(points[2], size=12, per_class=3, count=4, seed=1)


def slow_pairs(points, batches, basis):
    """Every pair as a dictionary."""
    embeddings, true, pseudo = points
    high, low = basis.thresholds()
    found = []
    for batch in batches:
        for a, b in combinations(range(len(batch)), 2):
            i, j = batch[a], batch[b]
            if i == j:
                continue
            responses = [basis.W @ embeddings[k] for k in (i, j)]
            similarity = float(torch.cosine_similarity(*responses, dim=0).detach())
            units = [embeddings[k] / embeddings[k].norm() for k in (i, j)]
            distance = float((units[0] - units[1]).norm())
            found.append(
                {
                    "cosine": float(units[0] @ units[1]),
                    "basis": similarity,
                    "pos_loss": max(distance - 0.2, 0),
                    "neg_loss": max(0.9 - distance, 0),
                    "match": bool(true[i] == true[j]),
                    "agree": bool(pseudo[i] == pseudo[j]),
                    "mined_pos": similarity >= high,
                    "mined_neg": similarity <= low,
                }
            )
    return found


def slow_side(chosen, right, cosines, losses, sign, batches):
    """Means over lists, pair by pair."""
    everything = range(len(chosen))
    truly = sorted((k for k in everything if right[k]), key=lambda k: -sign * cosines[k])
    hard = truly[: math.ceil(len(truly) / 10)]
    kept = [k for k in everything if chosen[k]]

    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else None

    return {
        "number": len(kept) / batches,
        "share": len(kept) / len(chosen),
        "precision": mean(right[k] for k in kept),
        "recall": mean(chosen[k] for k in truly),
        "hardest": mean(chosen[k] for k in hard),
        "cosine": mean(cosines[k] for k in kept),
        "loss": mean(losses[k] for k in kept),
        "active": mean(losses[k] > 0 for k in kept),
    }


def test_pairs_are_those_of_a_loop(points, batches, ranking, basis):
    found = script.collect_pairs(*points, np.arange(IMAGES), batches, ranking, basis)
    slow = slow_pairs(points, batches, basis)
    assert found.batches == len(batches)
    for name in slow[0]:
        values = getattr(found, name)
        expected = np.array([pair[name] for pair in slow])
        assert values.dtype.kind == expected.dtype.kind
        np.testing.assert_allclose(values, expected, atol=2e-6)


def test_pairs_of_an_image_with_itself_do_not_count(points, ranking):
    images = np.arange(IMAGES)
    images[7] = 5  # another view of it
    pairs = script.collect_pairs(*points, images, [np.array([3, 3, 3, 5, 7])], ranking, None)
    assert len(pairs.cosine) == 3 + 3
    assert pairs.basis is None
    assert pairs.mined_pos is None


@pytest.mark.parametrize("chosen", ["pseudo", "mined", "agreeing"])
def test_precision_recall_and_hardness_are_those_of_a_loop(points, batches, ranking, basis, chosen):
    found = script.measure_pairs(script.collect_pairs(*points, np.arange(IMAGES), batches, ranking, basis))
    slow = slow_pairs(points, batches, basis)
    keep = {
        "pseudo": lambda p: (p["agree"], not p["agree"]),
        "mined": lambda p: (p["mined_pos"], p["mined_neg"]),
        "agreeing": lambda p: (p["mined_pos"] and p["agree"], p["mined_neg"] and not p["agree"]),
    }[chosen]
    cosines = [p["cosine"] for p in slow]
    for number, (name, sign) in enumerate({"pos": -1, "neg": 1}.items()):
        expected = slow_side(
            [keep(p)[number] for p in slow],
            [p["match"] == (name == "pos") for p in slow],
            cosines,
            [p[f"{name}_loss"] for p in slow],
            sign,
            len(batches),
        )
        assert expected["number"] > 0
        assert found[chosen][name] == pytest.approx(expected, abs=1e-5)


def test_sets_of_no_pairs_have_no_means(points, batches, ranking, basis):
    basis.pos_mean.fill_(2)  # above any cosine
    mined = script.measure_pairs(script.collect_pairs(*points, np.arange(IMAGES), batches, ranking, basis))[
        "mined"
    ]
    assert mined["pos"]["number"] == 0
    assert mined["pos"]["recall"] == 0
    assert mined["pos"]["precision"] is mined["pos"]["loss"] is None
    assert json.loads(json.dumps(mined)) == mined


def test_without_thresholds_nothing_is_mined(points, batches, ranking, basis):
    basis.pos_mean.copy_(basis.neg_mean - 0.1)
    pairs = script.collect_pairs(*points, np.arange(IMAGES), batches, ranking, basis)
    assert pairs.basis is not None
    assert set(script.measure_pairs(pairs)) == {"pseudo"}


def test_batches_are_drawn_as_in_training():
    labels = np.repeat(np.arange(10), [1, *[6] * 9])
    batches = script.draw_batches(labels, size=8, per_class=2, count=30, seed=0)
    assert [len(b) for b in batches] == [8] * 30
    for batch in batches:
        assert np.unique(labels[batch], return_counts=True)[1].tolist() == [2] * 4
        assert sum(np.bincount(batch) > 1) == (0 in batch)  # the class of one image repeats it
    again = script.draw_batches(labels, 8, 2, 30, seed=0)
    assert np.array_equal(batches, again)
    assert not np.array_equal(batches, script.draw_batches(labels, 8, 2, 30, seed=1))


def test_batches_that_classes_cannot_fill_are_drawn_at_random():
    (batch,) = script.draw_batches(np.arange(12) % 3, size=8, per_class=2, count=1, seed=0)
    assert len(np.unique(batch)) == 8


def test_similarities_hold_histograms_of_both_kinds(points, batches, ranking, basis):
    pairs = script.collect_pairs(*points, np.arange(IMAGES), batches, ranking, basis)
    found = script.measure_similarities(pairs, basis)
    assert (found["mu_pos"], found["mu_neg"]) == basis.thresholds()
    for kind in ("cosine", "basis"):
        values, spread = getattr(pairs, kind), found[kind]
        assert sum(spread["match"]) == pairs.match.sum()
        assert sum(spread["other"]) == (~pairs.match).sum()
        assert spread["mean_match"] == pytest.approx(np.mean([v for v, m in zip(values, pairs.match) if m]))
    order = [(a > b) + (a == b) / 2 for a in pairs.basis[pairs.match] for b in pairs.basis[~pairs.match]]
    assert found["basis"]["auc"] == pytest.approx(np.mean(order))
    alone = pairs._replace(basis=None, match=np.zeros_like(pairs.match))
    nothing = script.measure_similarities(alone, None)
    assert set(nothing) == {"cosine"}
    assert nothing["cosine"]["auc"] is None


@pytest.mark.parametrize(
    ("true", "pseudo", "nmi", "purity", "ari"),
    [
        ([0, 0, 1, 1], [7, 7, 3, 3], 1, 1, 1),
        ([0, 0, 1, 1], [0, 1, 2, 3], 2 / 3, 1, 0),  # H = ln 2 and ln 4, I = ln 2
        ([0, 0, 1, 1], [0, 0, 0, 0], 0, 0.5, 0),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0, 0.5, -0.5),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1, 1, 1),
    ],
    ids=["equal", "split up", "all in one", "crossed", "nothing to tell apart"],
)
def test_clusters_made_by_hand(true, pseudo, nmi, purity, ari):
    found = script.measure_clusters(np.array(true), np.array(pseudo))
    assert [found[k] for k in ("nmi", "purity", "ari")] == pytest.approx([nmi, purity, ari], abs=1e-12)


def test_images_left_out_of_the_clusters_are_only_counted():
    true, pseudo = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, -1])
    found = script.measure_clusters(true, pseudo)
    assert found["nmi"] == pytest.approx(1)
    assert (found["clusters"], found["classes"], found["left_out"]) == (2, 3, pytest.approx(1 / 6))
    assert found["sizes"] == [2, 2.25, 2.5, 2.75, 3]


def test_the_literal_form_of_eq_6_leaves_one_percent_of_the_gradient(points, batches, ranking, basis):
    embeddings, _, pseudo = points
    before = {name: buffer.clone() for name, buffer in basis.named_buffers()}
    norms = script.measure_gradients(embeddings, torch.from_numpy(pseudo) + 4, batches, ranking, basis)
    assert norms["straight_through"] / norms["literal"] == pytest.approx(100, rel=1e-3)
    assert norms["ranking"] > 0
    assert all(torch.equal(buffer, before[name]) for name, buffer in basis.named_buffers())


def test_a_basis_without_statistics_has_no_gradient(points, batches, ranking):
    embeddings, _, pseudo = points
    for basis in (None, FeatureBasisLoss(4, DIM), FeatureBasisLoss(4, DIM, regularizer=None)):
        assert script.measure_gradients(embeddings, torch.from_numpy(pseudo), batches, ranking, basis) == {}


def test_runs_of_the_same_clusters_are_one_line():
    plots = load_script("why_plots")
    runs = {name: [{"clusters": {"nmi": nmi}}] for name, nmi in {"a": 1, "b": 2, "c": 1}.items()}
    assert set(plots.same_clusters(runs)) == {"b", "a; c"}


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """Sixteen alphabets: five are labeled, ten tested on, and one is the pool."""
    return write_omniglot(tmp_path_factory.mktemp("omniglot"), background=16, characters=6)


def test_it_writes_the_section_and_goes_on(omniglot, tmp_path):
    page = tmp_path / "docs" / "findings.md"
    arguments = [omniglot, *TINY, "--jobs", 1, "--runs", tmp_path / "runs", "--results", page]
    first = run_script_here("why", *arguments)
    text = page.read_text()
    assert text.startswith("# Findings")
    assert "## Why it works" in text
    assert "first → last" in text
    for mined in ("pairs that Eq. 7 mines", "pairs that Eq. 7 mines, distorted as in training"):
        assert f"| paper, Eq. 7 | {mined} |" in text
    assert "nan" not in text
    for plot in PLOTS:
        assert f"](images/why-{plot}.svg)" in text
        assert "</svg>" in (page.parent / "images" / f"why-{plot}.svg").read_text()

    for name in STUDENTS:
        (file,) = (tmp_path / "runs" / "0" / name).glob("*/why.json")
        epochs = json.loads(file.read_text())
        assert [(e["epoch"], e["step"]) for e in epochs] == [(1, 2), (2, 4)]
        assert ("mu_pos" in epochs[1]["similarities"]) == name.startswith("paper")

    # A student that was stopped in its last epoch measures that one again, and the others stay as they are.
    stopped = tmp_path / "runs" / "0" / "paper-slade" / "slade"
    (stopped / "result.json").unlink()
    (stopped / "model.safetensors").unlink()
    (stopped / "checkpoints" / "checkpoint-4.pt").unlink()
    measured = (stopped / "why.json").read_text()
    models = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/0/*/*/model.safetensors")}
    assert len(models) == 2 * len(STUDENTS) + 1  # a student and a copy of its teacher, and two teachers
    again = run_script_here("why", *arguments)
    assert first[first.index("## ") :] == again[again.index("## ") :]
    assert {p: p.stat().st_mtime_ns for p in models} == models
    assert (stopped / "why.json").read_text() == measured
