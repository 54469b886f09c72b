"""What codes cost and how much of them is used: rates in packed codes and bits a second, shares, entropies. NumPy only.

Axes: t frames | d dimensions | k levels | g groups
"""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from birdjepa.nn.packing import Packing


def rates(packing: Packing, sampling_rate: int, hop: int) -> dict[str, float]:
    """What a second of codes is, by name; the codes' entropy aside, it is the same for any recording.

    frame_hz; tokens_per_s: packed codes, as a language model would read them; nominal_bit_s: codes of equally likely
    levels; stored_bit_s: packed codes in whole bytes, as files have them.
    """
    frame_hz = sampling_rate / hop
    return {
        "frame_hz": frame_hz,
        "tokens_per_s": frame_hz * packing.n_groups,
        "nominal_bit_s": frame_hz * math.fsum(math.log2(radix) for radix in packing.radices),
        "stored_bit_s": frame_hz * packing.n_groups * packing.dtype.itemsize * 8,
    }


class CodeCounts:
    """How often each level of each dimension, and each packed code of each group, came up in frames that were sound."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self.n_frames = 0
        self.levels: Int[np.ndarray, "d k"] = np.zeros((len(packing.radices), max(packing.radices)), dtype=np.int64)
        """Frames by dimension and level; 0 where a dimension has no such level."""
        self.groups: list[Counter[int]] = [Counter() for _ in range(packing.n_groups)]
        """Frames by packed code, of each group."""

    def add(self, indices: Int[np.ndarray, "t d"]) -> None:
        """Counts the codes of some frames. Those of padding do not belong here.

        Raises:
          ValueError: if they are not codes of this packing.
        """
        packed = self.packing.pack(indices)
        most = self.levels.shape[1]
        cells = indices + most * np.arange(len(self.levels))
        self.levels += np.bincount(cells.ravel(), minlength=self.levels.size).reshape(self.levels.shape)
        for counter, column in zip(self.groups, packed.T, strict=True):
            counter.update(column.tolist())
        self.n_frames += len(indices)

    def merge(self, other: "CodeCounts") -> None:
        """Adds what another process or stretch has counted.

        Raises:
          ValueError: if it was packed otherwise.
        """
        if other.packing != self.packing:
            raise ValueError("codes that are packed in different ways cannot be counted together")
        self.levels += other.levels
        for mine, theirs in zip(self.groups, other.groups, strict=True):
            mine.update(theirs)
        self.n_frames += other.n_frames

    def shares(self) -> Float[np.ndarray, "d k"]:
        """Share of the frames by dimension and level; all 0 before the first frame."""
        return self.levels / max(self.n_frames, 1)

    def levels_used(self) -> Int[np.ndarray, " d"]:
        """Levels of each dimension that came up at all."""
        return (self.levels > 0).sum(1)

    def level_bits(self) -> Float[np.ndarray, " d"]:
        """Entropy of each dimension in bits: at most log2 of its levels."""
        return np.array([_entropy(row.tolist()) for row in self.levels])

    def group_bits(self) -> Float[np.ndarray, " g"]:
        """Entropy of each group's packed codes in bits: less than its dimensions' sum where these go together.

        It is that of what was counted, and cannot exceed log2(n_frames): few frames make it too low.
        """
        return np.array([_entropy(counter.values()) for counter in self.groups])

    def groups_used(self) -> Int[np.ndarray, " g"]:
        """Packed codes of each group that came up at all, of its vocabulary."""
        return np.array([len(counter) for counter in self.groups])

    def summary(self, sampling_rate: int, hop: int) -> dict[str, float]:
        """Usage in few numbers, by name.

        least_used: the smallest share of its levels that a dimension uses; level_bits, group_bits: means;
        entropy_bit_s: dimensions coded each by itself; entropy_bit_s_packed: groups, with the caveat of `group_bits`.
        """
        frame_hz = sampling_rate / hop
        level_bits, group_bits = self.level_bits(), self.group_bits()
        return {
            "n_frames": float(self.n_frames),
            "least_used": float((self.levels_used() / np.array(self.packing.radices)).min()),
            "level_bits": float(level_bits.mean()),
            "group_bits": float(group_bits.mean()),
            "entropy_bit_s": frame_hz * float(level_bits.sum()),
            "entropy_bit_s_packed": frame_hz * float(group_bits.sum()),
        }


def _entropy(counts: Iterable[int]) -> float:
    """Bits; 0 where nothing was counted."""
    some = np.array([count for count in counts if count], dtype=np.float64)
    shares = some / max(some.sum(), 1.0)
    return float(np.abs((shares * np.log2(shares)).sum()))
