"""Finite scalar quantisation: each dimension of a vector is rounded to one of a few fixed levels. Nothing is learnt.

A dimension of L levels is first bounded, b = T tanh(z / T) with the temperature T, and then takes the nearest of L
points that cut (-T, T) into equal cells: T linspace(-1 + 1/L, 1 - 1/L, L). Its code is that point's number, lowest
first. With T = 1 this is the public system's quantiser; there a temperature scales b alone and the points stay, so
that below 1 the outer levels are out of reach and above 1 they take almost everything. Here the points move along: T is
how wide the cells are in z, and every level can be reached at any T.

The gradient passes the rounding as if it were not there (straight-through), and the tanh as it is.

Codes are found by comparing z with the thresholds T atanh(2k / L - 1), not by measuring distances behind the tanh:
whose last bit may depend on where in a tensor a number lies, and a code must not. A z on a threshold takes the level
above.

Axes: b clips | t frames | d dimensions | k thresholds
Source: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR 2024.
"""

import dataclasses
import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class FsqConfig:
    """How many levels each dimension has, and how wide they lie."""

    levels: tuple[int, ...] = (4, 4, 4, 4)
    """Levels of each of len(levels) equal, contiguous blocks of the dimensions, whose number it must divide."""
    temperature: float = 1.0
    """Width of the levels in units of z: with 4 levels of temperature 1 the thresholds are 0 and +-0.549."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels must be one or more numbers of at least 2, got {self.levels}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    def levels_of(self, dims: int) -> tuple[int, ...]:
        """Levels of each of so many dimensions: the radices of its codes.

        Raises:
          ValueError: if the blocks of `levels` do not divide them.
        """
        n_blocks = len(self.levels)
        if dims < 1 or dims % n_blocks:
            raise ValueError(
                f"levels={self.levels} are for {n_blocks} equal blocks, which do not divide {dims} dimensions"
            )
        return tuple(level for level in self.levels for _ in range(dims // n_blocks))

    def build(self, dims: int) -> "Fsq":
        return Fsq(self, dims)


class Quantised(NamedTuple):
    """Vectors on the grid of levels, and the codes that say where."""

    values: Float[Tensor, "b t d"]
    """The levels themselves, with the gradient of the bounded z; float32 (float64 where z is)."""
    indices: Int[Tensor, "b t d"]
    """Codes in [0, levels), int64."""


class Fsq(nn.Module):
    """The quantiser of vectors of so many dimensions. Its tables are buffers that are not saved."""

    def __init__(self, config: FsqConfig, dims: int) -> None:
        super().__init__()
        self.config = config
        self.radices = config.levels_of(dims)
        """Levels of each dimension."""
        temperature, most = config.temperature, max(self.radices)
        points = torch.full((dims, most), math.nan, dtype=torch.float64)
        thresholds = torch.full((dims, most - 1), math.inf, dtype=torch.float64)  # one that no z passes, where unused
        for d, levels in enumerate(self.radices):
            points[d, :levels] = temperature * ((2 * torch.arange(levels, dtype=torch.float64) + 1) / levels - 1)
            edges = 2 * torch.arange(1, levels, dtype=torch.float64) / levels - 1
            thresholds[d, : levels - 1] = temperature * edges.atanh()
        self.register_buffer("points", points.float(), persistent=False)
        self.register_buffer("thresholds", thresholds.float(), persistent=False)
        self.register_buffer("n_levels", torch.tensor(self.radices), persistent=False)

    points: Tensor
    thresholds: Tensor
    n_levels: Tensor

    def quantise(self, z: Float[Tensor, "b t d"]) -> Quantised:
        """The nearest levels of z, in float32 whatever the autocast (in float64 where z is). Deterministic.

        Values are NaN where z is; its code there is a valid one and means nothing.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = z if z.dtype == torch.float64 else z.float()
            indices = self._indices(z.detach())
            bounded = self.config.temperature * torch.tanh(z / self.config.temperature)
            # Adding a zero that has the gradient leaves the level exact; bounded + (level - bounded) would round it.
            values = self._look_up(indices).to(z.dtype) + (bounded - bounded.detach())
        return Quantised(values, indices)

    def values_of(self, indices: Int[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """The levels that codes stand for, float32: exactly what `quantise` gave with them.

        Raises:
          ValueError: if a code is not in [0, levels).
        """
        wrong = (indices < 0) | (indices >= self.n_levels)
        if wrong.any():
            clip, frame, d = wrong.nonzero()[0].tolist()
            code = int(indices[clip, frame, d])
            raise ValueError(f"code {code} of dimension {d} in frame {frame} is not in [0, {self.radices[d]})")
        return self._look_up(indices)

    def _indices(self, z: Float[Tensor, "b t d"]) -> Int[Tensor, "b t d"]:
        flat = z.flatten(0, 1).T.contiguous()
        found = torch.searchsorted(self.thresholds.to(z.dtype), flat, right=True)
        found = torch.minimum(found, self.n_levels[:, None] - 1)  # NaN and infinity pass all thresholds
        return found.T.unflatten(0, z.shape[:2])

    def _look_up(self, indices: Int[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        return self.points[torch.arange(len(self.radices), device=indices.device), indices]
