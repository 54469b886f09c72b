"""The waveform encoder's network: strided convolutions, Gaussian gates and Conformers; samples in, frames out.

Every hop of samples gives exactly one frame: N hops in, N frames out; a clip is filled with zeros to whole hops first.
A frame may be hidden: then its samples are cut out, and the network runs on the stretches between as if each were
alone (nn/ragged.py), with statistics over all that is left of the clip. So a frame that is seen cannot know of one that
is hidden, and a clip gives the same frames alone and in a batch of longer ones.

Axes: b clips | s audio samples | n frames | r rows of a stage | d code dimensions
Source: arXiv 2512.07168 (Density Adaptive Attention-based Speech Network, JEPA); the lengths are our own.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from birdjepa.nn import ragged
from birdjepa.nn.conformer import Conformer, draw, initialise
from birdjepa.nn.gate import GaussianGate
from birdjepa.nn.ragged import Stretches
from birdjepa.nn.snake import Snake
from birdjepa.nn.spaced import Spaced, residual_pair

INPUT_KERNEL = 7
INPUT_GAIN = 20.0
"""Size of the first convolution's output at the start, where the input's is 1. Recordings have a root mean square of
about 0.05: much smaller than 1, the network would begin as a linear one, whose strides lose the energy of every band.
"""
RESIDUAL_GAIN = 0.2
"""Size of the last convolution of a residual branch at the start: 24 of them in a row must not grow the signal."""
SILENCE = 0.1
"""Size of what digital silence reads before the Conformers at the start: at 0, their norms would multiply its gradient
by 300 each.
"""
SLOPE = 0.1
"""Of the leaky ReLU."""
NORM_EPS = 1e-5
BLOCK_DILATIONS = (1, 3, 5)
"""Bases: block i of a stage has the dilations 1^i, 3^i and 5^i, each followed by a convolution without dilation."""


class Shape(NamedTuple):
    """A preset."""

    sampling_rate: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    code_dim: int
    n_res_blocks: int
    n_conformers: int
    heads: int
    reach: int


PRESETS = {
    "nano": Shape(16_000, (8, 8, 12, 16), (8, 8, 5), 16, 1, 1, 2, 4),
    "small": Shape(16_000, (32, 64, 96, 128), (20, 4, 4), 64, 2, 2, 4, 25),
    "25hz": Shape(24_000, (64, 128, 256, 384, 512), (8, 5, 4, 6), 128, 2, 4, 8, 25),
    "12.5hz": Shape(24_000, (64, 128, 256, 384, 512), (8, 8, 5, 6), 128, 2, 4, 8, 12),
    "reference": Shape(24_000, (64, 128, 256, 384, 512, 512), (8, 8, 5, 5, 6), 128, 8, 8, 16, 0),
}
"""reference has the shape of the public system, 2.5 frames a second; nano is for tests, small for CPUs (50 Hz)."""

PRESET = -1
"""What a setting says that leaves it to the preset."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveformConfig:
    """Shape of the network. What is not given is the preset's."""

    preset: Literal["nano", "small", "25hz", "12.5hz", "reference"] = "small"
    sampling_rate: int = PRESET
    """Hz of what is heard; the frame rate grows with it."""
    channels: tuple[int, ...] = ()
    """Width of the first convolution, then of every stage."""
    strides: tuple[int, ...] = ()
    """Rows that each stage makes one of; their product is the hop in samples."""
    code_dim: int = PRESET
    """Numbers per frame."""
    n_res_blocks: int = PRESET
    """Residual blocks of a stage."""
    n_conformers: int = PRESET
    heads: int = PRESET
    reach: int = PRESET
    """Frames on either side that the statistics of a gate, and attention, look at. 0 is the whole clip: then a part of
    a recording gives other frames than the whole."""
    components: int = 4
    """Gaussians of a gate; 0 leaves the gates out."""
    combine: Literal["mixture", "product"] = "mixture"
    offsets: Literal["spread", "score"] = "spread"
    """Units of a gate's offsets: the spread of the clip's numbers, or the numbers themselves, as in the public system.
    There they begin at 0; where they lie apart and the spread is small, no moment is near any component.
    """
    dilation_cycle: int = 3
    """Dilations grow with the block and begin anew after so many: without end they would reach beyond every clip."""
    kernel: int = 31
    """Frames that a Conformer's convolution reads."""
    rope: bool = True
    """Rotary positions in attention; without, only the convolutions tell the order of frames."""
    conv_norm: Literal["frame", "clip"] = "frame"
    """What the norms of a Conformer's convolution take their statistics over."""
    legacy_padding: bool = False
    """Pads strided convolutions as the public system does, so that odd strides lose a row: for its checkpoints only."""
    activation_checkpointing: bool = False
    """Recompute each residual block in the backward pass: much less memory for about a third more time."""

    def __post_init__(self) -> None:
        shape = self.shape
        least = min(shape.sampling_rate, shape.code_dim, shape.n_res_blocks, shape.heads, self.dilation_cycle)
        if least < 1 or min(shape.n_conformers, shape.reach, self.components) < 0:
            raise ValueError(
                "need sampling_rate, code_dim, n_res_blocks, heads, dilation_cycle >= 1 and n_conformers, reach, "
                f"components >= 0; got {shape}, {self.dilation_cycle}, {self.components}"
            )
        if (
            len(shape.channels) != len(shape.strides) + 1
            or min(shape.channels) < 1
            or min(shape.strides, default=0) < 2
        ):
            raise ValueError(
                "channels has one entry for the first convolution and one for each stride, which is at least 2; got "
                f"{shape.channels} and strides {shape.strides}"
            )
        if shape.code_dim % shape.heads or (self.rope and (shape.code_dim // shape.heads) % 4):
            raise ValueError(
                f"code_dim={shape.code_dim} must be a multiple of heads={shape.heads}, and code_dim / heads of 4 with "
                "rope"
            )
        if shape.reach and (self.combine == "product" or self.conv_norm == "clip" or self.legacy_padding):
            raise ValueError(
                "combine='product' and conv_norm='clip' look at whole clips, and rows that legacy_padding loses belong "
                "to no frame: set reach=0 with them"
            )

    @property
    def shape(self) -> Shape:
        """The preset with what is given in its place."""
        given = {name: getattr(self, name) for name in Shape._fields}
        return PRESETS[self.preset]._replace(**{k: v for k, v in given.items() if v not in (PRESET, ())})

    @property
    def spelt_out(self) -> "WaveformConfig":
        """The same with everything given, for what must be read when presets have changed."""
        return dataclasses.replace(self, **self.shape._asdict())

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.shape.strides)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.shape.sampling_rate / self.hop

    def n_frames(self, n_samples: int) -> int:
        """Frames of a clip of at least one sample."""
        n = -(-n_samples // self.hop) * self.hop
        if not self.legacy_padding:
            return n // self.hop
        for stride in self.shape.strides:
            n = (n + 2 * (stride // 2) - 2 * stride) // stride + 1
        return n

    @property
    def least_frames(self) -> int:
        """Hops of the shortest clip that gives a frame."""
        return next(n for n in (1, 2, 3) if self.n_frames(n * self.hop) >= 1)

    @property
    def receptive_field(self) -> int:
        """Samples on either side of a frame that can change it; -1 without bound."""
        if not self.shape.reach:
            return -1
        shape, hop = self.shape, self.hop
        reach, rows = shape.n_conformers * (shape.reach + self.kernel // 2) * hop, hop
        for stride in reversed(shape.strides):
            if self.components:  # what a gate looks at is whole frames
                reach = (-(-reach // hop) + shape.reach) * hop
            reach += rows * sum(
                dilation + 1 for block in range(shape.n_res_blocks) for dilation in self.dilations(block)
            )
            rows //= stride
            reach += rows * -(-stride // 2)
        return reach + INPUT_KERNEL // 2

    def dilations(self, block: int) -> tuple[int, ...]:
        """Of a stage's residual block of that number."""
        return tuple(base ** (block % self.dilation_cycle) for base in BLOCK_DILATIONS)

    def build(self) -> "Waveform":
        """The network, uninitialised."""
        return Waveform(self)


class Frames(NamedTuple):
    """What the network says of each clip; frames that are not kept hold zeros."""

    values: Float[Tensor, "b n d"]
    kept: Bool[Tensor, "b n"]
    """Which frames were seen."""


class Waveform(nn.Module):
    def __init__(self, config: WaveformConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.shape
        self.input = Convolution(1, shape.channels[0], INPUT_KERNEL)
        rows_per_frame = config.hop
        self.stages = nn.ModuleList()
        for number, stride in enumerate(shape.strides):
            rows_per_frame //= stride
            self.stages.append(
                Stage(config, shape.channels[number], shape.channels[number + 1], stride, rows_per_frame)
            )
        self.project = nn.Linear(shape.channels[-1], shape.code_dim)
        self.conformers = nn.ModuleList(
            Conformer(
                shape.code_dim,
                shape.heads,
                kernel=config.kernel,
                reach=shape.reach,
                rope=config.rope,
                norm=config.conv_norm,
                eps=NORM_EPS,
            )
            for _ in range(shape.n_conformers)
        )

    def initialise(self, generator: torch.Generator) -> "Waveform":
        """Convolutions that keep the size of what they read, residual branches that add little to it, zero biases;
        gates and Snakes at their own beginnings. The public system begins at 0.02 everywhere, which leaves 1e-3 of a
        recording at the end of five stages, less than the norms behind them can tell from nothing.
        """
        initialise(self, generator)
        for module in self.modules():
            if isinstance(module, Convolution):
                module.initialise(generator, INPUT_GAIN if module is self.input else 1.0)
            elif isinstance(module, Snake | GaussianGate):
                module.initialise(generator)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                for plain in module.plain:
                    assert isinstance(plain, Convolution)
                    plain.initialise(generator, RESIDUAL_GAIN)
        nn.init.normal_(self.project.bias, std=SILENCE, generator=generator)
        return self

    def forward(
        self,
        clips: Float[Tensor, "b s"],
        lengths: Int[Tensor, " b"] | None = None,
        visible: Bool[Tensor, "b n"] | None = None,
    ) -> Frames:
        """Frames of clips; lengths are the samples of each that are sound, if not all are. Of each clip only the frames
        that are visible are heard: the samples of the others are cut out.
        """
        return self.mix(*self.convolved(clips, lengths, visible))

    def layers(self, clips: Float[Tensor, "b s"]) -> list[Frames]:
        """Frames before the first Conformer and after each; the last entry equals forward(clips)."""
        values, kept = self.convolved(clips, None, None)
        outputs = [Frames(values, kept)]
        for conformer in self.conformers:
            values = conformer(values, kept, self.time_s(values.shape[1]))
            outputs.append(Frames(values * kept[:, :, None], kept))
        return outputs

    def mix(self, values: Float[Tensor, "b n d"], kept: Bool[Tensor, "b n"]) -> Frames:
        """The Conformers, over frames of which some are kept."""
        time_s = self.time_s(values.shape[1])
        for conformer in self.conformers:
            values = conformer(values, kept, time_s)
        return Frames(values * kept[:, :, None].to(values.dtype), kept)

    def time_s(self, n_frames: int) -> Float[Tensor, " n"]:
        """When each frame begins."""
        return torch.arange(n_frames, device=self.project.weight.device) / self.config.frame_rate

    def convolved(
        self, clips: Float[Tensor, "b s"], lengths: Int[Tensor, " b"] | None, visible: Bool[Tensor, "b n"] | None
    ) -> Frames:
        """Frames before the Conformers.

        Raises:
          ValueError: if a clip is too short or nothing of it is visible; or if frames are hidden with legacy padding.
        """
        hop = self.config.hop
        n_hops = -(-clips.shape[1] // hop)
        there = self.hops(clips, lengths)
        if visible is not None:
            if self.config.legacy_padding:
                raise ValueError("legacy_padding is for checkpoints of the public system, which hide no samples")
            there &= visible.to(there.device)
        cut = ragged.runs(there)
        blocks = F.pad(clips, (0, n_hops * hop - clips.shape[1])).view(-1, hop)
        chosen = torch.cat([torch.arange(clip * n_hops + first, clip * n_hops + first + n) for clip, first, n in cut])
        x = blocks.index_select(0, chosen.to(clips.device)).view(-1, 1)
        stretches = Stretches([n * hop for *_, n in cut], [clip for clip, *_ in cut], len(clips), clips.device)
        before = self.input
        for stage in self.stages:
            x, stretches = stage(x, stretches, before)
            before = None
        frames = self.project(x)
        n_frames = self.config.n_frames(clips.shape[1])
        places = torch.cat(
            [
                torch.arange(clip * n_frames + first, clip * n_frames + first + n)
                for (clip, first, _), n in zip(cut, stretches.lengths, strict=True)
            ]
        ).to(clips.device)
        values = frames.new_zeros(len(clips) * n_frames, frames.shape[1]).index_copy(0, places, frames)
        kept = torch.zeros(len(values), dtype=torch.bool, device=clips.device).index_fill_(0, places, True)
        return Frames(values.view(len(clips), n_frames, -1), kept.view(len(clips), n_frames))

    def hops(self, clips: Float[Tensor, "b s"], lengths: Int[Tensor, " b"] | None) -> Bool[Tensor, "b n"]:
        """Which hops of each clip hold sound, on the CPU."""
        n_hops = -(-clips.shape[1] // self.config.hop)
        n_sound = torch.full((len(clips),), clips.shape[1]) if lengths is None else lengths.cpu()
        return torch.arange(n_hops) < -(-n_sound[:, None] // self.config.hop)


class Stage(nn.Module):
    """A strided convolution, Snake, residual blocks, and a gate at the end."""

    def __init__(self, config: WaveformConfig, width_in: int, width: int, stride: int, rows_per_frame: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = stride // 2 if config.legacy_padding else -(-stride // 2)
        self.is_checkpointed = config.activation_checkpointing
        self.down = Convolution(width_in, width, 2 * stride)
        self.snake = Snake(width)
        blocks = (ResidualBlock(width, config.dilations(block)) for block in range(config.shape.n_res_blocks))
        self.blocks = nn.ModuleList(blocks)
        dilations = (config.dilations(block) for block in range(config.shape.n_res_blocks))
        self.dilations = [each for dilated in dilations for dilation in dilated for each in (dilation, 1)]
        gate = (
            GaussianGate(
                width,
                config.components,
                combine=config.combine,
                offsets=config.offsets,
                reach=config.shape.reach,
                rows_per_frame=rows_per_frame,
            )
            for _ in range(min(1, config.components))
        )
        self.gate = nn.ModuleList(gate)

    def forward(
        self, x: Float[Tensor, "r c"], stretches: Stretches, before: "Convolution | None" = None
    ) -> tuple[Float[Tensor, "m d"], Stretches]:
        """before: a convolution that comes first, for the first stage."""
        weights = (self.down.weight, self.down.bias)
        if before is None:
            x, stretches = ragged.stride(x, *weights, stretches, step=self.stride, padding=self.padding)
        else:
            weights = (before.weight, before.bias, *weights)
            x, stretches = ragged.enter(x, *weights, stretches, step=self.stride, padding=self.padding)
        spaced = Spaced(stretches, self.dilations)
        x = spaced.open(self.snake(x))
        for block in self.blocks:
            if self.is_checkpointed and x.requires_grad:
                x = checkpoint(block, x, spaced, use_reentrant=False)
            else:
                x = block(x, spaced)
        x = spaced.close(x)
        for gate in self.gate:
            x = gate(x, stretches)
        return x, stretches


class ResidualBlock(nn.Module):
    """For each dilation: x + conv(leaky(dilated conv(leaky(x)))), kernels of 3.

    Source: Kong et al. 2020, HiFi-GAN, the first kind of its residual blocks.
    """

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.dilations = dilations
        self.dilated = nn.ModuleList(Convolution(width, width, 3) for _ in dilations)
        self.plain = nn.ModuleList(Convolution(width, width, 3) for _ in dilations)

    def forward(self, x: Float[Tensor, "r c"], spaced: Spaced) -> Float[Tensor, "r c"]:
        """Without gradients x itself is changed and given back."""
        for dilation, first, second in zip(self.dilations, self.dilated, self.plain, strict=True):
            assert isinstance(first, Convolution)
            assert isinstance(second, Convolution)
            weights = (first.weight, first.bias, second.weight, second.bias)
            x = residual_pair(x, *weights, spaced, dilation=dilation, slope=SLOPE)
        return x


class Convolution(nn.Module):
    """Kernel and bias; the weight lies as (kernel, in, out), so that it is a matrix for the columns of rows."""

    def __init__(self, width_in: int, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel, width_in, width))
        self.bias = nn.Parameter(torch.empty(width))

    def initialise(self, generator: torch.Generator, gain: float) -> None:
        draw(self.weight, self.weight[..., 0].numel(), generator, gain)
        nn.init.zeros_(self.bias)
