"""What few-shot parts promise, on random tasks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.benchmark.shots import Shots, sample


def task(seed: int, n: int, n_classes: int, *, single: bool) -> tuple[np.ndarray, list[str], list[str]]:
    generator = np.random.default_rng(seed)
    if single:
        truth = np.eye(n_classes, dtype=np.int64)[generator.integers(n_classes, size=n)]
    else:
        truth = (generator.random((n, n_classes)) < 0.3).astype(np.int64)
    groups = [f"g{index}" for index in generator.integers(1 + n // 3, size=n)]
    return truth, groups, [f"example {index}" for index in range(n)]


tasks = st.tuples(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6))


@settings(max_examples=30, deadline=None)
@given(tasks, st.booleans(), st.integers(1, 8))
def test_each_class_gets_k_or_all_it_has(of: tuple[int, int, int], single: bool, k: int) -> None:
    truth, groups, ids = task(*of, single=single)
    rows = np.flatnonzero(np.random.default_rng(of[0]).random(len(truth)) < 0.8)
    shots = sample(truth, groups, ids, rows, k, seed=1)
    assert set(shots.rows) <= set(rows)
    assert (np.diff(shots.rows) > 0).all()
    assert (shots.counts == truth[shots.rows].sum(0)).all()
    available = truth[rows].sum(0)
    assert (shots.counts >= np.minimum(k, available)).all()
    assert truth[shots.rows].any(1).all()
    if single:
        assert (shots.counts == np.minimum(k, available)).all()


@settings(max_examples=20, deadline=None)
@given(tasks, st.booleans())
def test_smaller_parts_are_within_larger_ones(of: tuple[int, int, int], single: bool) -> None:
    truth, groups, ids = task(*of, single=single)
    rows = np.arange(len(truth))
    parts = [set(sample(truth, groups, ids, rows, k, seed=3).rows) for k in (1, 2, 5, 10, None)]
    assert all(small <= large for small, large in itertools.pairwise(parts))


@settings(max_examples=20, deadline=None)
@given(tasks, st.booleans(), st.integers(1, 4))
def test_neither_the_order_of_examples_nor_of_classes_matters(of: tuple[int, int, int], single: bool, k: int) -> None:
    truth, groups, ids = task(*of, single=single)
    generator = np.random.default_rng(of[0] + 1)
    order, columns = generator.permutation(len(truth)), generator.permutation(truth.shape[1])
    first = sample(truth, groups, ids, np.arange(len(truth)), k, seed=5)
    moved = [groups[row] for row in order], [ids[row] for row in order]
    other = sample(truth[order][:, columns], *moved, generator.permutation(len(truth)), k, seed=5)
    assert {ids[row] for row in first.rows} == {moved[1][row] for row in other.rows}
    assert (first.counts[columns] == other.counts).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 5))
def test_recordings_are_met_before_any_is_met_twice(seed: int, n: int, k: int) -> None:
    truth, groups, ids = task(seed, n, 2, single=True)
    shots = sample(truth, groups, ids, np.arange(n), k, seed=0)
    for column in range(2):
        has = [groups[row] for row in np.flatnonzero(truth[:, column])]
        drawn = [groups[row] for row in shots.rows if truth[row, column]]
        assert len(set(drawn)) == min(len(drawn), len(set(has)))


def test_single_labels_come_first() -> None:
    truth = np.array([[1, 1], [1, 0], [0, 1], [1, 1]])
    shots = sample(truth, list("abcd"), list("wxyz"), np.arange(4), 1, seed=0)
    assert shots.rows.tolist() == [1, 2]
    assert shots.counts.tolist() == [1, 1]


def test_seeds_differ_and_all_is_all() -> None:
    truth, groups, ids = task(0, 200, 3, single=True)
    rows = np.arange(0, 200, 2)
    drawn = {tuple(sample(truth, groups, ids, rows, 2, seed=seed).rows) for seed in range(5)}
    assert len(drawn) == 5
    whole = sample(truth, groups, ids, rows[::-1], None, seed=0)
    assert isinstance(whole, Shots)
    assert whole.rows.tolist() == rows.tolist()


def test_what_makes_no_sense_is_refused() -> None:
    truth = np.ones((2, 1), dtype=np.int64)
    with pytest.raises(ValueError, match="n_train"):
        sample(truth, ["a", "b"], ["x", "y"], np.arange(2), 0, seed=0)
    with pytest.raises(ValueError, match="different"):
        sample(truth, ["a", "b"], ["x", "x"], np.arange(2), 1, seed=0)
