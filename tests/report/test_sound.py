"""Sound is decoded again, and compared with what went in."""

import base64
import io

import numpy as np
import pytest
import soundfile

from birdjepa.report.sound import PEAK, level, sound_uri


def decoded(uri: str) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(("sampling_rate", "written"), [(8_000, 8_000), (22_050, 24_000), (48_000, 32_000)])
def test_a_tone_keeps_its_pitch_length_and_level(sampling_rate: int, written: int):
    time = np.arange(2 * sampling_rate) / sampling_rate
    uri = sound_uri((0.001 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32), sampling_rate)
    assert uri.startswith("data:audio/")
    samples, rate = decoded(uri)
    assert rate == written
    assert abs(len(samples) / rate - 2) < 0.1  # MP3 comes in whole frames
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()] - 1000) < 2
    assert abs(np.abs(samples[rate // 2 : rate]).max() - PEAK) < 0.05
    assert len(uri) < 60_000


def test_wav_where_mp3_cannot_be_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "WAV"})
    uri = sound_uri(np.full(800, 0.5, dtype=np.float32), 8_000)
    assert uri.startswith("data:audio/wav;base64,")
    assert len(decoded(uri)[0]) == 800


def test_level_leaves_silence_alone_and_takes_dc_away():
    assert not level(np.zeros(100, dtype=np.float32), 8_000).any()
    assert not len(level(np.zeros(0, dtype=np.float32), 8_000))
    assert not level(np.full(100, 0.5, dtype=np.float32), 8_000).any()
    assert decoded(sound_uri(np.zeros(1, dtype=np.float32), 8_000))[1] == 8_000


def test_level_does_not_change_its_input():
    samples = np.linspace(-1, 1, 100, dtype=np.float32)
    before = samples.copy()
    level(samples, 8_000)
    np.testing.assert_array_equal(samples, before)
