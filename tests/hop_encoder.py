"""A second kind of encoder, for tests: each hop of the waveform is one token, without spectrogram, rows or CLS."""

import dataclasses
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig, at_rate
from birdjepa.core import random
from birdjepa.models.pool import Pooling
from birdjepa.models.sound_encoder import SoundEncoder, SoundEncoderConfig
from birdjepa.models.vit import EncoderOutput


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopConfig(SoundEncoderConfig):
    clips: ClipConfig = ClipConfig(clip_s=1.0, hop_s=1.0)
    pooling: Pooling = "mean+std"
    rate: int = 16_000
    hop: int = 400
    width: int = 16
    depth: int = 3

    def __post_init__(self) -> None:
        if self.pooling in ("cls", "fc_norm"):
            raise ValueError(f"pooling={self.pooling} needs parts that this encoder has not: take another pooling")

    @property
    def sampling_rate(self) -> int:
        return self.rate

    @property
    def n_layers(self) -> int:
        return self.depth

    @property
    def token_width(self) -> int:
        return self.width

    @property
    def n_cls(self) -> int:
        return 0

    @property
    def n_rows(self) -> int:
        return 1

    @property
    def n_patches(self) -> int:
        return -(-round(self.clips.clip_s * self.rate) // self.hop)

    @property
    def min_samples(self) -> int:
        return self.hop

    @property
    def token_hop(self) -> int:
        return self.hop

    @property
    def trim(self) -> bool:
        return False

    @property
    def log_mel(self) -> LogMelConfig:
        return at_rate(self.rate)

    @property
    def described(self) -> str:
        return f"the waveform in hops of {self.hop} samples"

    def build(self) -> "HopEncoder":
        return HopEncoder(self)


class HopEncoder(SoundEncoder):
    """The energy that each of `width` filters finds in a hop, and layers on it."""

    def __init__(self, config: HopConfig) -> None:
        super().__init__()
        self.config = config
        self.filters = nn.Linear(config.hop, config.width)
        self.mixing = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.depth - 1))

    def initialise(self, seed: int) -> "HopEncoder":
        generator = random.torch_generator(seed, "initialise")
        for layer in (self.filters, *self.mixing):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        return self

    def forward(self, clips: Float[Tensor, "b s"]) -> EncoderOutput:
        return self.layers(clips)[-1]

    def layers(self, clips: Float[Tensor, "b s"]) -> list[EncoderOutput]:
        hop = self.filters.in_features
        hops = rearrange(F.pad(clips, (0, -clips.shape[1] % hop)), "b (n s) -> b n s", s=hop)
        tokens = [(self.filters(hops).square() + 1e-6).log()]
        for layer in self.mixing:
            tokens.append(torch.tanh(layer(tokens[-1])))
        return [EncoderOutput(each[:, :0], each, each[:, :0]) for each in tokens]

    def heard(self, output: EncoderOutput, n_samples: int) -> Float[Tensor, "b n"]:
        return output.patches.new_ones(output.patches.shape[:2], dtype=torch.float32)


def hop_folder(folder: Path) -> Path:
    """An exported encoder of this kind."""
    card = "---\nlicense: cc-by-4.0\n---\n# made\n"
    return HopConfig().build().initialise(3).save(folder, card=card, provenance={"made": "by a test"})
