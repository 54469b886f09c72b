"""A classifier: what learns on frozen features, behind one function.

`fit_and_score(config, ...)` of this package takes the features of all examples and the rows of each part, learns from
the training rows, chooses on the validation rows, and returns one score per test row and class. Scores grow with
belief; for single-label tasks the class with the highest score is the prediction.

Axes: n examples | e pooled embedding | t tokens | d width of a token | c classes | m test rows
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from birdjepa.benchmark.tasks.base import Kind


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Frozen features of all examples of a task; arrays may be memory maps, so read rows, never the whole."""

    pooled: Float[np.ndarray, "n e"] | None = None
    tokens: Float[np.ndarray, "n t d"] | None = None
    real: Bool[np.ndarray, "n t"] | None = None
    """False for tokens that heard padding only; an example without a real token is taken as all real."""

    def __len__(self) -> int:
        array = self.pooled if self.pooled is not None else self.tokens
        assert array is not None
        return len(array)


class Rows(NamedTuple):
    """Which examples learn, choose and are scored."""

    train: Int[np.ndarray, " _"]
    validation: Int[np.ndarray, " _"]
    """May be empty: then a share of the training rows is held out, whole groups, or nothing is chosen."""
    test: Int[np.ndarray, " m"]


class Outcome(NamedTuple):
    """What a classifier said of the test rows, in their order."""

    scores: Float[np.ndarray, "m c"]
    chosen: dict[str, Any]
    """Hyper-parameters that the validation part chose, as JSON."""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """All that a classifier is given, checked by `fit_and_score`; training and validation rows ascend."""

    features: Features
    truth: Int[np.ndarray, "n c"]
    rows: Rows
    groups: Sequence[str]
    kind: Kind
    seed: int
    device: str


class Classifier(abc.ABC):
    """A configuration of a classifier. Subclasses are final frozen dataclasses and define both members."""

    @property
    @abc.abstractmethod
    def needs_tokens(self) -> bool:
        """Whether it reads `Features.tokens` instead of `Features.pooled`."""

    @abc.abstractmethod
    def solve(self, problem: Problem) -> Outcome:
        """Learns, chooses and scores; classes without a training example may have any score, for the caller sets it."""
