"""Which example is seen when: a pure function of (seed, position), over any mixture of sources.

Position p of a run maps to (epoch, source, row) without any state: an epoch visits as many slots as the sources hold
together; each source gets its share of the slots by weight, and walks through its own rows in fresh permutations, so
that with equal weights an epoch visits every slot once.

Where reading one row of a shard means reading its neighbours, the permutation is hierarchical: shards in a fresh order,
and their rows shuffled within windows. So that a batch still mixes many shards, and processes and workers need not all
read the same ones, the permutation is cut into lanes of equal length which are walked side by side: each batch draws
equal parts from `abreast` lanes, and `turns` batches in a row draw from lanes of their own. Which lane serves a
position follows from the position alone.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from birdjepa.core import random


class Visit(NamedTuple):
    """One example at one position of a run."""

    source: int
    row: int
    epoch: int
    """Pass over the row's source that this visit belongs to."""
    draw: int
    """Which of the row's slots this is; 0 unless the row has several."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How sources are walked whose rows must be read shard by shard; others are permuted freely."""

    window: int = 1000
    """Rows of neighbouring places that are shuffled together."""
    abreast: int = 8
    """Places of the stream that each batch draws from: as many of them as divide the batch, and one where an epoch has
    fewer than `turns` batches. With a multiple of the
    processes that train together no two of them read the same shards."""
    turns: int = 4
    """Batches in a row that draw from other places. With a multiple of loader.workers no two workers read the same
    shards."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.abreast < 1 or self.turns < 1:
            raise ValueError(
                f"window, abreast and turns must be at least 1, got {self.window}, {self.abreast}, {self.turns}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lanes:
    """Which lane serves a position, and with its how-manieth draw."""

    batch: int = 1
    """Positions of one batch, of all processes together."""
    abreast: int = 1
    """Divides batch."""
    turns: int = 1

    @property
    def n(self) -> int:
        return self.abreast * self.turns

    def at(self, position: int) -> tuple[int, int]:
        """(lane, draw) of a position."""
        number, slot = divmod(position, self.batch)
        part = self.batch // self.abreast
        round_, turn = divmod(number, self.turns)
        return turn * self.abreast + slot // part, round_ * part + slot % part


class ExampleOrder:
    """Order of examples for a seed.

    Args:
      slots: for each source, how many visits each of its rows gets per pass (long recordings get more; 0 is none).
      weights: how often a slot of each source is drawn relative to the others.
      shards: for each source, the shard of each row, or None where rows are read freely.
      batch: positions of a batch, of all processes together; matters only where a source has shards.
      cap: most slots of one source in an epoch; 0 for no limit. What is left over comes in the next epochs.

    What is kept (permutations of two epochs) only saves time: every answer is a pure function of seed and position.
    """

    def __init__(
        self,
        seed: int,
        slots: Sequence[Sequence[int]],
        weights: Sequence[float],
        *,
        shards: Sequence[Int[np.ndarray, " n"] | None] | None = None,
        stream: StreamConfig | None = None,
        batch: int = 1,
        cap: int = 0,
    ) -> None:
        if len(slots) != len(weights) or not slots or not all(sum(source) for source in slots):
            raise ValueError("every source needs at least one slot, and one weight")
        if not all(0 < weight < math.inf for weight in weights):
            raise ValueError(f"weights must be positive, got {', '.join(f'{weight:g}' for weight in weights)}")
        self.seed = seed
        self._window = (stream or StreamConfig()).window
        self._rows = [np.repeat(np.arange(len(source), dtype=np.int32), source) for source in slots]
        self._starts = [
            None if shard is None else _starts(shard[rows])
            for rows, shard in zip(self._rows, shards or [None] * len(slots), strict=True)
        ]
        sizes = np.array([len(rows) for rows in self._rows])
        self.lanes = self._make_lanes(stream or StreamConfig(), batch, int(sizes.min()))
        self._cuts = np.arange(self.lanes.n + 1)[:, None] * sizes // self.lanes.n
        """First slot of each lane in each source's permutation."""
        pieces = np.diff(self._cuts, axis=0)
        wanted = pieces * np.array(weights)
        shares = np.maximum(1, np.round(wanted / wanted.sum(axis=1, keepdims=True) * pieces.sum(axis=1, keepdims=True)))
        limit = -(-cap // self.lanes.n) if cap else math.inf
        self._shares = np.minimum(shares, limit).astype(np.int64)
        """Slots of each source in one epoch of each lane; at least one each."""
        self._kept: dict[tuple[str, int], np.ndarray] = {}

    @property
    def shares(self) -> Int[np.ndarray, " k"]:
        """Slots of each source in one epoch."""
        return self._shares.sum(axis=0)

    @property
    def epoch_length(self) -> int:
        """Positions in one epoch. Lanes begin the next one at their own time, within `turns` batches of each other."""
        return int(self._shares.sum())

    def visit(self, position: int) -> Visit:
        """The example at a position (0, 1, 2, ... without end)."""
        return self._visit(*self.lanes.at(position))

    def substitute(self, position: int, attempt: int) -> Visit:
        """Another example for a position whose own cannot be read; also a pure function. In shards it is a near one."""
        lane, draw = self.lanes.at(position)
        length = int(self._shares[lane].sum())
        first, last = draw - draw % length, length
        if any(starts is not None for starts in self._starts):
            first, last = draw - draw % length % self._window, min(self._window, length)
        place = random.generator(self.seed, "substitute", position, attempt).integers(last)
        return self._visit(lane, first + int(place))

    def _make_lanes(self, stream: StreamConfig, batch: int, smallest: int) -> Lanes:
        lanes = Lanes(batch=batch, abreast=math.gcd(stream.abreast, batch), turns=stream.turns)
        is_stream = any(starts is not None for starts in self._starts)
        return lanes if is_stream and smallest >= batch * lanes.turns else Lanes(batch=batch)

    def _visit(self, lane: int, draw: int) -> Visit:
        """The example that a lane serves with its draw of a number."""
        shares = self._shares[lane]
        epoch, place = divmod(draw, int(shares.sum()))
        source, nth = divmod(int(self._mixed(lane, epoch)[place]), 1 << 32) if len(shares) > 1 else (0, place)
        first, last = (int(cut) for cut in self._cuts[lane : lane + 2, source])
        own_pass, place = divmod(epoch * int(shares[source]) + nth, last - first)
        index = int(self._permutation(source, own_pass)[first + place])
        rows = self._rows[source]
        row = rows[index]  # not an int, for which searchsorted would convert all rows first
        return Visit(source=source, row=int(row), epoch=own_pass, draw=index - int(np.searchsorted(rows, row)))

    def _mixed(self, lane: int, epoch: int) -> Int[np.ndarray, " p"]:
        """For each place of a lane's epoch the source (upper 32 bits), and how many places of it came before: each
        source is walked forwards.
        """
        kept = self._kept.get((f"mix{lane}", epoch))
        if kept is None:
            shares = self._shares[lane]
            chance = random.generator(self.seed, "order", f"mix{lane}", epoch)
            source = chance.permutation(np.repeat(np.arange(len(shares)), shares))
            kept = source << 32
            for each in range(len(shares)):
                kept[source == each] += np.arange(shares[each])
            self._keep(f"mix{lane}", epoch, kept)
        return kept

    def _permutation(self, source: int, number: int) -> np.ndarray:
        """The slots of a source in the order of one pass, all lanes one after the other."""
        kept = self._kept.get((f"source{source}", number))
        if kept is None:
            chance = random.generator(self.seed, "order", f"source{source}", number)
            starts, n_slots = self._starts[source], len(self._rows[source])
            if starts is None:
                kept = chance.permutation(n_slots).astype(np.uint32)
            else:
                shards = chance.permutation(len(starts) - 1)
                kept = np.concatenate([np.arange(int(starts[i]), int(starts[i + 1])) for i in shards]).astype(np.uint32)
                for lane in range(self.lanes.n):
                    first, last = (int(cut) for cut in self._cuts[lane : lane + 2, source])
                    early = -(-self._window * (lane + 1) // self.lanes.n)  # so that lanes change windows by turns
                    edges = [first, *range(min(first + early, last), last, self._window), last]
                    for begin, end in itertools.pairwise(edges):
                        chance.shuffle(kept[begin:end])
            self._keep(f"source{source}", number, kept)
        return kept

    def _keep(self, name: str, number: int, made: np.ndarray) -> None:
        """The two newest of each stream are kept, for passes overlap at edges."""
        older = [key for key in self._kept if key[0] == name]
        if len(older) == 2:
            del self._kept[older[0]]
        self._kept[name, number] = made


def _starts(shard: Int[np.ndarray, " n"]) -> Int[np.ndarray, " _"]:
    """First slot of each shard that has any, and the number of all slots."""
    if np.any(np.diff(shard) < 0):
        raise ValueError("rows must come shard by shard")
    return np.concatenate(([0], np.flatnonzero(np.diff(shard)) + 1, [len(shard)]))
