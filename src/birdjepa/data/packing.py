"""Batches of recordings as long as they are, for encoders of waveforms: as much sound in each, and little padding.

Recordings are sorted into buckets of about equal length. A batch is filled from one bucket with as much sound (its
padding included) as batch_size clips of the full length have, so that short recordings come more at a time; all batches
of a bucket have the same shape. Which bucket a batch is of, and which recordings it holds, is a pure function of
(seed, batch number): an epoch has a fixed number of batches of each bucket, in a fresh order.

Axes: b clips | s audio samples
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import UsageError
from birdjepa.core.failures import Failure
from birdjepa.data.lengths import stretches
from birdjepa.data.loader import Among, Batches, Clips, LoaderConfig, shared_out
from birdjepa.data.manifest import Manifest
from birdjepa.data.order import ExampleOrder


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How recordings of different lengths become batches. The longest stretch that is heard is loader.clip_s."""

    shortest_s: float = 0.1
    """Shorter recordings are left out."""
    buckets: int = 10
    """Lengths that batches come in. More of them pad less, and mix lengths less within a batch."""

    def __post_init__(self) -> None:
        if self.shortest_s <= 0 or self.buckets < 1:
            raise ValueError(f"need shortest_s > 0 and buckets >= 1, got {self.shortest_s}, {self.buckets}")


@dataclasses.dataclass(frozen=True)
class _Bucket:
    """Recordings of about one length."""

    among: Among
    n_clips: int
    """Clips of a batch of one process."""
    order: ExampleOrder
    n_batches: int
    """Batches of all processes in an epoch."""


