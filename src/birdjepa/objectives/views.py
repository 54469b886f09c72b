"""Views: several augmented windows of each clip, cut and altered on its log-mel frames, batched on the device.

One decode feeds all views. Windows of one recording differ in time; level, background, spectral balance and masks are
drawn anew for each view. No flips: which way a sweep goes says who sings. Everything is drawn from one generator, so a
batch's views can be made again.

Axes: v views | b clips | t frames of a clip | w frames of a window | m mels
"""

import dataclasses
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

DB = 10.0 / math.log(10.0)
"""Decibels in a neper of power: 10 log10(x) = DB * ln(x)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How many views of which length, and what is done to each. Levels in dB, whatever the front end's unit."""

    n_global: int = 2
    global_s: float = 2.56
    """Length of a global view in seconds; rounded to whole patches."""
    n_local: int = 2
    local_s: float = 0.96
    """Length of a local view in seconds; rounded to whole patches."""
    stretch: tuple[float, float] = (1.0, 1.0)
    """Sound that a view shows over its own length, uniform in this range: below 1 slows it down."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Factor on the mel axis, uniform in this range: above 1 a part of the bands fills the view, below 1 all of them
    leave a margin."""
    gain_db: float = 6.0
    """Level of a view: uniform within plus or minus this."""
    mix_probability: float = 0.5
    """Share of views that get another clip of the batch as background."""
    mix_snr_db: tuple[float, float] = (3.0, 25.0)
    """Level of the view over its background, uniform in this range."""
    tilt_db: float = 0.0
    """Standard deviation of a smooth random equaliser with five control points over the mel axis."""
    mask_mels: int = 24
    """Widest masked stripe of mel bands; its width is uniform from 0."""
    mask_share: float = 0.2
    """Longest masked stretch of time as a share of the view."""

    def __post_init__(self) -> None:
        if self.n_global < 1 or self.n_local < 0 or self.global_s <= 0 or self.local_s <= 0:
            raise ValueError(
                "need n_global >= 1, n_local >= 0, global_s > 0, local_s > 0; got "
                f"{self.n_global}, {self.n_local}, {self.global_s}, {self.local_s}"
            )
        for name, (low, high) in (("stretch", self.stretch), ("zoom", self.zoom)):
            if not 0 < low <= high:
                raise ValueError(f"{name} must be an ascending range of positive factors, got {low}, {high}")
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


class Views(NamedTuple):
    """Views of one length: their frames and where in the clip each window began."""

    frames: Float[Tensor, "v b w m"]
    start: Int[Tensor, "v b"]
    """First frame of the window."""
    span: Int[Tensor, "v b"]
    """Frames of the clip that the window shows; w unless it is stretched."""


def make_views(
    frames: Float[Tensor, "b t m"],
    n_views: int,
    window: int,
    config: ViewsConfig,
    *,
    db_per_unit: float,
    generator: torch.Generator,
) -> Views:
    """n_views augmented windows of each clip.

    frames are unnormalised log power; db_per_unit is 1 for dB and `DB` for nepers.

    Raises:
      ValueError: if the clips are shorter than the window.
    """
    start, span = _draw_windows(frames, n_views, window, config.stretch, generator)
    views = _resample_time(frames * db_per_unit, start, span, window)
    if config.zoom != (1.0, 1.0):
        views = _zoom(views, config.zoom, generator)
    views = views + _uniform((n_views, frames.shape[0], 1, 1), -config.gain_db, config.gain_db, views, generator)
    if config.tilt_db:
        views = views + _tilt(views, config.tilt_db, generator)
    if config.mix_probability and frames.shape[0] > 1:
        views = _mix(views, config, generator)
    hidden = _stripes(views, config, generator)
    views = torch.where(hidden, views.mean((2, 3), keepdim=True), views)
    return Views(views / db_per_unit, start, span)


def _draw_windows(
    frames: Float[Tensor, "b t m"],
    n_views: int,
    window: int,
    stretch: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Int[Tensor, "v b"], Int[Tensor, "v b"]]:
    """First frame and length of each window in its clip; no window leaves the clip."""
    batch, n_frames, _ = frames.shape
    if n_views and window > n_frames:
        raise ValueError(
            f"a view of {window} frames does not fit into clips of {n_frames}: "
            "lengthen loader.clip_s or shorten the view"
        )
    factor = _uniform((n_views, batch), *stretch, frames, generator)
    span = (window * factor).round().clamp(1, n_frames).long()
    place = torch.rand((n_views, batch), generator=generator, device=frames.device)
    return (place * (n_frames - span + 1)).long(), span


