"""What every encoder is: clips in, tokens out, whatever lies between.

All that embeds, probes, tests and reports knows encoders by this alone. `loading.load(folder)` gives one back;
`encoder.embed(waveform, sampling_rate=...)` is all that most people need. A folder holds config.json, model.safetensors
and README.md (the model card), which is also the layout for the Hub.

Tokens come in columns of n_rows, one column for each step in time. Column i reads the samples
[i * token_hop, i * token_hop + min_samples) of its clip; of others it knows through attention and the like.

Axes: b clips | s audio samples | n patches | e embedding
"""

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from birdjepa.audio.clips import ClipConfig, cut
from birdjepa.audio.decode import resample
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.models.exported import write_export
from birdjepa.models.pool import Pooling, pool
from birdjepa.models.vit import EncoderOutput

FORMAT = 1


class SoundEncoderConfig(abc.ABC):
    """Everything that turns a waveform into an embedding. Subclasses are final, and frozen dataclasses of which `clips`
    and `pooling` are fields; the rest here are properties.
    """

    clips: ClipConfig
    pooling: Pooling
    """How tokens become one embedding, unless the caller asks for another way."""

    @property
    @abc.abstractmethod
    def sampling_rate(self) -> int:
        """The rate in Hz of the clips that it takes."""

    @property
    @abc.abstractmethod
    def n_layers(self) -> int:
        """Layers whose output can be had, the last one included."""

    @property
    @abc.abstractmethod
    def token_width(self) -> int:
        """Numbers in a token."""

    @property
    @abc.abstractmethod
    def n_cls(self) -> int:
        """CLS tokens; 0 where there are none, and no pooling by them."""

    @property
    @abc.abstractmethod
    def n_rows(self) -> int:
        """Tokens of a column: frequency rows of the patch grid, 1 where there are none."""

    @property
    @abc.abstractmethod
    def n_patches(self) -> int:
        """Tokens of a whole clip, CLS and registers apart."""

    @property
    @abc.abstractmethod
    def min_samples(self) -> int:
        """Samples that a column of tokens reads: the shortest clip. Shorter ones are padded with zeros to it."""

    @property
    @abc.abstractmethod
    def token_hop(self) -> int:
        """Samples from the start of one column to the start of the next."""

    @property
    @abc.abstractmethod
    def trim(self) -> bool:
        """Whether samples behind the last whole column may be left out, because no token depends on them."""

    @property
    @abc.abstractmethod
    def log_mel(self) -> LogMelConfig:
        """Log-mel frames at the same rate, for floors and pictures: its own front end where it has one."""

    @property
    @abc.abstractmethod
    def described(self) -> str:
        """What happens to the samples before the first layer, in one line."""

    @abc.abstractmethod
    def build(self) -> "SoundEncoder":
        """An encoder with uninitialised weights."""

    @property
    def embedding_width(self) -> int:
        """Numbers in one pooled embedding."""
        if self.pooling == "cls":
            return self.token_width * self.n_cls
        rows = self.n_rows if self.pooling.startswith("rows") else 1
        return self.token_width * rows * (2 if self.pooling.endswith("+std") else 1)

    @property
    def least_s(self) -> float:
        """Length of the shortest clip that fills one column, in seconds."""
        return self.min_samples / self.sampling_rate

    def cut_by(self, clips: ClipConfig) -> "SoundEncoderConfig":
        """The same encoder on clips of another length.

        Raises:
          ValueError: if it cannot take them.
        """
        return dataclasses.replace(self, clips=clips)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def pooled_by(self, pooling: Pooling) -> "SoundEncoderConfig":
        """The same encoder with another pooling.

        Raises:
          ValueError: if it has no part for it.
        """
        return dataclasses.replace(self, pooling=pooling)  # pyright: ignore[reportArgumentType, reportCallIssue]


class Embedding(NamedTuple):
    """What `SoundEncoder.embed` returns: one row per clip of the waveform."""

    embedding: Float[Tensor, "b e"]
    start_s: Float[np.ndarray, " b"]
    end_s: Float[np.ndarray, " b"]


class WaveformClips(NamedTuple):
    """What `SoundEncoder.cut` returns, one entry per clip."""

    samples: list[Float[np.ndarray, " _"]]
    start_s: Float[np.ndarray, " b"]
    end_s: Float[np.ndarray, " b"]


