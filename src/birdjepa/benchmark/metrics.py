"""Metrics of one class per example, which can be evaluated on many bootstrap resamples at once.

Every metric takes integer classes and, if wanted, the draws of b resamples; without them each example counts once and
the result is 0-dimensional.

Convention: the macro averages run over the classes present in the truth (of that resample). A class that is only
predicted lowers the precision of nobody's class and is no term of the mean. `balanced_accuracy` is scikit-learn's;
`macro_f1` is its `f1_score(average="macro", labels=numpy.unique(truth))`, whereas its default also averages in a zero
for each class that is only predicted.

Axes: b resamples | n examples | g groups | c classes
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from birdjepa.benchmark.bootstrap import Draws, whole

BLOCK = 2**22
"""Sums by group and class held at a time (32 MiB)."""


def confusion_matrix(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, "c c"]:
    """Counts of examples, row = truth, column = prediction.

    Source: equals sklearn.metrics.confusion_matrix(labels=range(n_classes)).
    """
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], draws: Draws | None = None
) -> Float[np.ndarray, "*b"]:
    """Share of the examples whose class is right."""
    used = draws or whole(len(truth))
    return _shaped(used.total(truth == predicted) / used.size, draws)


def balanced_accuracy(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], draws: Draws | None = None
) -> Float[np.ndarray, "*b"]:
    """Recall, averaged over the classes present in the truth.

    Source: equals sklearn.metrics.balanced_accuracy_score.
    """
    totals = class_totals(truth, predicted, draws or whole(len(truth)))
    return _shaped(_mean_where(totals.hits / np.maximum(totals.support, 1.0), totals.support > 0), draws)


def macro_f1(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], draws: Draws | None = None
) -> Float[np.ndarray, "*b"]:
    """F1 = 2 hits / (true + predicted examples), averaged over the classes present in the truth.

    Source: equals sklearn.metrics.f1_score(average="macro", labels=numpy.unique(truth)).
    """
    totals = class_totals(truth, predicted, draws or whole(len(truth)))
    f1 = 2.0 * totals.hits / np.maximum(totals.support + totals.claimed, 1.0)
    return _shaped(_mean_where(f1, totals.support > 0), draws)


METRICS = {"accuracy": accuracy, "macro_f1": macro_f1, "balanced_accuracy": balanced_accuracy}
"""By name, in the order of reports."""


class ClassTotals(NamedTuple):
    """Examples of each class in each resample."""

    hits: Float[np.ndarray, "b c"]
    support: Float[np.ndarray, "b c"]
    """True examples."""
    claimed: Float[np.ndarray, "b c"]
    """Predicted examples."""


def class_totals(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], draws: Draws, n_classes: int | None = None
) -> ClassTotals:
    """What recall, precision and F1 are made of; classes up to the largest one unless their number is given."""
    if n_classes is None:
        n_classes = 1 + int(max(truth.max(), predicted.max()))
    return ClassTotals(
        _sum_by_class(truth == predicted, truth, draws, n_classes),
        _sum_by_class(np.ones(len(truth), dtype=bool), truth, draws, n_classes),
        _sum_by_class(np.ones(len(truth), dtype=bool), predicted, draws, n_classes),
    )


def _sum_by_class(
    counted: Bool[np.ndarray, " n"], classes: Int[np.ndarray, " n"], draws: Draws, n_classes: int
) -> Float[np.ndarray, "b {n_classes}"]:
    n_groups = draws.counts.shape[1]
    step = max(1, BLOCK // n_groups)
    blocks = []
    for first in range(0, n_classes, step):
        width = min(step, n_classes - first)
        rows = np.flatnonzero(counted & (classes >= first) & (classes < first + width))
        cells = draws.group[rows] * width + (classes[rows] - first)
        by_group = np.bincount(cells, minlength=n_groups * width).reshape(n_groups, width)
        blocks.append(draws.counts @ by_group.astype(np.float64))
    return np.concatenate(blocks, axis=1)


def _mean_where(values: Float[np.ndarray, "b c"], present: Bool[np.ndarray, "b c"]) -> Float[np.ndarray, " b"]:
    return (values * present).sum(axis=1) / present.sum(axis=1)


def _shaped(values: Float[np.ndarray, " b"], draws: Draws | None) -> Float[np.ndarray, "*b"]:
    return np.asarray(values[0]) if draws is None else values
