"""What turns clips into vectors: an encoder's pooled output, its layers, a classifier's logits, or a probe's floor of
log-mel statistics.

All take the same pieces of audio, so that one pass over a collection serves several of them.

Axes: b clips | s audio samples | n patches | t frames | m mels | e embedding | c classes
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from birdjepa.core.errors import UsageError
from birdjepa.data.manifest import Manifest
from birdjepa.embed.segments import Geometry
from birdjepa.models.heads import Head, LinearHead
from birdjepa.models.pool import Pooling, pool
from birdjepa.models.sound_encoder import SoundEncoder, SoundEncoderConfig
from birdjepa.models.vit import EncoderOutput

Precision = Literal["float32", "bf16"]


class Embedder(abc.ABC):
    """Clips of one length to one vector each."""

    config: SoundEncoderConfig
    """How recordings are cut for it."""
    device: torch.device
    confined: bool
    """Whether it can be confined to a labelled segment inside a clip."""

    @abc.abstractmethod
    def embed(self, clips: Float[Tensor, "b s"], inside_s: Float[np.ndarray, "b 2"]) -> Float[Tensor, "b e"]:
        """float32 embeddings of what lies in [inside_s[:, 0], inside_s[:, 1]) seconds of each clip."""

    @torch.inference_mode()
    def width(self) -> int:
        """Numbers per embedding, found by embedding silence."""
        silence = torch.zeros(1, self.config.min_samples, device=self.device)
        return self.embed(silence, np.array([[0.0, math.inf]])).shape[1]


class Pooled(Embedder):
    """An encoder's last layer, pooled."""

    def __init__(self, encoder: SoundEncoder, pooling: Pooling, precision: Precision = "float32") -> None:
        _require_pooling(encoder.config, pooling)
        self.config, self.device = encoder.config, encoder.device
        self.confined = pooling != "cls"
        self._encoder, self._precision = encoder, precision
        self._pooling: Pooling = pooling

    def embed(self, clips: Float[Tensor, "b s"], inside_s: Float[np.ndarray, "b 2"]) -> Float[Tensor, "b e"]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            output = self._encoder(clips)
        return _pool_inside(output, self._encoder, self._pooling, clips.shape[1], inside_s)


class AllLayers(Embedder):
    """An encoder's output after every layer, pooled, side by side: a layer sweep for the price of one pass."""

    def __init__(self, encoder: SoundEncoder, pooling: Pooling, precision: Precision = "float32") -> None:
        _require_pooling(encoder.config, pooling)
        self.config, self.device = encoder.config, encoder.device
        self.confined = pooling != "cls"
        self._encoder, self._precision = encoder, precision
        self._pooling: Pooling = pooling

    @property
    def n_layers(self) -> int:
        return self._encoder.config.n_layers

    def embed(self, clips: Float[Tensor, "b s"], inside_s: Float[np.ndarray, "b 2"]) -> Float[Tensor, "b e"]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            outputs = self._encoder.layers(clips)
        n_samples = clips.shape[1]
        pooled = [_pool_inside(output, self._encoder, self._pooling, n_samples, inside_s) for output in outputs]
        return torch.cat(pooled, 1)

    def split(self, embeddings: Float[np.ndarray, "b _"]) -> list[Float[np.ndarray, "b _"]]:
        """One table per layer, the first one first; the final one equals that of `Pooled`."""
        return np.split(embeddings, self.n_layers, axis=1)


class Logits(Embedder):
    """What a classification head says of an encoder's tokens: one logit per class."""

    def __init__(self, encoder: SoundEncoder, head: Head, precision: Precision = "float32") -> None:
        self.config, self.device = encoder.config, encoder.device
        self.confined = not (isinstance(head, LinearHead) and head.pooling == "cls")
        self._encoder, self._head, self._precision = encoder, head, precision

    def embed(self, clips: Float[Tensor, "b s"], inside_s: Float[np.ndarray, "b 2"]) -> Float[Tensor, "b c"]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            output = self._encoder(clips)
        return self._head(output, _weights_inside(output, self._encoder, clips.shape[1], inside_s))


