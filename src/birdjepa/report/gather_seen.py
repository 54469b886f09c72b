"""What the encoder saw: training clips, and the pictures that the objective makes of them at steps of the run.

Axes: b clips | w frames | m mels
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool

from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import UserError
from birdjepa.data.loader import Batches, Clips
from birdjepa.embed.embedders import geometry_of
from birdjepa.models.sound_encoder import SoundEncoder
from birdjepa.objectives.added import WithAdded
from birdjepa.objectives.ajepa import Ajepa
from birdjepa.objectives.base import Chance, Objective, Panel
from birdjepa.objectives.curriculum import CurriculumConfig
from birdjepa.report.contents import Absent, Drawing, Outline, ReportConfig, Seen, SeenClip, SeenMoment, SeenPanel
from birdjepa.report.drawing import Drawn, draw_predictions
from birdjepa.report.gather_clips import decibels, hear

MOST_CLIPS = 128
"""Clips of a batch that are looked at: a batch for a GPU would keep a CPU busy. Masks of larger batches are thus drawn
anew; those of others are the ones of training on a CPU."""
BLOCK = "target "
"""Panels of this name and a number are shown as one, with the blocks outlined."""
Picture = tuple[Panel, list[Panel]]
"""A panel, and those of the blocks that are outlined on it."""


def look_at(
    clips: Batches,
    objective: Objective,
    *,
    name: str,
    seed: int,
    n_steps: int,
    trained: int | Absent,
    config: ReportConfig,
) -> Seen:
    """Clips of the run's first batch, of different labels as far as possible, and their pictures at the newest
    checkpoint's step; where the masks follow a curriculum, also those of step 1.

    Raises:
      UserError: if the recordings cannot be read any more.
    """
    batch = clips.batch(0)
    batch = batch.select(list(range(min(len(batch.label), MOST_CLIPS))))
    chosen = _varied(batch, config.n_clips)
    inner = objective.objective if isinstance(objective, WithAdded) else objective
    last = Chance(seed, max(0, (trained if isinstance(trained, int) else 1) - 1), n_steps)
    chances = [last]
    if isinstance(inner, Ajepa) and isinstance(inner.config.masks, CurriculumConfig) and last.step:
        chances = [Chance(seed, 0, n_steps), last]
    with torch.no_grad():
        panels = [_in_one_picture(objective.panels(batch, chance)) for chance in chances]
    drawn = _drawn(inner, clips, batch, chances, trained, config, chosen)
    if isinstance(drawn, Drawn):
        for shown, panel in zip(panels, drawn.panels, strict=True):
            shown.append((panel, shown[-1][1]))  # with the outlines of the targets
    n_samples = batch.clips.shape[1]
    places = [(source, row) for source in clips.sources for row in range(len(source))]
    front_end = inner.encoder.config.log_mel.build()
    seen = []
    for number in chosen:
        source, row = places[int(batch.recording[number])]
        label = source.columns["label"][row]
        heard = hear(batch.clips[number].numpy(), source, row, front_end, label=label, start_s=None)
        moments = [
            SeenMoment(chance.step + 1, tuple(_panel(picture, number, n_samples, inner.encoder) for picture in shown))
            for chance, shown in zip(chances, panels, strict=True)
        ]
        seen.append(SeenClip(heard, tuple(moments)))
    told: Drawing | Absent | None = drawn.drawing if isinstance(drawn, Drawn) else drawn
    return Seen(objective=name, n_steps=n_steps, trained=trained, clips=tuple(seen), drawing=told)


def _drawn(
    inner: Objective,
    clips: Batches,
    batch: ClipBatch,
    chances: Sequence[Chance],
    trained: int | Absent,
    config: ReportConfig,
    chosen: Sequence[int],
) -> Drawn | Absent | None:
    """Predictions as spectrograms, where the objective predicts embeddings."""
    if not isinstance(inner, Ajepa) or not isinstance(clips, Clips):
        return None
    if isinstance(trained, Absent):
        return Absent(f"the predictor is untrained ({trained.reason})")
    if not config.n_drawn:
        return Absent("n_drawn is 0")
    recordings = batch.recording.tolist()
    ordered = list(dict.fromkeys([*(recordings[i] for i in chosen), *recordings]))
    held = ordered[: max(len(chosen), clips.n_recordings // 4)]
    try:
        return draw_predictions(inner, clips, batch, chances, n_clips=config.n_drawn, held=set(held))
    except UserError as error:
        return Absent(str(error))


def _in_one_picture(panels: list[Panel]) -> list[Picture]:
    """Panels as they are, but target blocks together in one."""
    shown: list[Picture] = [(panel, []) for panel in panels if not panel.name.startswith(BLOCK)]
    blocks = [panel for panel in panels if panel.name.startswith(BLOCK)]
    if blocks:
        frames = blocks[0].frames
        for block in blocks[1:]:
            frames = torch.where(frames.isnan(), block.frames, frames)
        caption = f"{len(blocks)} blocks, to be predicted one by one as the teacher sees them"
        shown.append((blocks[0]._replace(name="targets", caption=caption, frames=frames), blocks))
    return shown


def _panel(picture: Picture, clip: int, n_samples: int, encoder: SoundEncoder) -> SeenPanel:
    panel, blocks = picture
    front_end = encoder.config.log_mel
    start, span = int(panel.start[clip]), int(panel.span[clip])
    whole = geometry_of(encoder.config).n_columns(n_samples) * encoder.config.token_hop // front_end.hop
    whole = min(whole, front_end.n_frames(n_samples))  # frames of a waveform's encoder are no frames of its pictures
    return SeenPanel(
        name=panel.name,
        caption=panel.caption,
        start_s=start / front_end.frame_rate,
        duration_s=span / front_end.frame_rate,
        is_window=start > 0 or span < whole,
        frames=decibels(panel.frames[clip], front_end),
        outlines=tuple(_outline(~block.frames[clip].isnan().numpy()) for block in blocks),
    )


def _outline(shown: Bool[np.ndarray, "w m"]) -> Outline:
    """The smallest rectangle around what a panel shows."""
    frames, mels = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    n_frames, n_mels = shown.shape
    return Outline(frames[0] / n_frames, (frames[-1] + 1) / n_frames, mels[0] / n_mels, (mels[-1] + 1) / n_mels)


def _varied(batch: ClipBatch, n_clips: int) -> Sequence[int]:
    """Places in the batch: the first clip of each label, then the rest."""
    labels = batch.label.tolist()
    firsts = [i for i, label in enumerate(labels) if label not in labels[:i]]
    return [*firsts, *(i for i in range(len(labels)) if i not in firsts)][:n_clips]
