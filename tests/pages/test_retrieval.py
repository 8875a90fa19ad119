"""What a report counts is what `evaluate` counts, and what a slow loop counts."""

import numpy as np
import pytest

from pml_slade.evaluation import evaluate
from pml_slade.pages.retrieval import by_class, confusions, retrieve


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 9)
    return rng.normal(size=(6, 5))[labels] + rng.normal(size=(54, 5)), labels


def test_the_mean_precision_is_map_at_r(points):
    x, labels = points
    found = retrieve(x, labels)
    assert 100 * found.precision.mean() == pytest.approx(evaluate(x, labels)["MAP@R"])
    assert 100 * found.right[:, 0].mean() == pytest.approx(evaluate(x, labels)["P@1"])
    assert not (found.positions == np.arange(54)[:, None]).any()


def test_a_gallery_is_searched(points):
    x, labels = points
    queries, gallery = slice(0, 54, 2), slice(1, 54, 2)
    found = retrieve(x[queries], labels[queries], x[gallery], labels[gallery])
    expected = evaluate(x[queries], labels[queries], x[gallery], labels[gallery])
    assert 100 * found.precision.mean() == pytest.approx(expected["MAP@R"])


def test_identical_images_do_not_hide_the_query_itself():
    x = np.ones((5, 3))
    found = retrieve(x, np.zeros(5, int))
    assert not (found.positions == np.arange(5)[:, None]).any()
    assert found.precision == pytest.approx(np.ones(5))


def test_classes_have_their_own_mean_and_single_images_none(points):
    x, labels = np.vstack([points[0], points[0][:1]]), np.append(points[1], 6)
    found = retrieve(x, labels)
    means = by_class(found.precision, labels, 7)
    assert means[2] == pytest.approx(np.mean([p for p, c in zip(found.precision, labels) if c == 2]))
    assert np.isnan(means[6])


def test_confusions_are_those_of_a_slow_loop(points):
    x, labels = points
    found = retrieve(x, labels)
    counted = {}
    for query, row in enumerate(found.positions):
        for neighbour in row[:8]:  # R is 8: nine images of each class
            pair = tuple(sorted((labels[query], labels[neighbour])))
            counted[pair] = counted.get(pair, 0) + 1
    expected = {pair: n / (2 * 9 * 8) for pair, n in counted.items() if pair[0] != pair[1]}
    pairs = confusions(found, labels, labels, 100)
    assert {(p.first, p.second): p.share for p in pairs} == pytest.approx(expected)
    assert [p.share for p in pairs] == sorted((p.share for p in pairs), reverse=True)
