"""Batches of clips: decode only the crop, in worker processes, in an order that no number of workers can change.

One item of the loader is one whole batch, made by one worker as a pure function of (seed, batch number). There is
nothing to save: a resumed run asks for the next number.

Axes: b clips | s audio samples
"""

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
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch.utils.data import DataLoader, Dataset

from birdjepa.audio import decode
from birdjepa.core import random
from birdjepa.core.batch import ClipBatch, Refusal
from birdjepa.core.errors import AudioError, UsageError, UserError
from birdjepa.data.manifest import Manifest
from birdjepa.data.order import ExampleOrder, Visit

MAX_ATTEMPTS = 20
"""Examples tried for one position before the run gives up."""
LONGEST_S = 86_400.0
"""Recordings that claim to be longer than a day get the visits of a day: a damaged header may claim anything."""
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
STUCK_S = 300
"""Seconds without a batch after which the workers are given up."""


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
    short: Literal["repeat", "silence"] = "repeat"
    """Recordings shorter than clip_s are repeated, or followed by digital silence."""
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
        if self.clip_s <= 0 or self.workers < 0 or self.prefetch < 1 or not 0 <= self.max_refused < 1:
            raise ValueError(
                "need clip_s > 0 seconds, workers >= 0, prefetch >= 1, 0 <= max_refused < 1; got "
                f"{self.clip_s}, {self.workers}, {self.prefetch}, {self.max_refused}"
            )

    @property
    def channel_index(self) -> int | None:
        return None if self.channel == "mean" else int(self.channel)


class Clips(Dataset[ClipBatch | UserError]):
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
        if batch_size % world:
            raise ValueError(f"batch_size={batch_size} clips must be a multiple of the {world} processes")
        self.config = config
        self.sampling_rate = sampling_rate
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.world = rank, world
        whole = config.examples == "recordings"
        self.sources = [source.recordings() if whole else source for source in sources]
        self.classes = sorted({label for source in self.sources for row in labels_of(source) for label in row})
        self.order = ExampleOrder(seed, [self._slots(source) for source in self.sources], weights)
        self._first = np.cumsum([0, *(len(source) for source in self.sources)])
        self._class_number = {label: number for number, label in enumerate(self.classes)}

    @property
    def n_recordings(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, number: int) -> ClipBatch | UserError:
        """What a worker sends: the batch, or the error that ends the run, which torch would turn into a traceback."""
        try:
            return self.batch(number)
        except UserError as error:
            return error

    def batch(self, number: int) -> ClipBatch:
        """This process's clips of the batch of a number (0, 1, 2, ... without end).

        Raises:
          UserError: if an example and all its substitutes cannot be read.
        """
        refused: list[Refusal] = []
        n_own = self.batch_size // self.world
        first = number * self.batch_size + self.rank * n_own
        positions = range(first, first + n_own)
        read = [self._read(position, refused) for position in positions]
        visits = [visit for visit, _ in read]
        labels = torch.zeros(len(visits), len(self.classes), dtype=torch.bool)
        for row, visit in enumerate(visits):
            labels[row, [self._class_number[name] for name in row_labels(self.sources[visit.source], visit.row)]] = True
        return ClipBatch(
            clips=torch.from_numpy(np.stack([clip for _, clip in read])),
            label=torch.tensor([self._label(visit) for visit in visits]),
            labels=labels,
            recording=torch.tensor([int(self._first[visit.source]) + visit.row for visit in visits]),
            refused=tuple(refused),
        )

    def path(self, recording: int) -> str:
        """Path of a recording by its number."""
        source = int(np.searchsorted(self._first, recording, side="right")) - 1
        return str(self.sources[source].path(recording - int(self._first[source])))

    def _read(self, position: int, refused: list[Refusal]) -> tuple[Visit, Float[np.ndarray, " s"]]:
        """The clip at a position, or its first readable substitute."""
        visit = self.order.visit(position)
        for attempt in range(MAX_ATTEMPTS):
            try:
                return visit, self._clip(visit)
            except AudioError as error:
                refused.append(Refusal(error.path, error.offset_s, error.reason))
                visit = self.order.substitute(position, attempt)
        raise UserError(
            f"{MAX_ATTEMPTS} recordings in a row cannot be read, the last one {refused[-1].path}: "
            f"{refused[-1].reason}; `birdjepa data scan` lists them all"
        )

    def _clip(self, visit: Visit) -> Float[np.ndarray, " s"]:
        """A random stretch of the visited example at the sampling rate, exactly clip_s long."""
        config, source = self.config, self.sources[visit.source]
        path = source.path(visit.row)
        chance = random.generator(self.seed, "stretch", visit.source, visit.row, visit.epoch, visit.draw)
        first, last = room(
            decode.probe(path).duration_s,
            float(source.onset_s[visit.row]),
            float(source.offset_s[visit.row]),
            config.clip_s,
        )
        offset_s = chance.uniform(first, last)
        clip = decode.read_clip(
            path, self.sampling_rate, offset_s=offset_s, duration_s=config.clip_s, channel=config.channel_index
        )
        return fill(clip, round(config.clip_s * self.sampling_rate), config.short)

    def _label(self, visit: Visit) -> int:
        """The class in `label`, or the only one of `labels`; -1 where there is none, or no one of them."""
        source = self.sources[visit.source]
        names = row_labels(source, visit.row)
        first = source.columns["label"][visit.row] if len(names) != 1 else names[0]
        return self._class_number.get(first, -1)

    def _slots(self, source: Manifest) -> list[int]:
        if self.config.draw == "recording":
            return [1] * len(source)
        if self.config.draw == "class":
            return balanced_visits(labels_of(source))
        end_s = np.where(np.isnan(source.offset_s), durations(source), source.offset_s)
        return [max(1, round(min(s, LONGEST_S) / self.config.clip_s)) for s in (end_s - source.onset_s).tolist()]


def room(length_s: float, onset_s: float, offset_s: float, clip_s: float) -> tuple[float, float]:
    """First and last start of a clip in seconds: inside [onset, offset), or around it where that is shorter than the
    clip, as far as the recording goes. offset_s is NaN for "up to the end".
    """
    end_s = length_s if np.isnan(offset_s) else min(offset_s, length_s)
    inside = (onset_s, end_s - clip_s) if end_s - onset_s >= clip_s else (end_s - clip_s, onset_s)
    latest = max(0.0, length_s - clip_s)
    return min(max(0.0, inside[0]), latest), min(max(0.0, inside[1]), latest)


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


def fill(clip: Float[np.ndarray, " _"], n_samples: int, short: Literal["repeat", "silence"]) -> Float[np.ndarray, " s"]:
    """A clip of exactly n_samples: longer ones are cut, shorter ones repeated or followed by zeros."""
    if len(clip) >= n_samples:
        return clip[:n_samples]
    if short == "repeat":
        return np.resize(clip, n_samples)
    return np.concatenate((clip, np.zeros(n_samples - len(clip), dtype=clip.dtype)))


def durations(source: Manifest) -> list[float]:
    """Length of each recording in seconds: as the manifest says, else from the file's header; 0 for one that cannot be
    opened.
    """

    def length(row: int) -> float:
        if not np.isnan(source.duration_s[row]):
            return float(source.duration_s[row])
        try:
            return decode.probe(source.path(row)).duration_s
        except AudioError:
            return 0.0  # visited once, refused there, with its reason

    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(length, range(len(source))))


def batches(clips: Clips, first: int, last: int) -> Generator[ClipBatch, None, None]:
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
        timeout=STUCK_S if config.workers else 0,
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