class PackedClips(Batches):
    """Batch number -> batch of one process. Pure in (seed, number), and cheap to send to a worker.

    Recordings longer than loader.clip_s are heard in stretches of it, as often as loader.draw says; shorter ones are
    followed by zeros up to the longest that their bucket takes, whatever loader.short says, unless that is "skip". With
    several processes each number gives every process a batch of the same shape, with recordings of its own.
    """

    def __init__(
        self,
        sources: Sequence[Manifest],
        weights: Sequence[float],
        config: LoaderConfig,
        pack: PackConfig,
        *,
        sampling_rate: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.pack, self.seed = config, pack, seed
        self.n_own = shared_out(batch_size, world)
        """Clips of this process in a batch, if they are of the full length."""
        self.rank, self.world = rank, world
        self._clips = Clips(sources, weights, config, sampling_rate=sampling_rate, batch_size=1, seed=seed)
        self.sources, self.classes = self._clips.sources, self._clips.classes
        lengths, slots = self._heard()
        totals = np.array([int(each.sum()) for each in slots])
        rates = np.array(weights) * totals.sum() / (np.array(weights) * totals).sum()
        if config.source_cap:
            rates = np.minimum(rates, config.source_cap / np.maximum(totals, 1))
        heard = np.concatenate([np.repeat(length, n) for length, n in zip(lengths, slots, strict=True)])
        bounds = _bounds(heard, pack)
        edges = np.array([0.0, *bounds])
        self.buckets = [self._bucket(number, edges, lengths, slots, rates) for number in range(len(bounds))]
        self._kinds = np.repeat(np.arange(len(bounds)), [bucket.n_batches for bucket in self.buckets])
        inside, often = np.searchsorted(bounds, heard), np.repeat(rates, totals)
        means = [np.average(heard[inside == number], weights=often[inside == number]) for number in range(len(bounds))]
        n_clips = np.array([bucket.n_batches * bucket.n_clips for bucket in self.buckets])
        self.padding_share = 1 - float(n_clips @ means) / float(n_clips @ bounds)
        """Share of the samples in an epoch's batches that is padding, as lengths are told."""

    @property
    def epoch_length(self) -> int:
        """Batches of an epoch."""
        return len(self._kinds)

    @property
    def clips_per_epoch(self) -> int:
        return sum(bucket.n_batches * bucket.n_clips for bucket in self.buckets) * self.world

    @property
    def fetches(self) -> bool:
        return self._clips.fetches

    def path(self, recording: int) -> str:
        return self._clips.path(recording)

    def batch(self, number: int) -> ClipBatch:
        epoch, place = divmod(number, self.epoch_length)
        kinds = random.generator(self.seed, "order", "packs", epoch).permutation(self._kinds)
        kind = int(kinds[place])
        bucket = self.buckets[kind]
        turn = epoch * bucket.n_batches + int(np.count_nonzero(kinds[:place] == kind))
        first = (turn * self.world + self.rank) * bucket.n_clips
        refused: list[Failure] = []
        positions = range(first, first + bucket.n_clips)
        read = [self._clips.read(bucket.order, position, refused, bucket.among) for position in positions]
        return self._clips.together(read, bucket.among.longest_s, "silence", refused)

    def _heard(self) -> tuple[list[Float[np.ndarray, " n"]], list[Int[np.ndarray, " n"]]]:
        """Seconds that are heard of each row of each source at a time, and how often in a pass over it.

        Rows that cannot be opened have no length: they are taken for the shortest, to be refused when they are read.

        Raises:
          UsageError: if nothing is heard.
        """
        shortest_s = self.pack.shortest_s
        lengths = [np.minimum(stretches(source), self.config.clip_s) for source in self.sources]
        long_enough = [length[length >= shortest_s] for length in lengths]
        if not sum(map(len, long_enough)):
            raise UsageError(f"no recording is as long as pack.shortest_s={shortest_s:g} s")
        least = float(np.concatenate(long_enough).min())
        lengths = [np.where(length > 0, length, least) for length in lengths]
        visits = zip(lengths, self._clips.slots, strict=True)
        return lengths, [np.where(length >= shortest_s, np.array(n), 0) for length, n in visits]

    def _bucket(
        self,
        number: int,
        edges: Float[np.ndarray, " _"],
        lengths: Sequence[Float[np.ndarray, " _n"]],
        slots: Sequence[Int[np.ndarray, " _n"]],
        rates: Float[np.ndarray, " k"],
    ) -> _Bucket:
        """The bucket of a number; rates are visits of each source's slots per epoch."""
        longest_s = float(edges[number + 1])
        inside = [
            np.where((length > edges[number]) & (length <= longest_s), n, 0)
            for length, n in zip(lengths, slots, strict=True)
        ]
        some = [source for source, n in enumerate(inside) if n.sum()]
        n_clips = int(self.n_own * (self.config.clip_s / longest_s))
        order = ExampleOrder(
            random.key(self.seed, "bucket", number) >> 1,  # seeds are signed
            [inside[source].tolist() for source in some],
            [float(rates[source]) for source in some],
            shards=[self.sources[source].shard_numbers() for source in some],
            stream=self.config.stream,
            batch=n_clips * self.world,
        )
        n_visits = sum(rates[source] * inside[source].sum() for source in some)
        n_batches = math.ceil(round(n_visits, 6) / (n_clips * self.world))
        return _Bucket(Among(tuple(some), longest_s), n_clips, order, n_batches)


def _bounds(heard: Float[np.ndarray, " n"], pack: PackConfig) -> list[float]:
    """Longest length of each bucket in seconds, rising: those that pad least, of the lengths that there are.

    Found by dynamic programming over at most 200 candidate lengths, so that no bucket's worth of padding is wasted on
    lengths that few recordings have.
    """
    candidates = np.unique(np.quantile(heard, np.linspace(0, 1, 200), method="higher"))
    counts = np.diff(np.searchsorted(np.sort(heard), candidates, side="right"), prepend=0)
    before = np.concatenate(([0], np.cumsum(counts)))
    n = len(candidates)
    best = np.full((min(pack.buckets, n) + 1, n + 1), np.inf)
    chosen = np.zeros(best.shape, dtype=int)
    best[0, 0] = 0.0
    for used in range(1, len(best)):
        for end in range(1, n + 1):
            padded = best[used - 1, :end] + candidates[end - 1] * (before[end] - before[:end])
            chosen[used, end] = int(np.argmin(padded))
            best[used, end] = padded[chosen[used, end]]
    used, end, bounds = int(np.argmin(best[:, n])), n, []
    while end:
        bounds.append(float(candidates[end - 1]))
        used, end = used - 1, int(chosen[used, end])
    return bounds[::-1]
