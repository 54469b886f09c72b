"""What a codec sounds like, from its run's samples/: originals, what came back at some steps, and what the codes cost.

Axes: s audio samples
"""

import dataclasses
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from birdjepa.audio.decode import read_clip
from birdjepa.audio.logmel import LogMel
from birdjepa.codec.metrics import mel_distance
from birdjepa.codec.usage import CodeCounts, rates
from birdjepa.core.batch import ClipBatch
from birdjepa.core.errors import UserError
from birdjepa.data.loader import Batches
from birdjepa.models.codec import Codec
from birdjepa.report.contents import Absent, CodeUse, HeardClip, Look, Reconstructed, ReportConfig, SampleClip
from birdjepa.report.gather_clips import hear, pictured
from birdjepa.report.gather_seen import MOST_CLIPS

FOLDER = "samples"
_LOOK = re.compile(r"step(\d+)-\d+\.wav")
_SAME = 1e-3
"""Samples of a file and of a clip differ by less where one was written from the other."""


def listen(folder: Path, codec: Codec, clips: Batches | None, config: ReportConfig) -> Reconstructed:
    """The first, the middle and the last look that the run in a folder took at its sample clips, and its codes' rates.

    Without recordings, names of the clips and use of the codes are missing: both are those of the run's first batch.
    """
    batch: ClipBatch | None = None
    used = Absent("the recordings are not at hand")
    try:
        batch = clips.batch(0) if clips is not None else None
    except UserError as error:
        used = Absent(str(error))
    shape = codec.config
    packing = shape.packing()
    return Reconstructed(
        clips=_clips(folder / FOLDER, codec, clips, batch, config.n_clips),
        rates=rates(packing, shape.sampling_rate, shape.hop),
        levels=packing.radices,
        used=_use(codec, batch) if batch is not None else used,
    )


def chosen(steps: list[int]) -> list[int]:
    """The first, the middle and the last."""
    return sorted({steps[0], steps[len(steps) // 2], steps[-1]})


def _clips(
    folder: Path, codec: Codec, clips: Batches | None, batch: ClipBatch | None, n_clips: int
) -> tuple[SampleClip, ...] | Absent:
    steps = sorted({int(each.group(1)) for path in folder.glob("step*.wav") if (each := _LOOK.fullmatch(path.name))})
    n_there = len(list(folder.glob("original-*.wav")))
    if not steps or not n_there:
        return Absent(f"the run has left no sound in {FOLDER}/ (sample_every is 0, or it has not begun)")
    rate, front_end = codec.config.sampling_rate, codec.encoder.config.log_mel.build()
    found = []
    try:
        for number in range(min(n_there, n_clips)):
            real = read_clip(folder / f"original-{number}.wav", rate)
            original = _original(real, number, clips, batch, front_end)
            looks = []
            for step in chosen(steps):
                made = read_clip(folder / f"step{step:07d}-{number}.wav", rate)
                clip = dataclasses.replace(original, samples=made, frames=pictured(made, front_end))
                looks.append(Look(step, clip, mel_distance(torch.from_numpy(real), torch.from_numpy(made), rate)))
            found.append(SampleClip(original, tuple(looks)))
    except (UserError, ValueError) as error:
        return Absent(f"{FOLDER}/ is not whole: {error}")
    return tuple(found)


def _original(
    real: Float[np.ndarray, " s"], number: int, clips: Batches | None, batch: ClipBatch | None, front_end: LogMel
) -> HeardClip:
    """With the name, label and licence of its recording where the batch holds the same sound still."""
    if clips is not None and batch is not None and number < len(batch.lengths):
        clip = batch.clips[number, : int(batch.lengths[number])].numpy().clip(-1, 1)
        if len(clip) == len(real) and np.abs(clip - real).max() < _SAME:
            places = [(source, row) for source in clips.sources for row in range(len(source))]
            source, row = places[int(batch.recording[number])]
            return hear(real, source, row, front_end, label=source.columns["label"][row], start_s=None)
    return HeardClip(
        samples=real,
        sampling_rate=front_end.config.sampling_rate,
        frames=pictured(real, front_end),
        label="",
        source="",
        recording=f"{FOLDER}/original-{number}.wav",
        start_s=None,
        licence="",
        attribution="",
    )


def _use(codec: Codec, batch: ClipBatch) -> CodeUse:
    """Of the codes of a batch."""
    batch = batch.select(list(range(min(len(batch.lengths), MOST_CLIPS))))
    packing = codec.config.packing()
    with torch.no_grad():
        coded = codec.encode(batch.clips, batch.lengths)
    counts = CodeCounts(packing)
    counts.add(coded.indices[coded.kept].cpu().numpy())
    used = float((counts.levels_used() / np.array(packing.radices)).mean())
    summary = counts.summary(codec.config.sampling_rate, codec.config.hop)
    return CodeUse(n_clips=len(batch.lengths), levels_used=used, summary=summary)
