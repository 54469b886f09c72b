"""What chooses among heads: the validation part, a metric for many heads at once, and rows to hold out where a task
has no validation part.

Axes: h heads | v validation examples | c classes | n examples
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from birdjepa.benchmark.tasks.base import Kind
from birdjepa.core import random

SHARE = 0.2
"""Of each class's examples that are held out, about."""
MOST = 1 / 3
"""Of each class's examples, at most: a class is learnt before it is held out."""


def validation_metric(
    scores: Float[np.ndarray, "h v c"], truth: Int[np.ndarray, "v c"], kind: Kind
) -> Float[np.ndarray, " h"]:
    """Accuracy, or cmAP for multi-label tasks, of each head; -inf for heads whose scores are not finite."""
    if kind == "single-label":
        value = (scores.argmax(2) == truth.argmax(1)).mean(1)
    else:
        value = average_precision(scores, truth)
    return np.where(np.isfinite(scores).all((1, 2)), value, -np.inf)


def average_precision(scores: Float[np.ndarray, "h v c"], truth: Int[np.ndarray, "v c"]) -> Float[np.ndarray, " h"]:
    """Mean over the classes with a positive example of the average precision of each head.

    `multilabel.mean_average_precision` is exact where scores tie and takes resamples; this one takes many heads, and
    ranks a positive example behind the negatives that it ties with, so that a head that says nothing gains nothing.
    Scores are told apart to 23 of their 24 bits, for a label rides in the last one: what is sorted is one integer,
    which is many times faster than an order of floats.
    """
    has = truth.any(axis=0)
    if not has.any():
        return np.zeros(len(scores))
    positive = np.ascontiguousarray(truth[:, has].T > 0)
    n_positive = positive.sum(axis=1)
    rank = np.arange(1, len(truth) + 1)
    result = np.empty(len(scores))
    for head, of_head in enumerate(scores):
        bits = np.ascontiguousarray(of_head[:, has].T, dtype=np.float32).view(np.int32)
        ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats
        ranked = np.sort(~ascending & ~1 | positive, axis=1)  # best first
        hits = ranked & 1
        result[head] = ((hits * (hits.cumsum(axis=1) / rank)).sum(axis=1) / n_positive).mean()
    return result


def hold_out(truth: Int[np.ndarray, "n c"], groups: Sequence[str], seed: int) -> Bool[np.ndarray, " n"]:
    """Which examples to hold out: whole groups, about SHARE of each class and never more than MOST of it.

    Examples without a class count as one of their own. A function of the groups' names, so the order of the examples
    is irrelevant. Nothing is held out where groups are too few or too large.
    """
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    labels = np.column_stack([truth > 0, ~truth.any(axis=1)])
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    total, taken = labels.sum(axis=0), np.zeros(labels.shape[1], dtype=np.int64)
    held, n_held = np.zeros(len(labels), dtype=bool), 0
    order = random.generator(seed, "held out").permutation(len(names)).tolist()
    for limit in (np.floor(SHARE * total + 0.5).clip(max=np.floor(MOST * total)), np.floor(MOST * total)):
        for index in order:
            rows = members[index]
            if n_held >= SHARE * len(held):
                return held
            more = labels[rows].sum(axis=0)
            if not held[rows[0]] and (taken + more <= limit)[more > 0].all():
                held[rows] = True
                n_held += len(rows)
                taken += more
    return held
