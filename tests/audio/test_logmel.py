import dataclasses
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from birdjepa.audio.decode import AUDIO_SUFFIXES, read_clip
from birdjepa.audio.logmel import LogMelConfig, at_rate, band_centres, bird_mae, fine, mel_filters

RATE = 32_000
AUDIO_MAE = LogMelConfig(
    sampling_rate=16_000, window=400, hop=160, f_min=20.0, f_max=8000.0, mel_scale="htk", filters="mel_peak"
)


def noise(n_samples: int = RATE, *, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(1, n_samples, generator=torch.Generator().manual_seed(seed))


def sine(hz: float, n_samples: int = RATE // 2) -> Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hz * torch.arange(n_samples, dtype=torch.float64) / RATE).float()[None]


def sweep(n_samples: int = 5 * RATE) -> Tensor:
    time = torch.arange(n_samples, dtype=torch.float64) / RATE
    return 0.5 * torch.sin(2 * torch.pi * (100 * time + 1500 * time.square())).float()[None]


def kaldi_fbank(clip: np.ndarray) -> np.ndarray:
    """Kaldi's own filterbank as Bird-MAE sets it, in nats."""
    options = kaldi_native_fbank.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.samp_freq, frame.frame_length_ms, frame.frame_shift_ms = RATE, 25.0, 10.0
    frame.window_type, frame.preemph_coeff, frame.dither = "hanning", 0.97, 0.0
    frame.remove_dc_offset, frame.snip_edges = True, True
    mel.num_bins, mel.low_freq, mel.high_freq = 128, 20.0, 0.0
    options.htk_compat, options.use_energy, options.use_log_fbank, options.use_power = True, False, True, True
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(RATE, clip.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def fbank_float64(clip: np.ndarray) -> np.ndarray:
    """The same written out in float64: tells rounding from mistakes."""
    frames = np.lib.stride_tricks.sliding_window_view(clip.astype(np.float64), 800)[::320]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate((frames[:, :1], frames[:, :-1]), 1)
    power = np.abs(np.fft.rfft(frames * np.hanning(800), 1024)) ** 2
    return np.log(np.maximum(power @ mel_filters(bird_mae()).astype(np.float64), np.finfo(np.float32).eps))


def assert_equals_kaldi(clip: Tensor) -> None:
    """To 1e-3 nats within 60 dB of a frame's loudest band; below that float32 rounding shows, and ours must be less."""
    ours = bird_mae().build().log_mel(clip)[0].numpy()
    kaldi, exact = kaldi_fbank(clip[0].numpy()), fbank_float64(clip[0].numpy())
    assert ours.shape == kaldi.shape
    audible = exact > exact.max(1, keepdims=True) - 6 * np.log(10)
    assert audible.mean() > 0.03
    assert np.abs(ours - kaldi)[audible].max() <= 1e-3
    assert np.abs(ours - exact).max() <= max(np.abs(kaldi - exact).max(), 1e-3)
    assert np.abs(ours - kaldi).max() < 0.05


@pytest.mark.parametrize("clip", [noise(5 * RATE), noise(5 * RATE, level=1e-4), sweep(), torch.zeros(1, 5 * RATE)])
def test_bird_mae_equals_kaldi(clip: Tensor) -> None:
    assert bird_mae().n_frames(clip.shape[1]) == 498
    assert_equals_kaldi(clip)


def test_bird_mae_equals_kaldi_on_a_recording(shared_data: Path) -> None:
    recording = min(path for path in (shared_data / "esc10").rglob("*") if path.suffix in AUDIO_SUFFIXES)
    assert_equals_kaldi(torch.from_numpy(read_clip(recording, RATE, duration_s=5.0))[None])


@pytest.mark.parametrize("config", [LogMelConfig(), fine(5.0), fine(2.0)])
def test_default_and_fine_equal_librosa(config: LogMelConfig) -> None:
    clip = noise(RATE)[0].numpy()
    edge = (config.n_fft - config.window) // 2  # librosa centres the window in the FFT, which moves its frames
    power = librosa.feature.melspectrogram(
        y=np.pad(clip, (edge, edge)), sr=RATE, n_fft=config.n_fft, hop_length=config.hop, win_length=config.window,
        center=False, n_mels=128, fmin=config.f_min, fmax=config.f_max,
    )  # fmt: skip
    ours = config.build().log_mel(torch.from_numpy(clip)[None])[0].numpy()
    np.testing.assert_allclose(ours, 10 * np.log10(np.maximum(power.T, 1e-10)), atol=1e-3)


@pytest.mark.parametrize("htk", [False, True])
def test_area_filters_equal_librosa(htk: bool) -> None:
    config = LogMelConfig(mel_scale="htk" if htk else "slaney")
    expected = librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=128, fmin=50, fmax=16_000, htk=htk)
    np.testing.assert_allclose(mel_filters(config), expected.T, atol=1e-8)


@pytest.mark.parametrize("config", [LogMelConfig(), fine(5.0), fine(2.0), bird_mae()])
def test_no_named_front_end_has_an_empty_band(config: LogMelConfig) -> None:
    assert mel_filters(config).any(axis=0).all()


def test_audio_mae_has_one_empty_band_that_reads_the_floor() -> None:
    filters = mel_filters(AUDIO_MAE)
    assert np.flatnonzero(~filters.any(axis=0)).tolist() == [3]
    frames = AUDIO_MAE.build().log_mel(noise())
    assert (frames[..., 3] == 10 * np.log10(AUDIO_MAE.floor)).all()
    assert (frames[..., 4] > -50).all()


def test_too_many_empty_bands_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_mels=512 leaves \d+ bands without an FFT bin at n_fft=1024; lower n_mels"):
        LogMelConfig(n_mels=512).build()


@pytest.mark.parametrize("config", [LogMelConfig(), bird_mae(), fine()])
@pytest.mark.parametrize("hz", [440.0, 1000.0, 4321.0, 12_000.0])
def test_a_sine_lands_in_its_band(config: LogMelConfig, hz: float) -> None:
    loudest = config.build().log_mel(sine(hz)).mean(1).argmax()
    centres = band_centres(config)
    below, above = centres[max(loudest - 1, 0)], centres[min(loudest + 1, 127)]
    assert below < hz < above


@pytest.mark.parametrize("config", [LogMelConfig(), bird_mae(), fine(2.0)])
def test_a_frame_depends_on_its_own_samples_only(config: LogMelConfig) -> None:
    clip, front_end, frame = noise(8000), config.build(), 7
    first, end = frame * config.hop, frame * config.hop + config.window
    other = noise(8000, seed=1)
    other[:, first:end] = clip[:, first:end]
    assert torch.equal(front_end(clip)[:, frame], front_end(other)[:, frame])
    for sample in (first + 1, end - 2):
        moved = clip.clone()
        moved[:, sample] += 0.5
        assert not torch.equal(front_end(clip)[:, frame], front_end(moved)[:, frame])


@pytest.mark.parametrize("normalise", ["fixed", "clip"])
def test_a_clip_reads_the_same_in_any_batch(normalise: str) -> None:
    front_end = dataclasses.replace(LogMelConfig(), normalise=normalise).build()
    clips = torch.cat([noise(seed=seed, level=0.01 * 4**seed) for seed in range(4)])
    together = front_end(clips)
    for clip, expected in zip(clips, together, strict=True):
        torch.testing.assert_close(front_end(clip[None])[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [LogMelConfig(), bird_mae(), fine(), LogMelConfig(floor=1e-6, mean=3.0, std=2.0)])
def test_silence_reads_what_the_config_says(config: LogMelConfig) -> None:
    frames = config.build()(torch.zeros(1, 4000))
    torch.testing.assert_close(frames, torch.full_like(frames, config.silence))


def test_twice_the_amplitude_is_six_decibels() -> None:
    quiet, loud = (LogMelConfig().build().log_mel(gain * noise()) for gain in (1, 2))
    torch.testing.assert_close(loud - quiet, torch.full_like(quiet, 20 * np.log10(2)), rtol=0, atol=1e-3)


def test_gain_multiplies_the_waveform() -> None:
    config = LogMelConfig(gain=32_768.0)
    expected = LogMelConfig().build().log_mel(noise()) + 20 * np.log10(32_768)
    torch.testing.assert_close(config.build().log_mel(noise()), expected, rtol=0, atol=1e-3)


def test_nats_are_decibels_in_another_unit() -> None:
    decibels, nats = (LogMelConfig(unit=unit).build().log_mel(noise()) for unit in ("db", "nat"))
    torch.testing.assert_close(nats * 10 / np.log(10), decibels, rtol=0, atol=1e-4)


def test_fixed_normalisation_uses_the_constants() -> None:
    front_end = LogMelConfig(mean=-30.0, std=8.0).build()
    torch.testing.assert_close(front_end(noise()), (front_end.log_mel(noise()) + 30) / 8)


def test_clip_normalisation_standardises_each_clip_and_survives_silence() -> None:
    front_end = LogMelConfig(normalise="clip").build()
    frames = front_end(torch.cat((noise(level=0.5), noise(level=1e-3), torch.zeros(1, RATE))))
    torch.testing.assert_close(frames.mean((1, 2)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(frames.std((1, 2)), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("config", [LogMelConfig(), bird_mae(), LogMelConfig(normalise="clip")])
def test_gradient_reaches_the_clips(config: LogMelConfig) -> None:
    clips = torch.cat((noise(4000), torch.zeros(1, 4000))).requires_grad_()
    config.build()(clips).square().mean().backward()
    assert clips.grad is not None
    assert clips.grad.isfinite().all()
    assert (clips.grad[0] != 0).float().mean() > 0.9


def test_autocast_and_repetition_change_nothing() -> None:
    front_end = LogMelConfig().build()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = front_end(noise())
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, front_end(noise()))
    assert torch.equal(LogMelConfig().build()(noise()), front_end(noise()))


def test_nothing_trains_and_nothing_is_saved() -> None:
    front_end = LogMelConfig().build()
    assert not list(front_end.parameters())
    assert not front_end.state_dict()


@pytest.mark.parametrize("config", [LogMelConfig(), fine(5.0), fine(2.0)])
def test_frame_counts(config: LogMelConfig) -> None:
    front_end = config.build()
    for n_samples in (config.window, config.window + config.hop - 1, config.window + config.hop, 20_000):
        assert front_end(noise(n_samples)).shape == (1, config.n_frames(n_samples), 128)
    for n_frames in (1, 2, 16):
        assert config.n_frames(config.n_samples(n_frames)) == n_frames
        assert config.n_frames(config.n_samples(n_frames) - 1) == n_frames - 1
    with pytest.raises(ValueError, match=rf"799 samples, one window needs {config.window}"):
        front_end(noise(799))


@pytest.mark.parametrize(("hop_ms", "hop", "rate"), [(5.0, 160, 200.0), (2.0, 64, 500.0)])
def test_fine_hops(hop_ms: float, hop: int, rate: float) -> None:
    assert fine(hop_ms).hop == hop
    assert fine(hop_ms).frame_rate == rate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 0}, "hop must be in"),
        ({"hop": 801}, "hop must be in"),
        ({"f_min": -1.0}, "need 0 <= f_min"),
        ({"f_min": 16_000.0}, "need 0 <= f_min"),
        ({"f_max": 16_001.0}, "Nyquist=16000 Hz"),
        ({"sampling_rate": 22_050}, "Nyquist=11025 Hz"),
        ({"n_mels": 0}, "n_mels must be"),
        ({"floor": 0.0}, "floor, std and gain"),
        ({"std": 0.0}, "floor, std and gain"),
        ({"gain": -1.0}, "floor, std and gain"),
        ({"pre_emphasis": 1.0}, "pre_emphasis must be"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMelConfig(**change)


@pytest.mark.parametrize("rate", [4_000, 8_000, 16_000, 22_050, 32_000, 44_100, 48_000, 256_000, 500_000])
def test_the_default_front_end_fits_every_rate(rate):
    config = at_rate(rate)
    assert config.frame_rate == pytest.approx(100, rel=0.02)
    assert config.n_mels <= 128
    assert config.f_max == rate / 2
    assert len(config.build()(torch.zeros(1, rate))[0]) == pytest.approx(98, abs=2)
    assert at_rate(32_000) == LogMelConfig()
