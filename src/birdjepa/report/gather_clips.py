"""Sound into report contents: stretches of recordings that can be seen and heard.

Axes: s audio samples | t frames | m mels
"""

import numpy as np
import torch
from jaxtyping import Float

from birdjepa.audio.logmel import LogMel, LogMelConfig, band_centres
from birdjepa.data.manifest import Manifest
from birdjepa.objectives.augment import db_per_unit
from birdjepa.report.contents import HeardClip, Scale
from birdjepa.report.gather_data import LICENCE_COLUMNS, cell

ATTRIBUTION_COLUMNS = ("attribution", "recordist")


def scale_of(front_end: LogMelConfig) -> Scale:
    return Scale(front_end.frame_rate, band_centres(front_end))


def hear(
    samples: Float[np.ndarray, " s"],
    source: Manifest,
    row: int,
    front_end: LogMel,
    *,
    label: str,
    start_s: float | None,
) -> HeardClip:
    """A stretch of a manifest's row, at the front end's sampling rate, with its spectrogram."""
    return HeardClip(
        samples=samples,
        sampling_rate=front_end.config.sampling_rate,
        frames=pictured(samples, front_end),
        label=label,
        source=source.name,
        recording=source.keys[row],
        start_s=start_s,
        licence=cell(source, LICENCE_COLUMNS, row),
        attribution=cell(source, ATTRIBUTION_COLUMNS, row),
    )


def pictured(samples: Float[np.ndarray, " s"], front_end: LogMel) -> Float[np.ndarray, "t m"]:
    """The spectrogram of a stretch of any length, in decibels."""
    short = max(0, front_end.config.window - len(samples))
    padded = torch.from_numpy(np.pad(samples, (0, short)))
    shown = front_end.config.unpadded.build() if front_end.config.clip_samples else front_end
    with torch.no_grad():
        return decibels(shown.log_mel(padded[None])[0], front_end.config)


def decibels(frames: torch.Tensor, front_end: LogMelConfig) -> Float[np.ndarray, "t m"]:
    """Log power in the front end's unit into decibels."""
    return (frames.float() * db_per_unit(front_end)).numpy()
