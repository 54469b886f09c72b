"""What a data set is made of: lengths, formats, levels, labels, its parts and what they share, and some examples.

Rows and labels are counted from the manifest, all of them. Lengths are the manifest's where it tells them all, else the
headers'. Rates, channels, formats and levels are of a sample, drawn from the seed, so that a large data set is looked
at in seconds.

Axes: n recordings | k clips | s samples | t frames | m mels
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from birdjepa.audio import decode
from birdjepa.audio.examine import CLIPPED_SHARE, FULL_SCALE, SILENT
from birdjepa.audio.logmel import LogMelConfig, at_rate
from birdjepa.audio.recording import AudioInfo, Recording
from birdjepa.core import random
from birdjepa.core.errors import AudioError
from birdjepa.data.loader import labels_of
from birdjepa.data.manifest import Manifest

T = TypeVar("T")
Progress = Callable[[int, int], None]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
QUIET_DB = -60.0
"""Frames of 20 ms below it, in dB of full scale, count as quiet."""
PARTED_BY = ("split", "fold")
MOST_PARTS = 12
"""Parts between which shared labels are counted."""
MOST_NAMED = 50
"""Groups that lie in several parts that are named."""
N_THREADS = 8
_FRAME_S = 0.02
_HIGHEST_SHOWN = 256_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """How much is looked at."""

    n_headers: int = 2000
    """Recordings whose headers tell rates, channels and formats; all are read where the manifest lacks durations."""
    n_levels: int = 300
    """Recordings of which a stretch is decoded for its level."""
    level_s: float = 10.0
    """Length of that stretch in seconds."""
    few: int = 5
    """Classes with fewer rows than this are counted as rare."""
    n_shown: int = 14
    """Classes of which examples are shown: mostly the commonest, and some of the rarest."""
    n_examples: int = 3
    """Examples of each."""
    example_s: float = 3.0
    """Length of an example in seconds."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_headers, self.n_levels, self.few, self.n_shown, self.n_examples) < 1:
            raise ValueError(
                "n_headers, n_levels, few, n_shown and n_examples must be at least 1, got "
                f"{self.n_headers}, {self.n_levels}, {self.few}, {self.n_shown}, {self.n_examples}"
            )
        if self.level_s <= 0 or self.example_s < 0.1:
            raise ValueError(f"need level_s > 0 and example_s >= 0.1 seconds, got {self.level_s:g}, {self.example_s:g}")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Loudness:
    """Levels of the sampled stretches."""

    rms_db: Float[np.ndarray, " k"]
    """Root mean square in dB of full scale; a sine of full scale has -3. Digital silence is left out."""
    peak_db: Float[np.ndarray, " k"]
    quiet: float
    """Share of all frames below `QUIET_DB`."""
    n_silent: int
    """Stretches without any sound."""
    n_clipped: int
    """Stretches that stick to full scale."""
    n: int
    """Stretches that were looked at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a column (split or fold) cuts the rows into."""

    column: str
    rows: Mapping[str, int]
    """Rows by part; '' are those that lie in none."""
    groups: Mapping[str, int]
    classes: Mapping[str, int]
    shared: Mapping[tuple[str, str], int]
    """Classes of the first part that the second has too; empty where there are more parts than `MOST_PARTS`."""
    n_crossing: int
    """Groups that lie in several parts: what is tested was heard in training."""
    n_crossing_rows: int
    crossing: tuple[tuple[str, tuple[str, ...]], ...]
    """The first of them, and the parts of each."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Example:
    """A stretch of a recording as a spectrogram."""

    label: str
    """Empty where there is none."""
    recording: str
    start_s: float
    span: tuple[float, float] | None
    """Where its labelled segment lies in it, in shares of its width; None for a whole recording."""
    frames: Float[np.ndarray, "t m"]
    """dB."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DataStats:
    """All that `birdjepa data stats` tells."""

    name: str
    config: StatsConfig
    n_rows: int
    n_recordings: int
    duration_s: Float[np.ndarray, " n"]
    """Of the recordings whose length is known."""
    durations_from: str
    """Manifest or headers."""
    n_headers: int
    """Headers that were read and made sense."""
    sampling_rates: Mapping[str, int]
    channels: Mapping[str, int]
    formats: Mapping[str, int]
    loudness: Loudness
    labels: Mapping[str, int]
    """Rows of each class, the commonest first."""
    n_unlabelled: int
    n_multilabel: int
    """Rows with several classes."""
    parts: tuple[Parts, ...]
    examples: tuple[Example, ...]
    front_end: LogMelConfig
    """Of the examples."""
    refused: tuple[tuple[str, str], ...]
    """Rows and recordings that could not be used, and why; of recordings only those that were looked at."""

    @property
    def hours(self) -> float:
        """Of all recordings; scaled up where not every length is known."""
        known = len(self.duration_s)
        return float(self.duration_s.sum()) / 3600 * (self.n_recordings / known if known else 0.0)

    @property
    def rare(self) -> list[str]:
        """Classes with fewer rows than config.few."""
        return [label for label, n in self.labels.items() if n < self.config.few]

    def to_json(self) -> dict[str, Any]:
        loudness = self.loudness
        return {
            "name": self.name,
            "n_rows": self.n_rows,
            "n_recordings": self.n_recordings,
            "hours": self.hours,
            "duration_quantiles_s": quantiles(self.duration_s),
            "durations_from": self.durations_from,
            "n_headers": self.n_headers,
            "sampling_rates": dict(self.sampling_rates),
            "channels": dict(self.channels),
            "formats": dict(self.formats),
            "levels": {
                "n_clips": loudness.n,
                "rms_db_quantiles": quantiles(loudness.rms_db),
                "peak_db_quantiles": quantiles(loudness.peak_db),
                "quiet_share": loudness.quiet,
                "n_silent": loudness.n_silent,
                "n_clipped": loudness.n_clipped,
            },
            "labels": dict(self.labels),
            "n_classes": len(self.labels),
            "n_rare": len(self.rare),
            "few": self.config.few,
            "n_unlabelled": self.n_unlabelled,
            "n_multilabel": self.n_multilabel,
            "parts": [
                {
                    **dataclasses.asdict(each),
                    "shared": [[one, other, n] for (one, other), n in each.shared.items()],
                    "crossing": [[group, list(parts)] for group, parts in each.crossing],
                }
                for each in self.parts
            ],
            "refused": [list(each) for each in self.refused],
        }


