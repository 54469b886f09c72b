"""Scores a frozen embedding: folds in, out-of-fold predictions and metrics with intervals over recordings out.

The encoder and the floors it is compared with go through the same function with the same folds and seed, so a floor is
tuned as well as our own. Predictions made elsewhere, by a fine-tuned classifier say, get the same score from
`score_predictions`.

Axes: n examples | d width of the embedding | m tested examples
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark import folds as folding
from birdjepa.benchmark import knn, logistic, metrics
from birdjepa.benchmark.bootstrap import Estimate, Statistic, interval, paired_difference
from birdjepa.benchmark.folds import Folds
from birdjepa.benchmark.knn import KnnProbe
from birdjepa.benchmark.logistic import LinearProbe
from birdjepa.benchmark.metrics import METRICS
from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class FoldScore:
    """One fold's part of a score."""

    name: str
    accuracy: float
    n_train: int
    n_test: int
    strength: float
    """The C that the linear probe chose on the training part; NaN for kNN, which has none."""

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "strength": None if math.isnan(self.strength) else self.strength}


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """What a classifier on one embedding reached; each tested example is predicted once, blind to its fold."""

    accuracy: Estimate
    macro_f1: Estimate
    balanced_accuracy: Estimate
    folds: tuple[FoldScore, ...]
    classes: tuple[str, ...]
    rows: Int[np.ndarray, " m"]
    """Which of the given examples were tested, ascending."""
    groups: tuple[str, ...]
    """Their groups."""
    truth: Int[np.ndarray, " m"]
    predicted: Int[np.ndarray, " m"]
    notes: tuple[str, ...]
    """What a reader must know: leaks in the user's folds, classes that could not be learnt, a solver that gave up."""
    seed: int
    n_resamples: int
    confidence: float

    @property
    def n_examples(self) -> int:
        return len(self.truth)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def n_groups(self) -> int:
        return len(set(self.groups))

    @property
    def confusion(self) -> Int[np.ndarray, "c c"]:
        """Counts of tested examples, row = truth, column = prediction, in the order of classes."""
        return metrics.confusion_matrix(self.truth, self.predicted, self.n_classes)

    def to_json(self) -> dict[str, Any]:
        """Everything but the single predictions."""
        return {
            **{name: getattr(self, name).to_json() for name in METRICS},
            "n_examples": self.n_examples,
            "n_classes": self.n_classes,
            "n_groups": self.n_groups,
            "folds": [fold.to_json() for fold in self.folds],
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
            "notes": list(self.notes),
            "seed": self.seed,
            "n_resamples": self.n_resamples,
            "confidence": self.confidence,
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Ours minus a floor, on the same resampled recordings."""

    accuracy: Estimate
    macro_f1: Estimate
    balanced_accuracy: Estimate

    @property
    def beats(self) -> bool:
        """The accuracy is above the floor's by more than the interval."""
        return self.accuracy.low > 0

    def to_json(self) -> dict[str, Any]:
        return {**{name: getattr(self, name).to_json() for name in METRICS}, "beats": self.beats}


def evaluate(
    embeddings: Float[np.ndarray, "n d"],
    labels: Sequence[str],
    groups: Sequence[str],
    folds: Folds,
    classifier: LinearProbe | KnnProbe,
    *,
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    device: str = "cpu",
) -> Score:
    """Predicts each tested example from the other folds and scores the pooled predictions.

    Groups are recordings: the bootstrap draws them whole. Examples outside the folds (fold -1) may hold anything, and
    the order of the examples is irrelevant. The device is "cpu" or "cuda", for the solver works in float64.

    Raises:
      UsageError: embeddings that are not finite, and as `score_predictions`.
    """
    if len(embeddings) != len(labels):
        raise ValueError(f"need as many embeddings as labels, got {len(embeddings)} and {len(labels)}")
    checked = _check(labels, groups, folds)  # before a fit that may take minutes
    broken = checked.used[~np.isfinite(embeddings[checked.used]).all(axis=1)]
    if broken.size:
        raise UsageError(f"{broken.size} embedding(s) are not finite, in rows {_rows(broken)}; embed or drop these")
    _, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    parts = list(folds)
    predicted = np.zeros(len(labels), dtype=np.int64)
    strengths, notes = None, []
    if isinstance(classifier, KnnProbe):
        for _, train, test in parts:
            predicted[test] = knn.predict(embeddings, checked.classes, group, train, test, classifier, device=device)
    else:
        splits = [(train, test) for _, train, test in parts]
        fits = logistic.predict_folds(embeddings, checked.classes, group, splits, classifier, seed=seed, device=device)
        strengths = [fit.strength for fit in fits]
        for fit, (name, _, test) in zip(fits, parts, strict=True):
            predicted[test] = fit.predicted
            if not fit.converged:
                notes.append(f"fold {name}: the solver stopped before its tolerance at C = {fit.strength:g}")
    return score_predictions(
        [checked.names[index] for index in predicted.tolist()],
        labels,
        groups,
        folds,
        strengths=strengths,
        notes=notes,
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def score_predictions(
    predicted: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    folds: Folds,
    *,
    strengths: Sequence[float] | None = None,
    notes: Sequence[str] = (),
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
) -> Score:
    """Scores labels that any classifier predicted, such as a fine-tuned one, as `evaluate` scores a probe's.

    Each tested example must have been predicted blind to its fold; what stands for the others is not read. strengths
    are the C of each tested fold, None for classifiers without one. notes are put behind those on the folds.

    Raises:
      UsageError: blank labels or groups, fewer than two classes, an empty fold, groups shared by folds that the user
        did not choose, a predicted label that no example has.
    """
    if len(predicted) != len(labels):
        raise ValueError(f"need as many predictions as labels, got {len(predicted)} and {len(labels)}")
    checked, parts = _check(labels, groups, folds), list(folds)
    rows = np.flatnonzero(np.isin(folds.fold, folds.tested))
    index = {name: position for position, name in enumerate(checked.names)}
    if unknown := sorted({predicted[row] for row in rows.tolist()} - index.keys()):
        raise UsageError(f"{len(unknown)} predicted label(s) are no example's, such as {unknown[0]!r}")
    truth = checked.classes[rows]
    guess = np.array([index[predicted[row]] for row in rows.tolist()], dtype=np.int64)
    tested_groups = [groups[row] for row in rows.tolist()]
    lone = ["all tested examples are of one group: there is no interval"] if len(set(tested_groups)) == 1 else []
    chosen = [math.nan] * len(parts) if strengths is None else strengths
    estimates = {
        name: interval(
            _statistic(name, truth, guess), tested_groups, n_resamples=n_resamples, confidence=confidence, seed=seed
        )
        for name in METRICS
    }
    right = np.zeros(len(labels), dtype=bool)
    right[rows] = truth == guess
    return Score(
        **estimates,
        folds=tuple(
            FoldScore(name, float(right[test].mean()), len(train), len(test), strength)
            for (name, train, test), strength in zip(parts, chosen, strict=True)
        ),
        classes=checked.names,
        rows=rows,
        groups=tuple(tested_groups),
        truth=truth,
        predicted=guess,
        notes=(*checked.notes, *notes, *lone),
        seed=seed,
        n_resamples=n_resamples,
        confidence=confidence,
    )


def compare(score: Score, floor: Score) -> Comparison:
    """Paired differences, score minus floor, resampled as the score was.

    Raises:
      ValueError: if the two were not tested on the same examples.
    """
    same = np.array_equal(score.rows, floor.rows) and np.array_equal(score.truth, floor.truth)
    if not same or score.classes != floor.classes or score.groups != floor.groups:
        raise ValueError("a score and its floor must come from the same examples, groups and folds")
    differences = {
        name: paired_difference(
            _statistic(name, score.truth, score.predicted),
            _statistic(name, floor.truth, floor.predicted),
            score.groups,
            n_resamples=score.n_resamples,
            confidence=score.confidence,
            seed=score.seed,
        )
        for name in METRICS
    }
    return Comparison(**differences)


def _statistic(metric: str, truth: Int[np.ndarray, " m"], predicted: Int[np.ndarray, " m"]) -> Statistic:
    return lambda draws: METRICS[metric](truth, predicted, draws)


class _Checked(NamedTuple):
    """What labels, groups and folds hold, once they are fit for use."""

    used: Int[np.ndarray, " used"]
    """The rows that are trained on or tested."""
    names: tuple[str, ...]
    """The classes of these rows, sorted."""
    classes: Int[np.ndarray, " n"]
    """Index of each example's label in names; 0 where the row is not used."""
    notes: tuple[str, ...]


def _check(labels: Sequence[str], groups: Sequence[str], folds: Folds) -> _Checked:
    if not len(labels) == len(groups) == len(folds.fold):
        found = f"{len(labels)}, {len(groups)} and {len(folds.fold)}"
        raise ValueError(f"need as many labels as groups and folds, got {found}")
    used = np.flatnonzero(folds.fold >= 0)
    for what, values in (("label", labels), ("group", groups)):
        blank = np.array([row for row in used.tolist() if not values[row]], dtype=np.int64)
        if blank.size:
            raise UsageError(f"{blank.size} example(s) have no {what}, in rows {_rows(blank)}; fill it in or drop them")
    names = sorted({labels[row] for row in used.tolist()})
    if len(names) < 2:
        raise UsageError(f"a probe needs at least 2 classes, found {names}")
    for name, train, test in folds:
        if not train.size or not test.size:
            raise UsageError(f"fold {name} has {train.size} training and {test.size} test examples; both are needed")
    index = {name: position for position, name in enumerate(names)}
    classes = np.array([index.get(label, 0) for label in labels], dtype=np.int64)
    return _Checked(used, tuple(names), classes, folding.check(folds, labels, groups))


def _rows(rows: Int[np.ndarray, " k"]) -> str:
    return ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
