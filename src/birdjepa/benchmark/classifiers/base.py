"""A classifier: what learns on frozen features, behind one function.

`fit_and_score(config, ...)` takes the features of all examples and the rows of each part, learns from the training
rows, chooses on the validation rows, and returns one score per test row and class. Scores grow with belief; for
single-label tasks the class with the highest score is the prediction.

Axes: n examples | e pooled embedding | t tokens | d width of a token | c classes | m test rows
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Frozen features of all examples of a task; arrays may be memory maps, so read rows, never the whole."""

    pooled: Float[np.ndarray, "n e"] | None = None
    tokens: Float[np.ndarray, "n t d"] | None = None
    real: Bool[np.ndarray, "n t"] | None = None
    """False for tokens that heard padding only."""

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
