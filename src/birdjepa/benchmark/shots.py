"""Few-shot training parts: k examples of each class, drawn so that curves over k are smooth.

The definition, for results are only comparable under the same one:

- k is per class. A class that has fewer gives all it has; nothing fills it up.
- Different recordings (groups) come first, one example of each; then second examples of the same recordings, and so on.
- Among recordings not yet drawn from, examples with a single class come first ("lenient": others are not barred).
- An example with several classes counts for each of them, so a class may be met more often than k.
- Examples without a class are nobody's: they are in no few-shot part, only in "all".
- For one seed, the part for a smaller k is contained in that for a larger one.

What is drawn depends on the seed and on the examples by name (id, group, classes): neither the order of the examples
nor that of the classes matters.

Axes: n examples | c classes
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from birdjepa.core import random


class Shots(NamedTuple):
    """A training part."""

    rows: Int[np.ndarray, " _"]
    """Ascending."""
    counts: Int[np.ndarray, " c"]
    """Examples of each class among them, to be stored with a result."""


def sample(
    truth: Int[np.ndarray, "n c"],
    groups: Sequence[str],
    ids: Sequence[str],
    rows: Int[np.ndarray, " _"],
    n_train: int | None,
    seed: int,
) -> Shots:
    """The few-shot part of the training rows with n_train examples per class; None takes all of them.

    Raises:
      ValueError: if n_train is below 1, or two of the rows have the same id.
    """
    rows = np.sort(rows)
    if n_train is None:
        return Shots(rows, _counts(truth, rows))
    if n_train < 1:
        raise ValueError(f"n_train must be at least 1 example per class, or None for all, got {n_train}")
    if len({ids[row] for row in rows.tolist()}) != len(rows):
        raise ValueError("ids of the training rows must be different")
    key = {row: random.key(seed, "shots", str(ids[row])) for row in rows.tolist()}
    n_labels = (truth > 0).sum(axis=1)
    queues: dict[int, collections.deque[int]] = {}
    for column in range(truth.shape[1]):
        members = rows[truth[rows, column] > 0].tolist()
        if members:
            members.sort(key=lambda row: (n_labels[row] > 1, key[row]))
            queues[column] = collections.deque(_by_turns(members, groups))
    # Rare classes draw first, for what they bring of the common ones need not be drawn again.
    turns = sorted(queues, key=lambda column: (len(queues[column]), sorted(key[row] for row in queues[column])))
    chosen: set[int] = set()
    met = np.zeros(truth.shape[1], dtype=np.int64)
    for wanted in range(1, n_train + 1):  # one more of each in every round, which is what makes the parts nested
        for column in turns:
            queue = queues[column]
            while met[column] < wanted and queue:
                row = queue.popleft()
                if row not in chosen:
                    chosen.add(row)
                    met += truth[row] > 0
    drawn = np.array(sorted(chosen), dtype=np.int64)
    return Shots(drawn, _counts(truth, drawn))


def _by_turns(members: list[int], groups: Sequence[str]) -> list[int]:
    """The first example of every group, then the second of each, and so on; members come in order of preference."""
    turn: dict[str, int] = {}
    numbered = []
    for row in members:
        turn[groups[row]] = turn.get(groups[row], 0) + 1
        numbered.append((turn[groups[row]], row))
    return [row for _, row in sorted(numbered, key=lambda each: each[0])]


def _counts(truth: Int[np.ndarray, "n c"], rows: Int[np.ndarray, " _"]) -> Int[np.ndarray, " c"]:
    return (truth[rows] > 0).sum(axis=0)
