"""Percentile bootstrap over recordings: how far a score would move if other recordings had been held out.

Examples of one recording are not independent, so whole groups are drawn with replacement, never single examples. A
statistic is evaluated on all resamples at once: it takes weights (how often each example was drawn) and returns one
number for each row of them. The draws depend on the seed and on the set of groups only, so two classifiers scored on
the same examples meet the same resamples, and the order of the examples is irrelevant. The intervals cover the choice
of test recordings, not the randomness of training.

Axes: b resamples | n examples | g groups
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from birdjepa.core import random

Statistic = Callable[[Float[np.ndarray, "b n"]], Float[np.ndarray, " b"]]

CHUNK = 2**22
"""Weights held at a time (32 MiB), which bounds memory whatever the number of examples."""


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


def interval(
    statistic: Statistic, groups: Sequence[str], *, n_resamples: int = 2000, confidence: float = 0.95, seed: int
) -> Estimate:
    """The statistic of the examples as they are, with its percentile interval over resampled groups (one per example).

    Percentile intervals are somewhat narrow below about 20 groups, and have no width where every resample agrees (a
    perfect score).

    Raises:
      ValueError: if confidence is not in (0, 1), n_resamples < 1, or there is no example.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if n_resamples < 1 or not groups:
        raise ValueError(f"need n_resamples >= 1 and an example, got {n_resamples} and {len(groups)} examples")
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    value = float(statistic(np.ones((1, len(groups))))[0])
    if len(names) == 1:
        return Estimate(value, math.nan, math.nan)
    generator = random.generator(seed, "bootstrap")
    per_chunk = max(1, CHUNK // len(groups))
    resampled = []
    for start in range(0, n_resamples, per_chunk):
        n_draws = min(per_chunk, n_resamples - start)
        counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_draws)
        resampled.append(statistic(counts[:, group].astype(np.float64)))
    low, high = np.quantile(np.concatenate(resampled), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))


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
        lambda weights: ours(weights) - floor(weights),
        groups,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
