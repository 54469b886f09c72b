"""Augmentation of log-mel frames: level, spectral balance, another clip as background, masked stripes; batched.

Works on frames in dB, a view of every clip at a time; everything is drawn from one stream, so that a batch can be
made again. No flips: which way a sweep goes says who sings.

Axes: v views | b clips | w frames | m mels
"""

import dataclasses
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core.random import Draws

DB = 10.0 / math.log(10.0)
"""Decibels in a neper of power: 10 log10(x) = DB * ln(x)."""
GROUP = 8
"""Clips that may be mixed with each other: neighbours in the batch, so that no partner lies in another process."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to each view. Levels in dB, whatever the front end's unit."""

    gain_db: float = 6.0
    """Level of a view: uniform within plus or minus this."""
    tilt_db: float = 0.0
    """Standard deviation of a smooth random equaliser with five control points over the mel axis."""
    mix_probability: float = 0.5
    """Share of views that get another clip of the batch as background, one of its group of 8 neighbours."""
    mix_snr_db: tuple[float, float] = (3.0, 25.0)
    """Level of the view over its background, uniform in this range."""
    mask_mels: int = 24
    """Widest masked stripe of mel bands; its width is uniform from 0."""
    mask_share: float = 0.2
    """Longest masked stretch of time as a share of the view."""

    def __post_init__(self) -> None:
        if not 0 <= self.mix_probability <= 1 or self.mix_snr_db[0] > self.mix_snr_db[1]:
            raise ValueError(
                "need 0 <= mix_probability <= 1 and an ascending mix_snr_db, got "
                f"{self.mix_probability}, {self.mix_snr_db}"
            )
        if self.gain_db < 0 or self.tilt_db < 0 or self.mask_mels < 0 or not 0 <= self.mask_share < 1:
            raise ValueError(
                "need gain_db >= 0, tilt_db >= 0, mask_mels >= 0, 0 <= mask_share < 1; got "
                f"{self.gain_db}, {self.tilt_db}, {self.mask_mels}, {self.mask_share}"
            )


GAIN_ONLY = AugmentConfig(mix_probability=0.0, mask_mels=0, mask_share=0.0)
"""For objectives that mask by themselves."""


def augment(views: Float[Tensor, "v b w m"], config: AugmentConfig, draws: Draws) -> Float[Tensor, "v b w m"]:
    """Views in dB, altered; what is masked takes the view's mean."""
    views = views + draws.uniform((*views.shape[:2], 1, 1), -config.gain_db, config.gain_db, clips=1)
    if config.tilt_db:
        views = views + _tilt(views, config.tilt_db, draws)
    if config.mix_probability and views.shape[1] > 1:
        views = _mix(views, config, draws)
    hidden = _stripes(views, config, draws)
    return torch.where(hidden, views.mean((2, 3), keepdim=True), views)


def db_per_unit(front_end: LogMelConfig) -> float:
    """Decibels in one unit of a front end's frames."""
    return 1.0 if front_end.unit == "db" else DB


def groups(batch: int, device: torch.device) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
    """The number of the first clip of each clip's group, and the group's size: GROUP neighbours, and the last group
    takes what is left over.
    """
    number = (torch.arange(batch, device=device) // GROUP).clamp_max(max(1, batch // GROUP) - 1)
    first, last = number * GROUP, number == number[-1]
    return first, torch.where(last, batch - first, GROUP)


def _mix(views: Float[Tensor, "v b w m"], config: AugmentConfig, draws: Draws) -> Float[Tensor, "v b w m"]:
    """Adds the power of another clip's view to a share of the views, at a drawn signal-to-noise ratio."""
    n_views, batch = views.shape[:2]
    device = views.device
    clip = torch.arange(batch, device=device)
    first, size = groups(batch, device)
    away = 1 + (draws.uniform((n_views, batch), clips=1) * (size - 1)).long()
    other = first + (clip - first + away) % size
    background = views[torch.arange(n_views, device=device)[:, None], other]
    snr = draws.uniform((n_views, batch, 1, 1), *config.mix_snr_db, clips=1)
    wanted = _mean_level(views) - _mean_level(background) - snr
    mixed = DB * torch.logaddexp(views / DB, (background + wanted) / DB)
    drawn = draws.uniform((n_views, batch, 1, 1), clips=1) < config.mix_probability
    return torch.where(drawn, mixed, views)


def _mean_level(views: Float[Tensor, "v b w m"]) -> Float[Tensor, "v b 1 1"]:
    """Level of the mean power in dB."""
    n_values = views.shape[2] * views.shape[3]
    return DB * (torch.logsumexp(views / DB, dim=(2, 3), keepdim=True) - math.log(n_values))


def _tilt(views: Float[Tensor, "v b w m"], std_db: float, draws: Draws) -> Float[Tensor, "v b 1 m"]:
    """A smooth gain over the mel axis."""
    n_views, batch, _, mels = views.shape
    points = draws.normal((n_views, batch, 1, 5), clips=1) * std_db
    curve = F.interpolate(points.flatten(0, 1), size=mels, mode="linear", align_corners=True)
    return curve.view(n_views, batch, 1, mels)


def _stripes(views: Float[Tensor, "v b w m"], config: AugmentConfig, draws: Draws) -> Bool[Tensor, "v b w m"]:
    """One stripe of mel bands and one stretch of time per view, as SpecAugment masks them (Park et al. 2019).

    A stripe may stick out at either end, so that the outermost bands and frames are hidden as often as the others.
    """
    n_views, batch, window, mels = views.shape
    low, width, first, length = draws.uniform((4, n_views, batch, 1, 1), clips=2)
    band = torch.arange(mels, device=views.device)
    time = torch.arange(window, device=views.device)[:, None]
    width, length = width * config.mask_mels, length * config.mask_share * window
    low, first = low * (mels + width) - width, first * (window + length) - length
    in_band = (band >= low) & (band < low + width)
    in_time = (time >= first) & (time < first + length)
    return in_band | in_time
