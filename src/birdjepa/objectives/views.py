"""Views: several augmented windows of each clip, cut and altered on its log-mel frames, batched on the device.

One decode feeds all views. Windows of one recording differ in time; level, background, spectral balance and masks are
drawn anew for each view. No flips: which way a sweep goes says who sings. Everything is drawn from one stream, so a
batch's views can be made again.

Axes: v views | b clips | s audio samples | t frames of a clip | w frames of a window | m mels | e embedding
"""

import dataclasses
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from birdjepa.core.random import Draws
from birdjepa.models.encoder import Encoder
from birdjepa.models.patch import patchify
from birdjepa.models.pool import pool
from birdjepa.objectives.augment import AugmentConfig, augment, db_per_unit
from birdjepa.objectives.base import Chance, Panel


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How many views of which length, and what is done to each."""

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
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self) -> None:
        if self.n_global < 1 or self.n_local < 0 or self.global_s <= 0 or self.local_s <= 0:
            raise ValueError(
                "need n_global >= 1, n_local >= 0, global_s > 0, local_s > 0; got "
                f"{self.n_global}, {self.n_local}, {self.global_s}, {self.local_s}"
            )
        for name, (low, high) in (("stretch", self.stretch), ("zoom", self.zoom)):
            if not 0 < low <= high:
                raise ValueError(f"{name} must be an ascending range of positive factors, got {low}, {high}")

    def least_clip_s(self, patch_s: float) -> float:
        """Shortest clip that holds the longest view, in seconds."""
        return max(self.global_s, self.local_s if self.n_local else 0.0) + patch_s / 2


class Views(NamedTuple):
    """Views of one length: their frames and where in the clip each window began."""

    frames: Float[Tensor, "v b w m"]
    start: Int[Tensor, "v b"]
    """First frame of the window."""
    span: Int[Tensor, "v b"]
    """Frames of the clip that the window shows; w unless it is stretched."""


class ClipViews(NamedTuple):
    """All views of a batch of clips."""

    global_: Views
    local: Views

    def panels(self) -> list[Panel]:
        """Each view as a picture: G1, G2, ... and L1, L2, ..."""
        named = [(f"{kind}{i + 1}", views, i) for kind, views in zip("GL", self, strict=True) for i in _count(views)]
        return [Panel(name, "", views.start[i], views.span[i], views.frames[i]) for name, views, i in named]


def draw_views(encoder: Encoder, clips: Float[Tensor, "b s"], config: ViewsConfig, chance: Chance) -> ClipViews:
    """Global and local views of a batch, before normalisation; the same for the same chance."""
    front_end = encoder.front_end
    with torch.no_grad():
        frames = front_end.log_mel(clips)

        def draw(purpose: str, n_views: int, seconds: float) -> Views:
            draws, window = chance.draws(purpose, clips.device), window_frames(encoder, seconds)
            db = db_per_unit(front_end.config)
            return make_views(frames, n_views, window, config, db=db, draws=draws)

        global_views = draw("views_global", config.n_global, config.global_s)
        return ClipViews(global_views, draw("views_local", config.n_local, config.local_s))


def embed_views(encoder: Encoder, views: ClipViews, chance: Chance) -> Float[Tensor, "v b e"]:
    """Pooled embeddings of all views, global ones first; one forward pass for each length."""
    parts = [_embed(encoder, views.global_.frames, chance, "drop_global")]
    if len(views.local.frames):
        parts.append(_embed(encoder, views.local.frames, chance, "drop_local"))
    return torch.cat(parts)


def window_frames(encoder: Encoder, seconds: float) -> int:
    """Frames of a view: the nearest whole number of patches, at least one."""
    patch = encoder.config.patch.frames
    return patch * max(1, round(seconds * encoder.front_end.config.frame_rate / patch))


def make_views(
    frames: Float[Tensor, "b t m"],
    n_views: int,
    window: int,
    config: ViewsConfig,
    *,
    db: float,
    draws: Draws,
) -> Views:
    """n_views augmented windows of each clip.

    frames are unnormalised log power, db decibels in one of their units.

    Raises:
      ValueError: if the clips are shorter than the window.
    """
    start, span = _draw_windows(frames, n_views, window, config.stretch, draws)
    views = _resample_time(frames * db, start, span, window)
    if config.zoom != (1.0, 1.0):
        views = _zoom(views, config.zoom, draws)
    views = augment(views, config.augment, draws)
    return Views(views / db, start, span)


def _draw_windows(
    frames: Float[Tensor, "b t m"],
    n_views: int,
    window: int,
    stretch: tuple[float, float],
    draws: Draws,
) -> tuple[Int[Tensor, "v b"], Int[Tensor, "v b"]]:
    """First frame and length of each window in its clip; no window leaves the clip."""
    batch, n_frames, _ = frames.shape
    if n_views and window > n_frames:
        raise ValueError(
            f"a view of {window} frames does not fit into clips of {n_frames}: "
            "lengthen loader.clip_s or shorten the view"
        )
    factor = draws.uniform((n_views, batch), *stretch, clips=1)
    span = (window * factor).round().clamp(1, n_frames).long()
    place = draws.uniform((n_views, batch), clips=1)
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


def _zoom(views: Float[Tensor, "v b w m"], factors: tuple[float, float], draws: Draws) -> Float[Tensor, "v b w m"]:
    """Stretches or shrinks each view along the mel axis, at a random place; the outermost bands fill a margin."""
    n_views, batch, window, mels = views.shape
    factor = draws.uniform((n_views, batch, 1, 1), *factors, clips=1)
    hidden = mels - mels / factor
    offset = hidden * draws.uniform((n_views, batch, 1, 1), clips=1)
    band = torch.arange(mels, device=views.device) + 0.5
    position = (offset + band / factor - 0.5).clamp(0, mels - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(mels - 1)
    size = (n_views, batch, window, mels)
    return torch.lerp(views.gather(3, low.expand(size)), views.gather(3, high.expand(size)), position - low)


def _embed(encoder: Encoder, views: Float[Tensor, "v b w m"], chance: Chance, purpose: str) -> Float[Tensor, "v b e"]:
    frames = encoder.front_end.normalise(rearrange(views, "v b w m -> (v b) w m"))
    drawn = chance.draws(purpose, frames.device, n_views=len(views))
    output = encoder.vit(patchify(frames, encoder.config.patch), encoder.grid(frames.shape[1])[None], drawn)
    pooled = pool(output, encoder.config.pooling, encoder.config.n_rows)
    return rearrange(pooled, "(v b) e -> v b e", v=len(views))


def _count(views: Views) -> range:
    return range(len(views.frames))
