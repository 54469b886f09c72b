"""The Snake activation on rows of stretches, for the waveform encoder: little memory, in blocks that stay in the cache.

Dense layouts of a vocoder have theirs in `nn.convolution`.

Axes: r rows | c channels
Source: Ziyin et al. 2020, arXiv 2006.08195.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from birdjepa.nn import ragged


class Snake(nn.Module):
    """x + sin^2(a x) / a with a frequency of each channel's own; 1 / a is at most 10.

    Source: Ziyin et al. 2020, arXiv 2006.08195; the parameterisation is that of arXiv 2512.07168's code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.empty(width))

    def initialise(self, generator: torch.Generator) -> None:
        """The generator is not asked: all begin alike."""
        nn.init.zeros_(self.raw)

    def forward(self, x: Float[Tensor, "r c"]) -> Float[Tensor, "r c"]:
        frequency = (F.softplus(self.raw) + 0.01).to(x.dtype)
        return _Snake.apply(x, frequency, frequency.reciprocal().clamp(max=10.0))  # pyright: ignore[reportReturnType]


class _Snake(torch.autograd.Function):
    """Keeps only x, and works on blocks of rows that stay in the cache."""

    @staticmethod
    def forward(ctx, x: Tensor, frequency: Tensor, size: Tensor) -> Tensor:
        ctx.save_for_backward(x, frequency, size)
        out = torch.empty_like(x)
        for rows, block in zip(x.split(ragged.block_rows(x)), out.split(ragged.block_rows(x)), strict=True):
            torch.mul(rows, frequency, out=block).sin_().square_().mul_(size).add_(rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, frequency, size = ctx.saved_tensors
        for_x = torch.empty_like(grad)
        for_frequency, for_size = torch.zeros_like(frequency), torch.zeros_like(size)
        n = ragged.block_rows(x)
        for rows, above, block in zip(x.split(n), grad.split(n), for_x.split(n), strict=True):
            angle = rows * frequency
            for_size += angle.sin().square_().mul_(above).sum(0)
            slope = angle.mul_(2).sin_().mul_(size).mul_(above)  # of the square of the sine
            torch.addcmul(above, slope, frequency, out=block)
            for_frequency += slope.mul_(rows).sum(0)
        return for_x, for_frequency, for_size
