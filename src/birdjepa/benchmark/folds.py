"""Which examples train and which are tested: folds from a column, from groups, or one hold-out split.

A recording whose clips are in training and in test makes any score meaningless. Folds made here are disjoint in groups
by construction; folds from the user's own column are taken as given, and `check` says where they leak.

Axes: n examples
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from birdjepa.core import random
from birdjepa.core.errors import UsageError

TRAIN_SPLITS = ("train", "training")
VALIDATION_SPLITS = ("val", "valid", "validation", "dev")
TRAINING_SPLITS = (*TRAIN_SPLITS, *VALIDATION_SPLITS)
TEST_SPLITS = ("test", "testing")
N_NAMED = 5
"""Names listed in a message before "and N more"."""


@dataclasses.dataclass(frozen=True, eq=False)
class Folds:
    """A fold for each example; iterating gives (name, train rows, test rows) of each fold that is tested."""

    fold: Int[np.ndarray, " n"]
    """Index into names; -1 marks an example that is neither trained on nor tested."""
    names: tuple[str, ...]
    tested: tuple[int, ...]
    """The folds that take their turn as test part: all of them in cross-validation, one in a hold-out."""
    given: bool
    """The user chose these folds: a leak is reported. Otherwise it is an error."""

    def __post_init__(self) -> None:
        if self.fold.size and not -1 <= self.fold.min() <= self.fold.max() < len(self.names):
            raise ValueError(f"fold must be in -1..{len(self.names) - 1}, got {self.fold.min()}..{self.fold.max()}")
        if not self.tested or not set(self.tested) <= set(range(len(self.names))):
            raise ValueError(f"tested must name at least one of {len(self.names)} folds, got {self.tested}")

    def __iter__(self) -> Iterator[tuple[str, Int[np.ndarray, " train"], Int[np.ndarray, " test"]]]:
        for index in self.tested:
            test = self.fold == index
            yield self.names[index], np.flatnonzero((self.fold >= 0) & ~test), np.flatnonzero(test)

    def __len__(self) -> int:
        return len(self.tested)


def folds_from_column(values: Sequence[str]) -> Folds:
    """One fold for each distinct value, in natural order (fold2 before fold10); examples with a blank are left out.

    Raises:
      UsageError: if fewer than two values occur.
    """
    names = sorted({value for value in values if value}, key=_natural)
    if len(names) < 2:
        raise UsageError(f"cross-validation needs a fold column with at least 2 different values, got {names}")
    index = {name: position for position, name in enumerate(names)}
    fold = np.array([index.get(value, -1) for value in values], dtype=np.int64)
    return Folds(fold, tuple(names), tuple(range(len(names))), given=True)


def holdout(splits: Sequence[str]) -> Folds:
    """Tests once, on `test`; `train` and `val` both train.

    The probe needs no validation part, for it tunes by inner cross-validation. Examples of any other split (`pool`,
    blank) are left out.

    Raises:
      UsageError: if there is no `train` or no `test` example.
    """
    fold = np.array([_holdout_fold(split.strip().lower()) for split in splits], dtype=np.int64)
    if not (fold == 0).any() or not (fold == 1).any():
        found = _some(sorted(set(splits)))
        raise UsageError(f"a hold-out needs examples of split train and of split test, found: {found}; or use --folds")
    return Folds(fold, ("train", "test"), (1,), given=True)


def folds_by_group(labels: Sequence[str], groups: Sequence[str], n_folds: int, seed: int) -> Folds:
    """Folds that share no group, with each label spread as evenly as the groups allow.

    A function of the labels and groups by name: the order of the examples is irrelevant.

    Raises:
      UsageError: if there are fewer groups than folds.
    """
    _, classes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if not 2 <= n_folds <= len(names):
        raise UsageError(f"need 2 to {len(names)} folds, one group (recording) or more in each, got {n_folds}")
    fold = spread_groups(classes, group, n_folds, seed)
    return Folds(fold, tuple(f"fold{i + 1}" for i in range(n_folds)), tuple(range(n_folds)), given=False)


def spread_groups(
    classes: Int[np.ndarray, " n"], groups: Int[np.ndarray, " n"], n_folds: int, seed: int
) -> Int[np.ndarray, " n"]:
    """The fold of each example: groups, large ones first, go one by one to the fold that has least of what they hold.

    A class counts in proportion to its rarity; equal folds are told apart by their number of examples, so none stays
    empty while groups are left. classes and groups are numbered from 0.
    """
    content = np.zeros((groups.max() + 1, classes.max() + 1))
    np.add.at(content, (groups, classes), 1.0)
    sizes = content.sum(axis=1)
    share = content / np.maximum(content.sum(axis=0), 1.0)
    shuffled = random.generator(seed, "folds").permutation(len(content))
    held = np.zeros((n_folds, content.shape[1]))
    held_examples = np.zeros(n_folds)
    fold_of_group = np.empty(len(content), dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        overlap = (held @ share[group]).round(9)
        chosen = np.lexsort((held_examples, overlap))[0]
        fold_of_group[group] = chosen
        held[chosen] += content[group]
        held_examples[chosen] += sizes[group]
    return fold_of_group[groups]


def check(folds: Folds, labels: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """Sentences about what makes these folds weak: shared groups, classes that cannot be learnt, classes of one group.

    Raises:
      UsageError: if a group is trained on and tested in folds that the user did not choose.
    """
    label, group = np.asarray(labels, dtype=str), np.asarray(groups, dtype=str)
    notes = []
    for name, train, test in folds:
        if shared := sorted(set(group[train]) & set(group[test])):
            leak = f"fold {name}: {len(shared)} group(s) are in training and in test ({_some(shared)})"
            if not folds.given:
                raise UsageError(f"{leak}; keep all examples of a recording in one fold")
            notes.append(f"{leak}: the score is too high")
        if missing := sorted(set(label[test]) - set(label[train])):
            notes.append(f"fold {name}: {len(missing)} class(es) have no training example ({_some(missing)})")
    used = folds.fold >= 0
    of_group = {str(name): set(group[used & (label == name)]) for name in np.unique(label[used])}
    if single := [name for name, found in of_group.items() if len(found) < 2]:
        notes.append(f"{len(single)} class(es) come from a single group ({_some(single)}): they cannot be held out")
    return tuple(notes)


def _holdout_fold(split: str) -> int:
    if split in TRAINING_SPLITS:
        return 0
    return 1 if split in TEST_SPLITS else -1


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that orders digits by value: runs of digits and of other characters alternate."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", text)]


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(str(name) or "(blank)" for name in names[:N_NAMED])
    return listed + (f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else "")
