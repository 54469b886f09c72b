"""Parts of convolutional networks over time, for vocoders: residual blocks with growing dilation, and upsampling whose
length is exact.

Layout is dense, (b, c, t). Every part but the upsampling leaves the length as it is, and nothing here has statistics of
a whole clip, so what a part says of a sample depends on its surroundings (`reach`) and on nothing else.

Axes: b clips | c channels | t time
"""

import math
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from birdjepa.nn.snake import Snake

Activation = Literal["leaky_relu", "snake"]

SLOPE = 0.1
"""Of leaky ReLUs on the negative side, as HiFi-GAN has it."""


class ResidualBlock(nn.Module):
    """x + conv(act(dilated conv(act(x)))), once for each dilation: HiFi-GAN's block of type 1.

    Raises:
      ValueError: if the kernel is even, for then a branch would be shorter than what it is added to.
    """

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...], activation: Activation) -> None:
        super().__init__()
        self.reach = sum(reach(kernel, dilation) + reach(kernel) for dilation in dilations)
        """Samples on either side that an output sample depends on."""
        self.dilated = nn.ModuleList(same_conv(width, width, kernel, dilation) for dilation in dilations)
        self.plain = nn.ModuleList(same_conv(width, width, kernel) for _ in dilations)
        n_snakes = len(dilations) if activation == "snake" else 0
        self.before = nn.ModuleList(Snake(width, 1) for _ in range(n_snakes))
        self.between = nn.ModuleList(Snake(width, 1) for _ in range(n_snakes))

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t"]:
        for i, (dilated, plain) in enumerate(zip(self.dilated, self.plain, strict=True)):
            if self.before:
                branch = self.between[i](dilated(self.before[i](x)))
            else:  # in place where nothing else reads what it overwrites
                branch = F.leaky_relu(dilated(F.leaky_relu(x, SLOPE)), SLOPE, inplace=True)
            x = x + plain(branch)
        return x


class Upsampling(nn.ConvTranspose1d):
    """A transposed convolution of kernel 2 * stride that makes exactly t * stride samples out of t.

    Padding of ceil(stride / 2) takes one too many where the stride is odd; output_padding gives it back.

    Computed as a convolution of kernel 2 that makes the samples of a frame beside each other, as fast, for the sake of
    CPUs with AMX: there torch 2.13's own backward pass in bfloat16 silently gives noise as large as the gradient where
    channels are few (8 with a stride of 8, say).

    Raises:
      ValueError: if the stride is below 2.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        if stride < 2:
            raise ValueError(f"a stride must be at least 2 to upsample, got {stride}")
        super().__init__(n_in, n_out, 2 * stride, stride, padding=-(-stride // 2), output_padding=stride % 2)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b k s"]:  # pyright: ignore
        """In autocast's dtype. Equals: torch.nn.functional.conv_transpose1d."""
        assert self.bias is not None
        stride, padding = self.stride[0], int(self.padding[0])
        taps = rearrange(self.weight, "c k (half s) -> (k s) c half", half=2).flip(2)
        blocks = F.conv1d(x, taps, self.bias.repeat_interleave(stride), padding=1)
        samples = rearrange(blocks, "b (k s) t -> b k (t s)", s=stride)
        return samples[..., padding : padding + x.shape[-1] * stride]

    def read_by(self, first: int, last: int) -> tuple[int, int]:
        """First and last input sample that output samples first to last depend on; both may lie outside the clip."""
        stride, padding, kernel = self.stride[0], int(self.padding[0]), self.kernel_size[0]
        return -((kernel - 1 - padding - first) // stride), (last + padding) // stride


def same_conv(n_in: int, n_out: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    """A convolution that leaves the length as it is: zeros behind both ends.

    Raises:
      ValueError: if the kernel is even.
    """
    return nn.Conv1d(n_in, n_out, kernel, dilation=dilation, padding=reach(kernel, dilation))


def reach(kernel: int, dilation: int = 1) -> int:
    """Samples on either side that a convolution reads.

    Raises:
      ValueError: if the kernel is even.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"a kernel must be odd and positive to leave the length as it is, got {kernel}")
    return dilation * (kernel - 1) // 2


def draw_weights(conv: nn.Conv1d | nn.ConvTranspose1d, gain: float, generator: torch.Generator) -> None:
    """Normal weights from the generator, for an output of gain times the input's root mean square; zero biases."""
    taps = conv.kernel_size[0] // conv.stride[0] if conv.transposed else conv.kernel_size[0]
    nn.init.normal_(conv.weight, std=gain / math.sqrt(conv.in_channels * taps), generator=generator)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
