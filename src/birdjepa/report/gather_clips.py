"""Sound into report contents: stretches of recordings that can be heard, and training clips with their views.

Axes: b clips | s audio samples | t frames | m mels
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from birdjepa.audio.logmel import LogMel, band_centres
from birdjepa.core.batch import ClipBatch
from birdjepa.data.loader import Clips
from birdjepa.data.sources import Manifest
from birdjepa.objectives.augment import db_per_unit
from birdjepa.objectives.base import Chance, Objective, Panel
from birdjepa.report.contents import HeardClip, Scale, SeenClip, SeenView
from birdjepa.report.gather_data import LICENCE_COLUMNS, cell

ATTRIBUTION_COLUMNS = ("attribution", "recordist")


def scale_of(front_end: LogMel) -> Scale:
    return Scale(front_end.config.frame_rate, band_centres(front_end.config))


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
    short = max(0, front_end.config.window - len(samples))
    padded = torch.from_numpy(np.pad(samples, (0, short)))
    with torch.no_grad():
        frames = front_end.log_mel(padded[None])[0]
    return HeardClip(
        samples=samples,
        sampling_rate=front_end.config.sampling_rate,
        frames=_decibels(frames, front_end),
        label=label,
        source=source.name,
        recording=source.keys[row],
        start_s=start_s,
        licence=cell(source, LICENCE_COLUMNS, row),
        attribution=cell(source, ATTRIBUTION_COLUMNS, row),
    )


def seen_clips(clips: Clips, objective: Objective, *, seed: int, n_clips: int) -> tuple[SeenClip, ...]:
    """Clips of the run's first batch with their views of the first step, of different labels as far as possible."""
    front_end = objective.encoder.front_end
    batch = clips.batch(0)
    with torch.no_grad():
        panels = objective.panels(batch, Chance(seed, 0, 1))
    places = [(source, row) for source in clips.sources for row in range(len(source))]
    seen = []
    for number in _varied(batch, n_clips):
        source, row = places[int(batch.recording[number])]
        heard = hear(
            batch.clips[number].numpy(), source, row, front_end, label=source.columns["label"][row], start_s=None
        )
        seen.append(SeenClip(heard, tuple(_view(panel, number, front_end) for panel in panels)))
    return tuple(seen)


def _view(panel: Panel, clip: int, front_end: LogMel) -> SeenView:
    rate = front_end.config.frame_rate
    return SeenView(
        name=panel.name,
        start_s=int(panel.start[clip]) / rate,
        duration_s=int(panel.span[clip]) / rate,
        frames=_decibels(panel.frames[clip], front_end),
    )


def _varied(batch: ClipBatch, n_clips: int) -> Sequence[int]:
    """Places in the batch: the first clip of each label, then the rest."""
    labels = batch.label.tolist()
    firsts = [i for i, label in enumerate(labels) if label not in labels[:i]]
    return [*firsts, *(i for i in range(len(labels)) if i not in firsts)][:n_clips]


def _decibels(frames: torch.Tensor, front_end: LogMel) -> Float[np.ndarray, "t m"]:
    return (frames.float() * db_per_unit(front_end.config)).numpy()
