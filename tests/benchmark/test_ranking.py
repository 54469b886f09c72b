import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.benchmark import ranking
from birdjepa.benchmark.bootstrap import Draws, whole
from birdjepa.benchmark.ranking import class_values


def values(truth: list[int], scores: list[float]) -> tuple[float, float]:
    (found,) = class_values(np.array(truth)[:, None], np.array(scores)[:, None], whole(len(truth)))
    return float(found.ap[0]), float(found.auroc[0])


@pytest.mark.parametrize(
    ("truth", "scores", "ap", "auroc"),
    [
        ([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6], (1 + 2 / 3) / 2, 3 / 4),
        ([0, 0, 1], [3.0, 2.0, 1.0], 1 / 3, 0.0),
        ([1, 0, 1], [1.0, 1.0, 0.0], (1 / 2 + 2 / 3) / 2, 1 / 4),  # a tie is one step of precision 1/2, and half a win
        ([1, 1, 0, 0], [5.0, 5.0, 5.0, 1.0], 2 / 3, (1 / 2 + 1) / 2),
        ([1, 0, 0, 0], [0.0, 0.0, 0.0, 0.0], 1 / 4, 1 / 2),
        ([1, 1, 1], [0.1, 0.2, 0.3], 1.0, np.nan),  # all positive: nothing to be told apart
        ([0, 0, 0], [0.1, 0.2, 0.3], np.nan, np.nan),
        ([1], [-2.0], 1.0, np.nan),
    ],
)
def test_by_hand(truth: list[int], scores: list[float], ap: float, auroc: float) -> None:
    assert values(truth, scores) == pytest.approx((ap, auroc), nan_ok=True)


def by_cumulative_sums(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The formulas as written, step by step down the ranking of every example."""
    hits = np.stack([weights[:, positive & (scores == s)].sum(1) for s in sorted(set(scores), reverse=True)], 1)
    all_of = np.stack([weights[:, scores == s].sum(1) for s in sorted(set(scores), reverse=True)], 1)
    misses = all_of - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(hits.cumsum(1) / all_of.cumsum(1))
        ap = (hits * precision).sum(1) / hits.sum(1)
        below = misses.sum(1, keepdims=True) - misses.cumsum(1)
        auroc = (hits * (below + misses / 2)).sum(1) / (hits.sum(1) * misses.sum(1))
    return ap, auroc


def drawn(n: int, n_groups: int, levels: int, seed: int) -> tuple[np.ndarray, np.ndarray, Draws]:
    """One class, few levels of score, and resamples of which one is empty and some lack positives or negatives."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((n, 1)) < 0.3).astype(np.int64)
    scores = np.round(generator.random((n, 1)) * levels + truth) / levels
    counts = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=7) * 1.0
    counts[0] = 0
    return truth, scores, Draws(counts, generator.integers(0, n_groups, n))


WAYS = {"product": 10**9, "along the ranking": 0}


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 40), st.integers(2, 12), st.sampled_from([1, 3, 20, 10**6]), st.integers(0, 10**6))
def test_both_ways_equal_the_formulas(way: str, n: int, n_groups: int, levels: int, seed: int) -> None:
    truth, scores, draws = drawn(n, n_groups, levels, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "DENSE", WAYS[way])
        (found,) = class_values(truth, scores, draws)
    ap, auroc = by_cumulative_sums(truth[:, 0] > 0, scores[:, 0], draws.counts[:, draws.group])
    assert found.ap == pytest.approx(ap, rel=1e-13, nan_ok=True)
    assert np.array_equal(found.auroc, auroc, equal_nan=True)


def test_ways_blocks_threads_order_and_precision_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    n, n_classes = 500, 2 * ranking.COLUMNS + 3
    truth = (generator.random((n, n_classes)) < 0.2).astype(np.int64)
    scores = np.round(generator.normal(size=(n, n_classes)), 2).astype(np.float32)
    group = generator.integers(0, 20, n)
    counts = generator.multinomial(20, np.full(20, 0.05), size=30) * 1.0

    def found(order: np.ndarray) -> np.ndarray:
        return np.array(list(class_values(truth[order], scores[order], Draws(counts, group[order]))))

    before = found(np.arange(n))
    assert before.shape == (n_classes, 2, 30)
    assert np.array_equal(found(generator.permutation(n)), before)
    for name, value in (("DENSE", 0), ("BLOCK", 1000), ("EXACT_FLOAT32", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(ranking, name, value)
            assert np.array_equal(found(np.arange(n)), before), name
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert np.array_equal(found(np.arange(n)), before)
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("dense", [10**9, 0])
def test_more_draws_than_float32_can_count(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "DENSE", dense)
    truth, scores = np.array([[1], [0], [1], [0]]), np.array([[4.0], [3.0], [2.0], [1.0]])
    many = 2.0**24
    (found,) = class_values(truth, scores, Draws(np.array([[1.0, many + 1]]), np.array([0, 0, 1, 1])))
    precise = (1 + (many + 1) * (many + 2) / (many + 3)) / (many + 2)
    assert found.ap[0] == pytest.approx(precise, rel=1e-15)
    (rounded,) = class_values(truth, scores, Draws(np.array([[1.0, many]]), np.array([0, 0, 1, 1])))
    assert found.ap[0] != rounded.ap[0]
