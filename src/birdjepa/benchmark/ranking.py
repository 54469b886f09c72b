"""Average precision and AUROC of each class, in any number of bootstrap resamples, without drawing one.

Both depend on a ranking only through its steps (equal scores) that hold a positive example: how many positives are in
each, how many examples rank there or above, how many negatives tie. These are sums over groups, so with few groups all
resamples of a class are one product of (resamples x groups) and (groups x steps). With many groups the examples are
summed along the ranking instead, whichever is cheaper. Counts are whole numbers and sums of them exact, so neither way
nor the order of the examples changes a result. Classes run in as many threads as torch has.

Axes: b resamples | n examples | g groups | c classes | m positive examples |
p steps with a positive example, best score first | t steps of these that hold negatives too
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Real

from birdjepa.benchmark.bootstrap import Draws

COLUMNS = 8
"""Classes taken out of the table of scores at a time: a cache line, so that none is read twice."""
BLOCK = 2**19
"""Numbers held at a time in each thread (4 MiB): more would leave the caches, fewer give thin products."""
DENSE = 32
"""The product is used below this many (steps x groups) per example; both then cost about the same."""
EXACT_FLOAT32 = 2**24
"""Whole numbers below it are exact in float32, the product of which is twice as fast."""

Sums = Callable[[Float[np.ndarray, "b g"]], Float[np.ndarray, "b p"]]


class ClassValues(NamedTuple):
    """One class in each resample; NaN where it cannot be scored."""

    ap: Float[np.ndarray, " b"]
    """Sum over steps of (positives in the step / all positives) * precision down to the step."""
    auroc: Float[np.ndarray, " b"]
    """Chance that a positive example scores above a negative one; a tie is half."""


def class_values(
    truth: Real[np.ndarray, "n c"] | Bool[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], draws: Draws
) -> Iterator[ClassValues]:
    """The classes in the order of their columns; scores must be numbers, not NaN."""
    largest = draws.size.max(initial=0.0)
    kind = np.float32 if largest < EXACT_FLOAT32 else np.float64
    counts = np.ascontiguousarray(draws.counts, dtype=kind)

    def block(first: int) -> list[ClassValues]:
        columns = slice(first, first + COLUMNS)
        positive, score = truth[:, columns].T > 0, np.ascontiguousarray(scores[:, columns].T)
        return [_values(np.flatnonzero(p), s, draws, counts) for p, s in zip(positive, score, strict=True)]

    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for values in pool.map(block, range(0, truth.shape[1], COLUMNS)):
            yield from values


class _Ranking(NamedTuple):
    """What one class's ranking is in a resample: sums over the examples, given how often each group was drawn."""

    hits: Sums
    """Positives of each step."""
    passed: Sums
    """Examples down to and including each step."""
    mixed: Int[np.ndarray, " t"]
    """The steps that hold negatives too: in most rankings few, if any."""
    tied: Sums
    """Examples of each mixed step."""
    width: int
    """Numbers that the largest of these sums needs for a resample."""


