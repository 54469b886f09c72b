"""What an untrained method makes of as many frames: Griffin-Lim, the floor that a codec is measured against.

`floor` keeps what a mel spectrogram at the codec's frame rate holds, and nothing of the phase: mel power is averaged
over each codec frame, drawn out to the STFT's frames again (straight lines between the frames' middles, in dB), spread
over the FFT's bins so that they have that mel power, and given phases that fit by Griffin and Lim's projections. The
levels are not quantised, so it gets more bits than a codec does.

Axes: s samples | f FFT bins | t STFT frames | c codec frames | m mel bands
"""

import torch
from jaxtyping import Float
from torch import Tensor

from birdjepa.audio.logmel import LogMelConfig, mel_filters
from birdjepa.core import random

WINDOW_S = 0.04
"""Of the floor's STFT, rounded up to a power of two of samples."""
_LEAST_POWER = 1e-10
_MOMENTUM = 0.99
_SPREADING = 30
"""Multiplications that spread mel power over bins."""


def griffin_lim(
    magnitudes: Float[Tensor, "f t"], hop: int, n_samples: int, *, n_iterations: int = 32, seed: int = 0
) -> Float[Tensor, " s"]:
    """A waveform whose STFT has about these magnitudes: periodic Hann windows of 2 (f - 1) samples, frame i centred on
    sample i hop, zeros around the waveform. The phases begin at random, by seed.

    Source: Griffin & Lim 1984; with the momentum of Perraudin et al. 2013, "A fast Griffin-Lim algorithm".

    Raises:
      ValueError: if there are not as many frames as n_samples have, 1 + n_samples // hop.
    """
    window = 2 * (len(magnitudes) - 1)
    if magnitudes.shape[1] != 1 + n_samples // hop:
        raise ValueError(f"{n_samples} samples have {1 + n_samples // hop} frames, got {magnitudes.shape[1]}")
    hann = torch.hann_window(window, dtype=magnitudes.dtype)
    turns = torch.rand(magnitudes.shape, generator=random.torch_generator(seed, "griffin_lim"), dtype=magnitudes.dtype)
    spectra = torch.polar(magnitudes, 2 * torch.pi * turns)
    before = torch.zeros_like(spectra)
    for _ in range(n_iterations):
        fitting = _stft(_istft(spectra, hop, n_samples, hann), hop, hann)
        ahead = fitting + _MOMENTUM * (fitting - before)
        spectra = torch.polar(magnitudes, ahead.angle())
        before = fitting
    return _istft(spectra, hop, n_samples, hann)


def floor(
    waveform: Float[Tensor, " s"],
    sampling_rate: int,
    codec_hop: int,
    *,
    n_mels: int = 80,
    n_iterations: int = 32,
    seed: int = 0,
) -> Float[Tensor, " s"]:
    """The waveform as a mel spectrogram with one frame per codec_hop samples has it, of the same length.

    Levels below -100 dB are lost. Deterministic, by seed.

    Raises:
      ValueError: if the waveform is empty.
    """
    if not len(waveform):
        raise ValueError("the waveform is empty")
    window = 1 << (round(WINDOW_S * sampling_rate) - 1).bit_length()
    hop = min(window // 4, codec_hop)
    front_end = LogMelConfig(
        sampling_rate=sampling_rate, window=window, hop=hop, n_mels=n_mels, f_min=0.0, f_max=sampling_rate / 2
    )
    bands = torch.from_numpy(mel_filters(front_end))
    waveform = waveform.detach().cpu().float()
    spectra = _stft(waveform, hop, torch.hann_window(window))
    mel = drawn_out(bands.T @ spectra.abs().square(), hop, codec_hop)
    return griffin_lim(spread(mel, bands).sqrt(), hop, len(waveform), n_iterations=n_iterations, seed=seed)


def drawn_out(mel: Float[Tensor, "m t"], hop: int, codec_hop: int) -> Float[Tensor, "m t"]:
    """Mel power of STFT frames as one frame per codec_hop samples keeps it: averaged over each, and drawn out again.

    STFT frame i is centred on sample i hop, and codec frames lie side by side from sample 0.
    """
    middles = torch.arange(mel.shape[1]) * hop
    inside = middles // codec_hop
    n_frames = int(inside[-1]) + 1
    kept = mel.new_zeros(len(mel), n_frames).index_add_(1, inside, mel) / torch.bincount(inside)
    levels = kept.clamp_min(_LEAST_POWER).log()
    place = ((middles - codec_hop / 2) / codec_hop).clamp(0, n_frames - 1)
    left = place.long().clamp_max(max(n_frames - 2, 0))
    right = (left + 1).clamp_max(n_frames - 1)
    return torch.lerp(levels[:, left], levels[:, right], (place - left).to(levels)).exp()


def spread(mel: Float[Tensor, "m t"], bands: Float[Tensor, "f m"]) -> Float[Tensor, "f t"]:
    """Power by FFT bin, none of it negative, that has about this mel power: least squares by multiplication.

    Source: Lee & Seung 2001, "Algorithms for non-negative matrix factorization"; nearer than the pseudo-inverse of the
    filters with its negative power set to 0.
    """
    wanted = bands @ mel
    power = torch.ones_like(wanted) * mel.mean()
    for _ in range(_SPREADING):
        power = power * wanted / (bands @ (bands.T @ power)).clamp_min(torch.finfo(mel.dtype).tiny)
    return power


def _stft(waveform: Float[Tensor, " s"], hop: int, hann: Float[Tensor, " w"]) -> Tensor:
    return torch.stft(waveform, len(hann), hop, window=hann, center=True, pad_mode="constant", return_complex=True)


def _istft(spectra: Tensor, hop: int, n_samples: int, hann: Float[Tensor, " w"]) -> Float[Tensor, " s"]:
    return torch.istft(spectra, len(hann), hop, window=hann, center=True, length=n_samples)
