"""The Snake activation, wherever channels lie: little memory, in blocks that stay in the cache.

Source: Ziyin et al. 2020, "Neural Networks Fail to Learn Periodic Functions and How to Fix It", arXiv 2006.08195; the
parameterisation is that of arXiv 2512.07168's code.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from birdjepa.nn import ragged

LARGEST_SWING = 10.0
"""Largest factor 1/a on the sine."""


def snake(x: Float[Tensor, "*shape"], a: Float[Tensor, "..."]) -> Float[Tensor, "*shape"]:
    """x + min(1/a, 10) sin^2(a x), with a > 0 that broadcasts against x, over its first axis too.

    The sine is taken in the wider dtype of both, the result has that of x. Keeps x and a only for the backward pass;
    differentiable once.
    """
    return _Snake.apply(x, a)  # pyright: ignore[reportReturnType]


class Snake(nn.Module):
    """`snake` with an a per channel, softplus(raw) + 0.01: 0.703 at first. `dim` says on which axis channels lie, which
    is not the first."""

    def __init__(self, width: int, dim: int = -1) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(width))
        self.dim = dim

    def initialise(self, generator: torch.Generator) -> None:
        """The generator is not asked: all begin alike."""
        nn.init.zeros_(self.raw)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        shape = [1] * x.ndim
        shape[self.dim] = len(self.raw)
        return snake(x, (F.softplus(self.raw) + 0.01).view(shape))


class _Snake(torch.autograd.Function):
    """dy/dx = 1 + a s sin(2 a x), dy/da = s x sin(2 a x) + s' sin^2(a x), with s = min(1/a, 10); block by block."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(x, a)
        swing = (1 / a).clamp_max(LARGEST_SWING)
        out = torch.empty_like(x)
        n = ragged.block_rows(x)
        for part, block in zip(x.split(n), out.split(n), strict=True):
            block.copy_((part * a).sin_().square_().mul_(swing).add_(part))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a = ctx.saved_tensors
        swing = (1 / a).clamp_max(LARGEST_SWING)
        for_x, n = torch.empty_like(x), ragged.block_rows(x)
        for_a, for_swing = torch.zeros_like(a), torch.zeros_like(a)
        for part, above, block in zip(x.split(n), grad.split(n), for_x.split(n), strict=True):
            angle = part * a
            for_swing += angle.sin().square_().mul_(above).sum_to_size(a.shape)
            slope = angle.mul_(2).sin_().mul_(swing).mul_(above)  # of the square of the sine
            block.copy_(torch.addcmul(above, slope, a))
            for_a += slope.mul_(part).sum_to_size(a.shape)
        is_free = swing < LARGEST_SWING  # where the cap holds, swing does not depend on a
        for_a -= torch.where(is_free, swing.square() * for_swing, torch.zeros_like(for_swing))
        return for_x, for_a
