import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdjepa.benchmark.frames import Segments
from birdjepa.benchmark.sequences import count_found, edit_distance, runs_of, segments_of, smooth

SEQUENCES = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def segments(*rows: tuple[float, float, int]) -> Segments:
    onset, offset, label = zip(*rows, strict=True)
    return Segments(np.array(onset), np.array(offset), np.array(label))


def test_runs() -> None:
    runs = runs_of(np.array([0, 0, 2, 1, 1]))
    assert [part.tolist() for part in runs] == [[0, 2, 1], [0, 2, 3], [2, 3, 5]]


def test_segments_are_the_sounding_runs() -> None:
    found = segments_of(np.array([0, 2, 2, 1, 0]), np.arange(6) * 0.01)
    assert found.onset_s.tolist() == pytest.approx([0.01, 0.03])
    assert found.offset_s.tolist() == pytest.approx([0.03, 0.04])
    assert found.classes.tolist() == [2, 1]
    assert len(segments_of(np.zeros(3, dtype=np.int64), np.arange(4.0))) == 0


def test_a_majority_vote_mends_single_frames_and_leaves_ties() -> None:
    said = np.array([1, 1, 2, 1, 1, 0, 0])
    assert smooth(said, window=3, least=1).tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert smooth(np.array([0, 1, 2]), window=3, least=1).tolist() == [0, 1, 2]
    assert smooth(said, window=1, least=1).tolist() == said.tolist()


def test_short_sounds_go_to_the_longer_neighbour_or_to_silence() -> None:
    assert smooth(np.array([0, 0, 1, 0, 2, 2, 2]), window=1, least=2).tolist() == [0, 0, 0, 0, 2, 2, 2]
    assert smooth(np.array([0, 1, 2, 2, 2, 0]), window=1, least=2).tolist() == [0, 2, 2, 2, 2, 0]
    assert smooth(np.array([1, 2, 3]), window=1, least=2).tolist() == [0, 0, 0]
    assert smooth(np.array([1, 1, 0, 1, 1]), window=1, least=2).tolist() == [1, 1, 0, 1, 1], "silence may be short"


@given(SEQUENCES, st.sampled_from([1, 3, 5]), st.integers(1, 3))
def test_smoothing_invents_no_class(said: list[int], window: int, least: int) -> None:
    smoothed = smooth(np.array(said), window=window, least=least)
    assert len(smoothed) == len(said)
    assert set(smoothed.tolist()) <= {0, *said}


def test_an_even_window_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        smooth(np.array([0]), window=2, least=1)


def test_segments_are_found_within_the_tolerance_at_both_ends() -> None:
    truth = segments((0.1, 0.2, 1), (0.3, 0.4, 1), (0.5, 0.6, 2))
    said = segments((0.108, 0.2, 1), (0.3, 0.412, 1), (0.5, 0.6, 1))
    assert count_found(truth, said, 0.005, 3).tolist() == [0, 0, 0]
    assert count_found(truth, said, 0.010, 3).tolist() == [0, 1, 0]
    assert count_found(truth, said, 0.020, 3).tolist() == [0, 2, 0], "the third has another label"
    assert count_found(truth, segments((0.105, 0.195, 1)), 0.005, 3).tolist() == [0, 1, 0], "the tolerance is inside"


def test_a_predicted_segment_is_found_once() -> None:
    truth = segments((0.100, 0.200, 1), (0.104, 0.204, 1))
    assert count_found(truth, segments((0.102, 0.202, 1)), 0.01, 2).tolist() == [0, 1]
    assert count_found(truth, truth, 0.01, 2).tolist() == [0, 2]


def test_edit_distances_by_hand() -> None:
    def distance(a: str, b: str) -> int:
        return edit_distance(*(np.array([ord(c) for c in text], dtype=np.int64) for text in (a, b)))

    assert distance("kitten", "sitting") == 3
    assert distance("flaw", "lawn") == 2
    assert distance("", "abc") == 3
    assert distance("abc", "") == 3
    assert distance("abc", "abc") == 0


@given(SEQUENCES, SEQUENCES)
def test_edit_distance_equals_the_recursion(a: list[int], b: list[int]) -> None:
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=np.int64)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = min(table[i, j] + (x != y), table[i, j + 1] + 1, table[i + 1, j] + 1)
    assert edit_distance(np.array(a), np.array(b)) == table[-1, -1]
