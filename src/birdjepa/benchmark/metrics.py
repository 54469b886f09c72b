"""Classification metrics that can be evaluated on many bootstrap resamples at once.

Every metric takes integer classes and optional weights with leading axes: row b of the weights says how often each
example was drawn in resample b. Without weights each example counts once and the result is 0-dimensional.

Convention: the macro averages run over the classes present in the truth (of that resample). A class that is only
predicted lowers the precision of nobody's class and is no term of the mean. `balanced_accuracy` is scikit-learn's;
`macro_f1` is its `f1_score(average="macro", labels=numpy.unique(truth))`, whereas its default also averages in a zero
for each class that is only predicted.

Axes: b resamples | n examples | c classes
"""

import numpy as np
from jaxtyping import Float, Int, Real


def confusion_matrix(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], n_classes: int
) -> Int[np.ndarray, "c c"]:
    """Counts of examples, row = truth, column = prediction.

    Source: equals sklearn.metrics.confusion_matrix(labels=range(n_classes)).
    """
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], weights: Real[np.ndarray, "*b n"] | None = None
) -> Float[np.ndarray, "*b"]:
    """Share of the examples whose class is right."""
    weights = _weights(truth, weights)
    return np.asarray(weights @ (truth == predicted).astype(np.float64) / weights.sum(axis=-1))


def balanced_accuracy(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], weights: Real[np.ndarray, "*b n"] | None = None
) -> Float[np.ndarray, "*b"]:
    """Recall, averaged over the classes present in the truth.

    Source: equals sklearn.metrics.balanced_accuracy_score.
    """
    hits, support, _ = _class_totals(truth, predicted, _weights(truth, weights))
    return _mean_where(hits / np.maximum(support, 1.0), support > 0)


def macro_f1(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], weights: Real[np.ndarray, "*b n"] | None = None
) -> Float[np.ndarray, "*b"]:
    """F1 = 2 hits / (true + predicted examples), averaged over the classes present in the truth.

    Source: equals sklearn.metrics.f1_score(average="macro", labels=numpy.unique(truth)).
    """
    hits, support, claimed = _class_totals(truth, predicted, _weights(truth, weights))
    return _mean_where(2.0 * hits / np.maximum(support + claimed, 1.0), support > 0)


def _weights(truth: Int[np.ndarray, " n"], weights: Real[np.ndarray, "*b n"] | None) -> Float[np.ndarray, "*b n"]:
    """Weights as float64, in which sums of counts are exact whatever the order of the examples."""
    if len(truth) == 0:
        raise ValueError("a metric needs at least one example")
    return np.ones(len(truth)) if weights is None else weights.astype(np.float64)


def _class_totals(
    truth: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], weights: Float[np.ndarray, "*b n"]
) -> tuple[Float[np.ndarray, "*b c"], Float[np.ndarray, "*b c"], Float[np.ndarray, "*b c"]]:
    """Weight of the hits, of the true and of the predicted examples of each class."""
    n_classes = 1 + int(max(truth.max(), predicted.max()))
    hits = _sum_by_class(weights * (truth == predicted), truth, n_classes)
    return hits, _sum_by_class(weights, truth, n_classes), _sum_by_class(weights, predicted, n_classes)


def _sum_by_class(
    weights: Float[np.ndarray, "*b n"], classes: Int[np.ndarray, " n"], n_classes: int
) -> Float[np.ndarray, "*b {n_classes}"]:
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    totals = np.zeros((*weights.shape[:-1], n_classes))
    totals[..., present] = np.add.reduceat(weights[..., order], starts, axis=-1)
    return totals


def _mean_where(values: Float[np.ndarray, "*b c"], present: np.ndarray) -> Float[np.ndarray, "*b"]:
    return np.asarray((values * present).sum(axis=-1) / present.sum(axis=-1))
