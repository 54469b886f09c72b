"""Tasks that label every moment of a song, for any backbone that says what its tokens stand for in time.

Axes: n songs | t columns | d width | s audio samples
"""

import time
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float

from birdjepa.audio import decode
from birdjepa.benchmark.backbones.base import Backbone, Want
from birdjepa.benchmark.backbones.logmel import LogMelBackbone
from birdjepa.benchmark.backbones.ours import EncoderBackbone
from birdjepa.benchmark.evaluate_frames import FrameTask, evaluate_frames
from birdjepa.benchmark.experiment import Coordinates, Tested
from birdjepa.benchmark.folds import Folds
from birdjepa.benchmark.frame_embedders import EncoderFrames, FrameEmbedder, LogMelFrames
from birdjepa.benchmark.frames import FrameSequence, Song
from birdjepa.benchmark.songs import song_of
from birdjepa.benchmark.tasks import Examples
from birdjepa.core.errors import UsageError


class TokenFrames(FrameEmbedder):
    """A model's tokens, those of one moment side by side. Clips abut: what lies at a clip's end has less context."""

    def __init__(self, backbone: Backbone, layer: int) -> None:
        self.sampling_rate = backbone.card.sampling_rate
        self._backbone, self._layer = backbone, layer

    def embed(self, waveform: Float[np.ndarray, " s"]) -> FrameSequence:
        card = self._backbone.card
        assert card.token_hop_s is not None
        columns, start = [], []
        for first in range(0, len(waveform), card.clip_samples):
            clip = waveform[first : first + card.clip_samples]
            want = Want(layers=(self._layer,), tokens=True)
            heard = self._backbone.embed([clip], want, sampling_rate=self.sampling_rate)
            assert heard.tokens is not None
            own = rearrange(heard.tokens[0].numpy(), "(t r) d -> t (r d)", r=card.token_rows)
            own = own[: max(1, round(len(clip) / self.sampling_rate / card.token_hop_s))]
            columns.append(own)
            start.append(first / self.sampling_rate + np.arange(len(own)) * card.token_hop_s)
        start_s = np.concatenate(start)
        return FrameSequence(np.concatenate(columns), start_s, start_s + card.token_hop_s)


def framer(backbone: Backbone, layer: int) -> FrameEmbedder:
    """How a backbone frames songs at a layer, counted from 1."""
    if isinstance(backbone, EncoderBackbone):
        return EncoderFrames(backbone.encoder, layer=layer - 1)
    if isinstance(backbone, LogMelBackbone):
        return LogMelFrames(backbone.config, frames=1, context=backbone.token_frames)
    return TokenFrames(backbone, layer)


def embed(embedder: FrameEmbedder, examples: Examples) -> list[FrameSequence]:
    """The frames of each song.

    Raises:
      AudioError: if a recording cannot be decoded.
    """
    sources = (examples.manifest.fetched_source(int(row)) for row in examples.row)
    return [embedder.embed(decode.read_clip(source, embedder.sampling_rate)) for source in sources]


def songs(examples: Examples) -> list[Song]:
    """The songs of a task.

    Raises:
      LabelError: if a label lies outside its recording.
      AudioError: if a recording cannot be opened.
    """
    given = zip(examples.ids, examples.row, examples.labels, examples.unscored, strict=True)
    return [song_of(name, examples.manifest.source(int(row)), *labels) for name, row, *labels in given]


def label(
    at: Coordinates,
    examples: Examples,
    songs: Sequence[Song],
    frames: Sequence[FrameSequence],
    *,
    n_resamples: int,
    device: str,
) -> Tested:
    """Labels all tested songs from the training songs of their folds (n_train of them), and scores them."""
    began = time.monotonic()
    task = FrameTask(n_train_songs=at.n_train or 0, n_resamples=n_resamples)
    score = evaluate_frames(songs, frames, folds_of(examples), task, seed=at.seed, device=device)
    by_metric: dict[str, dict[str, float]] = {}
    for name, values in score.per_class.items():
        for metric, value in values.items():
            by_metric.setdefault(metric, {})[name or "(silence)"] = value
    chosen = tuple({"fold": each.fold, "C": each.strength, **each.smoothing._asdict()} for each in score.choices)
    rows = np.array([examples.ids.index(name) for name in score.songs])
    return Tested(score.metrics, by_metric, rows, None, score.counts, score.notes, chosen, time.monotonic() - began)


def folds_of(examples: Examples) -> Folds:
    """The task's divisions as folds."""
    fold = np.full(len(examples), -1)
    if len(examples.parts) == 1:
        (part,) = examples.parts
        fold[np.concatenate([part.train, part.validation])], fold[part.test] = 0, 1
        return Folds(fold, ("train", part.name), (1,), given=True)
    for number, part in enumerate(examples.parts):
        fold[part.test] = number
    if (fold < 0).all():
        raise UsageError("no song is tested")
    return Folds(fold, tuple(part.name for part in examples.parts), tuple(range(len(examples.parts))), given=True)
