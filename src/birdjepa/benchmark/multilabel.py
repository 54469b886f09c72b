"""Metrics of examples with any number of labels, evaluated on many bootstrap resamples at once, and a score of them.

As in `metrics`, row b of the weights says how often each example was drawn in resample b; without weights each example
counts once and the result is 0-dimensional. Truth is 0 or 1, scores are any numbers that grow with belief: logits are
better than probabilities, which saturate and then tie.

Convention: macro averages run over the classes that can be scored in that resample (average precision needs a positive
example, AUROC also a negative one), and are NaN where there is none. Scikit-learn instead averages in a 0 for a class
without a positive example, or refuses. Equal scores are one step of the ranking, whatever the order of the examples.

Axes: b resamples | n examples | c classes | r steps of a ranking, best scores first
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from numpy.typing import ArrayLike

from birdjepa.benchmark.bootstrap import Estimate, interval
from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class MultiLabelScore:
    """What the scores of a classifier are worth on tested examples, with intervals over groups (recordings).

    An interval is NaN where some resample has no class that can be scored. That of cmAP lies somewhat high where
    classes are rare: copies of a positive example stand side by side in a resample's ranking.
    """

    cmap: Estimate
    auroc: Estimate
    """NaN where no class has both positive and negative examples."""
    top1: Estimate
    classes: tuple[str, ...]
    """All of them, in the order of the scores; those without a positive example enter no mean."""
    n_examples: int
    n_groups: int
    seed: int
    n_resamples: int
    confidence: float

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def to_json(self) -> dict[str, Any]:
        return {
            "cmap": self.cmap.to_json(),
            "auroc": self.auroc.to_json(),
            "top1": self.top1.to_json(),
            "n_examples": self.n_examples,
            "n_classes": self.n_classes,
            "n_groups": self.n_groups,
            "seed": self.seed,
            "n_resamples": self.n_resamples,
            "confidence": self.confidence,
        }


def evaluate_scores(
    scores: Float[np.ndarray, "n c"],
    truth: Int[np.ndarray, "n c"],
    groups: Sequence[str],
    *,
    classes: Sequence[str],
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> MultiLabelScore:
    """The three metrics with intervals; one group (recording) per example, one class per column.

    Raises:
      UsageError: scores that are not finite, blank groups, no positive example of any class.
      ValueError: arrays of different shapes, truth that is not 0 or 1.
    """
    _check(scores, truth, groups, classes)

    def estimate(metric: Callable[..., np.ndarray]) -> Estimate:
        return interval(
            lambda weights: metric(truth, scores, weights),
            groups,
            n_resamples=n_resamples,
            confidence=confidence,
            seed=seed,
        )

    return MultiLabelScore(
        cmap=estimate(mean_average_precision),
        auroc=estimate(macro_auroc),
        top1=estimate(top1_accuracy),
        classes=tuple(classes),
        n_examples=len(truth),
        n_groups=len(set(groups)),
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def mean_average_precision(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], weights: Real[np.ndarray, "*b n"] | None = None
) -> Float[np.ndarray, "*b"]:
    """cmAP: average precision over the ranking of the examples, averaged over classes with a positive example.

    AP = sum over steps of (positives in the step / all positives) * precision down to the step.

    Source: equals sklearn.metrics.average_precision_score(average="macro") on these classes.
    """
    return _class_mean(_average_precision, truth, scores, weights)


def macro_auroc(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], weights: Real[np.ndarray, "*b n"] | None = None
) -> Float[np.ndarray, "*b"]:
    """Chance that a positive example scores above a negative one, averaged over classes that have both.

    Source: equals sklearn.metrics.roc_auc_score(average="macro") on these classes.
    """
    return _class_mean(_auroc, truth, scores, weights)


def top1_accuracy(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], weights: Real[np.ndarray, "*b n"] | None = None
) -> Float[np.ndarray, "*b"]:
    """Share of the examples with any label whose best class is one of theirs; of equal scores, the first class counts.

    NaN where no example has a label.
    """
    weights = _weights(truth, weights)
    labelled = truth.any(axis=1)
    hit = truth[np.arange(len(truth)), scores.argmax(axis=1)] > 0
    return _ratio(weights @ hit.astype(np.float64), weights @ labelled.astype(np.float64))


class _Ranking(NamedTuple):
    """Weight of the positive and of the negative examples in each step of one class's ranking."""

    positive: Float[np.ndarray, "*b r"]
    negative: Float[np.ndarray, "*b r"]


