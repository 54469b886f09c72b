"""Features as batches: any rows of a memory map, in float32 on the device, brought to a scale that training set.

What fits in memory is read once; what does not is read again by every batch. Padding tokens become zeros whatever they
held, and have weight 0.

Axes: b rows of a batch | e pooled embedding | t tokens | d width
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from birdjepa.benchmark.classifiers.base import Features
from birdjepa.benchmark.standardise import Standardiser, standardiser_of
from birdjepa.core.errors import UsageError

Scaling = Literal["nothing", "standardise", "layernorm"]
"""standardise: each dimension to mean 0 and deviation 1 over the training rows (of tokens: over the real ones);
layernorm: each embedding (of tokens: each token) to mean 0 and deviation 1 over its dimensions."""

HELD = 2**31
"""Bytes of features that are kept in memory, on the device."""
CHUNK = 2**26
"""Numbers read at a time."""


class Batch(NamedTuple):
    """Features of some rows: pooled, or tokens with their weights."""

    x: Float[Tensor, "b e"] | Float[Tensor, "b t d"]
    weights: Float[Tensor, "b t"]
    """1 for real tokens, 0 for padding; a single 1 for pooled features."""


class Reader:
    """Batches of some rows of the features; batches are asked for by position among these rows."""

    def __init__(
        self, features: Features, rows: Int[np.ndarray, " b"], *, tokens: bool, scale: "Scaler", device: str
    ) -> None:
        self._features, self._rows, self._tokens, self._scale, self._device = features, rows, tokens, scale, device
        self._held: Batch | None = None
        if 4 * len(rows) * numbers_per_row(features, tokens=tokens) <= HELD:
            self._held = self._read(np.arange(len(rows)))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def numbers_per_row(self) -> int:
        return numbers_per_row(self._features, tokens=self._tokens)

    def batch(self, positions: Int[np.ndarray, " b"]) -> Batch:
        if self._held is None:
            return self._read(positions)
        index = torch.as_tensor(positions, device=self._device)
        return Batch(self._held.x[index], self._held.weights[index])

    def _read(self, positions: Int[np.ndarray, " b"]) -> Batch:
        pieces = []
        for rows in chunks(self._features, self._rows[positions], tokens=self._tokens):
            pieces.append(self._scale(read(self._features, rows, tokens=self._tokens, device=self._device)))
        return Batch(*(torch.cat(part) for part in zip(*pieces, strict=True)))


class Scaler:
    """A scaling with what it learnt from the training rows."""

    def __init__(self, scaling: Scaling, standardiser: Standardiser | None) -> None:
        self._scaling, self._standardiser = scaling, standardiser

    def __call__(self, batch: Batch) -> Batch:
        x = batch.x
        if self._standardiser is not None:
            x = self._standardiser(x)
        elif self._scaling == "layernorm":
            x = F.layer_norm(x, x.shape[-1:])
        return Batch(x * batch.weights[..., None] if x.ndim == 3 else x, batch.weights)


def fit_scaler(
    scaling: Scaling, features: Features, train: Int[np.ndarray, " b"], *, tokens: bool, device: str
) -> Scaler:
    """Standardisation reads the training rows once; the other scalings learn nothing."""
    if scaling != "standardise":
        return Scaler(scaling, None)
    n, mean, squares = 0.0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for rows in chunks(features, train, tokens=tokens):
        batch = read(features, rows, tokens=tokens, device=device)
        x = batch.x[batch.weights > 0] if tokens else batch.x
        # Sums of squares about the chunk's own mean, then merged (Chan et al. 1979): nothing cancels.
        x = x.double()
        m, centre = len(x), x.mean(0)
        apart = centre - mean.to(centre)
        mean = mean.to(centre) + apart * (m / (n + m))
        squares = squares.to(centre) + (x - centre).square().sum(0) + apart.square() * (n * m / (n + m))
        n += m
    exact = standardiser_of(mean, (squares / n).sqrt())
    return Scaler(scaling, Standardiser(exact.mean.float(), exact.scale.float()))


def read(features: Features, rows: Int[np.ndarray, " b"], *, tokens: bool, device: str) -> Batch:
    """The features of these rows as they are on disk, in float32; padding tokens are zeros.

    Raises:
      UsageError: if they are not finite.
    """
    array = features.tokens if tokens else features.pooled
    assert array is not None
    x = torch.from_numpy(_take(array, rows).astype(np.float32)).to(device)
    weights = x.new_ones(len(x), 1)
    if tokens:
        real = np.ones(x.shape[:2], dtype=bool) if features.real is None else _take(features.real, rows)
        real = real | ~real.any(axis=1, keepdims=True)
        weights = torch.from_numpy(real.astype(np.float32)).to(device)
        x = x.masked_fill(weights[..., None] == 0, 0.0)
    finite = x.flatten(1).isfinite().all(1).cpu().numpy()
    if not finite.all():
        broken = rows[~finite]
        raise UsageError(
            f"features of {len(broken)} example(s) are not finite, the first in row {broken[0]}; embed them again"
        )
    return Batch(x, weights)


def chunks(features: Features, rows: Int[np.ndarray, " b"], *, tokens: bool) -> Iterator[Int[np.ndarray, " _"]]:
    """The rows in pieces of bounded size, in their order; at least one piece, which may be empty."""
    step = max(1, CHUNK // numbers_per_row(features, tokens=tokens))
    for start in range(0, max(1, len(rows)), step):
        yield rows[start : start + step]


def numbers_per_row(features: Features, *, tokens: bool) -> int:
    array = features.tokens if tokens else features.pooled
    assert array is not None
    return int(np.prod(array.shape[1:]))


def _take(array: np.ndarray, rows: Int[np.ndarray, " b"]) -> np.ndarray:
    """Rows of a memory map, read in the order in which they lie on the disk."""
    order = np.argsort(rows, kind="stable")
    taken = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    taken[order] = array[rows[order]]
    return taken
