"""Where the loader's time goes: the parts of making a clip, timed one by one on one core, then the loader as it is.

A part is timed on clips of the loader's own order. Bytes are read beforehand, out of the system's cache as far as the
system lets go of them, so that decoding is told from waiting for the disk.
"""

import collections
import copy
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from jaxtyping import Float

from birdjepa.audio import decode
from birdjepa.audio.logmel import at_rate
from birdjepa.audio.recording import AudioInfo, Deferred, Part, Recording, Source
from birdjepa.core import random
from birdjepa.core.errors import AudioError, UsageError
from birdjepa.data import crops
from birdjepa.data.loader import MAX_ATTEMPTS, Clips, batches
from birdjepa.data.order import Visit

PARTS = ("shard", "disk", "open", "decode", "search", "resample", "batch")
"""Parts of a clip: getting its bytes out of a table or from elsewhere, reading them for the first time, opening and
header, seeking and decoding, finding the stretch, bringing it to the model's rate, order and stacking."""
WAITING = ("shard", "disk")
N_LEAST = 12
"""Clips whose parts are timed however long it takes."""
N_TWINS, TWIN_S = 16, 30.0
"""Recordings that are written again as FLAC at the model's rate, and how much of each."""
_MOST_WARMED = 32 << 20
"""Bytes of a recording that are read beforehand."""
_BLOCK = 8_000
"""Samples written at a time: libsndfile's encoders crash on long writes."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What recordings of one container, codec and sampling rate cost."""

    name: str
    """Such as OGG/VORBIS 44.1 kHz."""
    n_clips: int
    ms: dict[str, float]
    """Milliseconds of a clip by part."""

    @property
    def total_ms(self) -> float:
        return sum(self.ms.values())


@dataclasses.dataclass(frozen=True)
class Level:
    """The loader with so many workers."""

    workers: int
    clips_per_s: float
    n_clips: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderBench:
    """What `birdjepa data bench` found."""

    clip_s: float
    sampling_rate: int
    """Of the model, in Hz."""
    n_cores: int
    all_kinds: Kind
    kinds: tuple[Kind, ...]
    """By container, codec and rate, the commonest first."""
    warm_ms: float
    """Reading the bytes of a clip again, from the system's cache."""
    log_mel_ms: float
    """Log-mel of a clip on one core: the training process's work, not the loader's."""
    same_ms: float
    """A clip of some of the recordings as they are, opened and made."""
    flac_ms: float
    """The same clips from FLACs at the model's rate that were made of them."""
    levels: tuple[Level, ...]
    n_refused: int

    @property
    def best(self) -> Level:
        return max(self.levels, key=lambda level: level.clips_per_s)

    @property
    def shares(self) -> dict[str, float]:
        """Of the time of a clip, by part."""
        total = self.all_kinds.total_ms
        return {part: ms / total for part, ms in self.all_kinds.ms.items()}

    def per_core(self, level: Level) -> float:
        """Clips per second for each core that a level kept busy."""
        return level.clips_per_s / max(1, min(level.workers, self.n_cores))

    def to_json(self) -> dict[str, Any]:
        kinds = [{**dataclasses.asdict(kind), "total_ms": kind.total_ms} for kind in (self.all_kinds, *self.kinds)]
        levels = [{**dataclasses.asdict(level), "per_core": self.per_core(level)} for level in self.levels]
        return {**dataclasses.asdict(self), "all_kinds": kinds[0], "kinds": kinds[1:], "levels": levels}