def _average_precision(ranking: _Ranking) -> Float[np.ndarray, "*b"]:
    found = ranking.positive.cumsum(axis=-1)
    passed = found + ranking.negative.cumsum(axis=-1)
    precision = found / np.where(passed > 0, passed, 1.0)
    return _ratio((ranking.positive * precision).sum(axis=-1), found[..., -1])


def _auroc(ranking: _Ranking) -> Float[np.ndarray, "*b"]:
    passed = ranking.negative.cumsum(axis=-1)
    n_positive, n_negative = ranking.positive.sum(axis=-1), passed[..., -1]
    above = n_negative[..., None] - passed + 0.5 * ranking.negative
    return _ratio((ranking.positive * above).sum(axis=-1), n_positive * n_negative)


def _class_mean(
    metric: Callable[[_Ranking], np.ndarray],
    truth: Int[np.ndarray, "n c"],
    scores: Float[np.ndarray, "n c"],
    weights: Real[np.ndarray, "*b n"] | None,
) -> Float[np.ndarray, "*b"]:
    """The mean of the metric over the classes for which it is not NaN."""
    weights = _weights(truth, weights)
    total, n_scored = np.zeros(weights.shape[:-1]), np.zeros(weights.shape[:-1])
    for column in range(truth.shape[1]):
        positive = truth[:, column] > 0
        if not positive.any():
            continue
        value = metric(_rank(positive, scores[:, column], weights))
        scored = ~np.isnan(value)
        total += np.where(scored, value, 0.0)
        n_scored += scored
    return _ratio(total, n_scored)


def _rank(
    positive: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"], weights: Float[np.ndarray, "*b n"]
) -> _Ranking:
    """Steps of equal scores, best first.

    Neighbouring steps without a positive example are merged, for neither metric looks between them: a rare class is
    then ranked in one pass over the weights.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], positive[order]
    step = np.cumsum(np.r_[0, ranked[1:] != ranked[:-1]])
    with_positive = np.bincount(step, weights=positive) > 0
    begins = np.r_[True, with_positive[1:] | with_positive[:-1]]
    merged = np.cumsum(begins)[step] - 1
    starts = np.flatnonzero(np.r_[True, merged[1:] != merged[:-1]])
    weights = weights[..., order]
    totals = np.add.reduceat(weights, starts, axis=-1)
    rows = np.flatnonzero(positive)
    steps, first = np.unique(merged[rows], return_index=True)
    hits = np.zeros_like(totals)
    hits[..., steps] = np.add.reduceat(weights[..., rows], first, axis=-1)
    return _Ranking(hits, totals - hits)


def _ratio(part: ArrayLike, whole: ArrayLike) -> Float[np.ndarray, "*b"]:
    """part / whole, NaN where whole is 0."""
    part, whole = np.asarray(part), np.asarray(whole)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def _weights(truth: Int[np.ndarray, "n c"], weights: Real[np.ndarray, "*b n"] | None) -> Float[np.ndarray, "*b n"]:
    """Weights as float64, in which sums of counts are exact whatever the order of the examples."""
    if len(truth) == 0:
        raise ValueError("a metric needs at least one example")
    return np.ones(len(truth)) if weights is None else weights.astype(np.float64, copy=False)


def _check(
    scores: Float[np.ndarray, "n c"], truth: Int[np.ndarray, "n c"], groups: Sequence[str], classes: Sequence[str]
) -> None:
    if not scores.shape == truth.shape == (len(groups), len(classes)):
        found = f"{scores.shape} and {truth.shape} for {len(groups)} groups and {len(classes)} classes"
        raise ValueError(f"scores and truth must have one row per group and one column per class, got {found}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("truth must be 0 or 1")
    if (broken := np.flatnonzero(~np.isfinite(scores).all(axis=1))).size:
        raise UsageError(f"{broken.size} example(s) have scores that are not finite, the first in row {broken[0]}")
    if blank := [row for row, group in enumerate(groups) if not group]:
        raise UsageError(f"{len(blank)} example(s) have no group, the first in row {blank[0]}; fill it in or drop them")
    if not truth.any():
        raise UsageError("no tested example has a label: there is nothing to score")