def quantiles(values: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Values at `QUANTILES`; empty where there is none."""
    if not len(values):
        return {}
    return dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True))


def stats(source: Manifest, config: StatsConfig, progress: Callable[[str], Progress]) -> DataStats:
    """Looks at a source. `progress(what)` gives what to call with (done, total) as a part of it goes on."""
    recordings = source.recordings()
    labels = labels_of(source)
    refused = {f"{each.path}": each.reason for each in source.refused}
    claimed, within = recordings.duration_s, _at_hand(recordings)
    are_told = not np.isnan(claimed).any()
    looked = within if not are_told and len(within) == len(recordings) else _drawn(within, config.n_headers, config)
    infos = _each(looked, lambda row: decode.probe(recordings.source(row)), progress("headers read"))
    headers = [info for info in infos if isinstance(info, AudioInfo)]
    chosen = _drawn(within, config.n_levels, config)
    levels = _each(chosen, lambda row: _level(recordings, row, config), progress("stretches listened to"))
    front_end = at_rate(min(_HIGHEST_SHOWN, max(8_000, _commonest([info.sampling_rate for info in headers]))))
    wanted = _wanted(source, labels, config)
    shown = _each(
        [row for row, _ in wanted],
        lambda row: _example(source, row, dict(wanted)[row], front_end, config),
        progress("examples drawn"),
    )
    for found in (*infos, *levels, *shown):
        if isinstance(found, AudioError):
            refused[found.path] = found.reason
    counts = collections.Counter(label for row in labels for label in row)
    return DataStats(
        name=source.name,
        config=config,
        n_rows=len(source),
        n_recordings=len(recordings),
        duration_s=claimed if are_told else np.array([info.duration_s for info in headers]),
        durations_from="manifest" if are_told else "headers",
        n_headers=len(headers),
        sampling_rates=_counted(f"{info.sampling_rate / 1000:g} kHz" for info in headers),
        channels=_counted(f"{info.n_channels}" for info in headers),
        formats=_counted(f"{info.format}/{info.subtype}" for info in headers),
        loudness=_loudness([each for each in levels if isinstance(each, _Level)]),
        labels=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        n_unlabelled=sum(not row for row in labels),
        n_multilabel=sum(len(row) > 1 for row in labels),
        parts=tuple(parts_of(source, labels, column) for column in PARTED_BY if any(source.columns[column])),
        examples=tuple(each for each in shown if isinstance(each, Example)),
        front_end=front_end,
        refused=tuple(refused.items()),
    )


def parts_of(source: Manifest, labels: Sequence[Sequence[str]], column: str) -> Parts:
    """What a column cuts the rows into, and what lies on both sides of a cut."""
    values, groups = source.columns[column], source.columns["group"]
    rows = collections.Counter(values)
    order = sorted(rows, key=lambda value: (value == "", -rows[value] if column == "split" else 0, value))
    classes = {value: set[str]() for value in order}
    held = {value: set[str]() for value in order}
    where: dict[str, set[str]] = collections.defaultdict(set)
    for value, group, own in zip(values, groups, labels, strict=True):
        classes[value].update(own)
        held[value].add(group)
        if value:
            where[group].add(value)
    crossing = {group: tuple(sorted(each)) for group, each in where.items() if len(each) > 1}
    named = [value for value in order if value]
    pairs = itertools.permutations(named, 2) if len(named) <= MOST_PARTS else ()
    return Parts(
        column=column,
        rows={value: rows[value] for value in order},
        groups={value: len(held[value]) for value in order},
        classes={value: len(classes[value]) for value in order},
        shared={(one, other): len(classes[one] & classes[other]) for one, other in pairs},
        n_crossing=len(crossing),
        n_crossing_rows=sum(bool(value) and group in crossing for value, group in zip(values, groups, strict=True)),
        crossing=tuple(sorted(crossing.items())[:MOST_NAMED]),
    )


@dataclasses.dataclass(frozen=True)
class _Level:
    """One stretch."""

    rms: float
    peak: float
    n_quiet: int
    n_frames: int
    is_clipped: bool


def _level(recordings: Manifest, row: int, config: StatsConfig) -> _Level:
    chance = random.generator(config.seed, "stats", "level", row)
    with Recording(recordings.source(row)) as recording:
        rate, n_samples = recording.sampling_rate, recording.info().n_samples
        n_wanted = round(config.level_s * rate)
        samples = recording.crop(int(chance.integers(max(1, n_samples - n_wanted))), n_wanted, None)
    if not len(samples):
        raise AudioError(str(recordings.path(row)), 0.0, "empty: no samples can be decoded")
    power = np.square(samples.astype(np.float64))
    hop = min(len(samples), max(1, round(_FRAME_S * rate)))
    frames = power[: len(power) // hop * hop].reshape(-1, hop).mean(axis=1)
    stuck = (samples[1:] == samples[:-1]) & (np.abs(samples[1:]) >= FULL_SCALE)
    return _Level(
        rms=float(np.sqrt(power.mean())),
        peak=float(np.abs(samples).max()),
        n_quiet=int((frames < 10 ** (QUIET_DB / 10)).sum()),
        n_frames=len(frames),
        is_clipped=bool(np.count_nonzero(stuck) >= CLIPPED_SHARE * len(samples)),
    )


def _loudness(levels: Sequence[_Level]) -> Loudness:
    heard = [each for each in levels if each.peak > SILENT]
    return Loudness(
        rms_db=20 * np.log10(np.array([each.rms for each in heard])),
        peak_db=20 * np.log10(np.array([each.peak for each in heard])),
        quiet=sum(each.n_quiet for each in levels) / max(1, sum(each.n_frames for each in levels)),
        n_silent=len(levels) - len(heard),
        n_clipped=sum(each.is_clipped for each in levels),
        n=len(levels),
    )


def _wanted(source: Manifest, labels: Sequence[Sequence[str]], config: StatsConfig) -> list[tuple[int, str]]:
    """Rows that are shown, each once, with the class that it is shown for."""
    rows: dict[str, list[int]] = collections.defaultdict(list)
    within = set(_at_hand(source))
    for row, own in enumerate(labels):
        for label in own if row in within else ():
            rows[label].append(row)
    if not rows:
        return [(row, "") for row in _drawn(sorted(within), config.n_shown, config)]
    ranked = sorted(rows, key=lambda label: (-len(rows[label]), label))
    n_rare = config.n_shown // 4 if len(ranked) > config.n_shown else 0
    shown = ranked[: config.n_shown - n_rare] + (ranked[-n_rare:] if n_rare else [])
    wanted: dict[int, str] = {}
    for label in shown:
        chance = random.generator(config.seed, "stats", "examples", label)
        own = [row for row in chance.permutation(rows[label]).tolist() if row not in wanted]
        apart = list({source.keys[row]: row for row in reversed(own)}.values())[::-1]  # recordings that differ first
        wanted |= dict.fromkeys(list(dict.fromkeys([*apart, *own]))[: config.n_examples], label)
    return list(wanted.items())


def _example(source: Manifest, row: int, label: str, front_end: LogMelConfig, config: StatsConfig) -> Example:
    onset_s, offset_s = float(source.onset_s[row]), float(source.offset_s[row])
    with Recording(source.source(row)) as recording:
        length_s = recording.info().duration_s
        is_whole = onset_s == 0 and np.isnan(offset_s)
        middle_s = length_s / 2 if is_whole else (onset_s + (length_s if np.isnan(offset_s) else offset_s)) / 2
        start_s = max(0.0, min(middle_s - config.example_s / 2, length_s - config.example_s))
        clip = decode.clip_of(
            recording, front_end.sampling_rate, offset_s=start_s, duration_s=config.example_s, channel=None
        )
    n_samples = round(config.example_s * front_end.sampling_rate)
    padded = np.zeros(max(n_samples, front_end.window), np.float32)
    padded[: len(clip)] = clip[: len(padded)]
    with torch.inference_mode():
        frames = front_end.build().log_mel(torch.from_numpy(padded)[None])[0].numpy().copy()
    frames[max(1, front_end.n_frames(max(len(clip), front_end.window))) :] = np.nan  # the recording has ended
    span = None
    if not is_whole:
        ends = (onset_s, length_s if np.isnan(offset_s) else offset_s)
        first, last = (min(1.0, max(0.0, (end - start_s) / config.example_s)) for end in ends)
        span = (first, last)
    return Example(label=label, recording=source.keys[row], start_s=start_s, span=span, frames=frames)


def _at_hand(source: Manifest) -> list[int]:
    """Rows that can be read at once: all, or those of the first shard where shards must be fetched."""
    if source.shards is None or source.place is None or source.shards.at_hand:
        return list(range(len(source)))
    shard = source.shards.shard[source.place]
    return np.flatnonzero(shard == shard.min()).tolist()


def _drawn(rows: Sequence[int], most: int, config: StatsConfig) -> list[int]:
    """At most so many of the rows, in their order."""
    chance = random.generator(config.seed, "stats", len(rows))
    return sorted(chance.permutation(np.asarray(rows, dtype=np.int64))[:most].tolist())


def _each(rows: Sequence[int], look: Callable[[int], T], progress: Progress) -> list[T | AudioError]:
    """What looking at each row gives, or why it cannot be read."""

    def safely(row: int) -> T | AudioError:
        try:
            return look(row)
        except AudioError as error:
            return error

    found = []
    with ThreadPoolExecutor(max_workers=N_THREADS) as pool:
        for result in pool.map(safely, rows):
            found.append(result)
            progress(len(found), len(rows))
    return found


def _counted(values: Any) -> dict[str, int]:
    return dict(collections.Counter(values).most_common())


def _commonest(rates: Sequence[int]) -> int:
    return collections.Counter(rates).most_common(1)[0][0] if rates else LogMelConfig().sampling_rate
