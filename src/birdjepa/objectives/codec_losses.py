"""Losses of a codec's waveforms: made against real, as spectra, and by discriminators.

Each is the mean over clips of each clip's own mean, so that a batch's loss is that of its clips whatever their lengths,
and no process must know of another's. All of them are in float32 whatever the autocast.

Where clips are padded, `valid` says which samples are sound (True). Padding is never scored: both waveforms are silent
there to every loss, positions that stand in it are left out, and the gradient on it is 0. A clip without any sound adds
0. The losses that read what discriminators found leave out positions too, but the caller must silence the padding of
what they judge (`silenced`). Without `valid` all samples are sound and all positions count.

Axes: b clips | s samples | t frames | f FFT bins | m mel bands | c channels | n rows and p columns of a map
"""

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.audio.logmel import LogMel, LogMelConfig
from birdjepa.models.discriminators import Judged

SAMPLES_PER_BAND = 16
"""Of a window, for each mel band: no band is then narrower than the spacing of the FFT's bins, up to 48 kHz."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StftLossConfig:
    """Resolutions of the multi-resolution STFT loss."""

    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """Samples of each resolution's window and FFT; its hop is a quarter of them."""
    floor: float = 1e-5
    """Added to a magnitude before the log. What is much quieter need not be told apart."""

    def __post_init__(self) -> None:
        _check_windows(self.windows, 4)
        _check_floor(self.floor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MelLossConfig:
    """Resolutions of the multi-scale mel loss."""

    windows: tuple[int, ...] = (2048, 1024, 512, 256)
    """Samples of each scale's window, a power of two; its hop is a quarter of them, and it has a band for every 16."""
    floor: float = 1e-5
    """Least mel magnitude."""

    def __post_init__(self) -> None:
        _check_windows(self.windows, SAMPLES_PER_BAND)
        _check_floor(self.floor)
        if any(window & (window - 1) for window in self.windows):
            raise ValueError(f"windows must be powers of two, got {self.windows}")

    def build(self, sampling_rate: int) -> nn.ModuleList:
        """A front end for each scale, from 0 Hz to half the sampling rate, without parameters."""
        return nn.ModuleList(
            LogMelConfig(
                sampling_rate=sampling_rate,
                window=window,
                hop=window // 4,
                n_mels=window // SAMPLES_PER_BAND,
                f_min=0.0,
                f_max=sampling_rate / 2,
                unit="nat",
                floor=self.floor**2,
            ).build()
            for window in self.windows
        )


def waveform_loss(
    made: Float[Tensor, "b s"], real: Float[Tensor, "b s"], valid: Bool[Tensor, "b s"] | None = None
) -> Float[Tensor, ""]:
    """Mean of |made - real|."""
    made, real = silenced(made, valid), silenced(real, valid)
    return _mean((made - real).abs(), valid)


def stft_loss(
    made: Float[Tensor, "b s"],
    real: Float[Tensor, "b s"],
    config: StftLossConfig,
    valid: Bool[Tensor, "b s"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over resolutions of L1(|M|, |R|) + L1(log(|M| + floor), log(|R| + floor)), natural logarithms.

    M and R are Hann-windowed spectra, not normalised, of frames whose middles are multiples of the hop; zeros stand
    before and behind the clip, and frames count whose middle is sound. A clip thus scores the same alone and padded.

    Source: Yamamoto et al. 2020, "Parallel WaveGAN"; without its spectral convergence, as the public density-adaptive
    JEPA has it.
    """
    made, real = silenced(made, valid), silenced(real, valid)
    losses = []
    for window in config.windows:
        hop = window // 4
        hann = torch.hann_window(window, device=made.device, dtype=made.dtype)
        mine, theirs = (_magnitudes(wave, window, hop, hann) for wave in (made, real))
        levels = ((mine + config.floor).log() - (theirs + config.floor).log()).abs()
        distance = reduce((mine - theirs).abs() + levels, "b f t -> b t", "mean")
        losses.append(_mean(distance, None if valid is None else valid[:, ::hop]))
    return torch.stack(losses).mean()


def mel_loss(
    made: Float[Tensor, "b s"],
    real: Float[Tensor, "b s"],
    front_ends: Iterable[nn.Module],
    valid: Bool[Tensor, "b s"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the front ends of `MelLossConfig.build` of L1 between log mel magnitudes: half of the natural logarithm
    of mel power, at least floor^2. Frames as those of `stft_loss`.

    Source: HiFi-GAN's mel loss, at several scales as in Kumar et al. 2023 (DAC), arXiv 2306.06546; here mel filters are
    laid over power, as in all our front ends.
    """
    made, real = silenced(made, valid), silenced(real, valid)
    losses = []
    for front_end in front_ends:
        assert isinstance(front_end, LogMel)
        window, hop = front_end.config.window, front_end.config.hop
        n_frames = -(-made.shape[1] // hop)
        behind = (n_frames - 1) * hop + window // 2 - made.shape[1]  # may be negative: the rest is in no frame
        mine, theirs = (0.5 * front_end.log_mel(F.pad(wave, (window // 2, behind))) for wave in (made, real))
        distance = reduce((mine - theirs).abs(), "b t m -> b t", "mean")
        losses.append(_mean(distance, None if valid is None else valid[:, ::hop]))
    return torch.stack(losses).mean()


def discriminator_loss(
    made: Sequence[Judged], real: Sequence[Judged], valid: Bool[Tensor, "b s"] | None = None
) -> Float[Tensor, ""]:
    """Sum over judges of the means of (1 - real score)^2 and of (made score)^2. Judge detached waveforms for it.

    A judge that says 1/2 to all scores 1/2.

    Source: Mao et al. 2017, "Least squares generative adversarial networks".
    """
    total = real[0].score.new_zeros((), dtype=torch.float32)
    for theirs, mine in zip(real, made, strict=True):
        total = total + _mean_at((1 - theirs.score.float()).square(), theirs.strides[-1], valid)
        total = total + _mean_at(mine.score.float().square(), mine.strides[-1], valid)
    return total


def adversarial_loss(made: Sequence[Judged], valid: Bool[Tensor, "b s"] | None = None) -> Float[Tensor, ""]:
    """What the generator gets: sum over judges of the mean of (1 - score)^2."""
    total = made[0].score.new_zeros((), dtype=torch.float32)
    for mine in made:
        total = total + _mean_at((1 - mine.score.float()).square(), mine.strides[-1], valid)
    return total


def feature_loss(
    made: Sequence[Judged], real: Sequence[Judged], valid: Bool[Tensor, "b s"] | None = None
) -> Float[Tensor, ""]:
    """Sum over all maps of all judges, scores included, of the mean of |made - real|; no gradient reaches real.

    A sum, as HiFi-GAN's, so that published weights mean the same here: it grows with the number of maps as
    `adversarial_loss` does with that of judges. HiFi-GAN's factor of 2 is the caller's weight.
    """
    total = made[0].score.new_zeros((), dtype=torch.float32)
    for mine, theirs in zip(made, real, strict=True):
        for ours, original, stride in zip(mine.maps, theirs.maps, mine.strides, strict=True):
            distance = (ours.float() - original.detach().float()).abs()
            total = total + _mean_at(reduce(distance, "b c n p -> b n p", "mean"), stride, valid)
    return total


def _check_windows(windows: tuple[int, ...], multiple: int) -> None:
    if not windows or any(window < multiple or window % multiple for window in windows):
        raise ValueError(f"windows must be at least one, each a positive multiple of {multiple} samples, got {windows}")


def _check_floor(floor: float) -> None:
    if not floor > 0:
        raise ValueError(f"floor must be above 0, for silence has no logarithm; got {floor}")


def silenced(wave: Float[Tensor, "b s"], valid: Bool[Tensor, "b s"] | None) -> Float[Tensor, "b s"]:
    """The waveform in float32, 0 in the padding whatever stood there; no gradient passes through the padding."""
    return wave.float() if valid is None else wave.float().where(valid, 0.0)


def _magnitudes(wave: Float[Tensor, "b s"], window: int, hop: int, hann: Float[Tensor, " w"]) -> Float[Tensor, "b f t"]:
    """Of the frames whose middle lies in the waveform."""
    spectra = torch.stft(wave, window, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    return spectra[..., : -(-wave.shape[1] // hop)].abs()


def _mean(values: Float[Tensor, "b n"], valid: Bool[Tensor, "b n"] | None) -> Float[Tensor, ""]:
    """Mean over clips of the mean over each clip's own values."""
    if valid is None:
        return values.mean()
    return ((values * valid).sum(1) / valid.sum(1).clamp_min(1)).mean()


def _mean_at(values: Float[Tensor, "b n p"], stride: int, valid: Bool[Tensor, "b s"] | None) -> Float[Tensor, ""]:
    """`_mean` over the positions of a map, each at its sample; those behind the end are no more sound than padding."""
    if valid is None:
        return values.mean()
    rows, columns = (torch.arange(n, device=valid.device) for n in values.shape[1:])
    at = rearrange(rows * stride, "n -> n 1") + columns
    heard = F.pad(valid, (0, max(0, int(at[-1, -1]) + 1 - valid.shape[1])))[:, at]
    return _mean(rearrange(values, "b n p -> b (n p)"), rearrange(heard, "b n p -> b (n p)"))
