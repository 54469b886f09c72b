"""Which of several models is better, and which of them cannot be told apart, from their stored scores.

All models are scored on the same examples and on the same resamples of their recordings, so a difference is taken
resample by resample: that is far sharper than asking whether two intervals overlap. A family of comparisons is
corrected by Holm's method. What is compared is these predictions; another training run may turn out otherwise.

    found = resample_models(models, seed=0, n_resamples=10_000)
    for row in standings({name: of["cmap"] for name, of in found.items()}):
        print(row.name, row.estimate, row.p_holm, "best or tied" if row.leads else "")

Axes: n examples | c classes
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark.bootstrap import Estimate, Resampled
from birdjepa.benchmark.scoring import Kind, resample_kind
from birdjepa.core.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What one model said of a test set, as a sidecar file keeps it. Rows and columns may come in any order."""

    kind: Kind
    scores: Float[np.ndarray, "n c"]
    truth: Int[np.ndarray, "n c"]
    ids: tuple[str, ...]
    """Of the examples, no two alike."""
    groups: tuple[str, ...]
    """Their recordings."""
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.scores.shape == self.truth.shape == (len(self.ids), len(self.classes)):
            sizes = f"{self.scores.shape} and {self.truth.shape} for {len(self.ids)} ids, {len(self.classes)} classes"
            raise ValueError(f"scores and truth must have one row per id and one column per class, got {sizes}")
        if len(self.groups) != len(self.ids):
            raise ValueError(f"need one group per id, got {len(self.groups)} and {len(self.ids)}")


@dataclasses.dataclass(frozen=True)
class Standing:
    """One model among those it is compared with."""

    name: str
    estimate: Estimate
    behind: Estimate
    """Its value minus the best model's, on the same resamples: 0 for the best itself."""
    p: float
    """Two-sided, of being unlike the best; 1 for the best itself, NaN where nothing could be resampled."""
    p_holm: float
    leads: bool
    """The best, or not shown to be unlike it at the level alpha."""


def resample_models(
    models: Mapping[str, Predictions], *, seed: int, n_resamples: int = 2000
) -> dict[str, dict[str, Resampled]]:
    """Every metric of every model on the same resamples: {model: {metric: resampled}}.

    Raises:
      UsageError: models that were not tested on the same examples, and as `scoring.score`.
    """
    if not models:
        raise ValueError("need at least one model")
    first = next(iter(models))
    reference = _ordered(first, models[first])
    found = {}
    for name, given in models.items():
        ours = _ordered(name, given)
        _check_same(first, reference, name, ours)
        found[name] = resample_kind(
            ours.scores, ours.truth, ours.groups, ours.kind, classes=ours.classes, seed=seed, n_resamples=n_resamples
        )
    return found


def standings(
    models: Mapping[str, Resampled], *, confidence: float = 0.95, alpha: float = 0.05
) -> tuple[Standing, ...]:
    """The models, best first, each compared with the best; the family that Holm corrects for is these comparisons.

    Raises:
      ValueError: no model, alpha or confidence not in (0, 1).
    """
    if not models or not 0 < alpha < 1:
        raise ValueError(f"need a model and alpha in (0, 1), got {len(models)} and {alpha}")
    best = max(models, key=lambda name: -math.inf if math.isnan(models[name].value) else float(models[name].value))
    differences = {name: found - models[best] for name, found in models.items()}
    others = [name for name in models if name != best]
    p = {name: p_value(differences[name]) for name in others}
    corrected = dict(zip(others, holm([p[name] for name in others]), strict=True))
    rows = [
        Standing(
            name,
            found.estimate(confidence),
            differences[name].estimate(confidence),
            p.get(name, 1.0),
            corrected.get(name, 1.0),
            not corrected.get(name, 1.0) <= alpha,
        )
        for name, found in models.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.name != best, math.isnan(row.behind.value), -row.behind.value)))


def p_value(difference: Resampled) -> float:
    """Two-sided p of no difference: twice the smaller share of resamples at or beyond 0, both counted with the data.

    It is at least 2 / (n_resamples + 1), so many comparisons need many resamples. NaN where nothing was resampled or
    some resample could not be scored.
    """
    drawn = difference.replicates
    if not len(drawn) or np.isnan(drawn).any():
        return math.nan
    share = (1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))) / (1 + len(drawn))
    return min(1.0, 2 * share)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of each member of a family; those at or below alpha are the ones that Holm's method rejects.

    Of m ordered p, the i-th smallest becomes the largest of (m - j + 1) * p_j over j <= i, at most 1. NaN stays NaN and
    is no member of the family: it was not tested.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    adjusted = [math.nan] * len(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    highest = 0.0
    for rank, (p, index) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = highest
    return adjusted


def mean_over_tasks(tasks: Sequence[Resampled]) -> Resampled:
    """A metric's unweighted mean over test sets, each resampled by a seed of its own.

    Raises:
      ValueError: no task, or tasks with different numbers of resamples (a task of a single recording has none).
    """
    sizes = sorted({len(task.replicates) for task in tasks})
    if len(sizes) != 1:
        raise ValueError(f"tasks must have equally many resamples, got {sizes}")
    value = np.mean([task.value for task in tasks], axis=0)
    return Resampled(np.asarray(value), np.mean([task.replicates for task in tasks], axis=0))


def _ordered(name: str, given: Predictions) -> Predictions:
    """Rows by id and columns by class, whatever their order was."""
    if len(set(given.ids)) < len(given.ids):
        raise UsageError(f"{name}: {len(given.ids) - len(set(given.ids))} example id(s) are not unique")
    rows, columns = np.argsort(np.asarray(given.ids, dtype=str)), np.argsort(np.asarray(given.classes, dtype=str))
    return Predictions(
        kind=given.kind,
        scores=given.scores[rows][:, columns],
        truth=given.truth[rows][:, columns],
        ids=tuple(given.ids[row] for row in rows.tolist()),
        groups=tuple(given.groups[row] for row in rows.tolist()),
        classes=tuple(given.classes[column] for column in columns.tolist()),
    )


def _check_same(first: str, reference: Predictions, name: str, ours: Predictions) -> None:
    pair = f"{first} and {name} cannot be compared"
    for what, theirs, own in (("example", reference.ids, ours.ids), ("class", reference.classes, ours.classes)):
        if theirs != own:
            odd = sorted(set(theirs) ^ set(own))
            raise UsageError(f"{pair}: {len(odd)} {what} name(s) are in only one of the two, such as {odd[0]!r}")
    if reference.kind != ours.kind or reference.groups != ours.groups or not (reference.truth == ours.truth).all():
        raise UsageError(f"{pair}: kind, recordings or labels of the same examples differ; score one of them anew")
