"""Retrieval figures against a loop that ranks every query by itself."""

import numpy as np
import pml_calculator
import pytest
import reference

from pml_slade.clustering import unit_rows
from pml_slade.evaluation import evaluate, map_at_r_by_class
from pml_slade.exceptions import DataError


def draw(n, classes, seed, d=6):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    return centres[labels] + 0.8 * generator.normal(size=(n, d)), labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "classes"), [(30, 3), (41, 5), (24, 2)])
def test_figures_are_those_of_the_loop(seed, n, classes):
    embeddings, labels = draw(n, classes, seed)
    expected = reference.retrieval(embeddings.tolist(), labels.tolist())
    assert evaluate(embeddings, labels) == pytest.approx(expected, abs=1e-3)
    assert 20 < expected["MAP@R"] < 99


@pytest.mark.parametrize("seed", range(4))
def test_figures_with_a_gallery_are_those_of_the_loop(seed):
    (query, labels), (gallery, gallery_labels) = draw(15, 4, seed), draw(40, 4, seed + 50)
    expected = reference.retrieval(query.tolist(), labels.tolist(), gallery.tolist(), gallery_labels.tolist())
    got = evaluate(query, labels, gallery, gallery_labels)
    assert got == pytest.approx(expected, abs=1e-3)


def test_classes_with_a_single_image_are_distractors_and_no_queries():
    embeddings, labels = draw(30, 3, 0)
    labels[:3] = [10, 11, 12]
    expected = reference.retrieval(embeddings.tolist(), labels.tolist())
    assert evaluate(embeddings, labels) == pytest.approx(expected, abs=1e-3)


def test_queries_whose_class_the_gallery_lacks_do_not_count():
    (query, labels), (gallery, gallery_labels) = draw(15, 4, 0), draw(40, 3, 1)
    assert set(labels) - set(gallery_labels)
    expected = reference.retrieval(query.tolist(), labels.tolist(), gallery.tolist(), gallery_labels.tolist())
    assert evaluate(query, labels, gallery, gallery_labels) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lengths_and_float_types_do_not_matter(dtype):
    embeddings, labels = draw(30, 3, 0)
    embeddings = embeddings.astype(np.float16)
    lengths = 2.0 ** (np.arange(30) % 5)[:, None]
    expected = reference.retrieval(embeddings.astype(float).tolist(), labels.tolist())
    got = evaluate((embeddings.astype(np.float64) * lengths).astype(dtype), labels)
    assert got == pytest.approx(expected, abs=1e-3)


def test_labels_may_be_a_list_and_need_not_start_at_zero():
    embeddings, labels = draw(30, 3, 0)
    expected = evaluate(embeddings, labels)
    assert evaluate(embeddings, [int(label) + 5 for label in labels]) == expected


def test_a_perfect_embedding_gets_100_and_the_opposite_0():
    points = np.eye(2)[[0, 0, 1, 1]] + 0.01 * np.arange(4)[:, None]
    assert set(evaluate(points, np.array([0, 0, 1, 1])).values()) == {100.0}
    assert set(evaluate(points, np.array([0, 1, 0, 1])).values()) == {0.0}


def test_the_input_is_left_as_it_was():
    embeddings, labels = draw(30, 3, 0)
    kept = embeddings.astype(np.float32)
    given = kept.copy()
    evaluate(given, labels)
    assert np.array_equal(given, kept)


@pytest.mark.parametrize("labels", [np.zeros(3), np.zeros((4, 1)), np.zeros(5)])
def test_labels_of_another_shape_are_refused(labels):
    with pytest.raises(DataError, match=r"labels must have shape \(4,\)"):
        evaluate(np.eye(4), labels.astype(int))


def test_nothing_to_retrieve_is_refused():
    with pytest.raises(DataError, match="no class has two images"):
        evaluate(np.eye(4), np.arange(4))
    with pytest.raises(DataError, match="no query's class is in the gallery"):
        evaluate(np.eye(4), np.arange(4), np.eye(4), np.arange(4) + 4)


@pytest.mark.parametrize("gallery_labels", [None, [0, 1, 2]])
def test_a_gallery_without_a_label_per_row_is_refused(gallery_labels):
    with pytest.raises(DataError, match="one label per row of gallery"):
        evaluate(np.eye(4), np.arange(4), np.eye(4), gallery_labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad):
    points = np.eye(4)
    points[1, 1] = bad
    with pytest.raises(DataError, match="not finite"):
        evaluate(points, np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="not finite"):
        evaluate(np.eye(4), np.array([0, 0, 1, 1]), points, np.array([0, 0, 1, 1]))


@pytest.mark.parametrize("memory", [1, 20_000, 1 << 28])
@pytest.mark.parametrize("most_by_faiss", [0, 8, 1024])
@pytest.mark.parametrize("with_gallery", [False, True])
def test_figures_are_those_of_pml_in_any_blocks_and_by_either_search(
    with_gallery, most_by_faiss, memory, monkeypatch
):
    monkeypatch.setattr("pml_slade.clustering.neighbours.MOST_BY_FAISS", most_by_faiss)
    embeddings, labels = draw(150, 9, 1)
    labels[:40], labels[149] = 0, 20  # a large class, and one of a single image
    given = (embeddings, labels, *draw(60, 7, 2)) if with_gallery else (embeddings, labels)
    unit = [unit_rows(x).astype(np.float32) if x.ndim == 2 else x for x in given]
    expected = pml_calculator.retrieval(*unit)
    assert evaluate(*given, memory=memory) == pytest.approx(expected, abs=1e-4)
    assert 10 < expected["MAP@R"] < 99


def test_copies_of_a_query_are_found_and_the_query_itself_is_not():
    points = np.repeat(np.eye(3), 4, axis=0)
    assert set(evaluate(points, np.repeat([0, 1, 2], 4)).values()) == {100.0}
    assert evaluate(points, np.tile([0, 1, 2, 3], 3))["P@1"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_classes_are_those_of_the_loop(seed):
    embeddings, labels = draw(40, 4, seed)
    labels[0] = 9
    embeddings[5], labels[5] = embeddings[6], labels[6]
    found = map_at_r_by_class(embeddings, labels)
    of_all = reference.retrieval(embeddings.tolist(), labels.tolist())["MAP@R"]
    counts = np.bincount(labels)[:4]
    assert len(found) == 4
    assert np.average(found, weights=counts) == pytest.approx(of_all, abs=1e-3)


def test_classes_may_be_names():
    points = np.random.default_rng(0).normal(size=(6, 3))
    names = np.array(["b", "a", "c", "b", "a", "c"])
    numbers = np.array([1, 0, 2, 1, 0, 2])
    assert evaluate(points, names) == evaluate(points, numbers)
    half = (points[:3], names[:3], points[3:], names[3:])
    assert evaluate(*half) == evaluate(points[:3], numbers[:3], points[3:], numbers[3:])
    assert evaluate(points, list(names)) == evaluate(points, numbers)
