"""The encoder on spectrograms: front end, patches and transformer in one module.

Axes: b clips | s audio samples | t frames | m mels | n patches | p values per patch
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from birdjepa.audio.clips import ClipConfig
from birdjepa.audio.logmel import LogMelConfig
from birdjepa.core import random
from birdjepa.models.patch import PatchConfig, patch_grid, patchify
from birdjepa.models.pool import Pooling
from birdjepa.models.sound_encoder import SoundEncoder, SoundEncoderConfig
from birdjepa.models.vit import EncoderOutput, VitConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig(SoundEncoderConfig):
    """Log-mel frames, tiled into patches, through a vision transformer."""

    front_end: LogMelConfig
    patch: PatchConfig
    vit: VitConfig
    clips: ClipConfig
    pooling: Pooling

    def __post_init__(self) -> None:
        self.patch.n_rows(self.front_end.n_mels)
        longest = self.front_end.clip_samples
        if longest and round(self.clips.clip_s * self.front_end.sampling_rate) > longest:
            raise ValueError(
                f"clips.clip_s={self.clips.clip_s:g} s is too long: this encoder takes clips of at most "
                f"{longest / self.front_end.sampling_rate:g} s"
            )
        if self.vit.n_positions and (not longest or self.vit.n_positions != self.n_patches):
            raise ValueError(
                f"vit.n_positions={self.vit.n_positions} must be the patches of a whole clip of front_end.clip_samples="
                f"{longest}, which are {self.n_patches if longest else 'not set'}"
            )
        if self.pooling == "fc_norm" and not self.vit.fc_norm:
            raise ValueError("pooling=fc_norm needs an encoder with that norm (vit.fc_norm): take another pooling")

    @property
    def sampling_rate(self) -> int:
        return self.front_end.sampling_rate

    @property
    def n_layers(self) -> int:
        return self.vit.dimensions[1]

    @property
    def token_width(self) -> int:
        return self.vit.width

    @property
    def n_cls(self) -> int:
        return self.vit.n_cls

    @property
    def n_rows(self) -> int:
        return self.patch.n_rows(self.front_end.n_mels)

    @property
    def n_patches(self) -> int:
        n_frames = self.front_end.n_frames(round(self.clips.clip_s * self.front_end.sampling_rate))
        n_frames = self.front_end.clip_frames or n_frames
        return n_frames // self.patch.frames * self.n_rows

    @property
    def min_samples(self) -> int:
        return self.front_end.n_samples(self.patch.frames)

    @property
    def token_hop(self) -> int:
        return self.patch.frames * self.front_end.hop

    @property
    def trim(self) -> bool:
        """Where clips are normalised by their own statistics or padded, every sample counts, and none is left out."""
        return self.front_end.normalise == "fixed" and not self.front_end.clip_samples

    @property
    def log_mel(self) -> LogMelConfig:
        return self.front_end

    @property
    def described(self) -> str:
        front_end, patch = self.front_end, self.patch
        bands = f"{front_end.n_mels} {front_end.mel_scale} bands from {front_end.f_min:g} to {front_end.f_max:g} Hz"
        frames = f"every {1000 / front_end.frame_rate:g} ms, normalised by {front_end.normalise} statistics"
        return f"log-mel, {bands} {frames}; patches of {patch.frames} frames x {patch.mels} bands"

    def build(self) -> "Encoder":
        return Encoder(self)


class Encoder(SoundEncoder):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config: EncoderConfig = config  # pyright: ignore[reportIncompatibleVariableOverride] - set once
        self.front_end = config.front_end.build()
        self.vit = config.vit.build(config.patch.n_values)

    def initialise(self, seed: int) -> "Encoder":
        self.vit.initialise(random.torch_generator(seed, "initialise"))
        return self

    def twin(self, seed: int) -> "Encoder":
        """The same architecture at random initialisation. Positions that an encoder keeps are no weights: the twin has
        them too.
        """
        twin = self.config.build().initialise(seed)
        if self.config.vit.n_positions:
            twin.vit.positions.copy_(self.vit.positions)
        return twin

    def frames(self, clips: Float[Tensor, "b s"]) -> Float[Tensor, "b t m"]:
        """Normalised log-mel frames; clips too short for one patch are padded with zeros first."""
        short = self.config.min_samples - clips.shape[1]
        return self.front_end(F.pad(clips, (0, short)) if short > 0 else clips)

    def tokenise(self, clips: Float[Tensor, "b s"]) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "1 n 2"]]:
        """All whole patches of each clip and their grid. Up to one patch length at a clip's end goes unseen."""
        frames = self.frames(clips)
        return patchify(frames, self.config.patch), self.grid(frames.shape[1])[None]

    def grid(self, n_frames: int) -> Float[Tensor, "n 2"]:
        """Positions of the patches of n_frames frames, on the encoder's device."""
        return patch_grid(n_frames, self.config.patch, self.config.front_end).to(self.device)

    def forward(self, clips: Float[Tensor, "b s"]) -> EncoderOutput:
        return self.vit(*self.tokenise(clips))

    def layers(self, clips: Float[Tensor, "b s"]) -> list[EncoderOutput]:
        return self.vit.layers(*self.tokenise(clips))

    def heard(self, output: EncoderOutput, n_samples: int) -> Float[Tensor, "b n"]:
        """How much each patch of clips of n_samples counts when they are pooled: not at all if it is padding and
        nothing else, where the front end pads clips. Of a whole clip all patches count, as for those who made it.
        """
        front_end, patch = self.config.front_end, self.config.patch
        weights = output.patches.new_ones(output.patches.shape[:2], dtype=torch.float32)
        if n_samples < front_end.clip_samples:
            columns = max(1, -(-front_end.n_heard(n_samples) // patch.frames))
            weights[:, columns * self.config.n_rows :] = 0
        return weights