def _resample_time(
    frames: Float[Tensor, "b t m"], start: Int[Tensor, "v b"], span: Int[Tensor, "v b"], window: int
) -> Float[Tensor, "v b w m"]:
    """Each window by linear interpolation; exactly the frames themselves where it is not stretched."""
    step = torch.arange(window, device=frames.device) + 0.5
    last = (span - 1).unsqueeze(-1)
    position = (step * (span / window).unsqueeze(-1) - 0.5).clamp_min(0).minimum(last)
    low = position.floor().long()
    share = (position - low).to(frames.dtype).unsqueeze(-1)
    first = start.unsqueeze(-1)
    clip = torch.arange(len(frames), device=frames.device)[None, :, None]
    return torch.lerp(frames[clip, first + low], frames[clip, first + (low + 1).minimum(last)], share)


def _zoom(
    views: Float[Tensor, "v b w m"], factors: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "v b w m"]:
    """Stretches or shrinks each view along the mel axis, at a random place; the outermost bands fill a margin."""
    n_views, batch, window, mels = views.shape
    factor = _uniform((n_views, batch, 1, 1), *factors, views, generator)
    hidden = mels - mels / factor
    offset = hidden * torch.rand((n_views, batch, 1, 1), generator=generator, device=views.device)
    band = torch.arange(mels, device=views.device) + 0.5
    position = (offset + band / factor - 0.5).clamp(0, mels - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(mels - 1)
    size = (n_views, batch, window, mels)
    return torch.lerp(views.gather(3, low.expand(size)), views.gather(3, high.expand(size)), position - low)


def _mix(views: Float[Tensor, "v b w m"], config: ViewsConfig, generator: torch.Generator) -> Float[Tensor, "v b w m"]:
    """Adds the power of another clip's view to a share of the views, at a drawn signal-to-noise ratio."""
    n_views, batch = views.shape[:2]
    device = views.device
    other = torch.randint(1, batch, (n_views, batch), generator=generator, device=device)
    other = (other + torch.arange(batch, device=device)) % batch
    background = views[torch.arange(n_views, device=device)[:, None], other]
    snr = _uniform((n_views, batch, 1, 1), *config.mix_snr_db, views, generator)
    wanted = _mean_level(views) - _mean_level(background) - snr
    mixed = DB * torch.logaddexp(views / DB, (background + wanted) / DB)
    drawn = torch.rand((n_views, batch, 1, 1), generator=generator, device=device) < config.mix_probability
    return torch.where(drawn, mixed, views)


def _mean_level(views: Float[Tensor, "v b w m"]) -> Float[Tensor, "v b 1 1"]:
    """Level of the mean power in dB."""
    n_values = views.shape[2] * views.shape[3]
    return DB * (torch.logsumexp(views / DB, dim=(2, 3), keepdim=True) - math.log(n_values))


def _tilt(views: Float[Tensor, "v b w m"], std_db: float, generator: torch.Generator) -> Float[Tensor, "v b 1 m"]:
    """A smooth gain over the mel axis."""
    n_views, batch, _, mels = views.shape
    points = torch.randn((n_views * batch, 1, 5), generator=generator, device=views.device) * std_db
    curve = F.interpolate(points, size=mels, mode="linear", align_corners=True)
    return curve.view(n_views, batch, 1, mels)


def _stripes(
    views: Float[Tensor, "v b w m"], config: ViewsConfig, generator: torch.Generator
) -> Bool[Tensor, "v b w m"]:
    """One stripe of mel bands and one stretch of time per view, as SpecAugment masks them (Park et al. 2019).

    A stripe may stick out at either end, so that the outermost bands and frames are hidden as often as the others.
    """
    n_views, batch, window, mels = views.shape
    low, width, first, length = torch.rand((4, n_views, batch, 1, 1), generator=generator, device=views.device)
    band = torch.arange(mels, device=views.device)
    time = torch.arange(window, device=views.device)[:, None]
    width, length = width * config.mask_mels, length * config.mask_share * window
    low, first = low * (mels + width) - width, first * (window + length) - length
    in_band = (band >= low) & (band < low + width)
    in_time = (time >= first) & (time < first + length)
    return in_band | in_time


def _uniform(shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=like.device)
