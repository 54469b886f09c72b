"""Metrics of examples with any number of labels, evaluated on many bootstrap resamples at once, and a score of them.

As in `metrics`, without draws each example counts once and the result is 0-dimensional. Truth is 0 or 1, scores are any
numbers that grow with belief: logits are better than probabilities, which saturate and then tie.

Convention: macro averages run over the classes that can be scored (average precision needs a positive example, AUROC
also a negative one), and are NaN where there is none. These classes are those of the whole test set; one that cannot be
scored in a resample is missing from the mean of that resample. Equal scores are one step of the ranking, whatever the
order of the examples. Examples without any label (no-calls) are negatives of every class, and are left out of the top-k
accuracies. Published tables count empty classes otherwise: `CONVENTIONS` says which of our names follow whom.

Axes: b resamples | n examples | c classes
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from birdjepa.benchmark.bootstrap import Draws, Estimate, Resampled, resample, whole
from birdjepa.benchmark.ranking import class_values
from birdjepa.core.errors import UsageError

METRIC_VERSION = 1
"""Part of every result's key: it grows whenever a metric of this room gives another number for the same scores."""

CONVENTIONS = {
    "cmap": "AP, mean over the classes with a positive example (BirdSet's, torchmetrics up to 1.3)",
    "map": "the same number, under the name that AudioSet's tables use",
    "map_beans": "AP, mean over all classes; one without a positive example counts 0 (BEANS, torchmetrics from 1.4)",
    "auroc": "ROC-AUC, mean over the classes with positive and negative examples",
    "auroc_torchmetrics_1_2": "ROC-AUC, mean over all classes; one that cannot be scored counts 0 (BirdSet's tables)",
    "top1": "share of the labelled examples whose best class is one of their labels",
    "top3": "share of the labelled examples with one of their labels among the three best classes",
}
"""What is averaged, by name of the metric; all of them are in `multi_label_metrics`."""


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
    check_scores(scores, truth, groups, classes)
    found = resample_metrics(scores, truth, groups, n_resamples=n_resamples, seed=seed)
    return MultiLabelScore(
        cmap=found["cmap"].estimate(confidence),
        auroc=found["auroc"].estimate(confidence),
        top1=found["top1"].estimate(confidence),
        classes=tuple(classes),
        n_examples=len(truth),
        n_groups=len(set(groups)),
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def resample_metrics(
    scores: Float[np.ndarray, "n c"],
    truth: Int[np.ndarray, "n c"],
    groups: Sequence[str],
    *,
    n_resamples: int,
    seed: int,
) -> dict[str, Resampled]:
    """Every metric in CONVENTIONS, of the same resamples."""
    names = list(CONVENTIONS)

    def statistic(draws: Draws) -> Float[np.ndarray, "b k"]:
        values = multi_label_metrics(truth, scores, draws)
        return np.stack([values[name] for name in names], axis=-1)

    found = resample(statistic, groups, n_resamples=n_resamples, seed=seed)
    return {name: found[number] for number, name in enumerate(names)}


def multi_label_metrics(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], draws: Draws | None = None
) -> dict[str, Float[np.ndarray, "*b"]]:
    """Every metric in CONVENTIONS. The classes that count 0 are those of the whole test set, in every resample."""
    cmap, auroc = _class_means(truth, scores, draws)
    has_positive, has_both = scored_classes(truth)
    share = has_both.mean()
    return {
        "cmap": cmap,
        "map": cmap,
        "map_beans": np.asarray(cmap * has_positive.mean()),
        "auroc": auroc,
        "auroc_torchmetrics_1_2": np.asarray(auroc * share) if share else np.zeros_like(auroc),
        "top1": top_k_accuracy(truth, scores, draws, k=1),
        "top3": top_k_accuracy(truth, scores, draws, k=3),
    }