def _values(
    positives: Int[np.ndarray, " m"], scores: Float[np.ndarray, " n"], draws: Draws, counts: Float[np.ndarray, "b g"]
) -> ClassValues:
    if not len(positives):
        return ClassValues(np.full(len(counts), np.nan), np.full(len(counts), np.nan))
    ranking = _rank(positives, scores, draws.group, counts)
    step = max(1, BLOCK // ranking.width)
    size = draws.size
    parts = [
        _evaluate(ranking, counts[start : start + step], size[start : start + step])
        for start in range(0, len(counts), step)
    ]
    return ClassValues(np.concatenate([part.ap for part in parts]), np.concatenate([part.auroc for part in parts]))


def _evaluate(ranking: _Ranking, counts: Float[np.ndarray, "b g"], size: Float[np.ndarray, " b"]) -> ClassValues:
    hits, passed = ranking.hits(counts), ranking.passed(counts)
    found = hits.cumsum(axis=1)
    n_positive = found[:, -1].astype(np.float64)
    # A step that no resampled example has reached has no hits either, and counts nothing below.
    precision = np.divide(found, np.maximum(passed, 1, out=passed), dtype=np.float64)
    ap = _ratio(np.multiply(precision, hits, out=precision).sum(axis=1), n_positive)
    n_negative = size - n_positive
    # In place: the negatives that rank above each step or in it, then those below it and half of those in it.
    passed -= found
    below = np.subtract(n_negative[:, None], passed, out=precision)
    if len(ranking.mixed):
        below[:, ranking.mixed] += 0.5 * (ranking.tied(counts) - hits[:, ranking.mixed])
    auroc = _ratio(np.multiply(below, hits, out=below).sum(axis=1), n_positive * n_negative)
    return ClassValues(ap, auroc)


def _rank(
    positives: Int[np.ndarray, " m"],
    scores: Float[np.ndarray, " n"],
    group: Int[np.ndarray, " n"],
    counts: Float[np.ndarray, "b g"],
) -> _Ranking:
    n_groups = counts.shape[1]
    best_first = -scores
    steps, step_of = np.unique(best_first[positives], return_inverse=True)
    n_hits = np.bincount(step_of)
    hits = _sums(group[positives[np.argsort(step_of, kind="stable")]], n_hits)
    if n_groups == 1:  # the scores say all: to sort them is four times as fast as to sort rows by them
        ordered, ranked = np.sort(best_first), None
    else:
        order = np.argsort(best_first)
        ordered, ranked = best_first[order], group[order]
    begins, ends = np.searchsorted(ordered, steps, side="left"), np.searchsorted(ordered, steps, side="right")
    mixed = np.flatnonzero(ends - begins > n_hits)
    n_tied = (ends - begins)[mixed]
    if ranked is None:
        return _Ranking(hits, _product(ends[None], counts), mixed, _product(n_tied[None], counts), len(positives))
    within = [ranked[begin:end] for begin, end in zip(begins[mixed], ends[mixed], strict=True)]
    tied_groups = np.concatenate([ranked[:0], *within])
    down_to = np.diff(ends, prepend=0)
    if len(steps) * n_groups > DENSE * len(scores):
        below = _sums(ranked[: ends[-1]], down_to)
        tied = _sums(tied_groups, n_tied)
        return _Ranking(hits, lambda counts: below(counts).cumsum(axis=1), mixed, tied, len(scores))
    passed = _product(_table(ranked[: ends[-1]], down_to, n_groups).cumsum(axis=1), counts)
    tied = _product(_table(tied_groups, n_tied, n_groups), counts)
    return _Ranking(hits, passed, mixed, tied, max(len(positives), n_groups))


def _sums(groups: Int[np.ndarray, " k"], lengths: Int[np.ndarray, " p"]) -> Sums:
    """Of examples in the order of the ranking, so many of them in each step: those drawn, step by step."""
    starts = np.cumsum(lengths) - lengths
    if len(groups) == len(lengths):
        return lambda counts: np.take(counts, groups, axis=1)
    return lambda counts: np.add.reduceat(np.take(counts, groups, axis=1), starts, axis=1)


def _product(table: Int[np.ndarray, "g p"], counts: Float[np.ndarray, "b g"]) -> Sums:
    """The same from the examples of each group in each step; as precise as the counts are."""
    factor = table.astype(counts.dtype)
    return lambda counts: counts @ factor


def _table(groups: Int[np.ndarray, " k"], lengths: Int[np.ndarray, " p"], n_groups: int) -> Int[np.ndarray, "g p"]:
    n_steps = len(lengths)
    cells = groups * n_steps + np.repeat(np.arange(n_steps), lengths)
    return np.bincount(cells, minlength=n_groups * n_steps).reshape(n_groups, n_steps)


def _ratio(part: Float[np.ndarray, " b"], whole: Float[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    """part / whole, NaN where whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)
