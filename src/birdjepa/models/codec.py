"""The codec: a fixed encoder of waveforms, a quantiser and a vocoder. Sound to codes, and codes to sound.

`Codec.save` writes a folder of config.json, model.safetensors and README.md; `load_codec` gives it back. A hop of
samples is a frame: clips come back at the length of their whole hops, and the caller cuts off what was padding.

Axes: b clips | s audio samples | n frames | d width of the encoder's frames | q quantised dimensions
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from birdjepa.core import config as configs
from birdjepa.core import random
from birdjepa.models.exported import with_weights, write_export
from birdjepa.models.loading import read_description
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.models.waveform import Frames
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.nn.packing import Packing

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Everything that makes codes of sound and sound of codes."""

    encoder: WaveformEncoderConfig
    quantiser: QuantiserConfig = QuantiserConfig()
    vocoder: VocoderConfig = VocoderConfig()
    group_size: int = 7
    """Codes of a frame that are packed into one integer."""

    def __post_init__(self) -> None:
        network = self.encoder.network
        if network.legacy_padding:
            raise ValueError("encoder.legacy_padding gives fewer frames than hops, so sound would come back shorter")
        if self.vocoder.hop != network.hop:
            raise ValueError(
                f"vocoder makes {self.vocoder.hop} samples of a frame (strides {self.vocoder.shape.strides}) and the "
                f"encoder makes a frame of {network.hop}: set vocoder.preset or vocoder.strides so that they agree"
            )
        self.packing()

    def packing(self) -> Packing:
        """How the codes of a frame are packed.

        Raises:
          ValueError: if the levels do not divide the dimensions, or a group would have too many values.
        """
        return Packing(radices=self.quantiser.fsq.levels_of(self.width), group_size=self.group_size)

    @property
    def width(self) -> int:
        """Codes of a frame."""
        return self.quantiser.width(self.encoder.token_width)

    @property
    def sampling_rate(self) -> int:
        return self.encoder.sampling_rate

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return self.vocoder.hop

    def build(self) -> "Codec":
        """A codec with uninitialised weights."""
        return Codec(self)


class Coded(NamedTuple):
    """Clips as codes."""

    values: Float[Tensor, "b n q"]
    """The levels that the codes stand for; 0 in frames that are not kept."""
    indices: Int[Tensor, "b n q"]
    """Codes; those of frames that are not kept mean nothing."""
    kept: Bool[Tensor, "b n"]
    """Which frames hold sound."""


class Codec(nn.Module):
    """The encoder never learns here: it has no gradients, and stays in evaluation mode whatever the codec's."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build().requires_grad_(False)
        self.quantiser = config.quantiser.build(config.encoder.token_width)
        self.vocoder = config.vocoder.build(config.width)

    def initialise(self, seed: int) -> "Codec":
        """Random weights of quantiser and vocoder; the encoder's are loaded."""
        self.quantiser.initialise(random.torch_generator(seed, "initialise", "quantiser"))
        self.vocoder.initialise(random.torch_generator(seed, "initialise", "vocoder"))
        return self

    def train(self, mode: bool = True) -> "Codec":
        super().train(mode)
        self.encoder.eval()
        return self

    @property
    def learnt(self) -> nn.ModuleDict:
        """What learns: all but the encoder."""
        return nn.ModuleDict({"quantiser": self.quantiser, "vocoder": self.vocoder})

    @torch.no_grad()
    def frames(self, clips: Float[Tensor, "b s"], lengths: Int[Tensor, " b"] | None = None) -> Frames:
        """What the encoder says of clips at the codec's rate, of so many samples each if not all are sound.

        In float32 whatever the autocast, so that codes do not depend on it.
        """
        with torch.autocast(clips.device.type, enabled=False):
            return self.encoder.network(clips.float(), lengths)

    def encode(self, clips: Float[Tensor, "b s"], lengths: Int[Tensor, " b"] | None = None) -> Coded:
        """Codes of clips, as `frames`. The values have a gradient where the quantiser learns."""
        frames = self.frames(clips, lengths)
        values, indices = self.quantiser(frames.values)
        return Coded(values * frames.kept[:, :, None], indices, frames.kept)

    def decode(self, values: Float[Tensor, "b n q"]) -> Float[Tensor, "b s"]:
        """Sound of levels (`quantiser.fsq.values_of` gives those of codes): hop samples for each frame."""
        return self.vocoder(values)

    def save(self, folder: Path | str, *, card: str, provenance: dict[str, Any]) -> Path:
        """Writes config.json, model.safetensors and README.md, each atomically."""
        return write_export(
            self,
            folder,
            what="codec",
            version=FORMAT,
            sampling_rate=self.config.sampling_rate,
            config=self.config,
            card=card,
            provenance=provenance,
        )


def load_codec(folder: Path | str, *, device: torch.device | str = "cpu") -> Codec:
    """The codec in a folder, ready for use (evaluation mode, no gradients). Strict, as `loading.load`.

    Raises:
      UsageError: naming the file and what is wrong with it.
    """
    folder = Path(folder)
    path = folder / "config.json"
    described = read_description(path, "codec", FORMAT, missing="give a codec folder such as runs/codec/codec")
    codec = configs.from_json(CodecConfig, described.get("config"), where=f"{path}: config").build()
    return with_weights(codec, folder, described, what="a codec", device=device)
