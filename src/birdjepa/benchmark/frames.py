"""Annotated songs on a time axis: the class of a frame, labels every millisecond, and what a frame's length costs.

A frame is a stretch of a song that a model describes by one vector. Models differ in their frames, so scores are taken
at 1 ms, where all are alike: a millisecond takes what was said of the frame whose centre is nearest. The class of a
frame is what sounds at its centre; class 0 is silence, and where two annotations overlap, the later onset counts.
Stretches that are neither silence nor a known syllable (calls, noise, what the annotator was not sure of) teach nothing
and are not scored. A model whose frames are long cannot follow short gaps however good its vectors are: `oracle_errors`
is the error of the best possible label for each frame, to be read beside every score.

Axes: t frames | e edges, one more than frames | s milliseconds | d width | k segments
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from birdjepa.audio.labels import Label
from birdjepa.core.errors import UsageError

SILENCE = 0
UNSCORED = -1
"""In the place of a class: nobody knows what sounds here."""
RATE = 1000
"""Labels per second that scores are taken at."""


@dataclasses.dataclass(frozen=True)
class Song:
    """One recording and its annotations, in seconds from its start."""

    name: str
    duration_s: float
    labels: tuple[Label, ...]
    unscored: tuple[Label, ...] = ()
    """Stretches that are neither silence nor a syllable, whatever they are called."""

    def __post_init__(self) -> None:
        if not 0 < self.duration_s < math.inf:
            raise ValueError(f"duration_s must be positive, got {self.duration_s}")
        for label in self.labels:
            what = f"{self.name}: label {label.label!r} at {label.onset_s:g} s"
            if not label.label:
                raise UsageError(f"{self.name}: the segment at {label.onset_s:g} s has no label; name it or drop it")
            if not 0 <= label.onset_s < label.offset_s:
                raise UsageError(f"{what} has no length (offset {label.offset_s:g} s); drop it")
            if label.onset_s >= self.duration_s:
                raise UsageError(f"{what} begins after the song's end ({self.duration_s:g} s)")


@dataclasses.dataclass(frozen=True, eq=False)
class FrameSequence:
    """One vector per frame of a song, oldest first, and the stretch of time that each stands for."""

    embeddings: Float[np.ndarray, "t d"]
    start_s: Float[np.ndarray, " t"]
    end_s: Float[np.ndarray, " t"]

    def __post_init__(self) -> None:
        if not len(self.embeddings) == len(self.start_s) == len(self.end_s) or not len(self.start_s):
            found = f"{len(self.embeddings)}, {len(self.start_s)} and {len(self.end_s)}"
            raise ValueError(f"need a frame, and as many starts and ends as embeddings, got {found}")
        if not (self.end_s > self.start_s).all() or not (np.diff(self.centre_s) > 0).all():
            raise ValueError("frames must have a length and be in the order of time")

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def centre_s(self) -> Float[np.ndarray, " t"]:
        return (self.start_s + self.end_s) / 2

    @property
    def frame_s(self) -> float:
        """Usual distance between frames in seconds."""
        return float(np.median(np.diff(self.centre_s))) if len(self) > 1 else float(self.end_s[0] - self.start_s[0])

    def edges_s(self, duration_s: float) -> Float[np.ndarray, " e"]:
        """Where one frame's say ends and the next one's begins: halfway between centres, and the ends of the song."""
        middle = (self.centre_s[1:] + self.centre_s[:-1]) / 2
        return np.concatenate(([0.0], middle, [max(duration_s, float(self.centre_s[-1]))]))

    def at_ms(self, duration_s: float) -> Int[np.ndarray, " s"]:
        """The frame that each millisecond belongs to."""
        return np.searchsorted(self.edges_s(duration_s)[1:-1], milliseconds(duration_s), side="right")


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Labelled stretches of a song, by onset; silence is none."""

    onset_s: Float[np.ndarray, " k"]
    offset_s: Float[np.ndarray, " k"]
    classes: Int[np.ndarray, " k"]

    def __len__(self) -> int:
        return len(self.classes)


def class_names(songs: Sequence[Song]) -> tuple[str, ...]:
    """The classes by number: silence, which has the empty name, and all labels in order."""
    return ("", *sorted({label.label for song in songs for label in song.labels}))


def annotated(song: Song, names: Sequence[str]) -> Segments:
    """A song's annotations by onset, as classes."""
    index = {name: position for position, name in enumerate(names)}
    ordered = sorted(song.labels, key=lambda label: (label.onset_s, label.offset_s))
    return Segments(
        np.array([label.onset_s for label in ordered], dtype=np.float64),
        np.array([label.offset_s for label in ordered], dtype=np.float64),
        np.array([index[label.label] for label in ordered], dtype=np.int64),
    )


def classes_at(times_s: Float[np.ndarray, " t"], segments: Segments) -> Int[np.ndarray, " t"]:
    """What sounds at each time, in ascending order: the segment with onset <= time < offset, or silence."""
    classes = np.full(len(times_s), SILENCE, dtype=np.int64)
    begins = np.searchsorted(times_s, segments.onset_s, side="left")
    ends = np.searchsorted(times_s, segments.offset_s, side="left")
    for begin, end, label in zip(begins, ends, segments.classes, strict=True):
        classes[begin:end] = label
    return classes


def song_classes(song: Song, times_s: Float[np.ndarray, " t"], names: Sequence[str]) -> Int[np.ndarray, " t"]:
    """What sounds in a song at each time, in ascending order: a class, silence, or UNSCORED."""
    classes = classes_at(times_s, annotated(song, names))
    classes[_inside(times_s, song.unscored)] = UNSCORED
    return classes


def scored(segments: Segments, song: Song) -> Segments:
    """The segments without those whose middle lies in an unscored stretch."""
    middle = (segments.onset_s + segments.offset_s) / 2
    order = np.argsort(middle, kind="stable")
    kept = order[~_inside(middle[order], song.unscored)]
    kept.sort()
    return Segments(segments.onset_s[kept], segments.offset_s[kept], segments.classes[kept])


def milliseconds(duration_s: float) -> Float[np.ndarray, " s"]:
    """Centres of the whole milliseconds of a song, at least one."""
    return (np.arange(max(1, round(duration_s * RATE))) + 0.5) / RATE


def classes_per_ms(song: Song, names: Sequence[str]) -> Int[np.ndarray, " s"]:
    """The class of each millisecond of a song, or UNSCORED."""
    return song_classes(song, milliseconds(song.duration_s), names)


def oracle_errors(song: Song, frames: FrameSequence, names: Sequence[str]) -> int:
    """Milliseconds that remain wrong when each frame gets the label that fits most of its milliseconds."""
    truth = classes_per_ms(song, names)
    counts = np.zeros((len(frames), len(names)), dtype=np.int64)
    known = truth != UNSCORED
    np.add.at(counts, (frames.at_ms(song.duration_s)[known], truth[known]), 1)
    return int(known.sum() - counts.max(axis=1).sum())


def _inside(times_s: Float[np.ndarray, " t"], stretches: Sequence[Label]) -> Bool[np.ndarray, " t"]:
    """Whether each time, in ascending order, lies in one of the stretches."""
    inside = np.zeros(len(times_s), dtype=bool)
    for stretch in stretches:
        begin, end = np.searchsorted(times_s, [stretch.onset_s, stretch.offset_s])
        inside[begin:end] = True
    return inside
