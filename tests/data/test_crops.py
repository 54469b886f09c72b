"""Where a clip is taken in a recording, and how short ones are filled."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.recording import Recording
from birdjepa.data import crops
from birdjepa.data.crops import fill, liveliest, parse_events, room

RATE = 8000


def test_fill_cuts_and_keeps():
    clip = np.arange(5, dtype=np.float32)
    assert fill(clip, 3, "repeat").tolist() == [0, 1, 2]
    assert fill(clip, 5, "silence") is clip or fill(clip, 5, "silence").tolist() == clip.tolist()
    assert fill(clip, 12, "repeat").tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert fill(clip, 7, "silence").tolist() == [0, 1, 2, 3, 4, 0, 0]


@pytest.mark.parametrize(
    ("length_s", "onset_s", "offset_s", "clip_s", "wanted"),
    [
        (10.0, 0.0, float("nan"), 4.0, (0.0, 6.0)),  # a whole recording
        (3.0, 0.0, float("nan"), 4.0, (0.0, 0.0)),  # shorter than the clip
        (10.0, 2.0, 8.0, 4.0, (2.0, 4.0)),  # inside a long segment
        (10.0, 5.0, 6.0, 4.0, (2.0, 5.0)),  # around a short one
        (10.0, 9.5, 10.0, 4.0, (6.0, 6.0)),  # at the recording's end
        (10.0, 0.0, 0.5, 4.0, (0.0, 0.0)),
    ],
)
def test_where_a_clip_may_start(length_s, onset_s, offset_s, clip_s, wanted):
    assert room(length_s, onset_s, offset_s, clip_s) == pytest.approx(wanted)


def test_events_are_read_and_nonsense_is_none():
    assert parse_events("1.5-2; 3-4.25 ;1e-05-2e-05") == [(1.5, 2.0), (3.0, 4.25), (1e-05, 2e-05)]
    assert parse_events("") == parse_events("x;2-1;-1-2;nan-3;1-inf;4") == []


def ramp(path, seconds):
    """A recording whose samples say where they are."""
    soundfile.write(path, np.arange(round(seconds * RATE)) / 2**23, RATE, subtype="PCM_24")
    return path


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.2, 8), st.floats(0, 7), st.floats(0.05, 6), st.floats(0.3, 3), st.sampled_from(["anywhere", "events"])
)
def test_a_clip_lies_where_it_should(tmp_path_factory, length_s, onset_s, span_s, clip_s, where):
    path = ramp(tmp_path_factory.mktemp("ramp") / "a.wav", length_s)
    events = f"{onset_s}-{onset_s + span_s}"
    with Recording(path) as recording:
        clip = crops.take(
            recording, RATE, np.random.default_rng(0), clip_s=clip_s, onset_s=0.0, offset_s=float("nan"),
            channel=None, where=where, events=events,
        )  # fmt: skip
    n_all, n_clip = round(length_s * RATE), round(clip_s * RATE)
    first = round(float(clip[0]) * 2**23)
    assert abs(len(clip) - min(n_clip, n_all)) <= 1
    assert 0 <= first <= n_all - len(clip)
    inside = clip[:-1]  # rounding both ends may leave a clip a sample short, which repeats its last
    np.testing.assert_allclose(inside * 2**23, first + np.arange(len(inside)), atol=0.5)
    if where == "events" and onset_s + span_s <= length_s and length_s >= clip_s:
        begin_s, end_s = first / RATE, (first + len(clip)) / RATE
        if span_s <= clip_s:
            assert begin_s <= onset_s + 2e-4
            assert end_s >= onset_s + span_s - 2e-4
        else:
            assert begin_s >= onset_s - 2e-4
            assert end_s <= onset_s + span_s + 2e-4


def test_the_liveliest_stretch_is_where_most_sounds():
    rng = np.random.default_rng(0)
    samples = (1e-3 * rng.standard_normal(12 * RATE)).astype(np.float32)
    song = slice(5 * RATE, 7 * RATE)
    samples[song] += 0.02 * np.sin(2 * np.pi * 2000 * np.arange(2 * RATE) / RATE).astype(np.float32)
    samples[9 * RATE] = 1.0  # a click, louder than the song
    start = liveliest(samples, 3 * RATE, RATE)
    assert start <= 5 * RATE
    assert start + 3 * RATE >= 7 * RATE
    hum = samples + 0.5 * np.sin(2 * np.pi * 50 * np.arange(len(samples)) / RATE).astype(np.float32)
    start = liveliest(hum, 3 * RATE, RATE)
    assert start <= 5 * RATE + RATE // 50
    assert start + 3 * RATE >= 7 * RATE - RATE // 50


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 3000), st.integers(1, 3000), st.sampled_from([8000, 1000, 44100]))
def test_any_stretch_is_found_inside(n, n_clip, rate):
    samples = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    start = liveliest(samples, n_clip, rate)
    assert 0 <= start <= max(0, n - n_clip)
