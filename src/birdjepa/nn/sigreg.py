"""SIGReg: how far a batch of embeddings is from a standard normal cloud, judged on random one-dimensional slices.

On each slice u the Epps-Pulley statistic compares the empirical characteristic function with the normal one,
phi(t) = exp(-t^2 / 2):

    T = N * sum_j w_j * [ (mean_n cos(t_j u_n) - phi(t_j))^2 + (mean_n sin(t_j u_n))^2 ]

The knots t_j are equally spaced on [0, t_max]. The weight w_j is phi(t_j) times that of the trapezoid rule on the whole
of [-t_max, t_max]: the integrand is even in t, so the half line counts twice. t = 0 adds nothing, and is left out.

A perfectly normal batch scores `null_floor(config)`, not 0, whatever its size; a collapsed one in proportion to N.

Three things keep it cheap. The knots are multiples of one spacing, so one sine and one cosine per slice value give them
all (`_Waves`). The gradient has a closed form that needs only the means. And both passes go over chunks of slices that
stay in the cache, so no array of slice values times knots ever exists.

With several processes the batch is that of all of them: their sums are added up, once per step.

Axes: v views | n examples | k embedding width | s slices | j knots | r rows, the (slice, view) pairs of one chunk
Source: Balestriero & LeCun, "LeJEPA", arXiv 2511.08544; Epps & Pulley, Biometrika 70 (1983).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from birdjepa.core import processes, random


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigregConfig:
    """In how many directions a batch is judged, and where its characteristic functions are compared."""

    n_slices: int = 1024
    """Random directions drawn per step."""
    n_knots: int = 17
    """Points t on [0, t_max], both ends included."""
    t_max: float = 3.0
    chunk: int = 2**18
    """Slice values (views x examples x slices) worked on at once; sets speed only. 2**18 suits a CPU, 2**22 a GPU."""

    def __post_init__(self) -> None:
        for name, least in (("n_slices", 1), ("n_knots", 2), ("chunk", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.t_max < math.inf:
            raise ValueError(f"t_max must be positive and finite, got {self.t_max}")

    @property
    def spacing(self) -> float:
        """Distance between neighbouring knots."""
        return self.t_max / (self.n_knots - 1)


def directions(seed: int, step: int, width: int, n_slices: int, device: torch.device | str) -> Float[Tensor, "k s"]:
    """Unit columns, uniform on the sphere in `width` dimensions, float32.

    A pure function of the run's seed and the training step, so every process and every resumed run draws the same ones.
    Drawn on the CPU, so that the device makes no difference.
    """
    normal = torch.randn(width, n_slices, generator=random.torch_generator(seed, "sigreg", step))
    return torch.nn.functional.normalize(normal, dim=0).to(device)


def sigreg(z: Float[Tensor, "v n k"], directions: Float[Tensor, "k s"], config: SigregConfig) -> Float[Tensor, ""]:
    """T averaged over views and slices. Each view is judged by itself, over its n examples.

    Works in float32 whatever the autocast, for the phases t u need it (in float64 where z is). Differentiable once, and
    in z only. NaN or infinity anywhere in z gives NaN.

    Raises:
      ValueError: if z holds no views or no examples.
    """
    if 0 in z.shape[:2]:
        raise ValueError(f"z must hold at least one view of one example, got shape {tuple(z.shape)}")
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    with torch.autocast(z.device.type, enabled=False):
        return _Sigreg.apply(z.to(dtype), directions.to(dtype), config)


def null_floor(config: SigregConfig) -> float:
    """Expected T of a batch drawn from a standard normal: sum_j w_j (1 - phi_j^2), for any number of examples."""
    _, phi, weights = _quadrature(config)
    return float(weights @ (1 - phi.square()))


class _Sigreg(torch.autograd.Function):
    """Value from sums over the examples; gradient from those sums and slice values computed afresh."""

    @staticmethod
    def forward(ctx: Any, z: Float[Tensor, "v n k"], directions: Float[Tensor, "k s"], config: SigregConfig) -> Tensor:
        n_views, n_examples, _ = z.shape
        _, phi, weights = (values.to(z) for values in _quadrature(config))
        waves = _Waves(config.n_knots - 1, like=z)
        sums = z.new_empty(directions.shape[1], n_views, 2, waves.order)
        for chunk, low, high in _chunks(z, directions, waves, config):
            sums[chunk] = waves.sums(low, high).view_as(sums[chunk])
        # The characteristic function is that of all processes' examples: added up before anything is squared.
        own = processes.here()
        if own.world > 1:
            sums, n_examples = own.add(sums), n_examples * own.world
        residuals = sums / n_examples
        residuals[:, :, 0] -= phi
        ctx.save_for_backward(z, directions, residuals)
        ctx.config = config
        return n_examples * (residuals.square().sum(2) @ weights).mean()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "v n k"], None, None]:
        z, directions, residuals = ctx.saved_tensors
        with torch.autocast(z.device.type, enabled=False):
            # Every process has the same loss, and what its own examples do to it: engines average over processes.
            return grad * processes.here().world * _gradient(z, directions, residuals, ctx.config), None, None


def _gradient(
    z: Float[Tensor, "v n k"],
    directions: Float[Tensor, "k s"],
    residuals: Float[Tensor, "s v 2 j"],
    config: SigregConfig,
) -> Float[Tensor, "v n k"]:
    """Gradient in z, from the residuals (mean cos - phi_j, mean sin) of each slice and view.

    dT/du_n = 2 sum_j w_j t_j [mean sin * cos(t_j u_n) - (mean cos - phi_j) * sin(t_j u_n)]: N cancels the means' 1/N.
    """
    n_slices, n_views, _, order = residuals.shape
    knots, _, weights = (values.to(z) for values in _quadrature(config))
    cos_residuals, sin_residuals = residuals.unbind(2)
    coefficients = torch.stack((sin_residuals, -cos_residuals), dim=2) * (2 * weights * knots / (n_slices * n_views))
    waves = _Waves(order, like=z)
    gradient = torch.zeros_like(rearrange(z, "v n k -> (v n) k"))
    for chunk, low, high in _chunks(z, directions, waves, config):
        u_gradient = waves.series(rearrange(coefficients[chunk], "s v part j -> (s v) part j"), low, high)
        gradient.addmm_(rearrange(u_gradient, "(s v) n -> s (v n)", v=n_views).T, directions[:, chunk].T)
    return rearrange(gradient, "(v n) k -> v n k", v=n_views)


def _chunks(
    z: Float[Tensor, "v n k"], directions: Float[Tensor, "k s"], waves: "_Waves", config: SigregConfig
) -> Iterator[tuple[slice, Float[Tensor, "r low n"], Float[Tensor, "r high n"]]]:
    """Yields (which slices, low factors, high factors) until all slices are done. The next chunk reuses the memory."""
    points = rearrange(z, "v n k -> (v n) k")
    n_slices = directions.shape[1]
    size = min(n_slices, max(1, config.chunk // len(points)))
    buffer = z.new_empty(waves.n_factors, size, len(points))
    for start in range(0, n_slices, size):
        chunk = slice(start, min(start + size, n_slices))
        factors = buffer[:, : chunk.stop - start]
        torch.mm(directions[:, chunk].T * config.spacing, points.T, out=factors[0])
        waves.fill(factors)
        rows = rearrange(factors, "f s (v n) -> (s v) f n", v=len(z))
        yield chunk, rows[:, : waves.stride], rows[:, waves.stride - 1 :]


class _Waves:
    """cos(j x) and sin(j x) for j = 1..order, as sums of products of a few low and a few high factors.

    Every j is b * stride + a with |a| <= n_low and stride = 2 n_low + 1, so each wave is a sum of two products of one
    factor from {1, cos(a x), sin(a x)} and one from {1, cos(b stride x), sin(b stride x)}. All sums over the examples
    then come from one small matrix product per row, and so does a trigonometric series at every example: 5 + 7 factors
    stand for 32 waves. They are made from one sine and one cosine by rotation, which in float32 is exact to about 1e-6
    (a Chebyshev recurrence loses 1e-5 at small x).

    Order: cos x, sin x, cos 2x, .. | 1 | cos stride x, sin stride x, cos 2 stride x, .. where the 1 is low and high.
    """

    def __init__(self, order: int, like: Tensor) -> None:
        self.order = order
        self.n_low = max(1, round(math.sqrt(order) / 2))
        self.stride = 2 * self.n_low + 1
        self.n_high = math.ceil((order - self.n_low) / self.stride)
        self.n_factors = self.stride + 2 * self.n_high
        self.signs = torch.from_numpy(self._signs()).to(like)

    def fill(self, factors: Float[Tensor, "f s vn"]) -> None:
        """Takes x in factors[0] and leaves all factors."""
        low = factors[: self.stride - 1].unflatten(0, (self.n_low, 2))
        torch.sin(factors[0], out=factors[1])
        factors[0].cos_()
        for a in range(1, self.n_low):
            _rotate(low[a - 1], low[0], out=low[a])
        factors[self.stride - 1] = 1
        if self.n_high:
            high = factors[self.stride :].unflatten(0, (self.n_high, 2))
            twice_last = torch.empty_like(low[0])
            _rotate(low[-1], low[-1], out=twice_last)
            _rotate(twice_last, low[0], out=high[0])
            for b in range(1, self.n_high):
                _rotate(high[b - 1], high[0], out=high[b])

    def sums(self, low: Float[Tensor, "r low n"], high: Float[Tensor, "r high n"]) -> Float[Tensor, "r waves"]:
        """Sums over n of cos(x), .., cos(order x), sin(x), .., sin(order x)."""
        return (low @ high.mT).flatten(1) @ self.signs

    def series(
        self, coefficients: Float[Tensor, "r 2 j"], low: Float[Tensor, "r low n"], high: Float[Tensor, "r high n"]
    ) -> Float[Tensor, "r n"]:
        """Sum over j of coefficients[:, 0, j] cos(j x) + coefficients[:, 1, j] sin(j x), at every example."""
        mixing = coefficients.flatten(1) @ self.signs.T
        terms = mixing.unflatten(1, (low.shape[1], high.shape[1])) @ high
        total = terms[:, -1]  # its low factor is the 1
        for i in range(self.stride - 1):
            total.addcmul_(low[:, i], terms[:, i])
        return total

    def _signs(self) -> Float[np.ndarray, "products waves"]:
        """With which sign each product of a low and a high factor enters each wave."""
        signs = np.zeros((self.stride, 1 + 2 * self.n_high, 2, self.order), dtype=np.float32)
        one = self.stride - 1
        for j in range(1, self.order + 1):
            b, a = divmod(j + self.n_low, self.stride)
            a -= self.n_low
            low_cos, low_sin = (2 * abs(a) - 2, 2 * abs(a) - 1) if a else (one, None)
            high_cos, high_sin = (2 * b - 1, 2 * b) if b else (0, None)
            signs[low_cos, high_cos, 0, j - 1] = 1
            if high_sin is not None:
                signs[low_cos, high_sin, 1, j - 1] = 1
            if low_sin is not None:
                signs[low_sin, high_cos, 1, j - 1] = math.copysign(1, a)
            if low_sin is not None and high_sin is not None:
                signs[low_sin, high_sin, 0, j - 1] = -math.copysign(1, a)
        return rearrange(signs, "low high part j -> (low high) (part j)")


def _rotate(wave: Float[Tensor, "2 s vn"], by: Float[Tensor, "2 s vn"], out: Float[Tensor, "2 s vn"]) -> None:
    """(cos, sin) of the sum of two angles; `out` must overlap neither."""
    torch.mul(wave[0], by[0], out=out[0]).addcmul_(wave[1], by[1], value=-1)
    torch.mul(wave[1], by[0], out=out[1]).addcmul_(wave[0], by[1])


def _quadrature(config: SigregConfig) -> tuple[Float[Tensor, " j"], Float[Tensor, " j"], Float[Tensor, " j"]]:
    """Knots t_j without t = 0, phi(t_j) and the weights w_j, in float64."""
    knots = config.spacing * torch.arange(1, config.n_knots, dtype=torch.float64)
    phi = torch.exp(-knots.square() / 2)
    weights = 2 * config.spacing * phi
    weights[-1] /= 2
    return knots, phi, weights
