"""Positions from the grid: rotary embedding for attention, and fixed sin-cos codes that are added to tokens.

Both read physical coordinates (seconds, octaves), so clips of any length and front ends of any hop share one meaning,
and nothing depends on the batch.

Axes: b clips (1 when the grid is shared) | n tokens | h heads | k head width | d width
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

TIME_WAVELENGTHS_S = (0.08, 60.0)
"""Shortest and longest period of a time code: half a default patch, which only finer ones can tell, up to a minute."""
OCTAVE_WAVELENGTHS = (0.5, 40.0)
"""Shortest and longest period of a frequency code, in octaves."""


def angles(grid: Float[Tensor, "b n 2"], n_angles: int) -> Float[Tensor, "b n a"]:
    """Phases of a token's position in float32: the first half of them turn with time, the second with frequency."""
    time, octave = n_angles - n_angles // 2, n_angles // 2
    parts = [
        grid[..., :1].float() * _omega(TIME_WAVELENGTHS_S, time, grid.device),
        grid[..., 1:].float() * _omega(OCTAVE_WAVELENGTHS, octave, grid.device),
    ]
    return torch.cat(parts, -1)


def sincos(grid: Float[Tensor, "b n 2"], width: int) -> Float[Tensor, "b n d"]:
    """Fixed absolute code: sines then cosines of the position's angles, each of mean square 1/2."""
    phase = angles(grid, width // 2)
    return torch.cat((phase.sin(), phase.cos()), -1)


def rotary(grid: Float[Tensor, "b n 2"], head_width: int, n_still: int) -> tuple[Tensor, Tensor]:
    """Tables (b, n_still + n, 1, head_width) for `rotate`: cosines twice, and sines with a minus, then without.

    The first n_still tokens (CLS, registers) do not turn, as if they stood at the clip's start and at 1 kHz.
    """
    phase = angles(grid, head_width // 2)
    phase = torch.cat((phase.new_zeros(phase.shape[0], n_still, phase.shape[2]), phase), 1).unsqueeze(2)
    cos, sin = phase.cos(), phase.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Float[Tensor, "b n h k"], cos: Tensor, sin: Tensor) -> Float[Tensor, "b n h k"]:
    """Rotary position embedding (Su et al. 2021, two axes) of queries or keys, in the dtype of x."""
    return _Rotate.apply(x, cos.to(x.dtype), sin.to(x.dtype))  # pyright: ignore[reportReturnType]


class _Rotate(torch.autograd.Function):
    """Turns pairs (x[i], x[i + k/2]) by the tables' angles, in place on one copy; the backward pass turns back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """cos * x + sin * (x with its halves swapped)."""
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return swapped.mul_(sin).addcmul_(x, cos)


def _omega(wavelengths: tuple[float, float], count: int, device: torch.device) -> Float[Tensor, " a"]:
    """Angular frequencies in geometric steps from the shortest to the longest wavelength."""
    shortest, longest = wavelengths
    steps = torch.linspace(0, 1, max(count, 2), device=device)[:count]
    return 2 * math.pi / shortest * (shortest / longest) ** steps
