import math

import numpy as np
import pytest

from birdjepa.audio.labels import Label
from birdjepa.benchmark.frames import (
    FrameSequence,
    Segments,
    Song,
    annotated,
    class_names,
    classes_at,
    classes_per_ms,
    milliseconds,
    oracle_errors,
    scored,
)
from birdjepa.core.errors import UsageError

SONG = Song("a", 0.1, (Label(0.020, 0.050, "x"), Label(0.060, 0.080, "y")))
NAMES = ("", "x", "y")


def frames_of(frame_s: float, n: int) -> FrameSequence:
    start = np.arange(n) * frame_s
    return FrameSequence(np.zeros((n, 1), dtype=np.float32), start, start + frame_s)


def test_a_frame_is_what_sounds_at_its_centre() -> None:
    classes = classes_at(frames_of(0.02, 5).centre_s, annotated(SONG, NAMES))
    assert classes.tolist() == [0, 1, 0, 2, 0], "centres 10, 30, 50, 70, 90 ms: an offset is outside"


def test_silence_is_the_class_without_a_name() -> None:
    assert class_names([SONG, Song("b", 1.0, (Label(0.0, 0.5, "0"),))]) == ("", "0", "x", "y")


def test_labels_at_1_ms() -> None:
    classes = classes_per_ms(SONG, NAMES)
    assert len(classes) == 100
    assert np.bincount(classes).tolist() == [50, 30, 20]
    assert milliseconds(0.0035).tolist() == pytest.approx([0.0005, 0.0015, 0.0025, 0.0035])


def test_of_overlapping_labels_the_later_onset_counts_and_the_earlier_one_sounds_on() -> None:
    song = Song("a", 0.01, (Label(0.0, 0.010, "x"), Label(0.003, 0.005, "y")))
    assert classes_per_ms(song, NAMES).tolist() == [1, 1, 1, 2, 2, 1, 1, 1, 1, 1]


def test_what_nobody_knows_is_not_scored() -> None:
    song = Song("a", 0.1, SONG.labels, unscored=(Label(0.075, 0.100, "?"), Label(0.0, 0.010, "@")))
    assert np.bincount(classes_per_ms(song, NAMES) + 1).tolist() == [35, 20, 30, 15]
    assert oracle_errors(song, frames_of(0.1, 1), NAMES) == 35, "x is the best label for all, of 65 ms"
    said = Segments(np.array([0.02, 0.06, 0.08]), np.array([0.05, 0.08, 0.09]), np.array([1, 2, 2]))
    assert scored(said, song).onset_s.tolist() == [0.02, 0.06]


@pytest.mark.parametrize(("frame_s", "n", "errors"), [(0.001, 100, 0), (0.01, 10, 0), (0.02, 5, 10), (0.1, 1, 50)])
def test_the_oracle_floor_of_a_frame_duration(frame_s: float, n: int, errors: int) -> None:
    # 20 ms frames: only [40, 60) is mixed, half x and half silence. One frame: silence is right for 50 of 100.
    assert oracle_errors(SONG, frames_of(frame_s, n), NAMES) == errors


def test_a_millisecond_belongs_to_the_nearest_centre_whether_frames_overlap_or_leave_gaps() -> None:
    overlapping = FrameSequence(np.zeros((2, 1)), np.array([0.0, 0.002]), np.array([0.006, 0.008]))
    apart = FrameSequence(np.zeros((2, 1)), np.array([0.002, 0.004]), np.array([0.004, 0.006]))
    assert overlapping.at_ms(0.01).tolist() == [0] * 4 + [1] * 6
    assert apart.at_ms(0.01).tolist() == [0] * 4 + [1] * 6
    assert overlapping.edges_s(0.01).tolist() == pytest.approx([0.0, 0.004, 0.01])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="no label"):
        Song("a", 1.0, (Label(0.1, 0.2, ""),))
    with pytest.raises(UsageError, match="no length"):
        Song("a", 1.0, (Label(0.1, 0.1, "x"),))
    with pytest.raises(UsageError, match="after the song's end"):
        Song("a", 1.0, (Label(1.1, 1.2, "x"),))
    with pytest.raises(ValueError, match="duration_s"):
        Song("a", math.nan, ())
    with pytest.raises(ValueError, match="order of time"):
        FrameSequence(np.zeros((2, 1)), np.array([1.0, 0.0]), np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match="need a frame"):
        FrameSequence(np.zeros((0, 1)), np.zeros(0), np.ones(0))
