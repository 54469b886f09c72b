import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.benchmark.folds import Folds, check, folds_by_group, folds_from_column, holdout
from birdjepa.core.errors import UsageError


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 15)), min_size=2, max_size=60).filter(
        lambda rows: len({group for _, group in rows}) >= 2
    ),
    st.integers(2, 6),
    st.integers(0, 3),
)
def test_groups_never_straddle_folds(rows: list[tuple[int, int]], n_folds: int, seed: int) -> None:
    labels, groups = [f"c{c}" for c, _ in rows], [f"g{g}" for _, g in rows]
    n_folds = min(n_folds, len(set(groups)))
    folds = folds_by_group(labels, groups, n_folds, seed)
    tested = []
    for _, train, test in folds:
        assert train.size
        assert test.size
        assert not {groups[i] for i in train} & {groups[i] for i in test}
        assert sorted([*train, *test]) == list(range(len(rows)))
        tested += test.tolist()
    assert sorted(tested) == list(range(len(rows)))
    check(folds, labels, groups)


def test_labels_are_spread_evenly_where_groups_allow() -> None:
    labels = [f"c{i % 7}" for i in range(280)]
    groups = [f"g{i // 2}" for i in range(280)]  # two labels in each group
    folds = folds_by_group(labels, groups, 5, seed=0)
    for _, _, test in folds:
        counts = np.unique([labels[i] for i in test], return_counts=True)[1]
        assert len(counts) == 7
        assert counts.min() >= 6
        assert counts.max() <= 10


def test_order_of_examples_is_irrelevant() -> None:
    generator = np.random.default_rng(0)
    labels = [f"c{i}" for i in generator.integers(0, 5, 80)]
    groups = [f"g{i}" for i in generator.integers(0, 30, 80)]
    order = generator.permutation(80)
    first = folds_by_group(labels, groups, 4, seed=7).fold
    again = folds_by_group([labels[i] for i in order], [groups[i] for i in order], 4, seed=7).fold
    assert np.array_equal(first[order], again)
    assert not np.array_equal(first, folds_by_group(labels, groups, 4, seed=8).fold)


def test_columns_keep_natural_order_and_leave_blanks_out() -> None:
    folds = folds_from_column(["fold10", "fold2", "", "fold1", "fold2"])
    assert folds.names == ("fold1", "fold2", "fold10")
    assert folds.fold.tolist() == [2, 1, -1, 0, 1]
    assert [(name, train.tolist(), test.tolist()) for name, train, test in folds] == [
        ("fold1", [0, 1, 4], [3]),
        ("fold2", [0, 3], [1, 4]),
        ("fold10", [1, 3, 4], [0]),
    ]
    with pytest.raises(UsageError, match="at least 2"):
        folds_from_column(["1", "", "1"])


def test_holdout_trains_on_train_and_val_and_tests_once() -> None:
    folds = holdout(["train", "test", "val", "pool", "Test"])
    assert [(name, train.tolist(), test.tolist()) for name, train, test in folds] == [("test", [0, 2], [1, 4])]
    assert len(folds) == 1
    with pytest.raises(UsageError, match="found: pool, train"):
        holdout(["train", "pool"])


def test_leaks_are_reported_or_refused() -> None:
    labels, groups = ["a", "b", "a", "b"], ["r1", "r2", "r1", "r3"]
    notes = check(folds_from_column(["1", "1", "2", "2"]), labels, groups)
    assert any("fold 1" in note and "r1" in note for note in notes)
    own = Folds(np.array([0, 0, 1, 1]), ("1", "2"), (0, 1), given=False)
    with pytest.raises(UsageError, match="r1"):
        check(own, labels, groups)


def test_classes_that_cannot_be_learnt_are_reported() -> None:
    notes = check(folds_from_column(["1", "1", "2", "2"]), ["a", "lone", "a", "a"], ["r1", "r2", "r3", "r4"])
    assert any("fold 1" in note and "no training example (lone)" in note for note in notes)
    assert any("single group (lone)" in note for note in notes)
    assert check(folds_from_column(["1", "1", "2", "2"]), ["a", "b", "a", "b"], ["r1", "r2", "r3", "r4"]) == ()


def test_impossible_folds_are_refused() -> None:
    with pytest.raises(UsageError, match="2 to 2 folds"):
        folds_by_group(["a", "b"], ["r1", "r2"], 3, seed=0)
    with pytest.raises(ValueError, match="fold must be"):
        Folds(np.array([0, 2]), ("1", "2"), (0, 1), given=True)
    with pytest.raises(ValueError, match="tested"):
        Folds(np.array([0, 1]), ("1", "2"), (), given=True)


def test_the_bird_folds_do_not_leak(shared_data) -> None:
    import csv

    with (shared_data / "birds_species" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    folds = folds_from_column([row["fold"] for row in rows])
    assert len(folds) == 5
    assert not any(
        "training and in test" in n for n in check(folds, [r["label"] for r in rows], [r["split_group"] for r in rows])
    )
