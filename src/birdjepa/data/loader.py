"""Batches of clips: decode only the crop, in worker processes, in an order that no number of workers can change.

One item of the loader is one whole batch, made by one worker as a pure function of (seed, batch number). There is
nothing to save: a resumed run asks for the next number.

Axes: b clips | s audio samples
"""

import abc
import collections
import contextlib
import ctypes
import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch.utils.data import DataLoader, Dataset

from birdjepa.audio.recording import Recording
from birdjepa.core import random
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import AudioError, UsageError, UserError
from birdjepa.core.failures import Failure
from birdjepa.data import crops
from birdjepa.data.lengths import durations, stretches
from birdjepa.data.lookahead import Lookahead, require_room
from birdjepa.data.manifest import Manifest
from birdjepa.data.order import ExampleOrder, StreamConfig, Visit

MAX_ATTEMPTS = 20
"""Examples tried for one position before the run gives up."""
LONGEST_S = 86_400.0
"""Recordings that claim to be longer than a day get the visits of a day: a damaged header may claim anything."""
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
STUCK_S = 300
"""Seconds without a batch after which the workers are given up."""
FETCHING_S = 3600
"""The same where shards are fetched from another machine, which gives up by itself when nothing comes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How recordings become batches."""

    clip_s: float = 6.0
    """Length of the stretch that is decoded and from which all views are taken, in seconds."""
    draw: Literal["duration", "recording", "class"] = "duration"
    """How often a recording is visited per epoch: once for each clip_s of its length, once, or so often that all
    classes come equally often (a row with several by its rarest one; rows without a label never)."""
    examples: Literal["recordings", "segments"] = "recordings"
    """recordings: rows of one file are one example; segments: each row is one, heard between its onset and offset."""
    where: crops.Where = "anywhere"
    """Where in an example a clip is taken. anywhere: each stretch is as likely; energy: the liveliest of three clips in
    a row; events: around one of those in the manifest's detected_events, or anywhere where there are none."""
    short: crops.Short = "repeat"
    """Recordings shorter than clip_s are repeated, followed by digital silence, or not heard at all."""
    most_visits: int = 0
    """Most visits of one recording per epoch, however long it is; 0 for no limit."""
    source_cap: int = 0
    """Most clips of one DATA per epoch, the rest coming in the next ones; 0 for no limit."""
    stream: StreamConfig = StreamConfig()
    """Shuffling of Parquet shards and data sets of the Hub."""
    channel: Literal["mean", "0", "1", "2", "3"] = "mean"
    """Mean over channels, or the channel of that number."""
    workers: int = 0
    """Processes that decode; 0 decodes in the training process."""
    prefetch: int = 2
    """Batches that each worker keeps ready."""
    pin_memory: bool = False
    """Page-locked batches, for faster copies to a GPU."""
    max_refused: float = 0.05
    """Share of examples that may be unreadable before the run stops."""

    def __post_init__(self) -> None:
        if self.most_visits < 0 or self.source_cap < 0:
            raise ValueError(f"most_visits and source_cap must be >= 0, got {self.most_visits}, {self.source_cap}")
        if self.clip_s <= 0 or self.workers < 0 or self.prefetch < 1 or not 0 <= self.max_refused < 1:
            raise ValueError(
                "need clip_s > 0 seconds, workers >= 0, prefetch >= 1, 0 <= max_refused < 1; got "
                f"{self.clip_s}, {self.workers}, {self.prefetch}, {self.max_refused}"
            )

    @property
    def channel_index(self) -> int | None:
        return None if self.channel == "mean" else int(self.channel)


class Heard(NamedTuple):
    """What was read for one position."""

    visit: Visit
    clip: Float[np.ndarray, " s"]


class Among(NamedTuple):
    """Some of a loader's examples, which are no longer than longest_s."""

    sources: tuple[int, ...]
    """Which of the loader's sources the numbers of an order stand for."""
    longest_s: float


class Batches(Dataset[ClipBatch | UserError], abc.ABC):
    """Batch number -> batch."""

    config: LoaderConfig
    sources: list[Manifest]
    """What is heard, with the lengths that were looked up."""
    classes: list[str]
    """Names of the classes, in the order of their numbers."""

    @property
    def n_recordings(self) -> int:
        """Recordings (or segments) of all sources; those that are never heard count too."""
        return sum(map(len, self.sources))

    @property
    @abc.abstractmethod
    def clips_per_epoch(self) -> int:
        """Clips of all processes in one pass over the sources."""

    @property
    @abc.abstractmethod
    def fetches(self) -> bool:
        """Whether recordings come from another machine."""

    @abc.abstractmethod
    def path(self, recording: int) -> str:
        """Path of a recording by its number."""

    @abc.abstractmethod
    def batch(self, number: int) -> ClipBatch:
        """This process's part of the batch of a number (0, 1, 2, ... without end).

        Raises:
          UserError: if an example and all its substitutes cannot be read.
        """

    def __getitem__(self, number: int) -> ClipBatch | UserError:
        """What a worker sends: the batch, or the error that ends the run, which torch would turn into a traceback."""
        try:
            return self.batch(number)
        except UserError as error:
            return error


