"""How near a codec's waveform is to the one that went in. docs/tokens.md says what each number means.

Both waveforms are at the codec's sampling rate (what went in was resampled, and is judged as such) and of the
recording's true length: padding is cut off before, so nothing here ever sees it. Whatever is judged gives a number:
silence is met by floors, not by NaN. What cannot be judged at all (the intelligibility of silence) has no entry.

Spectra are those of periodic Hann windows with hops of a quarter, of the frames whose middle lies in the waveform;
zeros stand around it, so any length will do, down to one sample.

Axes: s samples | f FFT bins | t frames | m mel bands
"""

import math
import warnings

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from birdjepa.audio.logmel import LogMelConfig, mel_triangles
from birdjepa.core.errors import MissingExtraError
from birdjepa.objectives.codec_losses import StftLossConfig, stft_loss

LIMIT_DB = 100.0
"""Bounds of SI-SDR: of a perfect copy, and of what has nothing in common with the reference."""
LONGEST_DELAY_S = 0.5
SHORTEST_SPEECH_S = 0.4
"""30 frames of STOI."""
MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
"""(window in samples, bands) of each scale of the mel distance: DAC's."""
_LSD_WINDOW = 2048
_MAGNITUDE_FLOOR = 1e-5


def reconstruction(
    reference: Float[Tensor, " s"], estimate: Float[Tensor, " _"], sampling_rate: int
) -> dict[str, float]:
    """All numbers that hold for any sound, by name: si_sdr_db, delay_ms, log_spectral_db, mel, mr_stft.

    Raises:
      ValueError: if the waveforms are not of one length, empty, or not finite.
    """
    reference, estimate = _pair(reference, estimate)
    return {
        "si_sdr_db": si_sdr(reference, estimate),
        "delay_ms": 1000 * delay(reference, estimate, round(LONGEST_DELAY_S * sampling_rate)) / sampling_rate,
        "log_spectral_db": log_spectral_distance(reference, estimate),
        "mel": mel_distance(reference, estimate, sampling_rate),
        "mr_stft": mr_stft(reference, estimate),
    }