def bench(
    clips: Clips, *, seconds: float, workers: Sequence[int], say: Callable[[str], None] = lambda _: None
) -> LoaderBench:
    """Measures for about so many seconds: two fifths for the parts, the rest for the loader at each number of workers.

    Raises:
      UsageError: if no recording can be read.
      UserError: as `loader.batches`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        say("timing the parts of a clip")
        timed, n_refused = _time_parts(clips, 0.35 * seconds)
        log_mel_ms = _log_mel_ms(clips)
        same_ms, flac_ms = _twins(clips, [each.visit for each in timed], 0.1 * seconds)
        levels = []
        for n in workers:
            say(f"timing the loader with {n} workers")
            levels.append(_time_loader(clips, n, 0.5 * seconds / len(workers)))
    finally:
        torch.set_num_threads(threads)
    by_kind = collections.defaultdict(list)
    for each in timed:
        by_kind[each.kind].append(each)
    kinds = [_kind(name, each) for name, each in sorted(by_kind.items(), key=lambda item: -len(item[1]))]
    return LoaderBench(
        clip_s=clips.config.clip_s,
        sampling_rate=clips.sampling_rate,
        n_cores=n_cores(),
        all_kinds=_together(kinds),
        kinds=tuple(kinds),
        warm_ms=1000 * float(np.mean([each.warm_s for each in timed])),
        log_mel_ms=log_mel_ms,
        same_ms=same_ms,
        flac_ms=flac_ms,
        levels=tuple(levels),
        n_refused=n_refused,
    )


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class _Timed:
    """Seconds of one clip by part."""

    visit: Visit
    kind: str
    seconds: dict[str, float]
    warm_s: float


class _Watched(Recording):
    """A recording that tells how long its header and its decoder took."""

    header_s = 0.0
    decoding_s = 0.0

    def info(self) -> AudioInfo:
        began = time.perf_counter()
        info = super().info()
        self.header_s += time.perf_counter() - began
        return info

    def crop(self, start: int, n_samples: int | None, channel: int | None) -> Float[np.ndarray, " s"]:
        began = time.perf_counter()
        samples = super().crop(start, n_samples, channel)
        self.decoding_s += time.perf_counter() - began
        return samples


def _time_parts(clips: Clips, seconds: float) -> tuple[list[_Timed], int]:
    """Clips in the loader's order until the time is up, and how many could not be read.

    Raises:
      UsageError: if the first ones all cannot.
    """
    timed: list[_Timed] = []
    n_refused, began = 0, time.perf_counter()
    for position in itertools.count():
        try:
            timed.append(_time_clip(clips, position))
        except AudioError as error:
            n_refused += 1
            if len(timed) <= N_LEAST and n_refused >= MAX_ATTEMPTS:
                raise UsageError(
                    f"{n_refused} of the first recordings cannot be read, the last one {error.path}: {error.reason}"
                ) from None
        if len(timed) > N_LEAST and time.perf_counter() - began > seconds:
            return timed[1:], n_refused  # the first one also pays for what is imported late
    raise AssertionError


def _time_clip(clips: Clips, position: int) -> _Timed:
    clock, marks = time.perf_counter, [time.perf_counter()]
    visit = clips.order.visit(position)
    marks.append(clock())
    source = clips.sources[visit.source].source(visit.row)
    held = source.fetch() if isinstance(source, Deferred) else source
    marks.append(clock())
    with Recording(held) as recording:
        info = recording.info()
    cold_s, warm_s = (0.0, 0.0) if isinstance(held, bytes) else _reading(held, info, clips.config.clip_s)
    marks.append(clock())
    recording = _Watched(held)
    with recording:
        marks.append(clock())
        native = _take(clips, visit, recording, clips.config.channel_index)
        marks.append(clock())
    clip = decode.resample(native, info.sampling_rate, clips.sampling_rate)
    marks.append(clock())
    n_samples = round(clips.config.clip_s * clips.sampling_rate)
    np.empty((1, n_samples), np.float32)[0] = crops.fill(clip, n_samples, clips.config.short)
    marks.append(clock())
    order_s, fetch_s, _, open_s, take_s, resample_s, fill_s = np.diff(marks).tolist()
    seconds = {
        "shard": fetch_s if isinstance(source, Deferred) else 0.0,
        "disk": max(0.0, cold_s - warm_s),
        "open": open_s + recording.header_s,
        "decode": recording.decoding_s,
        "search": take_s - recording.header_s - recording.decoding_s,
        "resample": resample_s if info.sampling_rate != clips.sampling_rate else 0.0,
        "batch": order_s + fill_s,
    }
    return _Timed(visit, f"{info.format}/{info.subtype} {info.sampling_rate / 1000:g} kHz", seconds, warm_s)


def _take(clips: Clips, visit: Visit, recording: Recording, channel: int | None) -> Float[np.ndarray, " s"]:
    """The clip of a visit at its recording's own rate."""
    config, source = clips.config, clips.sources[visit.source]
    return crops.take(
        recording,
        recording.sampling_rate,
        random.generator(clips.seed, "stretch", *visit),
        clip_s=config.clip_s,
        onset_s=float(source.onset_s[visit.row]),
        offset_s=float(source.offset_s[visit.row]),
        channel=channel,
        where=config.where,
        events=source.columns["detected_events"][visit.row],
    )


