"""Which example is seen when: a pure function of (seed, position), over any mixture of sources.

Position p of a run maps to (epoch, source, row) without any state: an epoch visits as many slots as the sources hold
together; each source gets its share of the slots by weight, and walks through its own rows in fresh permutations, so
that with equal weights an epoch visits every slot once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from birdjepa.core import random


class Visit(NamedTuple):
    """One example at one position of a run."""

    source: int
    row: int
    epoch: int
    """Pass over the row's source that this visit belongs to."""
    draw: int
    """Which of the row's slots this is; 0 unless the row has several."""


class ExampleOrder:
    """Order of examples for a seed.

    slots holds, for each source, how many visits each of its rows gets per pass (long recordings get more; 0
    is none); weights says how often a slot of each source is drawn relative to the others.

    What is kept (permutations of two epochs) only saves time: every answer is a pure function of seed and position.
    """

    def __init__(self, seed: int, slots: Sequence[Sequence[int]], weights: Sequence[float]) -> None:
        if len(slots) != len(weights) or not slots or not all(sum(source) for source in slots):
            raise ValueError("every source needs at least one slot, and one weight")
        if not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(f"weights must be positive, got {', '.join(f'{weight:g}' for weight in weights)}")
        self.seed = seed
        self._rows = [np.repeat(np.arange(len(source), dtype=np.int32), source) for source in slots]
        sizes = np.array([len(rows) for rows in self._rows])
        wanted = sizes * np.array(weights)
        self.shares = np.maximum(1, np.round(wanted / wanted.sum() * sizes.sum())).astype(np.int64)
        """Slots of each source in one epoch; at least one each."""
        self._first = np.cumsum([0, *self.shares])
        self._kept: dict[tuple[str, int], np.ndarray] = {}

    @property
    def epoch_length(self) -> int:
        """Positions in one epoch."""
        return int(self._first[-1])

    def visit(self, position: int) -> Visit:
        """The example at a position (0, 1, 2, ... without end)."""
        epoch, place = divmod(position, self.epoch_length)
        slot = int(self._permutation("mix", epoch, self.epoch_length)[place])
        source = int(np.searchsorted(self._first, slot, side="right")) - 1
        drawn = epoch * int(self.shares[source]) + slot - int(self._first[source])
        rows = self._rows[source]
        own_pass, place = divmod(drawn, len(rows))
        index = int(self._permutation(f"source{source}", own_pass, len(rows))[place])
        row = rows[index]  # not an int, for which searchsorted would convert all rows first
        return Visit(source=source, row=int(row), epoch=own_pass, draw=index - int(np.searchsorted(rows, row)))

    def substitute(self, position: int, attempt: int) -> Visit:
        """Another example for a position whose own cannot be read; also a pure function."""
        place = random.generator(self.seed, "substitute", position, attempt).integers(self.epoch_length)
        return self.visit(position - position % self.epoch_length + int(place))

    def _permutation(self, name: str, number: int, size: int) -> np.ndarray:
        """The permutation of a stream's pass; the two newest of each stream are kept, for passes overlap at edges."""
        made = self._kept.get((name, number))
        if made is None:
            made = random.generator(self.seed, "order", name, number).permutation(size).astype(np.uint32)
            older = [key for key in self._kept if key[0] == name]
            if len(older) == 2:
                del self._kept[older[0]]
            self._kept[name, number] = made
        return made
