"""Packed codes: some codes of a frame joined to one integer and taken apart again, exactly. NumPy only.

The dimensions of a frame are cut into groups of `group_size`, in order. A group with radices r1..rk and codes c1..ck is
the mixed-radix number with those digits, in one of two orders:

    little   c1 + r1 (c2 + r2 (c3 + ..))    the first code counts 1 (default; the public system's code)
    big      ((c1 r2 + c2) r3 + c3) ..      the last code counts 1 (the formula in that system's paper)

Both are one-to-one. The last group is filled up with codes 0 of radix 1, which change nothing: it has fewer values.

Axes: .. any, such as frames | d dimensions | g groups | k codes of a group
"""

import dataclasses
import functools
import math
from typing import Literal

import numpy as np
from jaxtyping import Int, Integer

LARGEST = 2**63
"""Most values that a group may have, so that a packed code is an int64 everywhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing:
    """How the codes of a frame are packed."""

    radices: tuple[int, ...]
    """Levels of each dimension: its codes lie in [0, radix)."""
    group_size: int = 7
    """Dimensions per group."""
    order: Literal["little", "big"] = "little"
    """Whether a group's first code counts least or most."""

    def __post_init__(self) -> None:
        if not self.radices or min(self.radices) < 1:
            raise ValueError("radices must be one or more numbers of at least 1")
        if self.group_size < 1:
            raise ValueError(f"group_size must be at least 1, got {self.group_size}")
        if self.order not in ("little", "big"):
            raise ValueError(f"order must be little or big, got {self.order!r}")
        for group, values in enumerate(self.vocabulary):
            if values > LARGEST:
                first = group * self.group_size
                inside = self.radices[first : first + self.group_size]
                raise ValueError(
                    f"group {group} (dimensions {first} to {first + len(inside) - 1}) would have about "
                    f"2**{math.log2(values):.0f} values and int64 holds 2**63: lower group_size={self.group_size}"
                )

    @property
    def n_groups(self) -> int:
        return -(-len(self.radices) // self.group_size)

    @functools.cached_property
    def vocabulary(self) -> tuple[int, ...]:
        """Values that a packed code of each group can take."""
        starts = range(0, len(self.radices), self.group_size)
        return tuple(math.prod(self.radices[start : start + self.group_size]) for start in starts)

    @property
    def dtype(self) -> np.dtype:
        """Smallest of uint8, uint16, uint32 and int64 that holds every group's packed codes."""
        largest = max(self.vocabulary) - 1
        fitting = (kind for kind in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(kind).max)
        return np.dtype(next(fitting, np.int64))

    def pack(self, indices: Integer[np.ndarray, "*any d"]) -> Integer[np.ndarray, "*any g"]:
        """Packed codes of each frame, in `dtype`.

        Raises:
          ValueError: if there are not as many codes as radices, or one is not in [0, radix).
        """
        if indices.shape[-1] != len(self.radices):
            raise ValueError(f"a frame has {len(self.radices)} codes, got an array of shape {indices.shape}")
        _check(indices, np.array(self.radices), "code", "dimension")
        digits = np.zeros((*indices.shape[:-1], self.n_groups * self.group_size), dtype=np.int64)
        digits[..., : indices.shape[-1]] = indices
        digits = digits.reshape(*indices.shape[:-1], self.n_groups, self.group_size)
        return (digits * self._weights).sum(-1).astype(self.dtype)

    def unpack(self, packed: Integer[np.ndarray, "*any g"]) -> Int[np.ndarray, "*any d"]:
        """The codes that were packed, int64.

        Raises:
          ValueError: if there are not as many packed codes as groups, or one is not in [0, vocabulary).
        """
        if packed.shape[-1] != self.n_groups:
            raise ValueError(f"a frame has {self.n_groups} packed codes, got an array of shape {packed.shape}")
        _check(packed, np.array(self.vocabulary, dtype=np.uint64), "packed code", "group")
        digits = packed.astype(np.int64)[..., None] // self._weights % self._padded
        return digits.reshape(*packed.shape[:-1], self._padded.size)[..., : len(self.radices)]

    @functools.cached_property
    def _padded(self) -> Int[np.ndarray, "g k"]:
        """Radices by group, the last group filled up."""
        missing = self.n_groups * self.group_size - len(self.radices)
        return np.array((*self.radices, *(1,) * missing), dtype=np.int64).reshape(-1, self.group_size)

    @functools.cached_property
    def _weights(self) -> Int[np.ndarray, "g k"]:
        """What one unit of each code counts."""
        radices = self._padded if self.order == "little" else self._padded[:, ::-1]
        ones = np.ones((self.n_groups, 1), dtype=np.int64)
        weights = np.cumprod(np.concatenate((ones, radices[:, :-1]), 1), axis=1)
        return weights if self.order == "little" else weights[:, ::-1]


def _check(values: np.ndarray, below: np.ndarray, what: str, axis: str) -> None:
    """Refuses values outside [0, below), whatever their dtype."""
    wrong = (values < 0) | (values.astype(np.uint64) >= below.astype(np.uint64))
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        last = int(where[-1])
        raise ValueError(f"{what} {values[where]} of {axis} {last} is not in [0, {below[last]})")
