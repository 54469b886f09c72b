"""The vocoder: an encoder's frames in, a waveform out, HiFi-GAN's generator with exact lengths.

Blocks of Snake, a transposed convolution, and the mean over residual blocks of several kernels ("multi-receptive-field
fusion"). t frames become exactly t * hop samples. There are no statistics of the whole clip, so that a part of the
frames with `receptive_field` frames of context around it decodes to what it is in the whole.

Without weight norm, which HiFi-GAN's generator has and the decoder of the public density-adaptive JEPA has not: initial
weights are scaled to keep the signal's size, so that an average of the weights is that of what they are in use, and an
exported vocoder is convolutions and nothing else.

Axes: b clips | t frames | d width of a frame | c channels | s samples
Source: Kong et al. 2020, "HiFi-GAN", arXiv 2010.05646; layout of "Density-Adaptive JEPA", arXiv 2512.07168.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from birdjepa.nn.convolution import Activation, ResidualBlock, Upsampling, draw_weights, reach, same_conv
from birdjepa.nn.snake import Snake

LAST_KERNEL = 7


class Shape(NamedTuple):
    """A preset."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    kernels: tuple[int, ...]


PRESETS = {
    "nano": Shape((16, 8, 8, 8), (5, 8, 8), (3,)),
    "small": Shape((192, 128, 32, 8), (5, 8, 8), (3, 7)),
    "25hz": Shape((512, 384, 256, 128, 64), (6, 4, 5, 8), (3, 7, 11)),
    "12.5hz": Shape((512, 384, 256, 128, 64), (6, 5, 8, 8), (3, 7, 11)),
    "reference": Shape((512, 512, 384, 256, 128, 64), (6, 5, 5, 8, 8), (3, 7, 11)),
}
"""Each has the hop of the waveform encoder's preset of its name; the last three are those turned round, reference as
the public system has it. nano is for tests, small for CPUs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of the vocoder. What is not given is the preset's."""

    preset: Literal["nano", "small", "25hz", "12.5hz", "reference"] = "small"
    channels: tuple[int, ...] = ()
    """Before the first block, then after each."""
    strides: tuple[int, ...] = ()
    """How many times as many samples each block makes; the first one reads the frames."""
    kernels: tuple[int, ...] = ()
    """A residual block of each of these odd kernels in each block, all with all dilations."""
    dilations: tuple[int, ...] = (1, 3, 5)
    activation: Activation = "leaky_relu"
    """Inside residual blocks. The activation before the transposed convolution is Snake in any case."""

    def __post_init__(self) -> None:
        channels, strides, kernels = self.shape
        if len(channels) != len(strides) + 1:
            raise ValueError(
                f"channels must have one entry more than strides, got channels={channels}, strides={strides}"
            )
        if min(channels) < 1 or min(strides) < 2:
            raise ValueError(f"need channels >= 1 and strides >= 2, got {channels}, {strides}")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations must be one or more numbers of at least 1, got {self.dilations}")
        for kernel in kernels:
            reach(kernel)

    @property
    def shape(self) -> Shape:
        """The preset with what is given in its place."""
        given = {name: getattr(self, name) for name in Shape._fields}
        return PRESETS[self.preset]._replace(**{name: value for name, value in given.items() if value})

    @property
    def spelt_out(self) -> "VocoderConfig":
        """The same with everything given, for what must be read when presets have changed."""
        return dataclasses.replace(self, **self.shape._asdict())

    @property
    def hop(self) -> int:
        """Samples that a frame becomes."""
        return math.prod(self.shape.strides)

    def build(self, n_in: int) -> "Vocoder":
        """A vocoder of frames of n_in values each."""
        return Vocoder(self, n_in)


class Block(nn.Module):
    """Snake, upsampling, and the mean over a residual block of each kernel."""

    def __init__(self, config: VocoderConfig, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.snake = Snake(n_in, 1)
        self.up = Upsampling(n_in, n_out, stride)
        self.fields = nn.ModuleList(
            ResidualBlock(n_out, kernel, config.dilations, config.activation) for kernel in config.shape.kernels
        )

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b k s"]:
        x = self.up(self.snake(x))
        total = self.fields[0](x)
        for field in self.fields[1:]:
            total = total + field(x)
        return total / len(self.fields)

    def read_by(self, first: int, last: int) -> tuple[int, int]:
        """First and last input sample that output samples first to last depend on."""
        widest = max(field.reach for field in self.fields if isinstance(field, ResidualBlock))
        return self.up.read_by(first - widest, last + widest)


class Vocoder(nn.Module):
    def __init__(self, config: VocoderConfig, n_in: int) -> None:
        super().__init__()
        self.config = config
        channels, strides, _ = config.shape
        self.enter = nn.Conv1d(n_in, channels[0], 1)
        pairs = zip(channels, channels[1:], strides, strict=False)
        self.blocks = nn.ModuleList(Block(config, *pair) for pair in pairs)
        self.leave = same_conv(channels[-1], 1, LAST_KERNEL)

    def initialise(self, generator: torch.Generator) -> "Vocoder":
        """Normal weights from the generator, zero biases. The signal keeps its size on its way, residual branches add
        a little to it, and the waveform comes out at about 0.1 of it, which is how loud recordings are."""
        for module in self.modules():
            if isinstance(module, Snake):
                module.initialise(generator)
            elif isinstance(module, ResidualBlock):
                for dilated, plain in zip(module.dilated, module.plain, strict=True):
                    assert isinstance(dilated, nn.Conv1d)
                    assert isinstance(plain, nn.Conv1d)
                    draw_weights(dilated, 1.0, generator)
                    draw_weights(plain, 0.5, generator)
            elif isinstance(module, Upsampling):
                draw_weights(module, 1.0, generator)
        draw_weights(self.enter, 1.0, generator)
        draw_weights(self.leave, 0.1, generator)
        return self

    @property
    def receptive_field(self) -> int:
        """Frames on either side of a frame that its samples depend on."""
        first, last = 0 - reach(LAST_KERNEL), self.config.hop - 1 + reach(LAST_KERNEL)
        for block in reversed(self.blocks):
            assert isinstance(block, Block)
            first, last = block.read_by(first, last)
        return max(-first, last)

    def forward(self, z: Float[Tensor, "b t d"]) -> Float[Tensor, "b s"]:
        """Waveforms in (-1, 1) of t * hop samples, float32 under autocast too."""
        x = self.enter(rearrange(z, "b t d -> b d t"))
        for block in self.blocks:
            x = block(x)
        wave = rearrange(self.leave(x), "b 1 s -> b s")
        return torch.tanh(wave.float() if wave.dtype in (torch.bfloat16, torch.float16) else wave)
