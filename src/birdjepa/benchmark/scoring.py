"""What the scores of a classifier are worth: every metric of a kind of task, with intervals, and each class's values.

Tasks name their headline metric by the names used here: those of `multilabel.CONVENTIONS` for multi-label tasks, those
of `metrics.METRICS` for tasks with one class per example, where the best score is the prediction.

Axes: n examples | c classes
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark import metrics
from birdjepa.benchmark.bootstrap import Draws, Estimate, Resampled, resample, whole
from birdjepa.benchmark.multilabel import METRIC_VERSION, check_scores, resample_metrics, scored_classes
from birdjepa.benchmark.ranking import class_values
from birdjepa.benchmark.tasks.base import Kind
from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """Metrics of one classifier on one test set. The intervals are over groups (recordings), not over training runs."""

    kind: Kind
    metrics: dict[str, Estimate]
    """Every metric of the kind; a bound is NaN where some resample cannot be scored, or there is a single group."""
    per_class: dict[str, dict[str, float]]
    """ap and auroc, or recall, precision and f1: the value of each class, NaN where it cannot be scored."""
    counts: dict[str, int]
    """n_examples, n_labelled, n_groups, n_classes; n_classes_scored have a true example, and of multi-label tasks
    n_classes_scored_auroc have a negative example too."""
    seed: int
    n_resamples: int
    confidence: float

    def to_json(self) -> dict[str, Any]:
        """JSON object; NaN becomes null."""
        return {
            "kind": self.kind,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "per_class": {
                metric: {name: None if math.isnan(value) else value for name, value in values.items()}
                for metric, values in self.per_class.items()
            },
            "counts": dict(self.counts),
            "seed": self.seed,
            "n_resamples": self.n_resamples,
            "confidence": self.confidence,
            "metric_version": METRIC_VERSION,
        }


def score(
    scores: Float[np.ndarray, "n c"],
    truth: Int[np.ndarray, "n c"],
    groups: Sequence[str],
    kind: Kind,
    *,
    classes: Sequence[str],
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Scored:
    """All metrics of the kind; one group (recording) per example, one class per column, truth 0 or 1.

    Raises:
      UsageError: scores that are not finite, blank groups, no label at all; of a single-label task, an example without
        exactly one label.
      ValueError: arrays of different shapes, truth that is not 0 or 1, repeated classes, a bad confidence or number of
        resamples.
    """
    resampled = resample_kind(scores, truth, groups, kind, classes=classes, seed=seed, n_resamples=n_resamples)
    has_positive, has_both = scored_classes(truth)
    counts = {
        "n_examples": len(truth),
        "n_labelled": int(truth.any(axis=1).sum()),
        "n_groups": len(set(groups)),
        "n_classes": len(classes),
        "n_classes_scored": int(has_positive.sum()),
    }
    if kind == "multi-label":
        counts["n_classes_scored_auroc"] = int(has_both.sum())
    per_class = _ranked(scores, truth) if kind == "multi-label" else _predicted(scores, truth)
    return Scored(
        kind=kind,
        metrics={name: found.estimate(confidence) for name, found in resampled.items()},
        per_class={metric: dict(zip(classes, values.tolist(), strict=True)) for metric, values in per_class.items()},
        counts=counts,
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def resample_kind(
    scores: Float[np.ndarray, "n c"],
    truth: Int[np.ndarray, "n c"],
    groups: Sequence[str],
    kind: Kind,
    *,
    classes: Sequence[str],
    seed: int,
    n_resamples: int,
) -> dict[str, Resampled]:
    """All metrics of the kind in every resample, for comparisons. Raises as `score` does."""
    check_scores(scores, truth, groups, classes)
    if kind not in get_args(Kind):
        raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if len(set(classes)) < len(classes):
        raise ValueError("classes must differ from each other")
    if kind == "multi-label":
        return resample_metrics(scores, truth, groups, n_resamples=n_resamples, seed=seed)
    if (odd := np.flatnonzero(truth.sum(axis=1) != 1)).size:
        found = f"{odd.size} example(s) have none or several, the first in row {odd[0]}"
        raise UsageError(f"a single-label task needs one label per example, but {found}; score it as multi-label")
    true, predicted = truth.argmax(axis=1), scores.argmax(axis=1)

    def statistic(draws: Draws) -> Float[np.ndarray, "b k"]:
        return np.stack([metric(true, predicted, draws) for metric in metrics.METRICS.values()], axis=-1)

    found = resample(statistic, groups, n_resamples=n_resamples, seed=seed)
    return {name: found[number] for number, name in enumerate(metrics.METRICS)}


def _ranked(scores: Float[np.ndarray, "n c"], truth: Int[np.ndarray, "n c"]) -> dict[str, Float[np.ndarray, " c"]]:
    values = np.array([(each.ap[0], each.auroc[0]) for each in class_values(truth, scores, whole(len(truth)))])
    return {"ap": values[:, 0], "auroc": values[:, 1]}


def _predicted(scores: Float[np.ndarray, "n c"], truth: Int[np.ndarray, "n c"]) -> dict[str, Float[np.ndarray, " c"]]:
    """Recall and F1 need a true example, precision a predicted one."""
    n_classes = truth.shape[1]
    totals = metrics.class_totals(truth.argmax(axis=1), scores.argmax(axis=1), whole(len(truth)), n_classes)
    hits, support, claimed = (each[0] for each in totals)
    f1 = 2.0 * hits / np.maximum(support + claimed, 1.0)
    return {
        "recall": np.where(support > 0, hits / np.maximum(support, 1.0), np.nan),
        "precision": np.where(claimed > 0, hits / np.maximum(claimed, 1.0), np.nan),
        "f1": np.where(support > 0, f1, np.nan),
    }
