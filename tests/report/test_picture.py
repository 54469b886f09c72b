"""Spectrograms: which way up, at which scale, with boxes where the windows were."""

import base64
import re

import numpy as np
import pytest
from test_png import decode

from birdjepa.report.contents import HeardClip, Outline, Scale, SeenPanel
from birdjepa.report.picture import (
    THUMBNAIL,
    Levels,
    annotated,
    legend,
    levels,
    panel_picture,
    playable,
    spectrogram,
    view_picture,
)
from birdjepa.report.png import HIDDEN


def pixels(markup: str) -> np.ndarray:
    [data] = re.findall(r'src="data:image/png;base64,([^"]*)"', markup)
    return decode(base64.b64decode(data)).astype(int).sum(axis=2)


def view(name: str, start_s: float, frames: np.ndarray) -> SeenPanel:
    duration_s = len(frames) / 100
    return SeenPanel(name=name, caption="", start_s=start_s, duration_s=duration_s, is_window=True, frames=frames)


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
    large = pixels(spectrogram(generator.normal(size=(1000, 128)), Levels(-1.0, 1.0), "x", most=THUMBNAIL))
    assert large.shape == THUMBNAIL[::-1]
    small = pixels(spectrogram(generator.normal(size=(30, 20)), Levels(-1.0, 1.0), "x", most=THUMBNAIL))
    assert small.shape == (20, 30)


def test_levels_span_the_sound_but_not_the_depth_of_digital_silence():
    frames = np.concatenate((np.full((50, 4), -100.0), np.full((50, 4), -10.0)))
    assert levels(frames) == Levels(-75.0, -10.0)
    assert levels(np.full((3, 3), -100.0)) == Levels(-120.0, -100.0)


def test_boxes_lie_where_the_views_were():
    scale = Scale(100.0, np.geomspace(100, 15_000, 64))
    whole = SeenPanel(name="seen", caption="", start_s=0.0, duration_s=2.0, is_window=False, frames=np.zeros((200, 64)))
    views = [whole, view("L2", 0.5, np.zeros((100, 64)))]
    markup = annotated(clip(np.zeros((200, 64))), views, Levels(-1.0, 1.0), scale, 7)
    assert "left:25.000%;width:50.000%" in markup
    assert 'class="box local"' in markup
    assert markup.count('class="box') == 1  # what shows the whole clip has no box
    assert 'data-sound="7"' in markup
    assert "a&lt;b" in markup
    heights = [float(height) for height in re.findall(r"bottom:([\d.]+)%", markup)]
    assert heights == sorted(heights)
    assert min(np.diff(heights)) >= 10
    assert {">1<", ">8<"} <= set(re.findall(r">[\d.]+<", markup))


def test_a_view_plays_the_stretch_under_it():
    markup = view_picture(view("G1", 0.25, np.zeros((150, 8))), Levels(-1.0, 1.0), 3)
    assert 'data-from="0.25" data-to="1.75"' in markup


@pytest.mark.parametrize("n_frames", [1, 3])
def test_very_short_clips_are_drawn(n_frames: int):
    assert pixels(playable(clip(np.zeros((n_frames, 8))), 0)).shape == (8, n_frames)


def test_what_is_hidden_has_a_tone_of_its_own_and_does_not_move_the_shades():
    frames = np.linspace(-80.0, 0.0, 160).reshape(20, 8)
    hidden = frames.copy()
    hidden[:10, 4:] = np.nan
    image = pixels(spectrogram(hidden, Levels(-60.0, 0.0), "x"))
    assert (image == sum(HIDDEN)).T[:, ::-1].tolist() == np.isnan(hidden).tolist()
    kept = np.concatenate((frames, np.full((50, 8), np.nan)))
    assert levels(kept) == levels(frames)


def test_a_panel_says_how_much_it_shows_and_outlines_blocks_from_below():
    frames = np.full((20, 8), np.nan)
    frames[:5] = -40.0
    panel = SeenPanel(
        name="targets", caption="2 blocks", start_s=0.0, duration_s=0.2, is_window=False, frames=frames,
        outlines=(Outline(0.0, 0.25, 0.5, 1.0), Outline(0.1, 0.2, 0.0, 0.125)),
    )  # fmt: skip
    markup = panel_picture(panel, Levels(-60.0, 0.0), 3, ", masks of step 1")
    assert "left:0.000%;width:25.000%;bottom:50.000%;height:50.000%" in markup
    assert "left:10.000%;width:10.000%;bottom:0.000%;height:12.500%" in markup
    assert "<b>targets</b> 2 blocks, 25% of the clip" in markup
    assert 'alt="targets, masks of step 1: 2 blocks, 25% of the clip"' in markup
    assert 'data-sound="3"' in markup


def test_the_legend_names_the_tone_of_what_is_hidden_where_there_is_any():
    assert legend(hidden=True).endswith(" hidden")
    assert "hidden" not in legend(hidden=False)
