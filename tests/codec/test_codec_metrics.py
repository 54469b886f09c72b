"""Distances between waveforms: parity with other people's code and with the formulas, and what they must say."""

import math
import sys

import librosa
import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from birdjepa.codec import metrics
from birdjepa.core.errors import MissingExtraError

RATE = 16_000


def noise(n_samples: int = 8000, *, seed: int = 0, scale: float = 0.1) -> Tensor:
    return scale * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


def chirp(n_samples: int = 8000) -> Tensor:
    t = torch.arange(n_samples, dtype=torch.float64) / RATE
    return (0.3 * torch.sin(2 * torch.pi * (400 * t + 1500 * t.square()))).float()


def late(wave: Tensor, by: int) -> Tensor:
    """Zeros come in where it moved away."""
    moved = torch.roll(wave, by)
    if by > 0:
        moved[:by] = 0
    elif by < 0:
        moved[by:] = 0
    return moved


@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 30.0])
def test_si_sdr_equals_torchmetrics(scale: float) -> None:
    real = chirp() + 0.1
    made = 0.7 * real + noise(scale=scale) - 0.3
    theirs = scale_invariant_signal_distortion_ratio(made.double(), real.double(), zero_mean=True)
    assert metrics.si_sdr(real, made) == pytest.approx(float(theirs), abs=1e-4)


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0.0), (-3.0, 0.0), (1.0, 0.4)])
def test_si_sdr_does_not_hear_gain_nor_offset(gain: float, offset: float) -> None:
    real, made = chirp(), chirp() + noise(scale=0.02)
    assert metrics.si_sdr(real, gain * made + offset) == pytest.approx(metrics.si_sdr(real, made), abs=1e-3)


def test_si_sdr_of_equal_energies_is_0() -> None:
    t = torch.arange(8000) * 2 * torch.pi / 80
    assert metrics.si_sdr(t.sin(), t.sin() + t.cos()) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("by", [-800, -77, -1, 0, 1, 160, 3999])
def test_delay_is_found(by: int) -> None:
    made = 0.5 * late(noise(), by) + noise(seed=1, scale=0.02)
    assert metrics.delay(noise(), made, 4000) == by
    assert metrics.reconstruction(noise(), made, RATE)["delay_ms"] == pytest.approx(1000 * by / RATE)


def test_delay_stays_within_what_was_asked() -> None:
    assert abs(metrics.delay(noise(), late(noise(), 500), 100)) <= 100
    assert metrics.delay(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]), 4000) == 1


