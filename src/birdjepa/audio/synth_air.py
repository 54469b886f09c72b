"""Everything between a beak and a file: distance, echoes, and the sounds of the place.

Levels are set against the place's steady background, which has unit power between 1 and 10 kHz (BAND_HZ): that is where
the birds sing, and a broadband level would follow the wind instead.

Axes: s audio samples | f FFT bins
"""

import dataclasses

import numpy as np
from jaxtyping import Complex, Float

BAND_HZ = (1_000.0, 10_000.0)
NEAREST_M, FARTHEST_M = 5.0, 80.0
TAIL_S = 0.6
"""How long echoes are followed after a song."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perch:
    """Where a bird sits, as the microphone hears it."""

    remoteness: float
    """0 at NEAREST_M, 1 at FARTHEST_M, in between by the logarithm of the distance."""
    reverberation_s: float
    """Time in which the tail falls by 60 dB."""
    echo_s: float
    """Delay of the one distinct reflection."""

    @property
    def distance_m(self) -> float:
        """Between NEAREST_M and FARTHEST_M."""
        return NEAREST_M * (FARTHEST_M / NEAREST_M) ** self.remoteness


def random_perch(rng: np.random.Generator) -> Perch:
    """Anywhere, in surroundings between a field and a stand of trees."""
    return Perch(
        remoteness=float(rng.random()),
        reverberation_s=float(rng.uniform(0.2, 0.9)),
        echo_s=float(rng.uniform(0.015, 0.12)),
    )


def propagate(
    song: Float[np.ndarray, " s"], perch: Perch, sampling_rate: int, rng: np.random.Generator
) -> Float[np.ndarray, " s"]:
    """The song as it arrives, aligned with how it left: treble lost to air and leaves, a tail and an echo behind it.

    Far birds lose more treble and reverberate more. The travel time is left out, the loss of level is the caller's.
    """
    n_tail = round(TAIL_S * sampling_rate)
    time_s = np.arange(n_tail) / sampling_rate
    tail = rng.standard_normal(n_tail) * 10 ** (-3 * time_s / perch.reverberation_s)
    tail_db = -26.0 + 18.0 * perch.remoteness
    tail *= 10 ** (tail_db / 20) / np.sqrt(np.square(tail).sum())
    n_fft = _fast_length(len(song) + n_tail)
    hz = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    reflected = np.fft.rfft(tail, n_fft) / (1 + hz / 4_000.0)
    reflected += 10 ** (tail_db / 20) * np.exp(-2j * np.pi * hz * perch.echo_s)
    loss_db = 0.045 * perch.distance_m * (hz / 4_000.0) ** 1.3
    arrived = np.fft.rfft(song, n_fft) * 10 ** (-loss_db / 20) * (1 + reflected)
    return np.fft.irfft(arrived, n_fft)[: len(song)]


def background(n_samples: int, sampling_rate: int, rng: np.random.Generator) -> Float[np.ndarray, " s"]:
    """Steady coloured noise of unit power within BAND_HZ; by chance gusts of wind, an insect, or rain on top of it."""
    n_fft = _fast_length(n_samples)
    hz = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    sound = _noise(rng, _colour(rng, hz), hz)
    if rng.random() < 0.5:
        sound += _wind(rng, hz, sampling_rate)
    if rng.random() < 0.3:
        sound += _insect(rng, hz, sampling_rate)
    if rng.random() < 0.2:
        sound += _rain(rng, hz, sampling_rate)
    return sound[:n_samples]


def record(sound: Float[np.ndarray, " s"], sampling_rate: int, rng: np.random.Generator) -> Float[np.ndarray, " s"]:
    """What one of many recorders makes of it: a random smooth response, a random peak 20 to 1 dB below full scale."""
    n_fft = _fast_length(len(sound))
    hz = np.fft.rfftfreq(n_fft, 1 / sampling_rate)
    response_db = 4.0 * np.clip(rng.standard_normal(), -2, 2) * (_octaves(hz) - 1.0) / 2 + _bumps(rng, hz, 4.0)
    recorded = np.fft.irfft(np.fft.rfft(sound, n_fft) * 10 ** (response_db / 20), n_fft)[: len(sound)]
    return recorded * (10 ** (rng.uniform(-20.0, -1.0) / 20) / np.abs(recorded).max())


def _colour(rng: np.random.Generator, hz: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Amplitude spectrum: falling by 1 to 7 dB an octave, with hills."""
    level_db = -rng.uniform(1.0, 7.0) * _octaves(hz) + _bumps(rng, hz, 5.0)
    return 10 ** (level_db / 20)


