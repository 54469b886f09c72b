"""Clips to sound that a browser plays: mono MP3, small and known everywhere; WAV where libsndfile cannot write MP3.

Axes: s audio samples
"""

import io

import numpy as np
import soundfile
from jaxtyping import Float

from birdjepa.audio.decode import resample
from birdjepa.report.png import data_uri

RATES = (8_000, 16_000, 24_000, 32_000)
"""Sampling rates that are written: the lowest that keeps all of a clip, at most 32 kHz."""
PEAK = 0.7
"""Every clip is brought to this level, for field recordings differ by 60 dB."""
FADE_S = 0.01
"""At both ends, against clicks."""


def sound_uri(samples: Float[np.ndarray, " s"], sampling_rate: int) -> str:
    """The clip, levelled, as a data: address."""
    rate = next((rate for rate in RATES if rate >= sampling_rate), RATES[-1])
    heard = level(resample(samples.astype(np.float32), sampling_rate, rate), rate)
    file = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(file, heard, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
        return data_uri(file.getvalue(), "audio/mpeg")
    soundfile.write(file, heard, rate, format="WAV", subtype="PCM_16")
    return data_uri(file.getvalue(), "audio/wav")


def level(samples: Float[np.ndarray, " s"], sampling_rate: int) -> Float[np.ndarray, " s"]:
    """The clip without DC, faded in and out, with its peak at `PEAK`; silence stays silence."""
    if not len(samples):
        return samples
    samples = samples - samples.mean()
    n_fade = min(round(FADE_S * sampling_rate), len(samples) // 2)
    ramp = np.linspace(0, 1, n_fade, dtype=np.float32)
    samples[:n_fade] *= ramp
    samples[len(samples) - n_fade :] *= ramp[::-1]
    peak = float(np.abs(samples).max())
    return samples * np.float32(PEAK / peak) if peak > 1e-6 else samples