class LogMelStatistics(Embedder):
    """Mean and standard deviation over time of each log-mel band: what any encoder must beat.

    The front end is the encoder's `log_mel`, under fixed normalisation, so that loudness counts, and without padding.
    """

    confined = True

    def __init__(self, config: SoundEncoderConfig, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self._front_end = dataclasses.replace(config.log_mel.unpadded, normalise="fixed").build().to(device)

    def embed(self, clips: Float[Tensor, "b s"], inside_s: Float[np.ndarray, "b 2"]) -> Float[Tensor, "b e"]:
        front_end = self.config.log_mel
        frames = self._front_end(F.pad(clips, (0, max(0, front_end.window - clips.shape[1]))))
        start_s = np.arange(frames.shape[1]) * front_end.hop / front_end.sampling_rate
        weights = overlap(start_s, start_s + front_end.window / front_end.sampling_rate, inside_s).to(frames.device)
        return statistics(frames, weights)


def statistics(frames: Float[Tensor, "b t m"], weights: Float[Tensor, "b t"]) -> Float[Tensor, "b e"]:
    """Weighted mean and standard deviation over time of each band, side by side."""
    share = (weights / weights.sum(1, keepdim=True)).unsqueeze(-1)
    mean = (frames * share).sum(1)
    variance = ((frames - mean.unsqueeze(1)).square() * share).sum(1)
    return torch.cat((mean, variance.sqrt()), 1)


def random_twin(encoder: SoundEncoder, seed: int) -> SoundEncoder:
    """The same architecture at random initialisation, on the same device: a probe's second floor."""
    return encoder.twin(seed).requires_grad_(False).eval().to(encoder.device)


def geometry_of(config: SoundEncoderConfig) -> Geometry:
    """How recordings are cut for an encoder."""
    return Geometry(
        sampling_rate=config.sampling_rate,
        clips=config.clips,
        min_samples=config.min_samples,
        token_hop=config.token_hop,
        trim=config.trim,
    )


def overlap(
    start_s: Float[np.ndarray, " n"], end_s: Float[np.ndarray, " n"], inside_s: Float[np.ndarray, "b 2"]
) -> Float[Tensor, "b n"]:
    """How much of each span [start_s, end_s) lies inside, in (0, 1] of what lies inside most; 0 outside."""
    common = np.minimum(end_s, inside_s[:, 1:]) - np.maximum(start_s, inside_s[:, :1])
    common = common.clip(0.0)
    return torch.from_numpy((common / common.max(1, keepdims=True)).astype(np.float32))


def require_confined(embedders: Sequence[Embedder], manifest: Manifest) -> None:
    """Refuses CLS pooling where there are labelled segments.

    Raises:
      UsageError: saying what to choose instead.
    """
    if not all(embedder.confined for embedder in embedders) and has_segments(manifest):
        raise UsageError(
            f"{manifest.name} has labelled segments (onset_s, offset_s), and a CLS token sees the whole clip:"
            " choose another pooling (mean, mean+std, max, rows, rows+std)"
        )


def has_segments(manifest: Manifest) -> bool:
    """Whether any row is a part of a recording."""
    return bool((~np.isnan(manifest.offset_s) | (manifest.onset_s > 0)).any())


def stretch_of_row(manifest: Manifest, row: int) -> tuple[float, float]:
    """Onset and offset of a row in seconds: offset NaN for a whole recording, infinite for "up to the end"."""
    onset_s, offset_s = float(manifest.onset_s[row]), float(manifest.offset_s[row])
    return onset_s, math.inf if math.isnan(offset_s) and onset_s > 0 else offset_s


def _require_pooling(config: SoundEncoderConfig, pooling: Pooling) -> None:
    """Refuses a pooling that the encoder has no part for.

    Raises:
      UsageError: saying what is missing.
    """
    try:
        config.pooled_by(pooling)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _pool_inside(
    output: EncoderOutput, encoder: SoundEncoder, pooling: Pooling, n_samples: int, inside_s: Float[np.ndarray, "b 2"]
) -> Float[Tensor, "b e"]:
    return pool(output, pooling, encoder.config.n_rows, _weights_inside(output, encoder, n_samples, inside_s))


def _weights_inside(
    output: EncoderOutput, encoder: SoundEncoder, n_samples: int, inside_s: Float[np.ndarray, "b 2"]
) -> Float[Tensor, "b n"]:
    """How much each patch lies inside; none of what is padding behind n_samples does."""
    inside = overlap(*encoder.patch_spans(output.patches.shape[1]), inside_s).to(output.patches.device)
    return inside * encoder.heard(output, n_samples)
