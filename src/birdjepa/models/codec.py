"""The codec: a frozen encoder of waveforms, a quantiser and a vocoder. Sound to codes, and codes to sound.

Axes: b clips | s audio samples | t frames | q quantised dimensions
"""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from birdjepa.core import random
from birdjepa.models.quantiser import QuantiserConfig
from birdjepa.models.vocoder import VocoderConfig
from birdjepa.models.waveform_encoder import WaveformEncoderConfig
from birdjepa.nn.fsq import Quantised
from birdjepa.nn.packing import Packing


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Everything between a waveform and its reconstruction."""

    encoder: WaveformEncoderConfig
    quantiser: QuantiserConfig
    vocoder: VocoderConfig
    group_size: int = 7
    """Codes of a frame that are packed into one integer."""

    def __post_init__(self) -> None:
        if self.vocoder.hop != self.encoder.network.hop:
            raise ValueError(
                f"vocoder: makes {self.vocoder.hop} samples of a frame, and the encoder hears "
                f"{self.encoder.network.hop}: take strides of the same product"
            )
        self.packing()

    def packing(self) -> Packing:
        """How a frame's codes are packed."""
        width = self.quantiser.width(self.encoder.token_width)
        return Packing(radices=self.quantiser.fsq.levels_of(width), group_size=self.group_size)

    def build(self) -> "Codec":
        return Codec(self)


class Codec(nn.Module):
    """The encoder never learns here: it has no gradients, and stays in evaluation mode."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build().requires_grad_(False)
        n_in = config.encoder.token_width
        self.quantiser = config.quantiser.build(n_in)
        self.vocoder = config.vocoder.build(config.quantiser.width(n_in))

    def initialise(self, seed: int) -> "Codec":
        """Random weights of quantiser and vocoder; the encoder's are loaded."""
        self.quantiser.initialise(random.torch_generator(seed, "initialise", "quantiser"))
        self.vocoder.initialise(random.torch_generator(seed, "initialise", "vocoder"))
        return self

    def train(self, mode: bool = True) -> "Codec":
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def frames(self, clips: Float[Tensor, "b s"], lengths: Int[Tensor, " b"] | None = None) -> Float[Tensor, "b t d"]:
        """What the encoder says of clips, of so many samples each if not all are sound."""
        return self.encoder.network(clips, lengths).values

    def quantise(self, clips: Float[Tensor, "b s"], lengths: Int[Tensor, " b"] | None = None) -> Quantised:
        """Codes of each frame, and the values that they stand for."""
        return self.quantiser(self.frames(clips, lengths))

    def resynthesise(self, values: Float[Tensor, "b t q"]) -> Float[Tensor, "b s"]:
        """Sound from the values of codes: t * hop samples."""
        return self.vocoder(values)
