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
from birdjepa.objectives.base import Chance
from birdjepa.objectives.lejepa import Lejepa
from birdjepa.objectives.views import DB, Views
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


def seen_clips(clips: Clips, objective: Lejepa, *, seed: int, n_clips: int) -> tuple[SeenClip, ...]:
    """Clips of the run's first batch with their views of the first step, of different labels as far as possible."""
    front_end = objective.encoder.front_end
    batch = clips.batch(0)
    with torch.no_grad():
        both = objective.views(batch.clips, Chance(seed, 0))
    places = [(source, row) for source in clips.sources for row in range(len(source))]
    seen = []
    for number in _varied(batch, n_clips):
        source, row = places[int(batch.recording[number])]
        heard = hear(
            batch.clips[number].numpy(), source, row, front_end, label=source.columns["label"][row], start_s=None
        )
        views = [
            view for kind, group in zip("GL", both, strict=True) for view in _views(group, number, kind, front_end)
        ]
        seen.append(SeenClip(heard, tuple(views)))
    return tuple(seen)


def _views(views: Views, clip: int, kind: str, front_end: LogMel) -> list[SeenView]:
    rate = front_end.config.frame_rate
    return [
        SeenView(
            name=f"{kind}{number + 1}",
            start_s=int(views.start[number, clip]) / rate,
            duration_s=int(views.span[number, clip]) / rate,
            frames=_decibels(views.frames[number, clip], front_end),
        )
        for number in range(len(views.frames))
    ]


def _varied(batch: ClipBatch, n_clips: int) -> Sequence[int]:
    """Places in the batch: the first clip of each label, then the rest."""
    labels = batch.label.tolist()
    firsts = [i for i, label in enumerate(labels) if label not in labels[:i]]
    return [*firsts, *(i for i in range(len(labels)) if i not in firsts)][:n_clips]


def _decibels(frames: torch.Tensor, front_end: LogMel) -> Float[np.ndarray, "t m"]:
    return (frames.float() * (1.0 if front_end.config.unit == "db" else DB)).numpy()