def spectrum(wave: Tensor, window: int) -> np.ndarray:
    """Magnitudes by the definition: frames centred on multiples of a quarter window inside the waveform."""
    hop, x = window // 4, wave.double().numpy()
    padded = np.concatenate((np.zeros(window // 2), x, np.zeros(window)))
    frames = np.stack([padded[i : i + window] for i in range(0, len(x), hop)])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.abs(np.fft.rfft(frames * hann)).T


@pytest.mark.parametrize("n_samples", [5, 1000, 8000])
def test_distances_equal_their_formulas(n_samples: int) -> None:
    real, made = chirp(n_samples), 0.8 * chirp(n_samples) + noise(n_samples, scale=0.01)
    x, y = (20 * np.log10(np.maximum(spectrum(w, 2048) / 512, 1e-5)) for w in (real, made))
    expected = np.sqrt(((x - y) ** 2).mean(0)).mean()
    assert metrics.log_spectral_distance(real, made) == pytest.approx(expected, rel=1e-3)

    pairs = [(spectrum(real, w), spectrum(made, w)) for w in (2048, 1024, 512, 256, 128)]
    expected = np.mean([np.abs(a - b).mean() + np.abs(np.log(a + 1e-5) - np.log(b + 1e-5)).mean() for a, b in pairs])
    assert metrics.mr_stft(real, made) == pytest.approx(expected, rel=1e-3)

    expected = 0.0
    for window, n_mels in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True):
        bands = librosa.filters.mel(sr=RATE, n_fft=window, n_mels=n_mels)
        x, y = (np.log10(np.maximum(bands @ spectrum(w, window), 1e-5)) for w in (real, made))
        expected += np.abs(x - y).mean()
    assert metrics.mel_distance(real, made, RATE) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_mel_distance_at_any_rate(rate: int) -> None:
    assert metrics.mel_distance(chirp(), 2 * chirp(), rate) > 0.1


@pytest.mark.parametrize("n_samples", [1, 2, 100, 8000])
def test_a_perfect_copy(n_samples: int) -> None:
    wave = noise(n_samples)
    found = metrics.reconstruction(wave, wave.clone(), RATE)
    assert found == {"si_sdr_db": 100.0, "delay_ms": 0.0, "log_spectral_db": 0.0, "mel": 0.0, "mr_stft": 0.0}


def test_more_noise_is_worse_by_every_measure() -> None:
    scales = (0.001, 0.01, 0.1)
    found = [metrics.reconstruction(chirp(), chirp() + noise(scale=scale), RATE) for scale in scales]
    for name in ("log_spectral_db", "mel", "mr_stft"):
        assert found[0][name] < found[1][name] < found[2][name]
    assert found[0]["si_sdr_db"] > found[1]["si_sdr_db"] > found[2]["si_sdr_db"]


def test_a_gain_of_6_db_is_a_distance_of_6_db() -> None:
    loud = noise(scale=0.3)
    assert metrics.log_spectral_distance(loud, 2 * loud) == pytest.approx(20 * math.log10(2), abs=0.05)
    assert metrics.mel_distance(loud, 2 * loud, RATE) == pytest.approx(7 * math.log10(2), abs=0.02)


def test_silence() -> None:
    sound, silence = noise(), torch.zeros(8000)
    both = metrics.reconstruction(silence, silence, RATE)
    assert both == {"si_sdr_db": 100.0, "delay_ms": 0.0, "log_spectral_db": 0.0, "mel": 0.0, "mr_stft": 0.0}
    for real, made in ((silence, sound), (sound, silence), (sound, torch.full((8000,), 0.25))):
        found = metrics.reconstruction(real, made, RATE)
        assert found["si_sdr_db"] == -100.0
        assert found["delay_ms"] == 0.0
        assert all(math.isfinite(value) for value in found.values())
        assert min(found["mel"], found["mr_stft"], found["log_spectral_db"]) > 1


@pytest.mark.parametrize("judge", [metrics.reconstruction, metrics.speech])
def test_refuses(judge) -> None:
    with pytest.raises(ValueError, match="estimate holds samples that are not finite"):
        judge(noise(), torch.full((8000,), math.nan), RATE)
    with pytest.raises(ValueError, match="must have one length and not be empty, got 0 and 0 samples"):
        judge(torch.zeros(0), torch.zeros(0), RATE)
    with pytest.raises(ValueError, match="got 8000 and 8192 samples: cut the padding off first"):
        judge(noise(), noise(8192), RATE)


@pytest.fixture
def read_speech(shared_data) -> Tensor:
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq", reason="PESQ needs a C compiler to install")
    wave, rate = soundfile.read(shared_data / "music_speech" / "3436_172162_0000.ogg", stop=70_000, dtype="float32")
    return torch.from_numpy(soxr.resample(wave, rate, RATE))


def test_speech_measures_are_those_of_their_libraries(read_speech) -> None:
    import pesq
    import pystoi

    made = read_speech + noise(len(read_speech), scale=0.01)
    found = metrics.speech(read_speech, made, RATE)
    real, other = read_speech.numpy(), made.numpy()
    assert found["stoi"] == pytest.approx(pystoi.stoi(real, other, RATE))
    assert found["estoi"] == pytest.approx(pystoi.stoi(real, other, RATE, extended=True))
    assert found["pesq_wb"] == pytest.approx(pesq.pesq(RATE, real, other, "wb"), abs=1e-3)
    assert 0.5 < found["stoi"] < 1
    assert 1 < found["pesq_wb"] < 4
    perfect = metrics.speech(read_speech, read_speech, RATE)
    assert perfect["stoi"] == pytest.approx(1.0)
    assert perfect["pesq_wb"] > 4.6
    assert perfect["pesq_nb"] > 4.5


def test_speech_measures_leave_out_what_they_cannot_judge() -> None:
    pytest.importorskip("pystoi")
    pytest.importorskip("pesq", reason="PESQ needs a C compiler to install")
    wave = noise(RATE)
    assert metrics.speech(wave[:100], wave[:100], RATE) == {}
    assert metrics.speech(torch.zeros(RATE), wave, RATE) == {}
    assert metrics.speech(wave, torch.zeros(RATE), RATE) == {}
    click = torch.zeros(RATE)
    click[8000:8100] = 0.1
    assert "stoi" not in metrics.speech(click, wave, RATE)
    assert "pesq_wb" not in metrics.speech(wave, wave, 8000)
    assert all(math.isfinite(value) for value in metrics.speech(click, wave, RATE).values())


@pytest.mark.parametrize("package", ["pystoi", "pesq"])
def test_speech_measures_name_the_extra(monkeypatch, package: str) -> None:
    pytest.importorskip("pystoi")
    monkeypatch.setitem(sys.modules, package, None)
    if package == "pystoi":
        monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}.*pip install 'birdjepa\[codec\]'"):
        metrics.speech(noise(), noise(), RATE)
