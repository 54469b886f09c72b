"""The floor: exact lengths, the same for one seed, nearer to the sound than silence, and worse with fewer frames."""

import pytest
import torch
from torch import Tensor

from birdjepa.audio.logmel import LogMelConfig, mel_filters
from birdjepa.codec import metrics
from birdjepa.codec.griffin_lim import drawn_out, floor, griffin_lim, spread

RATE = 16_000


def song(n_samples: int = 12_000) -> Tensor:
    """Rising notes with pauses."""
    t = torch.arange(n_samples, dtype=torch.float64) / RATE
    notes = torch.sin(2 * torch.pi * (1500 * t + 2000 * t.square())) * (torch.sin(2 * torch.pi * 6 * t) > 0)
    return (0.3 * notes).float()


def magnitudes(wave: Tensor, window: int = 512, hop: int = 128) -> Tensor:
    hann = torch.hann_window(window)
    return torch.stft(wave, window, hop, window=hann, pad_mode="constant", return_complex=True).abs()


def inconsistency(wanted: Tensor, wave: Tensor) -> float:
    return float((magnitudes(wave) - wanted).norm() / wanted.norm())


def test_phases_come_to_fit() -> None:
    wanted = magnitudes(song())
    found = [inconsistency(wanted, griffin_lim(wanted, 128, 12_000, n_iterations=n)) for n in (0, 8, 64)]
    assert found[0] > 0.4
    assert found[0] > 1.5 * found[1] > 1.5 * found[2]
    assert found[2] < 0.1


def test_seeded() -> None:
    wanted = magnitudes(song(3000))
    one, again, other = (griffin_lim(wanted, 128, 3000, n_iterations=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(floor(song(3000), RATE, 1280), floor(song(3000), RATE, 1280))


def test_fewer_frames_are_worse_and_any_are_better_than_none() -> None:
    found = [metrics.mel_distance(song(), floor(song(), RATE, hop), RATE) for hop in (256, 1280, 6400)]
    assert found[0] < found[1] < found[2] < metrics.mel_distance(song(), torch.zeros(12_000), RATE)
    assert found[0] < 4


@pytest.mark.parametrize("n_samples", [1, 2, 1279, 1280, 1281, 2560])
@pytest.mark.parametrize("hop", [100, 1280])
def test_lengths_and_silence(n_samples: int, hop: int) -> None:
    for wave in (song(n_samples) + 0.1, torch.zeros(n_samples)):
        made = floor(wave, RATE, hop, n_iterations=1)
        assert made.shape == wave.shape
        assert made.isfinite().all()
    assert made.abs().max() < 1e-4


def test_one_number_per_band_and_codec_frame_is_kept() -> None:
    """Moving power about inside a codec frame changes nothing."""
    mel = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) + 0.1
    moved = mel.clone()
    moved[:, 8:16] = mel[:, 8:16].flip(1)  # frames of 100 samples, 8 of them in 800
    torch.testing.assert_close(drawn_out(mel, 100, 800), drawn_out(moved, 100, 800))
    moved[:, 7:9] = mel[:, [8, 7]]
    assert not torch.allclose(drawn_out(mel, 100, 800), drawn_out(moved, 100, 800))
    constant = torch.full((3, 40), 0.2)
    torch.testing.assert_close(drawn_out(constant, 100, 800), constant)
    torch.testing.assert_close(drawn_out(mel, 100, 100)[:, 1:-1], (mel[:, 1:-1] * mel[:, :-2]).sqrt())


def test_spread_power_gives_the_mel_power_again() -> None:
    config = LogMelConfig(sampling_rate=RATE, window=512, hop=128, n_mels=40, f_min=0.0, f_max=8000.0)
    bands = torch.from_numpy(mel_filters(config))
    mel = bands.T @ magnitudes(song()).square()
    power = spread(mel, bands)
    assert power.min() >= 0
    assert float((bands.T @ power - mel).norm() / mel.norm()) < 0.05
    assert not spread(torch.zeros(40, 3), bands).any()


def test_refuses() -> None:
    with pytest.raises(ValueError, match="12000 samples have 94 frames, got 93"):
        griffin_lim(magnitudes(song())[:, :-1], 128, 12_000)
    with pytest.raises(ValueError, match="empty"):
        floor(torch.zeros(0), RATE, 1280)