class Clips(Batches):
    """Batch number -> batch, or this process's clips of it. Pure in (seed, number), and cheap to send to a worker.

    With several processes a batch is cut into as many parts of equal length, by its order: no clip comes twice.
    """

    def __init__(
        self,
        sources: Sequence[Manifest],
        weights: Sequence[float],
        config: LoaderConfig,
        *,
        sampling_rate: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.n_own = shared_out(batch_size, world)
        """Clips of this process in a batch."""
        self.config = config
        self.sampling_rate = sampling_rate
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        whole = config.examples == "recordings"
        self.sources = [(source.recordings() if whole else source).by_shard() for source in sources]
        if config.draw == "duration" or config.short == "skip":  # so that headers are read once
            self.sources = [dataclasses.replace(source, duration_s=durations(source)) for source in self.sources]
        self.classes = sorted({label for source in self.sources for row in labels_of(source) for label in row})
        self.slots = [self._slots(source) for source in self.sources]
        """For each source, how often each row is visited in a pass over it."""
        self.order = ExampleOrder(
            seed,
            self.slots,
            weights,
            shards=[source.shard_numbers() for source in self.sources],
            stream=config.stream,
            batch=batch_size,
            cap=config.source_cap,
        )
        self._first = np.cumsum([0, *(len(source) for source in self.sources)])
        self._class_number = {label: number for number, label in enumerate(self.classes)}
        self._ahead: Lookahead | None = None
        if self.fetches:
            require_room(self.sources, self.order, config.stream, world)
            self._ahead = Lookahead(self.sources, self.order, batch_size, rank, world)

    @property
    def fetches(self) -> bool:
        return any(source.shards is not None and not source.shards.at_hand for source in self.sources)

    @property
    def clips_per_epoch(self) -> int:
        return self.order.epoch_length

    def batch(self, number: int) -> ClipBatch:
        if self._ahead is not None:
            self._ahead.reach(number)
        refused: list[Failure] = []
        first = number * self.batch_size + self.rank * self.n_own
        positions = range(first, first + self.n_own)
        read = [self.read(self.order, position, refused) for position in positions]
        return self.together(read, self.config.clip_s, self.config.short, refused)

    def together(
        self, read: Sequence[Heard], longest_s: float, short: crops.Short, refused: Sequence[Failure]
    ) -> ClipBatch:
        """A batch of what was read, each cut or filled to longest_s seconds."""
        n_samples = round(longest_s * self.sampling_rate)
        visits = [visit for visit, _ in read]
        labels = torch.zeros(len(visits), len(self.classes), dtype=torch.bool)
        for row, visit in enumerate(visits):
            labels[row, [self._class_number[name] for name in row_labels(self.sources[visit.source], visit.row)]] = True
        sound = [min(len(clip), n_samples) if short == "silence" else n_samples for _, clip in read]
        return ClipBatch(
            clips=torch.from_numpy(np.stack([crops.fill(clip, n_samples, short) for _, clip in read])),
            lengths=torch.tensor(sound),
            label=torch.tensor([self._label_of(visit) for visit in visits]),
            labels=labels,
            recording=torch.tensor([int(self._first[visit.source]) + visit.row for visit in visits]),
            refused=tuple(refused),
        )

    def path(self, recording: int) -> str:
        source = int(np.searchsorted(self._first, recording, side="right")) - 1
        return str(self.sources[source].path(recording - int(self._first[source])))

    def read(self, order: ExampleOrder, position: int, refused: list[Failure], among: Among | None = None) -> Heard:
        """What is heard at a position of an order, or its first readable substitute: clip_s, less where the recording
        is shorter.

        Args:
          among: what the order is of, where that is not all of the loader's examples; segments are then heard as long
            as they are.

        Raises:
          UserError: if an example and all its substitutes cannot be read.
        """
        visit = order.visit(position)
        for attempt in range(MAX_ATTEMPTS):
            visit = visit._replace(source=among.sources[visit.source]) if among else visit
            try:
                return Heard(visit, self._stretch(visit, among))
            except AudioError as error:
                refused.append(Failure(error.path, "decode", error.offset_s, error.reason))
                visit = order.substitute(position, attempt)
        raise UserError(
            f"{MAX_ATTEMPTS} recordings in a row cannot be read, the last one {refused[-1].path}: "
            f"{refused[-1].reason}; `birdjepa data scan` lists them all"
        )

    def _stretch(self, visit: Visit, among: Among | None) -> Float[np.ndarray, " s"]:
        """A stretch of the visited example at the sampling rate."""
        config, source = self.config, self.sources[visit.source]
        onset_s, offset_s = float(source.onset_s[visit.row]), float(source.offset_s[visit.row])
        clip_s = float(np.fmin(among.longest_s, offset_s - onset_s)) if among else config.clip_s
        chance = random.generator(self.seed, "stretch", visit.source, visit.row, visit.epoch, visit.draw)
        with Recording(source.source(visit.row)) as recording:
            return crops.take(
                recording,
                self.sampling_rate,
                chance,
                clip_s=clip_s,
                onset_s=onset_s,
                offset_s=offset_s,
                channel=config.channel_index,
                where=config.where,
                events=source.columns["detected_events"][visit.row],
            )

    def _label_of(self, visit: Visit) -> int:
        """The class in `label`, or the only one of `labels`; -1 where there is none, or no one of them."""
        source = self.sources[visit.source]
        names = row_labels(source, visit.row)
        first = source.columns["label"][visit.row] if len(names) != 1 else names[0]
        return self._class_number.get(first, -1)

    def _slots(self, source: Manifest) -> list[int]:
        """Visits of each row per pass over the source.

        Raises:
          UsageError: if no row is visited.
        """
        config = self.config
        if config.draw == "recording":
            slots = [1] * len(source)
        elif config.draw == "class":
            slots = balanced_visits(labels_of(source))
        else:
            slots = [max(1, round(min(s, LONGEST_S) / config.clip_s)) for s in stretches(source).tolist()]
        if config.most_visits:
            slots = [min(n, config.most_visits) for n in slots]
        if config.short == "skip":
            slots = [n if s >= config.clip_s else 0 for n, s in zip(slots, stretches(source).tolist(), strict=True)]
        if not any(slots):
            raise UsageError(f"{source.name}: all recordings are shorter than loader.clip_s={config.clip_s:g} s")
        return slots


def shared_out(batch_size: int, world: int) -> int:
    """Clips of a batch that each process gets.

    Raises:
      ValueError: if they do not get equally many.
    """
    if batch_size % world:
        raise ValueError(f"batch_size={batch_size} clips must be a multiple of the {world} processes")
    return batch_size // world


def labels_of(source: Manifest) -> list[list[str]]:
    """Classes of each row, from its `label` and its `labels` separated by ';'."""
    return [row_labels(source, row) for row in range(len(source))]


def row_labels(source: Manifest, row: int) -> list[str]:
    """Classes of one row, each once, in the manifest's order."""
    text = f"{source.columns['label'][row]};{source.columns['labels'][row]}"
    return list(dict.fromkeys(label for part in text.split(";") if (label := part.strip())))


def balanced_visits(labels: Sequence[Sequence[str]]) -> list[int]:
    """Visits per epoch so that classes come about equally often: the commonest class's rows once, rarer ones more."""
    counts = collections.Counter(label for row in labels for label in row)
    if not counts:
        raise UsageError('loader.draw="class" needs labels, and the data has none')
    commonest = max(counts.values())
    return [round(commonest / min(counts[label] for label in row)) if row else 0 for row in labels]


def batches(clips: Batches, first: int, last: int) -> Generator[ClipBatch, None, None]:
    """Batches number first to last - 1, from worker processes where the configuration asks for them.

    Raises:
      UsageError: if memory is to be pinned and there is no GPU.
      UserError: if nothing can be read any more, or a worker died or hangs.
    """
    config = clips.config
    if config.pin_memory and not torch.cuda.is_available():
        raise UsageError("loader.pin_memory is for copies to a CUDA GPU, and there is none: leave it False")
    loader = DataLoader(
        clips,
        batch_size=None,
        sampler=range(first, last),
        num_workers=config.workers,
        prefetch_factor=config.prefetch if config.workers else None,
        pin_memory=config.pin_memory,
        worker_init_fn=functools.partial(_prepare_worker, os.getpid()),
        timeout=(FETCHING_S if clips.fetches else STUCK_S) if config.workers else 0,
        generator=torch.Generator(),  # unused, but without it torch draws from its global one
    )
    with _reaped(), worker_errors():
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Turns what torch raises when a worker dies or hangs into one line.

    Torch raises it from a signal handler, thus anywhere in the training process: hold this around the whole loop.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:  # the pipe of a killed worker may break first
        if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"a process that decodes recordings failed: {reason} Go on with --resume; `birdjepa data scan` finds "
            "recordings that crash or hang the decoder, and loader.workers=0 needs no such processes"
        ) from error


@contextlib.contextmanager
def _reaped() -> Iterator[None]:
    """Kills the workers that are still there in the end: they ignore SIGTERM, and one that hangs would never leave."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for child in set(multiprocessing.active_children()) - before:
            child.join(timeout=1)
            child.kill()


def _prepare_worker(parent: int, number: int) -> None:
    """Signals are the training process's business: a worker that dies of one would lose the save that it asks for.

    It dies with that process. Torch looks every 5 s whether the parent is still the one that the worker began with,
    and takes whoever adopts an orphan for it where the parent was killed while its workers started.
    """
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.nice(1)
