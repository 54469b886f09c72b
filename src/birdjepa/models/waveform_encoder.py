"""The encoder that hears waveforms: one token for every hop of samples, no spectrogram in between.

Axes: b clips | s audio samples | n frames | d code dimensions | e embedding
"""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core import random
from birdjepa.models.pool import Pooling, pool
from birdjepa.models.sound_encoder import SoundEncoder, SoundEncoderConfig
from birdjepa.models.vit import EncoderOutput
from birdjepa.models.waveform import Frames, WaveformConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveformEncoderConfig(SoundEncoderConfig):
    """Network, clips and pooling."""

    network: WaveformConfig
    clips: ClipConfig
    pooling: Pooling

    def __post_init__(self) -> None:
        if self.pooling in ("cls", "fc_norm"):
            raise ValueError(f"pooling={self.pooling} needs a part that waveform encoders do not have: take mean")

    @property
    def sampling_rate(self) -> int:
        return self.network.shape.sampling_rate

    @property
    def n_layers(self) -> int:
        """The convolutions, and each Conformer."""
        return 1 + self.network.shape.n_conformers

    @property
    def token_width(self) -> int:
        return self.network.shape.code_dim

    @property
    def n_cls(self) -> int:
        return 0

    @property
    def n_rows(self) -> int:
        return 1

    @property
    def n_patches(self) -> int:
        return self.network.n_frames(round(self.clips.clip_s * self.sampling_rate))

    @property
    def min_samples(self) -> int:
        return self.network.least_frames * self.network.hop

    @property
    def token_hop(self) -> int:
        return self.network.hop

    @property
    def trim(self) -> bool:
        return False

    @property
    def log_mel(self) -> LogMelConfig:
        """Frames of 25 ms every 10 ms up to half the rate, with as many bands as low rates can fill."""
        rate = self.sampling_rate
        n_mels = 128 if rate >= 32_000 else 80 if rate >= 16_000 else 40
        return LogMelConfig(
            sampling_rate=rate, window=rate // 40, hop=rate // 100, n_mels=n_mels, f_max=min(16_000.0, rate / 2)
        )

    @property
    def described(self) -> str:
        shape = self.network.shape
        return f"waveform at {shape.sampling_rate} Hz; strides {'x'.join(map(str, shape.strides))}"

    def build(self) -> "WaveformEncoder":
        return WaveformEncoder(self)


class WaveformEncoder(SoundEncoder):
    def __init__(self, config: WaveformEncoderConfig) -> None:
        super().__init__()
        self.config: WaveformEncoderConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.network = config.network.build()

    def initialise(self, seed: int) -> "WaveformEncoder":
        self.network.initialise(random.torch_generator(seed, "initialise"))
        return self

    def forward(self, clips: Float[Tensor, "b s"]) -> EncoderOutput:
        return _output(self.network(self._filled(clips)))

    def layers(self, clips: Float[Tensor, "b s"]) -> list[EncoderOutput]:
        return [_output(frames) for frames in self.network.layers(self._filled(clips))]

    def heard(self, output: EncoderOutput, n_samples: int) -> Float[Tensor, "b n"]:
        return output.patches.new_ones(output.patches.shape[:2], dtype=torch.float32)

    def pool_frames(self, frames: Frames) -> Float[Tensor, "b e"]:
        """One embedding per clip of what is kept of it."""
        return pool(_output(frames), self.config.pooling, 1, frames.kept.float())

    def _filled(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b t"]:
        """Clips of at least one frame."""
        short = self.config.min_samples - clips.shape[1]
        return torch.nn.functional.pad(clips, (0, short)) if short > 0 else clips


def _output(frames: Frames) -> EncoderOutput:
    values: Any = frames.values
    return EncoderOutput(values[:, :0], values, values[:, :0])
