"""Which example is seen when: a pure function of (seed, position), over any mixture of sources.

Position p of a run maps to (epoch, source, row) without any state: an epoch visits as many slots as the sources hold together; each source gets
its share of the slots by weight, and walks through its own rows in fresh permutations, so that with equal weights an epoch visits every slot once.
"""

import dataclasses
import functools
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
    """Counts the visits of this row in this pass; 0 unless the row has several slots."""


@dataclasses.dataclass(frozen=True)
class ExampleOrder:
    """Order of examples for a seed.

    slots holds, for each source, how many visits each of its rows gets per pass (long recordings get more); weights says how often a slot of each
    source is drawn relative to the others.
    """

    seed: int
    slots: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.slots) != len(self.weights) or not self.slots or not all(sum(source) for source in self.slots):
            raise ValueError("every source needs at least one slot, and one weight")

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """Slots of each source in one epoch; at least one each."""
        sizes = np.array([sum(source) for source in self.slots])
        wanted = sizes * np.array(self.weights)
        return np.maximum(1, np.round(wanted / wanted.sum() * sizes.sum())).astype(np.int64)

    @property
    def epoch_length(self) -> int:
        """Positions in one epoch."""
        return int(self.shares.sum())

    def visit(self, position: int) -> Visit:
        """The example at a position (0, 1, 2, ... without end)."""
        epoch, place = divmod(position, self.epoch_length)
        slot = int(self._permutation("mix", epoch, self.epoch_length)[place])
        source = int(np.searchsorted(np.cumsum(self.shares), slot, side="right"))
        within = slot - int(self.shares[:source].sum())
        drawn = epoch * int(self.shares[source]) + within
        rows = self._rows(source)
        own_pass, place = divmod(drawn, len(rows))
        index = int(self._permutation(f"source{source}", own_pass, len(rows))[place])
        row = int(rows[index])
        return Visit(source=source, row=row, epoch=own_pass, draw=index - int(np.searchsorted(rows, row)))

    def substitute(self, position: int, attempt: int) -> Visit:
        """Another example for a position whose own cannot be read; also a pure function."""
        place = random.generator(self.seed, "substitute", position, attempt).integers(self.epoch_length)
        return self.visit(position - position % self.epoch_length + int(place))

    @functools.lru_cache(maxsize=16)  # noqa: B019 - a handful of orders live as long as the process
    def _permutation(self, name: str, number: int, size: int) -> np.ndarray:
        return random.generator(self.seed, "order", name, number).permutation(size)

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def _rows(self, source: int) -> np.ndarray:
        """Row of each slot of a source, ascending."""
        return np.repeat(np.arange(len(self.slots[source])), self.slots[source])
