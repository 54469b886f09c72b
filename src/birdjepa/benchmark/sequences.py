"""Sequences of frame classes: runs, smoothing, segments that are found or missed, and the edit distance of songs.

Axes: t frames | k segments | r runs | c classes, silence first
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from birdjepa.benchmark.frames import SILENCE, Segments


class Runs(NamedTuple):
    """Stretches of equal classes: frames [first, stop) are of this class."""

    classes: Int[np.ndarray, " r"]
    first: Int[np.ndarray, " r"]
    stop: Int[np.ndarray, " r"]


def runs_of(classes: Int[np.ndarray, " t"]) -> Runs:
    """The longest stretches of equal classes, in order."""
    first = np.flatnonzero(np.r_[True, classes[1:] != classes[:-1]])
    return Runs(classes[first], first, np.r_[first[1:], len(classes)])


def smooth(classes: Int[np.ndarray, " t"], *, window: int, least: int) -> Int[np.ndarray, " t"]:
    """Majority vote over a window of frames (odd; 1 leaves all as it is), then no sounding run shorter than least.

    In a tied vote a frame keeps its class if it can. A short run takes the class of the longer of its two neighbours;
    neighbours that are themselves short sounds do not count, and where none is left it becomes silence.

    Raises:
      ValueError: if the window is even, or one of both is below 1.
    """
    if window < 1 or window % 2 == 0 or least < 1:
        raise ValueError(f"need an odd window and least >= 1 frames, got {window} and {least}")
    if window > 1:
        classes = _majority(classes, window)
    return _without_short(classes, least) if least > 1 else classes


def segments_of(classes: Int[np.ndarray, " t"], edges_s: Float[np.ndarray, " t+1"]) -> Segments:
    """The sounding runs of a song, whose frames meet at the edges."""
    runs = runs_of(classes)
    sounds = runs.classes != SILENCE
    return Segments(edges_s[runs.first[sounds]], edges_s[runs.stop[sounds]], runs.classes[sounds])


def count_found(
    truth: Segments, predicted: Segments, tolerance_s: float, n_classes: int
) -> Int[np.ndarray, " {n_classes}"]:
    """How many true segments of each class are found: label right, onset and offset within the tolerance, one to one.

    Segments are matched greedily by onset, which is the best there is where those of one class do not contain one
    another.
    """
    found = np.zeros(n_classes, dtype=np.int64)
    slack = tolerance_s + 1e-9  # times are sums of floats
    for label in np.unique(truth.classes):
        ours, theirs = predicted.classes == label, truth.classes == label
        onset, offset = predicted.onset_s[ours], predicted.offset_s[ours]
        free = np.ones(len(onset), dtype=bool)
        for true_onset, true_offset in zip(truth.onset_s[theirs], truth.offset_s[theirs], strict=True):
            first, stop = np.searchsorted(onset, [true_onset - slack, true_onset + slack])
            near = np.abs(offset[first:stop] - true_offset) <= slack
            if (candidates := np.flatnonzero(near & free[first:stop])).size:
                free[first + candidates[0]] = False
                found[label] += 1
    return found


def edit_distance(truth: Int[np.ndarray, " k"], predicted: Int[np.ndarray, " j"]) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein)."""
    steps = np.arange(len(predicted) + 1)
    row = steps.copy()
    for index, label in enumerate(truth):
        replaced_or_deleted = np.minimum(row[:-1] + (predicted != label), row[1:] + 1)
        # An insertion costs 1 per place to the right, so in steps-relative cost it is a running minimum.
        row = np.minimum.accumulate(np.r_[index + 1, replaced_or_deleted] - steps) + steps
    return int(row[-1])


def _majority(classes: Int[np.ndarray, " t"], window: int) -> Int[np.ndarray, " t"]:
    n, half = len(classes), window // 2
    own = np.zeros((n, int(classes.max()) + 1))
    own[np.arange(n), classes] = 1.0
    total = np.concatenate((np.zeros((1, own.shape[1])), own.cumsum(axis=0)))
    places = np.arange(n)
    votes = total[np.minimum(places + half + 1, n)] - total[np.maximum(places - half, 0)]
    return (votes + 0.5 * own).argmax(axis=1)


def _without_short(classes: Int[np.ndarray, " t"], least: int) -> Int[np.ndarray, " t"]:
    runs = runs_of(classes)
    length = runs.stop - runs.first
    short = (runs.classes != SILENCE) & (length < least)
    weight = np.r_[0, np.where(short, 0, length), 0]
    names = np.r_[SILENCE, np.where(short, SILENCE, runs.classes), SILENCE]
    neighbour = np.where(weight[:-2] >= weight[2:], names[:-2], names[2:])
    return np.repeat(np.where(short, neighbour, runs.classes), length)
