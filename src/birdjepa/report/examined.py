"""What stored scores say about classes: which are taken for which, and which others score above the true one.

Axes: m tested examples | c classes
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark.metrics import confusion_matrix
from birdjepa.benchmark.result import Result
from birdjepa.report.contents import Absent


class Rival(NamedTuple):
    """A class, and the one that is most often above it where it is heard."""

    name: str
    n: int
    """Examples that have the class."""
    rival: str
    """Empty where it is always above all classes that the example has not."""
    n_above: int
    """Of these, on how many the rival is the highest wrong class, and above."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Examined:
    """The classes of one result."""

    result: Result
    label: str
    """Its row, as plots call it."""
    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "c c"] | None
    """Row = truth, column = prediction; None where examples have any number of classes."""
    rivals: tuple[Rival, ...]
    """One for each class that occurs; empty where there is a confusion matrix."""


def examine(result: Result, label: str, arrays: Mapping[str, np.ndarray]) -> Examined | Absent:
    """Looks at the arrays that a store keeps beside a result."""
    lacking = [name for name in ("scores", "truth", "classes") if name not in arrays]
    if lacking:
        return Absent(f"{result.task}: the file of scores has no {lacking[0]}")
    scores, truth = arrays["scores"], arrays["truth"]
    classes = tuple(str(name) for name in arrays["classes"])
    if scores.ndim != 2 or scores.shape != truth.shape or scores.shape[1] != len(classes) or not scores.size:
        return Absent(f"{result.task}: the file of scores does not fit together ({scores.shape} and {truth.shape})")
    scores = np.where(np.isnan(scores), -np.inf, scores).astype(np.float32)
    has = truth > 0
    single = len(classes) > 1 and bool((has.sum(axis=1) == 1).all())
    confusion = confusion_matrix(has.argmax(axis=1), scores.argmax(axis=1), len(classes)) if single else None
    rivals = () if single else tuple(_rivals(scores, has, classes))
    return Examined(result=result, label=label, classes=classes, confusion=confusion, rivals=rivals)


def _rivals(scores: Float[np.ndarray, "m c"], has: np.ndarray, classes: tuple[str, ...]) -> list[Rival]:
    """The highest of the classes that an example has not, counted where it is above one that the example has."""
    wrong = np.where(has, -np.inf, scores)
    highest, height = wrong.argmax(axis=1), wrong.max(axis=1)
    found = []
    for i, name in enumerate(classes):
        rows = np.flatnonzero(has[:, i])
        if not len(rows):
            continue
        above = highest[rows[height[rows] > scores[rows, i]]]
        counts = np.bincount(above, minlength=len(classes))
        rival = int(counts.argmax())
        found.append(Rival(name, len(rows), classes[rival] if counts[rival] else "", int(counts[rival])))
    return found
