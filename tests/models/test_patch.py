import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.logmel import LogMelConfig, band_centres, bird_mae, fine
from birdjepa.models.patch import PatchConfig, patch_grid, patchify, unpatchify


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    height=st.sampled_from([1, 2, 4, 8, 16]),
    length=st.integers(1, 9),
    columns=st.integers(0, 5),
    rest=st.integers(0, 8),
)
def test_unpatchify_gives_the_whole_patches_back(height: int, length: int, columns: int, rest: int) -> None:
    config, n_frames = PatchConfig(frames=length, mels=height), columns * length + min(rest, length - 1)
    frames = torch.arange(2.0 * n_frames * 16).view(2, n_frames, 16)
    tokens = patchify(frames, config)
    assert tokens.shape == (2, columns * 16 // height, length * height)
    assert torch.equal(unpatchify(tokens, config, 16), frames[:, : columns * length])


@pytest.mark.parametrize(("frame", "mel"), [(0, 0), (0, 127), (37, 70), (79, 5)])
def test_a_cell_lands_in_the_token_whose_grid_row_names_it(frame: int, mel: int) -> None:
    config, front_end = PatchConfig(frames=8, mels=32), LogMelConfig()
    frames = torch.zeros(1, 80, 128)
    frames[0, frame, mel] = 1.0
    token, value = patchify(frames, config)[0].nonzero()[0].tolist()
    assert (token, value) == (frame // 8 * 4 + mel // 32, frame % 8 * 32 + mel % 32)
    time_s, octave = patch_grid(80, config, front_end)[token].tolist()
    assert abs(time_s - (0.0125 + frame * 0.01)) <= 0.035 + 1e-6
    centres = band_centres(front_end).reshape(4, 32)[mel // 32]
    assert math.log2(centres[0] / 1000) < octave < math.log2(centres[-1] / 1000)


@pytest.mark.parametrize("front_end", [LogMelConfig(), fine(2.0), bird_mae()])
def test_the_grid_rises_in_seconds_and_octaves(front_end: LogMelConfig) -> None:
    config = PatchConfig(frames=4, mels=16)
    grid = patch_grid(43, config, front_end).view(10, 8, 2).double()
    centre_s = (1.5 * front_end.hop + front_end.window / 2) / front_end.sampling_rate
    torch.testing.assert_close(
        grid[:, 0, 0], centre_s + torch.arange(10) * 4 / front_end.frame_rate, rtol=0, atol=1e-6, check_dtype=False
    )
    assert (grid[:, :, 0] == grid[:, :1, 0]).all()
    assert (grid[:, :, 1] == grid[:1, :, 1]).all()
    assert (grid[0, 1:, 1] > grid[0, :-1, 1]).all()


def test_the_same_place_has_the_same_row_in_any_clip() -> None:
    config, front_end = PatchConfig(), LogMelConfig()
    short, long = patch_grid(100, config, front_end), patch_grid(300, config, front_end)
    assert torch.equal(short, long[: len(short)])
    in_seconds = torch.tensor([1.6, 0.0])
    torch.testing.assert_close(short + in_seconds, long[80 : 80 + len(short)], rtol=0, atol=1e-6)


def test_octaves_are_of_pitch_whatever_the_mel_scale() -> None:
    grids = [patch_grid(16, PatchConfig(mels=1), LogMelConfig(mel_scale=scale)) for scale in ("slaney", "htk")]
    for grid, scale in zip(grids, ("slaney", "htk"), strict=True):
        np.testing.assert_allclose(
            1000 * 2 ** grid[:, 1].double().numpy(), band_centres(LogMelConfig(mel_scale=scale)), rtol=1e-5
        )


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"patch\.mels must divide n_mels=128, got 24"):
        patchify(torch.zeros(1, 16, 128), PatchConfig(mels=24))
    for frames, mels in ((0, 16), (16, 0)):
        with pytest.raises(ValueError, match="at least 1 frame and 1 mel"):
            PatchConfig(frames=frames, mels=mels)
