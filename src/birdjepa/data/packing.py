"""Batches of recordings as long as they are, for encoders of waveforms: as much sound in each, and little padding.

Recordings are sorted into buckets of about equal length. A batch is filled from one bucket, up to max_seconds of sound
with its padding, so that short recordings come many at a time and long ones few; all batches of a bucket have the same
shape. Which bucket a batch is of, and which recordings it holds, is a pure function of (seed, batch number): an epoch
has a fixed number of batches of each bucket, in a fresh order.

Axes: b clips | s audio samples
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from birdjepa.core import random
from birdjepa.core.errors import UsageError
from birdjepa.core.failures import Failure
from birdjepa.data.loader import Batches, Clips, LoaderConfig, stretches
from birdjepa.data.manifest import Manifest
from birdjepa.data.order import ExampleOrder


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig:
    """How recordings of different lengths become batches. The longest stretch that is heard is loader.clip_s."""

    max_seconds: float = 120.0
    """Seconds of sound in a batch of one process, padding included."""
    shortest_s: float = 0.1
    """Shorter recordings are left out."""
    buckets: int = 10
    """Lengths that batches come in. More of them pad less, and mix lengths less within a batch."""

    def __post_init__(self) -> None:
        if self.max_seconds <= 0 or self.shortest_s <= 0 or self.buckets < 1:
            raise ValueError(
                f"need max_seconds > 0, shortest_s > 0 and buckets >= 1, got {self.max_seconds}, {self.shortest_s}, "
                f"{self.buckets}"
            )


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Recordings beside each other, each followed by zeros up to the longest that its bucket takes."""

    clips: Float[Tensor, "b s"]
    lengths: Int[Tensor, " b"]
    """Samples of each that are sound."""
    label: Int[Tensor, " b"]
    """As in ClipBatch."""
    recording: Int[Tensor, " b"]
    """As in ClipBatch."""
    refused: tuple[Failure, ...]
    """What was passed over while this batch was made."""

    @property
    def attention_mask(self) -> Bool[Tensor, "b s"]:
        """Where there is sound."""
        return torch.arange(self.clips.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def move(self, device: torch.device) -> "PackedBatch":
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return dataclasses.replace(self, **moved)

    def pin_memory(self) -> "PackedBatch":
        """Called by torch's loader."""
        return dataclasses.replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})


_TENSORS = ("clips", "lengths", "label", "recording")


@dataclasses.dataclass(frozen=True)
class _Bucket:
    """Recordings of about one length."""

    longest_s: float
    n_clips: int
    """Clips of a batch of one process."""
    order: ExampleOrder
    sources: tuple[int, ...]
    """Which of the loader's sources the order's numbers stand for."""
    n_batches: int
    """Batches of all processes in an epoch."""


class PackedClips(Batches[PackedBatch]):
    """Batch number -> batch of one process. Pure in (seed, number), and cheap to send to a worker.

    Recordings longer than loader.clip_s are heard in stretches of it, as often as loader.draw says. With several
    processes each number gives every process a batch of the same shape, with recordings of its own.
    """

    def __init__(
        self,
        sources: Sequence[Manifest],
        weights: Sequence[float],
        config: LoaderConfig,
        pack: PackConfig,
        *,
        sampling_rate: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.pack, self.seed = config, pack, seed
        self.rank, self.world = rank, world
        self._clips = Clips(sources, weights, config, sampling_rate=sampling_rate, batch_size=1, seed=seed)
        lengths = [np.minimum(stretches(source), config.clip_s) for source in self._clips.sources]
        slots = [
            np.where(length >= pack.shortest_s, np.array(visits), 0)
            for length, visits in zip(lengths, self._clips.slots, strict=True)
        ]
        if not sum(int(each.sum()) for each in slots):
            raise UsageError(f"no recording is as long as pack.shortest_s={pack.shortest_s:g} s")
        heard = np.concatenate([np.repeat(length, n) for length, n in zip(lengths, slots, strict=True)])
        bounds = _bounds(heard, pack)
        if bounds[-1] > pack.max_seconds:
            raise UsageError(
                f"pack.max_seconds={pack.max_seconds:g} is less than one recording of {bounds[-1]:g} s: raise it, or "
                "lower loader.clip_s"
            )
        edges = np.array([0.0, *bounds])
        self.buckets = [
            self._bucket(number, float(edges[number + 1]), lengths, slots, weights, edges)
            for number in range(len(bounds))
        ]
        self._kinds = np.repeat(np.arange(len(bounds)), [bucket.n_batches for bucket in self.buckets])
        inside = np.searchsorted(bounds, heard)
        sound = [float(heard[inside == i].mean()) * b.n_batches * b.n_clips for i, b in enumerate(self.buckets)]
        self.padding_share = 1 - sum(sound) / sum(b.n_batches * b.n_clips * b.longest_s for b in self.buckets)
        """Share of the samples in an epoch's batches that is padding, as lengths are told."""

    @property
    def epoch_length(self) -> int:
        """Batches of an epoch."""
        return len(self._kinds)

    @property
    def fetches(self) -> bool:
        return self._clips.fetches

    @property
    def classes(self) -> list[str]:
        return self._clips.classes

    def path(self, recording: int) -> str:
        """Path of a recording by its number."""
        return self._clips.path(recording)

    def batch(self, number: int) -> PackedBatch:
        epoch, place = divmod(number, self.epoch_length)
        kinds = random.generator(self.seed, "order", "packs", epoch).permutation(self._kinds)
        kind = int(kinds[place])
        bucket = self.buckets[kind]
        turn = epoch * bucket.n_batches + int(np.count_nonzero(kinds[:place] == kind))
        first = (turn * self.world + self.rank) * bucket.n_clips
        refused: list[Failure] = []
        n_longest = round(bucket.longest_s * self._clips.sampling_rate)
        clips = torch.zeros(bucket.n_clips, n_longest)
        found = []
        for row, position in enumerate(range(first, first + bucket.n_clips)):
            visit, clip = self._clips.read(bucket.order, position, refused, bucket.sources)
            n_samples = min(len(clip), n_longest)
            clips[row, :n_samples] = torch.from_numpy(clip[:n_samples])
            found.append((n_samples, self._clips.label_of(visit), self._clips.number_of(visit)))
        lengths, label, recording = (torch.tensor(values) for values in zip(*found, strict=True))
        return PackedBatch(clips, lengths, label, recording, tuple(refused))

    def _bucket(
        self,
        number: int,
        longest_s: float,
        lengths: Sequence[np.ndarray],
        slots: Sequence[np.ndarray],
        weights: Sequence[float],
        edges: np.ndarray,
    ) -> _Bucket:
        inside = [
            np.where((length > edges[number]) & (length <= edges[number + 1]), n, 0)
            for length, n in zip(lengths, slots, strict=True)
        ]
        some = [source for source, n in enumerate(inside) if n.sum()]
        n_clips = max(1, int(self.pack.max_seconds / longest_s))
        order = ExampleOrder(
            random.key(self.seed, "bucket", number) >> 1,  # seeds are signed
            [inside[source].tolist() for source in some],
            [weights[source] for source in some],
            shards=[self._clips.sources[source].shard_numbers() for source in some],
            stream=self.config.stream,
            batch=n_clips * self.world,
            cap=self.config.source_cap,
        )
        n_batches = -(-order.epoch_length // (n_clips * self.world))
        return _Bucket(longest_s, n_clips, order, tuple(some), n_batches)


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
