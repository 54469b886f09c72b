"""Windows around labelled segments: inside the recording, whole patches only, the segment inside the window."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.clips import ClipConfig
from birdjepa.embed.segments import Geometry, n_tiles, window_around

GEOMETRY = Geometry(
    sampling_rate=32_000, clips=ClipConfig(clip_s=5.0, hop_s=5.0), min_samples=5600, token_hop=5120, trim=True
)


def test_context_is_the_whole_patches_of_a_clip() -> None:
    assert GEOMETRY.n_columns(160_000) == 31
    assert GEOMETRY.context == 800 + (31 * 16 - 1) * 320
    assert GEOMETRY.seen(160_000) == GEOMETRY.context
    assert GEOMETRY.seen(1000) == 1000  # less than a patch: nothing to trim


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    rate=st.sampled_from([8_000, 22_050, 32_000, 44_100, 250_000]),
    total_s=st.floats(0.01, 30.0),
    place=st.floats(0.0, 1.0),
    share=st.floats(1e-4, 1.0),
)
def test_window_holds_the_tile_and_stays_inside(rate: int, total_s: float, place: float, share: float) -> None:
    n_total = max(1, round(total_s * rate))
    length_s = share * min(n_total / rate, GEOMETRY.context / GEOMETRY.sampling_rate)
    onset_s = place * (n_total / rate - length_s)
    window = window_around(onset_s, onset_s + length_s, rate, n_total, GEOMETRY)
    assert 0 <= window.start <= window.start + window.n_native <= n_total
    columns = GEOMETRY.n_columns(window.n_out)
    if columns == 0:
        assert (window.start, window.n_native) == (0, n_total)
        return
    assert window.n_out == GEOMETRY.n_samples(columns)
    assert window.n_native * GEOMETRY.sampling_rate >= (window.n_out - 2) * rate
    if length_s <= window.n_native / rate:
        slack = 1.5 / rate
        assert window.start / rate <= onset_s + slack
        assert (window.start + window.n_native) / rate >= onset_s + length_s - slack


@pytest.mark.parametrize(("duration_s", "tiles"), [(0.01, 1), (4.975, 1), (4.98, 2), (50.0, 11)])
def test_long_segments_are_divided_into_tiles_that_fit(duration_s: float, tiles: int) -> None:
    assert n_tiles(duration_s, GEOMETRY) == tiles
    assert duration_s / tiles <= GEOMETRY.context / GEOMETRY.sampling_rate + 1e-9
    assert math.isclose(GEOMETRY.context / GEOMETRY.sampling_rate, 4.975)