def speech(reference: Float[Tensor, " s"], estimate: Float[Tensor, " _"], sampling_rate: int) -> dict[str, float]:
    """Numbers that were made for speech, by name: stoi, estoi, pesq_nb (at 8 kHz), pesq_wb (at 16 kHz).

    What does not apply is left out: PESQ above the codec's rate, STOI where the reference has less than 0.4 s of sound,
    PESQ where it finds no utterance, and all of them for silence and waveforms shorter than that.

    Source: Taal et al. 2011 and Jensen & Taal 2016, as pystoi has them; ITU-T P.862 and P.862.2, as pesq has them.

    Raises:
      MissingExtraError: if pystoi or pesq is not installed.
      ValueError: if the waveforms are not of one length, empty, or not finite.
    """
    reference, estimate = _pair(reference, estimate)
    try:
        import pystoi
    except ImportError:
        raise MissingExtraError("pystoi", "codec") from None
    try:
        import pesq  # pyright: ignore[reportMissingImports] - comes with the extra
    except ImportError:
        raise MissingExtraError("pesq", "codec") from None
    if len(reference) < SHORTEST_SPEECH_S * sampling_rate or not reference.any() or not estimate.any():
        return {}
    real, made = reference.numpy(), estimate.numpy()
    found = {}
    for name, extended in (("stoi", False), ("estoi", True)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # too little sound: pystoi warns and gives 0.00001
            try:
                found[name] = float(pystoi.stoi(real, made, sampling_rate, extended=extended))
            except RuntimeWarning:
                continue
    for mode, rate in (("nb", 8_000), ("wb", 16_000)):
        if rate <= sampling_rate:
            low, lower = (soxr.resample(wave, sampling_rate, rate) for wave in (real, made))
            value = float(pesq.pesq(rate, low, lower, mode, on_error=pesq.PesqError.RETURN_VALUES))
            if value > 0:  # -1: no utterance
                found[f"pesq_{mode}"] = value
    return found


def si_sdr(reference: Float[Tensor, " s"], estimate: Float[Tensor, " s"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, of waveforms without their means; within +-100 dB.

    A silent reference is met by a silent estimate (100) or by none (-100); a silent estimate scores -100.

    Source: Le Roux et al. 2019, "SDR - half-baked or well done?"; torchmetrics with zero_mean=True.
    """
    real, made = (wave.double() - wave.double().mean() for wave in _pair(reference, estimate))
    real_energy, made_energy = (_energy(wave) for wave in (real, made))
    if not real_energy or not made_energy:
        return LIMIT_DB if real_energy == made_energy else -LIMIT_DB
    target = real * (torch.dot(real, made) / real_energy)
    signal, noise = float(target.square().sum()), float((made - target).square().sum())
    least = 10 ** (-LIMIT_DB / 10) * made_energy
    return min(LIMIT_DB, max(-LIMIT_DB, 10 * math.log10(max(signal, least) / max(noise, least))))


def delay(reference: Float[Tensor, " s"], estimate: Float[Tensor, " s"], most: int) -> int:
    """Samples by which the estimate is late (early: negative), at most so many: where their correlation is highest.

    Of equal ones the least; 0 where either is silent.
    """
    real, made = (wave.double().numpy() for wave in _pair(reference, estimate))
    real, made = real - real.mean(), made - made.mean()
    most = min(most, len(real) - 1)
    if not real.any() or not made.any():
        return 0
    n_fft = 1 << (2 * len(real) - 1).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(real, n_fft).conj() * np.fft.rfft(made, n_fft), n_fft)
    lags = np.arange(-most, most + 1)
    lags = lags[np.argsort(np.abs(lags), kind="stable")]
    return int(lags[np.argmax(correlation[lags])])


def log_spectral_distance(reference: Float[Tensor, " s"], estimate: Float[Tensor, " s"]) -> float:
    """Root mean square over bins of the difference of log power in dB, mean over frames of 2048 samples.

    A full-scale sine reads 0 dB; what is below -100 dB counts as -100 dB.

    Source: Gray & Markel 1976, "Distance measures for speech processing".
    """
    scale = 2.0 / float(torch.hann_window(_LSD_WINDOW).sum())
    levels = [
        20 * torch.log10((scale * _magnitudes(wave, _LSD_WINDOW)).clamp_min(_MAGNITUDE_FLOOR))
        for wave in _pair(reference, estimate)
    ]
    return float((levels[0] - levels[1]).square().mean(0).sqrt().mean())


def mel_distance(reference: Float[Tensor, " s"], estimate: Float[Tensor, " s"], sampling_rate: int) -> float:
    """Sum over seven scales of the mean |difference| of log10 mel magnitude, which is at least 1e-5.

    Windows of 32 to 2048 samples with 5 to 320 bands from 0 Hz to half the sampling rate, mel filters (Slaney's, of
    unit area) over magnitudes, which are those of torch.stft.

    Source: Kumar et al. 2023 (DAC), arXiv 2306.06546, section 4: their mel distance is this training loss of theirs.
    """
    real, made = _pair(reference, estimate)
    total = 0.0
    for window, n_mels in MEL_SCALES:
        bands = torch.from_numpy(_filters(sampling_rate, window, n_mels)).to(real)
        levels = [
            torch.log10((bands.T @ _magnitudes(wave, window)).clamp_min(_MAGNITUDE_FLOOR)) for wave in (real, made)
        ]
        total += float((levels[0] - levels[1]).abs().mean())
    return total


def mr_stft(reference: Float[Tensor, " s"], estimate: Float[Tensor, " s"]) -> float:
    """Mean over windows of 2048 to 128 samples of L1 of the magnitudes plus L1 of ln(magnitude + 1e-5): the loss that
    codecs are trained by.
    """
    real, made = _pair(reference, estimate)
    return float(stft_loss(made[None], real[None], StftLossConfig()))


def _filters(sampling_rate: int, window: int, n_mels: int) -> Float[np.ndarray, "f m"]:
    front_end = LogMelConfig(
        sampling_rate=sampling_rate, window=window, hop=window // 4, n_mels=n_mels, f_min=0.0, f_max=sampling_rate / 2
    )
    return mel_triangles(front_end)  # an empty band (short windows, from 48 kHz on) reads the floor on both sides


def _magnitudes(wave: Float[Tensor, " s"], window: int) -> Float[Tensor, "f t"]:
    hop = window // 4
    hann = torch.hann_window(window, dtype=wave.dtype)
    spectra = torch.stft(wave, window, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    return spectra[:, : -(-len(wave) // hop)].abs()


def _energy(wave: Float[Tensor, " s"]) -> float:
    """0 also for what only rounding left of a constant."""
    energy = float(wave.square().sum())
    return energy if energy > 1e-20 * len(wave) else 0.0


def _pair(
    reference: Float[Tensor, " s"], estimate: Float[Tensor, " _"]
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Both on the CPU in float32 and without gradient."""
    if len(reference) != len(estimate) or not len(reference):
        raise ValueError(
            f"the waveforms must have one length and not be empty, got {len(reference)} and {len(estimate)} samples: "
            "cut the padding off first"
        )
    for what, wave in (("reference", reference), ("estimate", estimate)):
        if not wave.isfinite().all():
            raise ValueError(f"the {what} holds samples that are not finite")
    return reference.detach().cpu().float(), estimate.detach().cpu().float()