def _bumps(rng: np.random.Generator, hz: Float[np.ndarray, " f"], spread_db: float) -> Float[np.ndarray, " f"]:
    """Three hills or hollows about an octave wide, in dB."""
    octaves = _octaves(hz)
    level_db = np.zeros_like(hz)
    for centre in rng.uniform(-1.0, 3.5, size=3):
        height = spread_db * np.clip(rng.standard_normal(), -2, 2)
        level_db += height * np.exp(-0.5 * np.square((octaves - centre) / rng.uniform(0.3, 0.9)))
    return level_db


def _noise(
    rng: np.random.Generator, amplitude: Float[np.ndarray, " f"], hz: Float[np.ndarray, " f"]
) -> Float[np.ndarray, " s"]:
    """Noise of that amplitude spectrum, scaled to unit power within BAND_HZ."""
    spectrum = amplitude * _white(rng, len(hz))
    spectrum[0] = 0.0
    return np.fft.irfft(spectrum, 2 * (len(hz) - 1)) / _band_rms(spectrum, hz)


def _white(rng: np.random.Generator, n_bins: int) -> Complex[np.ndarray, " f"]:
    return rng.standard_normal(2 * n_bins).view(np.complex128)


def _band_rms(spectrum: Complex[np.ndarray, " f"], hz: Float[np.ndarray, " f"]) -> float:
    """Root mean square, over time, of the part of a signal within BAND_HZ, from its rfft."""
    inside = spectrum[(hz >= BAND_HZ[0]) & (hz <= BAND_HZ[1])]
    n_fft = 2 * (len(hz) - 1)
    return float(np.sqrt(2 * np.square(np.abs(inside)).sum()) / n_fft)


def _wind(rng: np.random.Generator, hz: Float[np.ndarray, " f"], sampling_rate: int) -> Float[np.ndarray, " s"]:
    """A rumble under about 300 Hz that comes and goes within seconds."""
    spectrum = _white(rng, len(hz)) / (1 + np.square(hz / 120.0))
    spectrum[0] = 0.0
    rumble = np.fft.irfft(spectrum, 2 * (len(hz) - 1))
    gusts = _slow(rng, len(rumble), sampling_rate, 0.8) ** 2
    return rumble / rumble.std() * gusts * rng.uniform(1.0, 8.0)


def _insect(rng: np.random.Generator, hz: Float[np.ndarray, " f"], sampling_rate: int) -> Float[np.ndarray, " s"]:
    """A narrow band between 3.5 and 9 kHz that pulses, and pauses now and then."""
    centre_hz = rng.uniform(3_500.0, min(9_000.0, 0.4 * sampling_rate))
    width_hz = centre_hz * rng.uniform(0.02, 0.08)
    band = _noise(rng, np.exp(-0.5 * np.square((hz - centre_hz) / width_hz)), hz)
    time_s = np.arange(len(band)) / sampling_rate
    pulses = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(15.0, 60.0) * time_s)
    return (
        band * pulses * np.minimum(1.0, 2 * _slow(rng, len(band), sampling_rate, 1.5)) * 10 ** (rng.uniform(-8, 6) / 20)
    )


def _rain(rng: np.random.Generator, hz: Float[np.ndarray, " f"], sampling_rate: int) -> Float[np.ndarray, " s"]:
    """Drops on leaves: a click each, with an exponential spread of strengths."""
    drops = np.zeros(2 * (len(hz) - 1))
    n_drops = rng.poisson(len(drops) / sampling_rate * rng.uniform(15.0, 80.0))
    drops[rng.integers(len(drops), size=n_drops)] = rng.exponential(size=n_drops) * rng.choice(
        (-1.0, 1.0), size=n_drops
    )
    leaf = np.exp(-0.5 * np.square((_octaves(hz) - rng.uniform(1.0, 2.5)) / 0.6))
    spectrum = np.fft.rfft(drops) * leaf
    strength = 10 ** (rng.uniform(-4, 6) / 20)
    return strength * np.fft.irfft(spectrum, len(drops)) / max(1e-12, _band_rms(spectrum, hz))


def _slow(rng: np.random.Generator, n_samples: int, sampling_rate: int, period_s: float) -> Float[np.ndarray, " s"]:
    """A curve in [0, 1] through a random point each period."""
    n_knots = 2 + int(n_samples / sampling_rate / period_s)
    return np.interp(np.arange(n_samples) / sampling_rate, period_s * np.arange(n_knots), rng.random(n_knots))


def _octaves(hz: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    """Octaves above 1 kHz; flat below 31 Hz."""
    return np.log2(np.maximum(hz, 31.25) / 1_000.0)


def _fast_length(n: int) -> int:
    """An even FFT length of at least n without large prime factors: 2, 3, 5 or 9 times a power of two."""
    return min(odd << max(1, ((n + odd - 1) // odd - 1).bit_length()) for odd in (1, 3, 5, 9))
