"""What turns a song into a sequence of vectors: an encoder's columns of tokens, log-mel frames, or a model of others.

Songs are framed so that column j of F frames stands for samples [j F hop, (j + 1) F hop): half a window less half a hop
of zeros is put in front, which centres each analysis window on its own hop, and zeros fill up the last column. An
encoder hears clips of one length that overlap, and each column is taken from the clip in which it lies most centrally.

Axes: s audio samples | t columns | d width | b clips | n patches
"""

import abc

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from birdjepa.audio.logmel import LogMelConfig
from birdjepa.benchmark.frames import FrameSequence
from birdjepa.embed.embedders import geometry_of
from birdjepa.models.sound_encoder import SoundEncoder


class FrameEmbedder(abc.ABC):
    """Waveforms of any length to one vector per frame."""

    sampling_rate: int
    """Rate in Hz of the waveforms that it takes."""

    @abc.abstractmethod
    def embed(self, waveform: Float[np.ndarray, " s"]) -> FrameSequence:
        """float32 embeddings of the whole waveform, mono in [-1, 1], and the time that each stands for.

        Raises:
          ValueError: if the waveform is empty.
        """


class EncoderFrames(FrameEmbedder):
    """An encoder's columns of tokens: the vectors of all frequency rows side by side, after any of its layers."""

    def __init__(
        self,
        encoder: SoundEncoder,
        *,
        layer: int = -1,
        clip_s: float | None = None,
        overlap: float = 0.5,
        batch_size: int = 16,
    ) -> None:
        """layer counts from 0, or from the last backwards; clip_s is the encoder's own length of clips by default, and
        overlap the share of it that neighbouring clips have in common.

        Raises:
          ValueError: if there is no such layer, overlap is not in [0, 1), or a clip does not fill one column.
        """
        config = encoder.config
        depth = config.n_layers
        if not -depth <= layer < depth:
            raise ValueError(f"layer must be in {-depth}..{depth - 1}, got {layer}")
        if not 0 <= overlap < 1 or batch_size < 1:
            raise ValueError(f"need 0 <= overlap < 1 and batch_size >= 1, got {overlap} and {batch_size}")
        self.sampling_rate = encoder.sampling_rate
        n_samples = round((clip_s or config.clips.clip_s) * self.sampling_rate)
        self._geometry = geometry_of(config)
        self.columns = self._geometry.n_columns(n_samples)
        """Columns of a clip."""
        if self.columns < 1:
            raise ValueError(
                f"clips of {n_samples} samples do not fill one patch column; take clip_s >= {config.least_s:g}"
            )
        self._encoder, self._layer, self._batch_size = encoder, layer, batch_size
        self._step = max(1, round(self.columns * (1 - overlap)))

    @torch.inference_mode()
    def embed(self, waveform: Float[np.ndarray, " s"]) -> FrameSequence:
        geometry, encoder = self._geometry, self._encoder
        hop = geometry.token_hop
        samples, n_columns = _framed(waveform, geometry.min_samples, hop, 0)
        columns = min(self.columns, n_columns)
        starts = [*range(0, n_columns - columns, self._step), n_columns - columns]
        length = geometry.n_samples(columns)
        clips = torch.from_numpy(np.stack([samples[first * hop :][:length] for first in starts]))
        per_clip = torch.cat([self._columns(batch.to(encoder.device)).cpu() for batch in clips.split(self._batch_size)])
        # Middles of the clips are in order, so the nearest one of each column is found by the midpoints between them.
        middle = np.array(starts) + columns / 2
        place = np.arange(n_columns)
        clip = np.searchsorted((middle[1:] + middle[:-1]) / 2, place + 0.5)
        columns_of_all = per_clip.numpy()[clip, place - np.array(starts)[clip]]
        return _sequence(columns_of_all, hop, self.sampling_rate)

    def _columns(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b t d"]:
        output = self._encoder.layers(clips)[self._layer]
        return rearrange(output.patches.float(), "b (t r) d -> b t (r d)", r=self._encoder.config.n_rows)


class LogMelFrames(FrameEmbedder):
    """Log-mel frames as they are: what any encoder must beat. The normalisation is fixed, so that loudness counts."""

    def __init__(self, front_end: LogMelConfig, *, frames: int = 1, context: int = 0) -> None:
        """frames that make one column (an encoder's patch.frames, for an equal footing in time), and frames before and
        after it that are put beside them.

        Raises:
          ValueError: if frames < 1 or context < 0.
        """
        if frames < 1 or context < 0:
            raise ValueError(f"need frames >= 1 and context >= 0, got {frames} and {context}")
        if front_end.normalise != "fixed":
            raise ValueError("a floor of log-mel frames needs a front end with fixed normalisation")
        self.sampling_rate = front_end.sampling_rate
        self._config, self._frames, self._context = front_end, frames, context
        self._front_end = front_end.build()

    @torch.inference_mode()
    def embed(self, waveform: Float[np.ndarray, " s"]) -> FrameSequence:
        config = self._config
        hop = self._frames * config.hop
        samples, _ = _framed(waveform, config.n_samples(self._frames), hop, self._context * config.hop)
        frames = self._front_end(torch.from_numpy(samples)[None])[0]
        columns = frames.unfold(0, self._frames + 2 * self._context, self._frames)
        return _sequence(rearrange(columns, "t m f -> t (f m)").contiguous().numpy(), hop, self.sampling_rate)


def _framed(
    waveform: Float[np.ndarray, " s"], column: int, hop: int, context: int
) -> tuple[Float[np.ndarray, " _"], int]:
    """The waveform between zeros, so that columns of so many samples every hop are centred on their hops, and the
    number of columns that cover it; context samples more on either side."""
    if not waveform.size:
        raise ValueError("the waveform is empty")
    n_columns = -(-len(waveform) // hop)
    front = (column - hop) // 2 + context
    total = column + (n_columns - 1) * hop + 2 * context
    return np.pad(waveform.astype(np.float32, copy=False), (front, total - front - len(waveform))), n_columns


def _sequence(columns: Float[np.ndarray, "t d"], hop: int, sampling_rate: int) -> FrameSequence:
    start_s = np.arange(len(columns)) * hop / sampling_rate
    return FrameSequence(columns, start_s, start_s + hop / sampling_rate)
