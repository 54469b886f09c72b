"""A model's own classes beside a task's: which logit stands for which class, without anything being learnt.

Axes: b examples | c classes of the model | k classes of the task
"""

import csv
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

UNKNOWN = -10.0
"""Logit of a class that the model does not know: low, and the same for all examples, so that it ranks nothing."""


class Restricted(NamedTuple):
    """A model's logits in a task's order."""

    logits: Float[Tensor, "b k"]
    unknown: tuple[str, ...]
    """Classes of the task that the model does not know."""


def restrict(logits: Float[Tensor, "b c"], classes: Sequence[str], wanted: Sequence[str]) -> Restricted:
    """The logits of the wanted classes, found by name; of a class that the model has several of, the highest.

    Raises:
      ValueError: if there are not as many classes as logits.
    """
    if logits.shape[1] != len(classes):
        raise ValueError(f"there are {len(classes)} classes for {logits.shape[1]} logits")
    places: dict[str, list[int]] = {}
    for place, name in enumerate(classes):
        places.setdefault(name, []).append(place)
    chosen = logits.new_full((len(logits), len(wanted)), UNKNOWN)
    for column, name in enumerate(wanted):
        if name in places:
            chosen[:, column] = logits[:, places[name]].amax(1)
    return Restricted(chosen, tuple(name for name in wanted if name not in places))


def read_classes(path: str, text: str, n_logits: int) -> tuple[str, ...]:
    """Names of a model's classes from a file of labels: one a line, or the first column of a CSV.

    One line more than there are logits is a heading.

    Raises:
      ValueError: if there are not as many as logits.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    names = [row[0].strip() for row in csv.reader(lines)] if path.lower().endswith(".csv") else lines
    if len(names) == n_logits + 1:
        names = names[1:]
    if len(names) != n_logits:
        raise ValueError(f"{path} names {len(names)} classes, and the model has {n_logits} logits")
    return tuple(names)
