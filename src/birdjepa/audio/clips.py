"""Recordings to clips: where each clip of a recording begins and ends, in the recording's own samples.

Clip i covers native samples [round(i * hop_s * rate), round((i * hop_s + clip_s) * rate)), whatever was read before it,
so hour 7 is cut the same wherever reading starts. The last clip is what is left: shorter, never padded.

Axes: s audio samples
"""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How recordings are cut for embedding."""

    clip_s: float = 5.0
    """Length of a clip in seconds."""
    hop_s: float = 5.0
    """Distance between clip starts in seconds; below clip_s the clips overlap."""

    def __post_init__(self) -> None:
        if not 0 < self.hop_s <= self.clip_s:
            raise ValueError(f"hop_s must be in (0, clip_s={self.clip_s}] seconds, got {self.hop_s}")

    def bounds(self, index: int, sampling_rate: int) -> tuple[int, int]:
        """First sample of clip `index`, and the one after its last, at a sampling rate. Exact, so that clips meet."""
        start = index * Fraction(str(self.hop_s))
        clip_s = Fraction(str(self.clip_s))
        return round(start * sampling_rate), round((start + clip_s) * sampling_rate)


def cut(
    blocks: Iterable[Float[np.ndarray, " _"]], sampling_rate: int, config: ClipConfig, *, least_s: float
) -> Iterator[tuple[int, Float[np.ndarray, " _"]]]:
    """Clips of a recording that arrives in blocks of any size: (first sample, samples), in order.

    Holds one clip and one block in memory, and gives views of the blocks where it can: do not overwrite those. The
    recording's rest comes last, as a shorter clip, unless an earlier clip already covers it, or it is shorter than
    least_s (one patch) and not all there is. An empty recording gives none.
    """
    pending = np.zeros(0, dtype=np.float32)
    origin, index, covered = 0, 0, 0
    for block in blocks:
        pending = np.concatenate((pending, block)) if pending.size else block
        start, end = config.bounds(index, sampling_rate)
        while end <= origin + pending.size:
            yield start, pending[start - origin : end - origin]
            covered, index = end, index + 1
            start, end = config.bounds(index, sampling_rate)
        drop = min(max(start - origin, 0), pending.size)
        pending, origin = pending[drop:], origin + drop
    start, _ = config.bounds(index, sampling_rate)
    end = origin + pending.size
    if end > max(covered, start) and (index == 0 or end - start >= least_s * sampling_rate):
        yield start, pending[start - origin :]
