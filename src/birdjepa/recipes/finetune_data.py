"""What a fine-tuning run learns from, is stopped by and is tested on: rows of one labelled manifest.

The rows and groups are those that `birdjepa probe` takes, so that both scores are of the same examples.

Axes: n labelled rows
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from birdjepa.benchmark.folds import TEST_SPLITS, TRAINING_SPLITS, VALIDATION_SPLITS, Folds, spread_groups
from birdjepa.core.errors import UsageError
from birdjepa.data.loader import labels_of
from birdjepa.data.manifest import Manifest
from birdjepa.data.sources import open_data
from birdjepa.recipes.config import require_single_labels
from birdjepa.recipes.finetune_config import FinetuneConfig
from birdjepa.recipes.probe import folds_of_column, labelled_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Rows of the labelled manifest by what they are for; none is in two parts."""

    labelled: Manifest
    train: Int[np.ndarray, " _"]
    validation: Int[np.ndarray, " _"]
    """Empty where nothing tells when to stop."""
    test: Int[np.ndarray, " _"]
    """Empty where nothing is held out."""
    test_name: str

    @property
    def classes(self) -> list[str]:
        """Classes of the training part, sorted: those that the model tells apart."""
        return sorted({name for row in labels_of(self.labelled.select(self.train)) for name in row})


def labelled_data(config: FinetuneConfig) -> Manifest:
    """The rows of DATA that a run can use: those with labels, and with a fold where a column of folds is named.

    Raises:
      UsageError: if there are fewer than two classes, or a row has several and the loss is for one.
    """
    manifest = open_data(config.data, config.columns)
    if not config.objective.is_multi_label:
        labelled = labelled_rows(manifest, config.folds)
        require_single_labels(labelled)
        return labelled
    folds = manifest.column(config.folds) if config.folds else manifest.keys
    labels = labels_of(manifest)
    rows = [row for row, names in enumerate(labels) if names and folds[row]]
    if len({name for row in rows for name in labels[row]}) < 2:
        raise UsageError(f"{manifest.name}: needs at least two labels among the rows that are learnt from")
    return manifest.select(rows)


def folds_to_cross(labelled: Manifest, config: FinetuneConfig) -> tuple[str, ...]:
    """Folds that are each held out in turn; none where the run has one test part or none."""
    folds = None if config.test else _folds(labelled, config)
    return folds.names if folds is not None and len(folds) > 1 else ()


def split_parts(labelled: Manifest, config: FinetuneConfig) -> Parts:
    """The parts of one run.

    Raises:
      UsageError: if there is no fold of the name to test, or a part that is needed would be empty.
    """
    test_name, test = _test_rows(labelled, config)
    learnt = np.flatnonzero(~test)
    if not learnt.size:
        raise UsageError(f"{labelled.name}: nothing is left to learn from beside --test {test_name}")
    held = np.zeros(len(learnt), dtype=bool)
    if config.validation:
        splits = labelled.columns[config.folds] if config.folds else [""] * len(labelled)
        held = np.array([splits[row].strip().lower() in VALIDATION_SPLITS for row in learnt])
        if not held.any():
            part = labelled.select(learnt)
            held = carve(labels_of(part), part.columns["group"], config.validation, config.seed)
    parts = Parts(labelled, learnt[~held], learnt[held], np.flatnonzero(test), test_name)
    if len(parts.classes) < 2:
        raise UsageError(
            f"{labelled.name}: {len(parts.train)} rows to learn from have {len(parts.classes)} class(es); a classifier "
            "needs at least 2"
        )
    return parts


def carve(labels: Sequence[Sequence[str]], groups: Sequence[str], share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Which examples to hold out: about a share of the groups, spread over the labels as evenly as they allow.

    Groups stay whole. A class that would be held out with all its groups is learnt from instead.

    Raises:
      UsageError: if no group can be held out.
    """
    _, classes = np.unique([";".join(names) for names in labels], return_inverse=True)
    _, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    n_parts = min(max(2, round(1 / share)), int(group.max()) + 1)
    held = spread_groups(classes, group, n_parts, seed) == n_parts - 1
    for name in sorted({name for names in labels for name in names}):
        has = np.array([name in names for names in labels])
        if held[has].all():
            held &= ~np.isin(group, group[has])
    if not held.any():
        raise UsageError(
            "no group can be held out for validation, for each class comes from too few of them: set --validation 0"
        )
    return held


def _folds(labelled: Manifest, config: FinetuneConfig) -> Folds | None:
    """Folds of the column that is named; None where there is none, or it holds train and val and nothing to test."""
    if not config.folds:
        return None
    values = labelled.column(config.folds)
    if not config.test and {value.strip().lower() for value in values} <= set(TRAINING_SPLITS):
        return None
    return folds_of_column(values)


def _test_rows(labelled: Manifest, config: FinetuneConfig) -> tuple[str, Bool[np.ndarray, " n"]]:
    """Name and rows of what is held out for the test."""
    folds = _folds(labelled, config)
    if folds is None:
        return "", np.zeros(len(labelled), dtype=bool)
    if len(folds) == 1:
        if config.test and config.test.strip().lower() not in TEST_SPLITS:
            raise UsageError(f"column {config.folds!r} holds train and test: leave out --test {config.test}")
        return folds.names[folds.tested[0]], folds.fold == folds.tested[0]
    if config.test not in folds.names:
        raise UsageError(
            f"--test {config.test}: no such fold in column {config.folds!r}; it has {', '.join(folds.names)}"
        )
    return config.test, folds.fold == folds.names.index(config.test)