class SoundEncoder(nn.Module, abc.ABC):
    """Subclasses are final."""

    config: SoundEncoderConfig

    @abc.abstractmethod
    def initialise(self, seed: int) -> "SoundEncoder":
        """Random weights from the seed's "initialise" stream; what a probe's random floor uses too."""

    @abc.abstractmethod
    def forward(self, clips: Float[Tensor, "b s"]) -> EncoderOutput:
        """Tokens of clips of one length, at the encoder's sampling rate."""

    @abc.abstractmethod
    def layers(self, clips: Float[Tensor, "b s"]) -> list[EncoderOutput]:
        """Output after each layer, the first one's first; the final entry equals forward(clips)."""

    @abc.abstractmethod
    def heard(self, output: EncoderOutput, n_samples: int) -> Float[Tensor, "b n"]:
        """How much each token of clips of n_samples counts when they are pooled: not at all if it is padding and
        nothing else.
        """

    def twin(self, seed: int) -> "SoundEncoder":
        """The same architecture at random initialisation."""
        return self.config.build().initialise(seed)

    @property
    def sampling_rate(self) -> int:
        """The rate in Hz that `forward` expects."""
        return self.config.sampling_rate

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def patch_spans(self, n_patches: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Start and end of each patch in seconds from the clip's start: the samples that it reads."""
        start = np.arange(n_patches) // self.config.n_rows * self.config.token_hop
        return start / self.sampling_rate, (start + self.config.min_samples) / self.sampling_rate

    @torch.inference_mode()
    def pooled(self, clips: Float[Tensor, "b s"], pooling: Pooling | None = None) -> Float[Tensor, "b e"]:
        """One embedding per clip, all clips of one length."""
        output = self(clips)
        return pool(output, pooling or self.config.pooling, self.config.n_rows, self.heard(output, clips.shape[1]))

    @torch.inference_mode()
    def embed(
        self,
        waveform: np.ndarray | Tensor | Sequence[float],
        *,
        sampling_rate: int,
        pooling: Pooling | None = None,
        batch_size: int = 16,
    ) -> Embedding:
        """Embeddings of a waveform (time,) or (channels, time) in [-1, 1], of any length and rate: one row per clip.

        Channels are averaged. The waveform is cut into clips as recordings are (config.clips); the last one may be
        shorter.

        Raises:
          ValueError: if the waveform is empty, not finite, of integers, or not of these shapes; or a number is not
          positive.
        """
        clips = self.cut(waveform, sampling_rate=sampling_rate)
        batches = batches_of_equal_length(clips.samples, batch_size)
        rows = [self.pooled(torch.from_numpy(np.stack(batch)).to(self.device), pooling) for batch in batches]
        return Embedding(torch.cat(rows), clips.start_s, clips.end_s)

    def cut(self, waveform: np.ndarray | Tensor | Sequence[float], *, sampling_rate: int) -> WaveformClips:
        """The clips of a waveform as `embed` hears them: mono, at the encoder's rate, the last one perhaps shorter.

        Raises:
          ValueError: as `embed`.
        """
        if sampling_rate < 1:
            raise ValueError(f"sampling_rate must be positive, got {sampling_rate}")
        pieces = list(cut([mono_of(waveform)], sampling_rate, self.config.clips, least_s=self.config.least_s))
        start = np.array([first for first, _ in pieces]) / sampling_rate
        end = start + np.array([len(piece) for _, piece in pieces]) / sampling_rate
        return WaveformClips([resample(piece, sampling_rate, self.sampling_rate) for _, piece in pieces], start, end)

    def save(self, folder: Path | str, *, card: str, provenance: dict[str, Any]) -> Path:
        """Writes config.json, model.safetensors and README.md, each atomically."""
        return write_export(
            self,
            folder,
            what="encoder",
            version=FORMAT,
            sampling_rate=self.sampling_rate,
            config=self.config,
            card=card,
            provenance=provenance,
        )


def batches_of_equal_length(
    clips: Sequence[Float[np.ndarray, " _"]], batch_size: int
) -> list[list[Float[np.ndarray, " _"]]]:
    """Clips in their order, grouped into runs of one length and at most batch_size.

    Raises:
      ValueError: if batch_size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    batches: list[list[np.ndarray]] = []
    for clip in clips:
        if batches and len(batches[-1]) < batch_size and len(batches[-1][0]) == len(clip):
            batches[-1].append(clip)
        else:
            batches.append([clip])
    return batches


def mono_of(waveform: np.ndarray | Tensor | Sequence[float]) -> Float[np.ndarray, " s"]:
    """The mean over channels of (time,) or (channels, time) as float32.

    Raises:
      ValueError: that says what the waveform should be.
    """
    given = waveform.detach().cpu() if isinstance(waveform, Tensor) else waveform
    samples = np.asarray(given.float() if isinstance(given, Tensor) and given.is_floating_point() else given)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise ValueError(f"waveform must be (time,) or (channels, time) and not empty, got shape {samples.shape}")
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise ValueError(f"waveform must be (channels, time), got shape {samples.shape}: transpose it")
    if samples.dtype.kind != "f":
        raise ValueError(f"waveform must be floats in [-1, 1], got {samples.dtype}: divide 16-bit samples by 32768")
    if not np.isfinite(samples).all():
        raise ValueError("waveform holds NaN or infinite samples")
    return (samples.mean(0) if samples.ndim == 2 else samples).astype(np.float32, copy=False)
