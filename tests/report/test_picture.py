"""Spectrograms: which way up, at which scale, with boxes where the windows were."""

import base64
import re

import numpy as np
import pytest
from test_png import decode

from birdjepa.report.contents import HeardClip, Scale, SeenView
from birdjepa.report.picture import THUMBNAIL, Levels, annotated, levels, playable, spectrogram, view_picture


def pixels(markup: str) -> np.ndarray:
    [data] = re.findall(r'src="data:image/png;base64,([^"]*)"', markup)
    return decode(base64.b64decode(data)).astype(int).sum(axis=2)


def clip(frames: np.ndarray) -> HeardClip:
    return HeardClip(
        samples=np.zeros(32_000, dtype=np.float32), sampling_rate=16_000, frames=frames, label="a<b", source="s",
        recording="r.wav", start_s=None, licence="", attribution="",
    )  # fmt: skip


def test_low_bands_are_at_the_bottom_and_time_runs_right():
    frames = np.full((20, 8), -80.0)
    frames[15, 1] = 0.0
    image = pixels(spectrogram(frames, Levels(-60.0, 0.0), "x"))
    assert image.shape == (8, 20)
    assert np.argwhere(image == image.max()).tolist() == [[6, 15]]


def test_thumbnails_average_and_never_grow():
    generator = np.random.default_rng(0)
    large = pixels(spectrogram(generator.normal(size=(1000, 128)), Levels(-1.0, 1.0), "x", thumbnail=True))
    assert large.shape == THUMBNAIL[::-1]
    small = pixels(spectrogram(generator.normal(size=(30, 20)), Levels(-1.0, 1.0), "x", thumbnail=True))
    assert small.shape == (20, 30)


def test_levels_span_the_sound_but_not_the_depth_of_digital_silence():
    frames = np.concatenate((np.full((50, 4), -100.0), np.full((50, 4), -10.0)))
    assert levels(frames) == Levels(-75.0, -10.0)
    assert levels(np.full((3, 3), -100.0)) == Levels(-120.0, -100.0)


def test_boxes_lie_where_the_views_were():
    scale = Scale(100.0, np.geomspace(100, 15_000, 64))
    view = SeenView(name="L2", start_s=0.5, duration_s=1.0, frames=np.zeros((100, 64)))
    markup = annotated(clip(np.zeros((200, 64))), [view], Levels(-1.0, 1.0), scale, 7)
    assert "left:25.000%;width:50.000%" in markup
    assert 'class="box local"' in markup
    assert 'data-sound="7"' in markup
    assert "a&lt;b" in markup
    heights = [float(height) for height in re.findall(r"bottom:([\d.]+)%", markup)]
    assert heights == sorted(heights)
    assert min(np.diff(heights)) >= 10
    assert {">1<", ">8<"} <= set(re.findall(r">[\d.]+<", markup))


def test_a_view_plays_the_stretch_under_it():
    view = SeenView(name="G1", start_s=0.25, duration_s=1.5, frames=np.zeros((150, 8)))
    markup = view_picture(view, Levels(-1.0, 1.0), 3)
    assert 'data-from="0.25" data-to="1.75"' in markup


@pytest.mark.parametrize("n_frames", [1, 3])
def test_very_short_clips_are_drawn(n_frames: int):
    assert pixels(playable(clip(np.zeros((n_frames, 8))), 0)).shape == (8, n_frames)
