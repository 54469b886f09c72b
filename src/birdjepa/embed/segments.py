"""Where to read for one piece of audio that an encoder sees at once: numbers only, no audio.

A labelled segment is read in context: a window of up to one clip around it, inside the recording and of a whole number
of patch columns, so that every patch of the window is sound and every moment of the segment lies in a patch. A segment
longer than that is divided into equal tiles, each with a window of its own.
"""

import dataclasses
import math
from typing import NamedTuple

from birdjepa.audio.clips import ClipConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """What reading must know of an encoder. Lengths are samples at `sampling_rate` unless they say otherwise."""

    sampling_rate: int
    clips: ClipConfig
    min_samples: int
    """Samples that one column of patches reads."""
    token_hop: int
    """Samples from the start of one column to the start of the next."""
    trim: bool
    """Whether samples behind the last whole patch may be left out, because no patch depends on them. Clips of almost
    the same length then share a batch."""

    def n_columns(self, n_samples: int) -> int:
        """Whole patch columns in a clip."""
        return max(0, 1 + (n_samples - self.min_samples) // self.token_hop)

    def n_samples(self, n_columns: int) -> int:
        """Shortest clip that has so many patch columns (at least 1)."""
        return self.min_samples + (n_columns - 1) * self.token_hop

    def seen(self, n_samples: int) -> int:
        """How much of a clip to hand on."""
        columns = self.n_columns(n_samples)
        return self.n_samples(columns) if self.trim and columns else n_samples

    @property
    def least_s(self) -> float:
        """The shortest clip that fills a patch, in seconds."""
        return self.min_samples / self.sampling_rate

    @property
    def context(self) -> int:
        """Length of a segment's window: the whole patches of one clip."""
        return self.n_samples(max(1, self.n_columns(round(self.clips.clip_s * self.sampling_rate))))


class Window(NamedTuple):
    """Native samples [start, start + n_native) to read, which are n_out samples at the encoder's rate."""

    start: int
    n_native: int
    n_out: int


def n_tiles(duration_s: float, geometry: Geometry) -> int:
    """Equal tiles into which a segment is divided so that each fits into a window."""
    return max(1, math.ceil(duration_s * geometry.sampling_rate / geometry.context - 1e-9))


def window_around(onset_s: float, offset_s: float, sampling_rate: int, n_total: int, geometry: Geometry) -> Window:
    """The window of a tile, centred on it as far as the recording of n_total native samples allows.

    A recording shorter than one patch is its own window, as for `SoundEncoder.embed`.
    """
    n_available = n_total * geometry.sampling_rate // sampling_rate
    columns = geometry.n_columns(min(geometry.context, n_available))
    if columns == 0:
        return Window(0, n_total, max(1, round(n_total * geometry.sampling_rate / sampling_rate)))
    n_out = geometry.n_samples(columns)
    n_native = min(-(-n_out * sampling_rate // geometry.sampling_rate), n_total)
    start = round((onset_s + offset_s) / 2 * sampling_rate - n_native / 2)
    return Window(min(max(start, 0), n_total - n_native), n_native, n_out)
