"""Neighbours against all distances, in blocks and in cells."""

import numpy as np
import pytest

from pml_slade.clustering import neighbours as module
from pml_slade.clustering.neighbours import Neighbours, blocks, nearest


@pytest.fixture
def points():
    generator = np.random.default_rng(0)
    return (generator.normal(size=(12, 6))[np.arange(600) % 12] + generator.normal(size=(600, 6))).astype("f")


def slow(points, k, euclidean):
    if euclidean:
        return np.argsort(((points[:, None] - points[None]) ** 2).sum(-1), axis=1, kind="stable")[:, :k]
    return np.argsort(-points @ points.T, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("most_by_faiss", [0, 1024])
@pytest.mark.parametrize("memory", [1, 50_000, 1 << 28])
@pytest.mark.parametrize("euclidean", [False, True])
def test_they_are_the_nearest_in_blocks_of_any_size_by_either_search(
    points, euclidean, memory, most_by_faiss, monkeypatch
):
    monkeypatch.setattr(module, "MOST_BY_FAISS", most_by_faiss)
    monkeypatch.setattr(Neighbours.rows, "__defaults__", (memory,))
    closeness, positions = nearest(points[:80], 5, euclidean=euclidean)
    expected = slow(points[:80], 5, euclidean)
    assert positions.tolist() == expected.tolist()
    near = points[:80][expected]
    one = points[:80, None]
    by_hand = ((near - one) ** 2).sum(-1) if euclidean else (near * one).sum(-1)
    assert np.allclose(closeness, by_hand, atol=1e-4)


@pytest.mark.parametrize("euclidean", [False, True])
def test_in_cells_nearly_all_are_found_and_none_twice(points, euclidean, monkeypatch):
    monkeypatch.setattr(module, "EXACT_ON_CPU", 100)
    monkeypatch.setattr(module, "CELLS_LOOKED_AT", 8)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    closeness, positions = nearest(unit, 10, euclidean=euclidean)
    expected = slow(unit, 10, euclidean)
    found = np.mean([len({*a} & {*b}) for a, b in zip(positions.tolist(), expected.tolist())]) / 10
    assert 0.9 < found < 1  # it has looked at a third
    assert all(len({*row}) == 10 for row in positions.tolist())
    assert (positions[:, 0] == np.arange(600)).all()
    assert (np.diff(closeness, axis=1) * (1 if euclidean else -1) >= 0).all()


def test_where_cells_hold_too_few_a_vector_stands_for_itself(monkeypatch):
    monkeypatch.setattr(module, "EXACT_ON_CPU", 10)
    monkeypatch.setattr(module, "CELLS_LOOKED_AT", 1)
    points = np.repeat(np.eye(4, dtype=np.float32) + 0.1, 4, axis=0)
    closeness, positions = nearest(points, 12)
    missing = closeness == 0
    assert missing[:, -1].any()
    assert (positions == np.arange(16)[:, None])[missing].all()
    assert not missing[:, :4].any()


@pytest.mark.parametrize("most_by_faiss", [0, 1024])
def test_blocks_hold_no_more_than_the_memory_that_was_given(most_by_faiss, monkeypatch):
    monkeypatch.setattr(module, "MOST_BY_FAISS", most_by_faiss)
    wanted = np.array([0] * 5 + [1] * 50 + [300] * 20 + [40] * 30)
    found = Neighbours(np.zeros((1000, 2), np.float32))
    cut = list(blocks(wanted, found, memory=200_000))
    assert sorted(np.concatenate(cut)) == list(range(5, 105))
    # 12 bytes a neighbour come back; a sort holds the products of whole rows, too.
    each = [4 * 1000 if most_by_faiss == 0 else 12 * wanted[block].max() for block in cut]
    assert all(len(block) * size <= 200_000 for block, size in zip(cut, each))
    assert 2 < len(cut) < 100
