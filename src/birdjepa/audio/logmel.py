"""Log-mel front ends: waveform clips in, the frames an encoder reads out, batched on the device of the clips.

Two conventions decide whether our numbers match other people's, so both are pinned in tests/audio/test_logmel.py: the
shape of the mel filters (`mel_scale`, `filters`), and that frames are left-aligned, so frame i covers samples [i * hop,
i * hop + window) and nothing outside the clip. Nothing here is learnt.

Front ends of encoders that take clips of one length only (`clip_samples`) pad shorter ones, each clip by itself.

Axes: b clips | s audio samples | t frames | f FFT bins | m mel bands
"""

import dataclasses
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.core.config import added

BLOCK = 256
"""Frames that a CPU transforms at a time: so many spectra stay in its cache."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMelConfig:
    """How a clip becomes frames. Lengths are in samples, frequencies in Hz."""

    sampling_rate: int = 32_000
    window: int = 800
    """Analysis window (25 ms at 32 kHz)."""
    hop: int = 320
    """Distance between frame starts (10 ms at 32 kHz)."""
    n_mels: int = 128
    f_min: float = 50.0
    """Low cut: the lower edge of the first band."""
    f_max: float = 16_000.0
    """High cut: the upper edge of the last band."""
    window_shape: Literal["hann", "hann_symmetric"] = "hann"
    """Periodic Hann, or the symmetric one that Kaldi calls "hanning"."""
    mel_scale: Literal["slaney", "htk"] = "slaney"
    """Linear below 1 kHz (Slaney), or 1127 ln(1 + f / 700) (HTK, Kaldi)."""
    filters: Literal["area", "mel_peak"] = "area"
    """Triangles of unit area over Hz (Slaney, librosa), or of unit peak and straight over mel (Kaldi)."""
    pre_emphasis: float = 0.0
    """Each frame x becomes x[i] - pre_emphasis * x[i - 1]; the first sample is its own neighbour (Kaldi)."""
    remove_dc: bool = False
    """Subtract each frame's mean first (Kaldi)."""
    gain: float = 1.0
    """Factor on the waveform, 32768 for front ends that expect 16-bit integers."""
    unit: Literal["db", "nat"] = "db"
    """10 log10(power) or ln(power)."""
    floor: float = 1e-10
    """Smallest mel power: digital silence reads 10 log10(floor)."""
    normalise: Literal["fixed", "clip"] = "fixed"
    """Subtract `mean` and divide by `std`, or by each clip's own mean and standard deviation."""
    mean: float = -45.0
    std: float = 20.0
    centre: bool = added(False)
    """Subtract each clip's mean first, padding included."""
    clip_samples: int = added(0)
    """Longest clip, for encoders that know one length only; shorter ones are padded. 0 takes clips of any length."""
    clip_frames: int = added(0)
    """Frames of every clip once it is padded; 0 where clip_samples is."""
    padding: Literal["least", "zero"] = added("least")
    """least: zeros behind the waveform up to clip_samples, then frames of the clip's lowest level (Bird-MAE); zero:
    frames that read 0 before normalisation (Audio-MAE, whose silence reads -16)."""

    def __post_init__(self) -> None:
        if not 0 < self.hop <= self.window:
            raise ValueError(f"hop must be in (0, window={self.window}] samples, got {self.hop}")
        if self.n_mels < 1:
            raise ValueError(f"n_mels must be at least 1, got {self.n_mels}")
        if not 0 <= self.f_min < self.f_max <= self.sampling_rate / 2:
            nyquist = f"Nyquist={self.sampling_rate / 2:g} Hz"
            raise ValueError(f"need 0 <= f_min < f_max <= {nyquist}, got {self.f_min}, {self.f_max}")
        if self.floor <= 0 or self.std <= 0 or self.gain <= 0:
            raise ValueError(f"floor, std and gain must be positive, got {self.floor}, {self.std}, {self.gain}")
        if not 0 <= self.pre_emphasis < 1:
            raise ValueError(f"pre_emphasis must be in [0, 1), got {self.pre_emphasis}")
        own = self.n_frames(self.clip_samples)
        if self.clip_samples < 0 or self.clip_frames < own or bool(self.clip_frames) != bool(own):
            raise ValueError(
                f"clip_samples={self.clip_samples} are {own} frames: clip_frames must be 0 with none, else at least as "
                f"many, got {self.clip_frames}"
            )

    @property
    def n_fft(self) -> int:
        """Smallest power of two that holds the window."""
        return 1 << (self.window - 1).bit_length()

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sampling_rate / self.hop

    @property
    def silence(self) -> float:
        """What digital silence reads under fixed normalisation: the value that padding takes."""
        level = 10 * np.log10(self.floor) if self.unit == "db" else np.log(self.floor)
        return float((level - self.mean) / self.std)

    @property
    def unpadded(self) -> "LogMelConfig":
        """The same for clips of any length, without padding: what there is to hear and see."""
        return dataclasses.replace(self, clip_samples=0, clip_frames=0)

    def n_frames(self, n_samples: int) -> int:
        """Frames in a clip of n_samples, without padding; 0 when it is shorter than one window."""
        return max(0, 1 + (n_samples - self.window) // self.hop)

    def n_heard(self, n_samples: int) -> int:
        """Frames that read any sample of a clip of n_samples, those that reach into its padding included."""
        whole = self.clip_samples if self.padding == "least" else n_samples
        return min(self.n_frames(max(n_samples, whole)), -(-n_samples // self.hop))

    def n_samples(self, n_frames: int) -> int:
        """Shortest clip that has n_frames."""
        return self.window + (n_frames - 1) * self.hop

    def build(self) -> "LogMel":
        return LogMel(self)


def fine(hop_ms: float = 5.0) -> LogMelConfig:
    """Fine time: frames every 5 ms (syllables) or 2 ms, at 32 kHz with 128 bands and SongMAE's 1024-sample window."""
    return LogMelConfig(hop=round(32_000 * hop_ms / 1000), window=1024, f_min=0.0)


def at_rate(sampling_rate: int) -> LogMelConfig:
    """The default front end for another sampling rate: windows as long in time, bands up to its Nyquist frequency, and
    fewer of them where the rate is lower."""
    usual = LogMelConfig()
    scale = sampling_rate / usual.sampling_rate
    return LogMelConfig(
        sampling_rate=sampling_rate,
        window=round(usual.window * scale),
        hop=round(usual.hop * scale),
        n_mels=max(8, round(usual.n_mels * min(1.0, scale))),
        f_max=sampling_rate / 2,
    )


def bird_mae() -> LogMelConfig:
    """Bird-MAE's front end: Kaldi fbank, 128 bands, 32 kHz, 25 ms / 10 ms, normalised as (x + 7.2) / (2 * 4.43).

    Source: Rauch et al., Bird-MAE; equals kaldi_native_fbank (window "hanning", htk_compat, no dither, no energy) to
    1e-3 nats in bands within 60 dB of a frame's loudest. Below that, float32 rounding shows in theirs and, less, in
    ours. `checkpoint.foreign` adds what the published model does to a clip as a whole.
    """
    return LogMelConfig(
        f_min=20.0,
        window_shape="hann_symmetric",
        mel_scale="htk",
        filters="mel_peak",
        pre_emphasis=0.97,
        remove_dc=True,
        unit="nat",
        floor=float(np.finfo(np.float32).eps),
        mean=-7.2,
        std=2 * 4.43,
    )


class LogMel(nn.Module):
    """The front end as a module without parameters: filters and window are buffers that are not saved."""

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        hann = torch.hann_window(config.window, periodic=config.window_shape == "hann", dtype=torch.float64)
        self.register_buffer("window", hann.float(), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters(config)), persistent=False)

    window: Tensor
    filters: Tensor

    def forward(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b t m"]:
        """Normalised log-mel frames, oldest first; otherwise as `log_mel`."""
        return self.normalise(self.log_mel(clips))

    def log_mel(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b t m"]:
        """Mel power in dB or nats, before normalisation. Deterministic and differentiable in clips.

        float32 whatever the autocast, for a bfloat16 product would blur levels by tenths of a decibel.

        Raises:
          ValueError: if the clips are shorter than one window.
        """
        with torch.autocast(clips.device.type, enabled=False):
            return self._log_mel(clips.float())

    def _log_mel(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b t m"]:
        config = self.config
        if config.n_frames(clips.shape[-1]) == 0:
            raise ValueError(f"clips have {clips.shape[-1]} samples, one window needs {config.window}")
        if config.clip_samples:
            clips = self._lengthened(clips)
        if config.centre:
            clips = clips - clips.mean(-1, keepdim=True)
        frames = clips.unfold(-1, config.window, config.hop)
        if clips.device.type != "cpu" or len(clips) == 0:
            return self._filled(self._mel_power(frames))
        blocks = [self._mel_power(block) for clip in frames for block in clip.split(BLOCK)]
        return self._filled(torch.cat(blocks).unflatten(0, frames.shape[:2]))

    def _lengthened(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b _"]:
        """Clips with zeros behind them, where padding is of that kind."""
        missing = self.config.clip_samples - clips.shape[-1]
        if missing < 0:
            raise ValueError(f"clips have {clips.shape[-1]} samples, this front end takes {self.config.clip_samples}")
        return F.pad(clips, (0, missing)) if self.config.padding == "least" else clips

    def _filled(self, frames: Float[Tensor, "b t m"]) -> Float[Tensor, "b _ m"]:
        """Frames with as many behind them as are wanted: each clip's least value, or 0."""
        missing = self.config.clip_frames - frames.shape[1]
        if missing <= 0:
            return frames
        least = frames.amin((1, 2), keepdim=True)
        fill = least if self.config.padding == "least" else torch.zeros_like(least)
        return torch.cat((frames, fill.expand(-1, missing, frames.shape[2])), 1)

    def _mel_power(self, frames: Float[Tensor, "... w"]) -> Float[Tensor, "... m"]:
        """Mel power of each frame on its own, in dB or nats."""
        config = self.config
        if config.gain != 1:
            frames = frames * config.gain
        if config.remove_dc:
            frames = frames - frames.mean(-1, keepdim=True)
        if config.pre_emphasis:
            previous = torch.cat((frames[..., :1], frames[..., :-1]), -1)
            frames = frames - config.pre_emphasis * previous
        padded = F.pad(frames * self.window, (0, config.n_fft - config.window))
        spectrum = torch.fft.rfft(padded)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = (power @ self.filters).clamp_min(config.floor)
        return 10 * torch.log10(mel) if config.unit == "db" else torch.log(mel)

    def normalise(self, frames: Float[Tensor, "b t m"]) -> Float[Tensor, "b t m"]:
        """Standardised frames, by the fixed constants or by each clip's own statistics."""
        if self.config.normalise == "fixed":
            return (frames - self.config.mean) / self.config.std
        mean, spread = _clip_moments(frames)
        return (frames - mean) / spread

    def unnormalise(self, normalised: Float[Tensor, "b t m"], frames: Float[Tensor, "b t m"]) -> Float[Tensor, "b t m"]:
        """Undoes what `normalise` does to these frames, for others on their scale."""
        if self.config.normalise == "fixed":
            return normalised * self.config.std + self.config.mean
        mean, spread = _clip_moments(frames)
        return normalised * spread + mean


def _clip_moments(frames: Float[Tensor, "b t m"]) -> tuple[Tensor, Tensor]:
    """Each clip's mean, and its standard deviation, which silence must not make 0."""
    std, mean = torch.std_mean(frames, dim=(1, 2), keepdim=True)
    return mean, std + 1e-3


def mel_filters(config: LogMelConfig) -> Float[np.ndarray, "f m"]:
    """Triangular filters, one column per mel band, float32.

    A band narrower than the spacing of FFT bins may hold none: it always reads the floor. No front end named in this
    file has such a band, but AudioMAE's has one (128 bands, 16 kHz, 400-sample window), so up to an eighth of them is
    let pass.

    Source: Slaney, "Auditory Toolbox" v2, Interval Research TR 1998-010. With filters="area" the transpose of
    librosa.filters.mel (norm="slaney"); with filters="mel_peak" and mel_scale="htk" the banks of Kaldi's fbank.

    Raises:
      ValueError: if more than an eighth of the bands hold no FFT bin.
    """
    triangles = mel_triangles(config)
    empty = np.flatnonzero(~triangles.any(axis=0))
    if empty.size > config.n_mels // 8:
        raise ValueError(
            f"n_mels={config.n_mels} leaves {empty.size} bands without an FFT bin at n_fft={config.n_fft}; "
            "lower n_mels or lengthen window"
        )
    return triangles


def mel_triangles(config: LogMelConfig) -> Float[np.ndarray, "f m"]:
    """`mel_filters`, however many of them are empty."""
    edges = np.linspace(_to_mel(config, config.f_min), _to_mel(config, config.f_max), config.n_mels + 2)
    bins = np.linspace(0.0, config.sampling_rate / 2, config.n_fft // 2 + 1)[:, None]
    if config.filters == "mel_peak":
        bins = _to_mel(config, bins)
    else:
        edges = _to_hz(config, edges)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    triangles = np.minimum(rising, falling).clip(0.0)
    if config.filters == "mel_peak":
        triangles[-1] = 0.0  # Kaldi leaves the Nyquist bin out
    if config.filters == "area":
        triangles *= 2.0 / (upper - lower)
    return triangles.astype(np.float32)


def band_centres(config: LogMelConfig) -> Float[np.ndarray, " m"]:
    """Centre frequency of each mel band in Hz."""
    edges = np.linspace(_to_mel(config, config.f_min), _to_mel(config, config.f_max), config.n_mels + 2)
    return _to_hz(config, edges)[1:-1]


def _to_mel(config: LogMelConfig, hz: float | np.ndarray) -> float | np.ndarray:
    if config.mel_scale == "htk":
        return 1127 * np.log1p(hz / 700)
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _to_hz(config: LogMelConfig, mel: np.ndarray) -> np.ndarray:
    if config.mel_scale == "htk":
        return 700 * np.expm1(mel / 1127)
    return np.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))
