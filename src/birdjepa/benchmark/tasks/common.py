"""What tasks share: names that are the same on every machine, truth as an array, and divisions that keep recordings
whole.

Axes: n examples | c classes
"""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from birdjepa.benchmark.folds import TEST_SPLITS, TRAIN_SPLITS, VALIDATION_SPLITS, folds_from_column, spread_groups
from birdjepa.benchmark.tasks.base import Part
from birdjepa.core.errors import UsageError

SHARE = 5
"""One in so many training groups is held out for validation where a data set has no validation part."""


def names_of(keys: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them share, which differ from machine to machine."""
    folders = {os.path.dirname(key) for key in keys}
    shared = os.path.commonpath(folders) if folders and "" not in folders else ""
    return [os.path.relpath(key, shared) if shared else key for key in keys]


def truth_of(labels: Sequence[Sequence[str]], classes: Sequence[str]) -> Int[np.ndarray, "n c"]:
    """1 for each class of each example; labels that are no class are passed over."""
    column = {name: position for position, name in enumerate(classes)}
    truth = np.zeros((len(labels), len(classes)), dtype=np.int8)
    for row, names in enumerate(labels):
        truth[row, [column[name] for name in names if name in column]] = 1
    return truth


def by_split(
    splits: Sequence[str], truth: Int[np.ndarray, "n c"], groups: Sequence[str], *, test: Sequence[str] = TEST_SPLITS
) -> Part:
    """The division by a column of splits. Where it has no validation part, one in SHARE training groups becomes it.

    Raises:
      UsageError: if nothing trains or nothing is tested.
    """
    lower = np.array([split.strip().lower() for split in splits])
    train, validation = np.flatnonzero(np.isin(lower, TRAIN_SPLITS)), np.flatnonzero(np.isin(lower, VALIDATION_SPLITS))
    tested = np.flatnonzero(np.isin(lower, test))
    if not len(train) or not len(tested):
        found = ", ".join(sorted({split or "(blank)" for split in splits})[:5])
        raise UsageError(f"a task needs examples of split train and of split {test[0]}, found: {found}")
    if not len(validation):
        train, validation = hold_out(train, truth, groups)
    return Part(test[0], train, validation, tested)


def hold_out(
    rows: Int[np.ndarray, " k"], truth: Int[np.ndarray, "n c"], groups: Sequence[str]
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
    """Training rows divided into those that train and those that choose, no group in both; all of them train where
    there are fewer than SHARE groups. The same whatever the seed of an experiment.
    """
    names, group = np.unique([groups[row] for row in rows], return_inverse=True)
    if len(names) < SHARE:
        return rows, rows[:0]
    first = truth[rows].argmax(axis=1)
    chosen = spread_groups(first, group, SHARE, seed=0) == 0
    return rows[~chosen], rows[chosen]


def by_fold(folds: Sequence[str]) -> tuple[Part, ...]:
    """Cross-validation over the values of a column: each is tested once. A classifier makes its own validation part.

    Raises:
      UsageError: if fewer than two values occur.
    """
    none = np.zeros(0, dtype=np.int64)
    return tuple(Part(name, train, none, test) for name, train, test in folds_from_column(folds))