def _reading(held: str | Path | Part, info: AudioInfo, clip_s: float) -> tuple[float, float]:
    """Seconds to read about the bytes that a clip needs: from the disk, as far as the system lets go of them, then from
    memory. Leaves the recording in memory, so that decoding it waits for nothing."""
    path, first, size = (held.file, held.offset, held.size) if isinstance(held, Part) else (Path(held), 0, 0)
    n_bytes = (size or path.stat().st_size) * min(1.0, clip_s / max(info.duration_s, 1e-3))
    middle = first + (size or path.stat().st_size) // 2
    begin = first if info.subtype.startswith("MPEG") else max(first, middle - round(n_bytes / 2))
    times = []
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for _ in range(2):
            began = time.perf_counter()
            file.seek(begin)
            file.read(max(1, middle + round(n_bytes / 2) - begin))
            times.append(time.perf_counter() - began)
        file.seek(first)
        file.read(min(_MOST_WARMED, size or path.stat().st_size))
    return times[0], times[1]


def _kind(name: str, timed: Sequence[_Timed]) -> Kind:
    """Waiting comes in bursts that belong to it, so its mean counts; of work the median, for a core that is taken away
    for a moment says nothing of it."""
    ms = {}
    for part in PARTS:
        seconds = [each.seconds[part] for each in timed]
        ms[part] = 1000 * float(np.mean(seconds) if part in WAITING else np.median(seconds))
    return Kind(name, len(timed), ms)


def _together(kinds: Sequence[Kind]) -> Kind:
    """All kinds as often as they came."""
    n = sum(kind.n_clips for kind in kinds)
    return Kind("all", n, {part: sum(kind.ms[part] * kind.n_clips for kind in kinds) / n for part in PARTS})


def _log_mel_ms(clips: Clips) -> float:
    """A clip's log-mel with the usual settings for the model's rate, on one core; the best of a few batches."""
    front_end = at_rate(clips.sampling_rate).build()
    n_samples = max(front_end.config.window, round(clips.config.clip_s * clips.sampling_rate))
    batch = torch.from_numpy(random.generator(0, "bench").standard_normal((8, n_samples)).astype(np.float32))
    times = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            front_end(batch)
            times.append((time.perf_counter() - began) / len(batch))
    return 1000 * min(times)


def _twins(clips: Clips, visits: Sequence[Visit], seconds: float) -> tuple[float, float]:
    """Milliseconds of a clip from some recordings as they are, and from FLACs at the model's rate made of them."""
    distinct = list({(visit.source, visit.row): visit for visit in visits}.values())[:N_TWINS]
    with tempfile.TemporaryDirectory() as folder:
        pairs = [
            (
                visit,
                clips.sources[visit.source].source(visit.row),
                _write_twin(clips, visit, Path(folder) / f"{i}.flac"),
            )
            for i, visit in enumerate(distinct)
        ]
        times: tuple[list[float], list[float]] = ([], [])
        began = time.perf_counter()
        for draw in itertools.count():
            for visit, *sources in pairs:
                other = visit._replace(epoch=visit.epoch + draw)
                for source, into, channel in zip(sources, times, (clips.config.channel_index, None), strict=True):
                    into.append(_making_s(clips, other, source, channel))
            if time.perf_counter() - began > seconds:
                break
    same, flac = (1000 * float(np.mean(each)) for each in times)
    return same, flac


def _write_twin(clips: Clips, visit: Visit, path: Path) -> Path:
    with Recording(clips.sources[visit.source].source(visit.row)) as recording:
        samples = recording.crop(0, round(TWIN_S * recording.sampling_rate), clips.config.channel_index)
        samples = decode.resample(samples, recording.sampling_rate, clips.sampling_rate)
    with soundfile.SoundFile(path, "w", clips.sampling_rate, 1, subtype="PCM_16") as file:
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])
    return path


def _making_s(clips: Clips, visit: Visit, source: Source, channel: int | None) -> float:
    """Seconds to open a recording and to make a clip of it."""
    began = time.perf_counter()
    with Recording(source) as recording:
        decode.resample(_take(clips, visit, recording, channel), recording.sampling_rate, clips.sampling_rate)
    return time.perf_counter() - began


def _time_loader(clips: Clips, workers: int, seconds: float) -> Level:
    """The loader with so many workers, from the moment when all of them have delivered."""
    shown = copy.copy(clips)
    shown.config = dataclasses.replace(clips.config, workers=workers, pin_memory=False)
    n_warm = max(1, workers * (clips.config.prefetch + 1))
    n_clips, began = 0, 0.0
    feed = batches(shown, 0, 1 << 31)
    for number, batch in enumerate(feed):
        if number == n_warm:
            began = time.perf_counter()
        elif number > n_warm:
            n_clips += len(batch.clips)
            if time.perf_counter() - began > seconds:
                break
    taken = time.perf_counter() - began
    feed.close()
    return Level(workers, n_clips / taken, n_clips)
