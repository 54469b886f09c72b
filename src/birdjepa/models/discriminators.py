"""Discriminators of waveforms: what a vocoder is trained against, and thrown away afterwards.

One judge for each period p looks at every p-th sample, so that it sees what repeats with that period; one for each
scale looks at the waveform, at half of its rate, at a quarter. All of them have weight norm, and none has statistics of
the clip or the batch.

What a judge finds is laid out alike for all: position (n, p) of a map stands at sample n * stride + p of the waveform,
so that a loss can leave out positions in the padding. Judges of scales have one column (p = 1).

Axes: b clips | s samples | c channels | n rows | p columns
Source: Kong et al. 2020, "HiFi-GAN", arXiv 2010.05646 (there the first scale has spectral norm instead).
"""

import dataclasses
import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from birdjepa.nn.convolution import SLOPE


class Layer(NamedTuple):
    """A convolution: output channels of the full size, kernel, stride, groups."""

    width: int
    kernel: int
    stride: int = 1
    groups: int = 1


PERIOD_LAYERS = (Layer(32, 5, 3), Layer(128, 5, 3), Layer(512, 5, 3), Layer(1024, 5, 3), Layer(1024, 5))
SCALE_LAYERS = (
    Layer(128, 15),
    Layer(128, 41, 2, 4),
    Layer(256, 41, 2, 16),
    Layer(512, 41, 4, 16),
    Layer(1024, 41, 4, 16),
    Layer(1024, 41, 1, 16),
    Layer(1024, 5),
)
LAST_KERNEL = 3
NARROWEST = min(layer.width for layer in (*PERIOD_LAYERS, *SCALE_LAYERS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorsConfig:
    """Which judges there are, and their size."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """In samples; primes, so that no two judges see the same samples."""
    n_scales: int = 3
    """Judges of the waveform at its rate, half of it, a quarter and so on."""
    divisor: int = 1
    """HiFi-GAN's numbers of channels are divided by this: 1 has 70.7 million parameters, 8 has 1.1 million."""

    def __post_init__(self) -> None:
        if any(period < 2 for period in self.periods) or len(set(self.periods)) < len(self.periods):
            raise ValueError(f"periods must be different numbers of at least 2 samples, got {self.periods}")
        if self.n_scales < 0 or not (self.periods or self.n_scales):
            raise ValueError(f"n_scales must not be negative, nor 0 without periods, got {self.n_scales}")
        if self.divisor < 1 or NARROWEST % self.divisor:
            raise ValueError(f"divisor must divide {NARROWEST}, got {self.divisor}")

    @property
    def least_samples(self) -> int:
        """The shortest waveform that leaves every judge two rows behind its strides. Of a strided convolution with one
        row, torch 2.13 computes garbage for a gradient in bfloat16 on CPUs with AMX.
        """
        rows = math.prod(layer.stride for layer in PERIOD_LAYERS)
        samples = math.prod(layer.stride for layer in SCALE_LAYERS)
        return 1 + max([rows * period for period in self.periods] + [samples << i for i in range(self.n_scales)])

    def build(self) -> "Discriminators":
        return Discriminators(self)


class Judged(NamedTuple):
    """What one judge says: 1 for real and 0 for made, as least-squares losses have it, and how it came to that."""

    score: Float[Tensor, "b n p"]
    maps: list[Float[Tensor, "b _ _ p"]]
    """(b, c, n, p) after each layer; the last one is the score."""
    strides: list[int]
    """Of each map, in samples of the waveform from one row to the next."""


class Judge(nn.Module):
    """Convolutions with leaky ReLUs between them; the last has one channel and none behind it."""

    def __init__(self, layers: tuple[Layer, ...], divisor: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        n_in = 1
        for layer in layers:
            n_out = layer.width // divisor
            groups = math.gcd(layer.groups, n_in, n_out)
            padding = (layer.kernel - 1) // 2
            conv = nn.Conv1d(n_in, n_out, layer.kernel, layer.stride, padding, groups=groups)
            self.layers.append(weight_norm(conv))
            n_in = n_out
        self.layers.append(weight_norm(nn.Conv1d(n_in, 1, LAST_KERNEL, padding=(LAST_KERNEL - 1) // 2)))

    def forward(self, x: Float[Tensor, "b 1 n"]) -> list[Float[Tensor, "b _ _"]]:
        """The map after each layer."""
        maps = []
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), SLOPE, inplace=True)
            maps.append(x)
        return [*maps, self.layers[-1](x)]

    @property
    def strides(self) -> list[int]:
        """Of each map, in samples of the judge's input."""
        found, stride = [], 1
        for layer in self.layers:
            assert isinstance(layer, nn.Conv1d)
            stride *= layer.stride[0]
            found.append(stride)
        return found


class Discriminators(nn.Module):
    def __init__(self, config: DiscriminatorsConfig) -> None:
        super().__init__()
        self.config = config
        self.periods = nn.ModuleList(Judge(PERIOD_LAYERS, config.divisor) for _ in config.periods)
        self.scales = nn.ModuleList(Judge(SCALE_LAYERS, config.divisor) for _ in range(config.n_scales))

    def initialise(self, generator: torch.Generator) -> "Discriminators":
        """Normal weights from the generator that keep the signal's size from layer to layer, gains of weight norm to
        match; zero biases. HiFi-GAN has torch's usual ones, with which all judges say nearly 0 for long.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                n_inputs = module.in_channels // module.groups * module.kernel_size[0]
                drawn = torch.empty(module.weight.shape, device=module.weight.device)
                with torch.no_grad():
                    module.weight = drawn.normal_(std=math.sqrt(2 / n_inputs), generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        return self

    def forward(self, wave: Float[Tensor, "b s"]) -> list[Judged]:
        """One verdict by each judge: periods first, then scales from the waveform's rate downwards.

        Where clips are padded, zero the padding: judges read it as they read silence.

        Raises:
          ValueError: if the waveforms are shorter than the configuration's least_samples.
        """
        if wave.shape[1] < (least := self.config.least_samples):
            raise ValueError(f"waveforms have {wave.shape[1]} samples, the discriminators need at least {least}")
        found = []
        for period, judge in zip(self.config.periods, self.periods, strict=True):
            found.append(_by_period(wave, period, judge))
        x, stride = rearrange(wave, "b s -> b 1 s"), 1
        for i, judge in enumerate(self.scales):
            if i:
                x, stride = F.avg_pool1d(x, 4, 2, padding=2), 2 * stride
            maps = [rearrange(each, "b c n -> b c n 1") for each in judge(x)]
            found.append(_judged(maps, judge, stride))
        return found


def _by_period(wave: Float[Tensor, "b s"], period: int, judge: nn.Module) -> Judged:
    """Every column of a waveform that is folded into rows of a period, judged by the same convolutions."""
    missing = -wave.shape[1] % period
    folded = F.pad(wave[:, None], (0, missing), mode="reflect")  # (b, 1, n * p)
    columns = rearrange(folded, "b 1 (n p) -> (b p) 1 n", p=period)
    maps = [rearrange(each, "(b p) c n -> b c n p", p=period) for each in judge(columns)]
    return _judged(maps, judge, period)


def _judged(maps: list[Float[Tensor, "b _ _ p"]], judge: nn.Module, stride: int) -> Judged:
    assert isinstance(judge, Judge)
    return Judged(rearrange(maps[-1], "b 1 n p -> b n p"), maps, [stride * each for each in judge.strides])
