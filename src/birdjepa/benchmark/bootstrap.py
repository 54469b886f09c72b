"""Percentile bootstrap over recordings: how far a score would move if other recordings had been held out.

Examples of one recording are not independent, so whole groups are drawn with replacement, never single examples. A
statistic is evaluated on many resamples at once: it gets the `Draws` and returns one row of numbers for each of them.
It is told how often each group was drawn, not each example: what can be summed within the groups beforehand costs a
resample no more than the groups. The draws depend on the seed and on the set of groups only, so two classifiers scored
on the same examples meet the same resamples, and the order of the examples is irrelevant. The intervals cover the
choice of test recordings, not the randomness of training.

Axes: b resamples drawn together | r all resamples | n examples | g groups | k numbers of a statistic
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from birdjepa.core import random

CHUNK = 2**24
"""Counts held at a time (128 MiB), which bounds memory whatever the number of groups and of resamples."""


@dataclasses.dataclass(frozen=True, eq=False)
class Draws:
    """How often each group was drawn in each of b resamples, and which group every example is of."""

    counts: Float[np.ndarray, "b g"]
    """Whole numbers."""
    group: Int[np.ndarray, " n"]

    @property
    def size(self) -> Float[np.ndarray, " b"]:
        """Examples of each resample."""
        return self.total(np.ones(len(self.group)))

    def total(self, values: Real[np.ndarray, " n"] | Bool[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
        """Sum of a value over the examples of each resample, in float64: exact for counts and for 0 and 1."""
        return self.counts @ np.bincount(self.group, weights=values, minlength=self.counts.shape[1])


Statistic = Callable[[Draws], Float[np.ndarray, "b *k"]]


def whole(n_examples: int) -> Draws:
    """The examples as they are: one resample in which each counts once.

    Raises:
      ValueError: if there is no example.
    """
    if n_examples < 1:
        raise ValueError("a metric needs at least one example")
    return Draws(np.ones((1, 1)), np.zeros(n_examples, dtype=np.int64))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its interval. The bounds are NaN where nothing could be resampled (a single group)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, float | None]:
        """JSON object; NaN becomes null."""
        return {name: None if math.isnan(value) else value for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """A statistic of the examples as they are, and of each resample; of a single group there is none."""

    value: Float[np.ndarray, "*k"]
    replicates: Float[np.ndarray, "r *k"]

    def __sub__(self, other: "Resampled") -> "Resampled":
        """The difference, resample by resample: both must have been resampled over the same groups by the same seed."""
        return Resampled(np.asarray(self.value - other.value), self.replicates - other.replicates)

    def __getitem__(self, number: int) -> "Resampled":
        """One number of the statistic."""
        return Resampled(np.asarray(self.value[number]), self.replicates[:, number])

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """The percentile interval of a statistic that is one number.

        Percentile intervals are somewhat narrow below about 20 groups, and have no width where every resample agrees (a
        perfect score). They are NaN where the statistic of some resample is.

        Raises:
          ValueError: if confidence is not in (0, 1).
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be in (0, 1), got {confidence}")
        if not len(self.replicates):
            return Estimate(float(self.value), math.nan, math.nan)
        low, high = np.quantile(self.replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Estimate(float(self.value), float(low), float(high))


def resample(statistic: Statistic, groups: Sequence[str], *, n_resamples: int = 2000, seed: int) -> Resampled:
    """The statistic of the examples as they are and of n_resamples draws of their groups (one name per example).

    Raises:
      ValueError: if n_resamples < 1, or there is no example.
    """
    if n_resamples < 1 or not len(groups):
        raise ValueError(f"need n_resamples >= 1 and an example, got {n_resamples} and {len(groups)} examples")
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    value = statistic(whole(len(group)))[0]
    if len(names) == 1:
        return Resampled(np.asarray(value), np.zeros((0, *np.shape(value))))
    generator = random.generator(seed, "bootstrap")
    per_chunk = max(1, CHUNK // len(names))
    parts = []
    for start in range(0, n_resamples, per_chunk):
        n_draws = min(per_chunk, n_resamples - start)
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_draws)
        parts.append(statistic(Draws(counts.astype(np.float64), group)))
    return Resampled(np.asarray(value), np.concatenate(parts))


def interval(
    statistic: Statistic, groups: Sequence[str], *, n_resamples: int = 2000, confidence: float = 0.95, seed: int
) -> Estimate:
    """A statistic that is one number, with its percentile interval over resampled groups (one per example).

    Raises:
      ValueError: if confidence is not in (0, 1), n_resamples < 1, or there is no example.
    """
    return resample(statistic, groups, n_resamples=n_resamples, seed=seed).estimate(confidence)


def paired_difference(
    ours: Statistic,
    floor: Statistic,
    groups: Sequence[str],
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate:
    """Ours minus the floor on the same resamples; the floor is beaten by more than the interval where `low > 0`."""
    return interval(
        lambda draws: ours(draws) - floor(draws), groups, n_resamples=n_resamples, confidence=confidence, seed=seed
    )