def mean_average_precision(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], draws: Draws | None = None
) -> Float[np.ndarray, "*b"]:
    """cmAP: average precision over the ranking of the examples, averaged over classes with a positive example.

    AP = sum over steps of (positives in the step / all positives) * precision down to the step.

    Source: equals sklearn.metrics.average_precision_score(average="macro") on these classes.
    """
    return _class_means(truth, scores, draws)[0]


def macro_auroc(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], draws: Draws | None = None
) -> Float[np.ndarray, "*b"]:
    """Chance that a positive example scores above a negative one, averaged over classes that have both.

    Source: equals sklearn.metrics.roc_auc_score(average="macro") on these classes.
    """
    return _class_means(truth, scores, draws)[1]


def top_k_accuracy(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], draws: Draws | None = None, *, k: int = 1
) -> Float[np.ndarray, "*b"]:
    """Share of the labelled examples with a label among their k best classes; of equal scores the first class is best.

    NaN where no example has a label.
    """
    used = draws or whole(len(truth))
    labelled = np.asarray(truth.any(axis=1))
    own = np.where(truth > 0, scores, -np.inf)
    best = own.argmax(axis=1)  # of the labels
    score = np.take_along_axis(scores, best[:, None], axis=1)
    is_before = (scores > score) | ((scores == score) & (np.arange(scores.shape[1]) < best[:, None]))
    hit = labelled & (is_before.sum(axis=1) < k)
    n_labelled = used.total(labelled)
    share = np.where(n_labelled > 0, used.total(hit) / np.maximum(n_labelled, 1), np.nan)
    return share if draws is not None else np.asarray(share[0])


def scored_classes(truth: Int[np.ndarray, "n c"]) -> tuple[Bool[np.ndarray, " c"], Bool[np.ndarray, " c"]]:
    """Which classes have a positive example, and which have a negative one too."""
    has_positive, has_negative = (truth > 0).sum(axis=0) > 0, (truth == 0).sum(axis=0) > 0
    return has_positive, has_positive & has_negative


def check_scores(
    scores: Float[np.ndarray, "_ _"], truth: Int[np.ndarray, "_ _"], groups: Sequence[str], classes: Sequence[str]
) -> None:
    """Whether they fit together and can be scored.

    Raises:
      UsageError: scores that are not finite, blank groups, no positive example of any class.
      ValueError: arrays of different shapes, truth that is not 0 or 1.
    """
    if not scores.shape == truth.shape == (len(groups), len(classes)):
        found = f"{scores.shape} and {truth.shape} for {len(groups)} groups and {len(classes)} classes"
        raise ValueError(f"scores and truth must have one row per group and one column per class, got {found}")
    if not ((truth == 0) | (truth == 1)).all():
        raise ValueError("truth must be 0 or 1")
    if (broken := np.flatnonzero(~np.isfinite(scores).all(axis=1))).size:
        raise UsageError(f"{broken.size} example(s) have scores that are not finite, the first in row {broken[0]}")
    if blank := [row for row, group in enumerate(groups) if not group]:
        raise UsageError(f"{len(blank)} example(s) have no group, the first in row {blank[0]}; fill it in or drop them")
    if not truth.any():
        raise UsageError("no tested example has a label: there is nothing to score")


def _class_means(
    truth: Int[np.ndarray, "n c"], scores: Float[np.ndarray, "n c"], draws: Draws | None
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """Average precision and AUROC, each averaged over the classes for which it is not NaN."""
    used = draws or whole(len(truth))
    total, n_scored = np.zeros((2, len(used.counts))), np.zeros((2, len(used.counts)))
    for values in class_values(truth, scores, used):
        scored = ~np.isnan(values)
        total += np.where(scored, values, 0.0)
        n_scored += scored
    means = np.where(n_scored > 0, total / np.maximum(n_scored, 1), np.nan)
    ap, auroc = means if draws is not None else means[:, 0]
    return np.asarray(ap), np.asarray(auroc)
