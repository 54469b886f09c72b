"""What can be said about one recording: its header, how much of it decodes, and what is odd about its sound."""

import dataclasses

import numpy as np

from birdjepa.audio.recording import AudioInfo, Recording, Source
from birdjepa.core.errors import AudioError, InputError

SILENT = 1e-5
"""Amplitude (-100 dB of full scale) that nothing in a silent recording exceeds, and that DC-only recordings do not
vary by.
"""
FULL_SCALE = 0.999
CLIPPED_SHARE = 1e-3
"""Share of samples that repeat the one before them at full scale, from which a recording counts as clipped."""

NOTES = ("silent", "DC only", "clipped", "shorter than its header says")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examination:
    """One good recording."""

    info: AudioInfo
    n_samples: int
    """Per channel: decoded, or what the header says if only that was read."""
    notes: tuple[str, ...]
    """Of `NOTES`, in that order: oddities of a recording that decodes."""

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.info.sampling_rate


def examine(source: Source, *, deep: bool) -> Examination:
    """Reads a recording's header and, if deep, all of its sound (mono, in constant memory).

    Raises:
      AudioError: where it cannot be opened, or, if deep, not be decoded to its end.
    """
    with Recording(source) as recording:
        info = recording.info()
        if not deep:
            return Examination(info=info, n_samples=info.n_samples, notes=())
        n_samples, n_full, low, high = 0, 0, np.inf, -np.inf
        while len(samples := recording.read(1 << 16, None)):
            n_samples += len(samples)
            stuck = samples[1:] == samples[:-1]
            n_full += int(np.count_nonzero(stuck & (np.abs(samples[1:]) >= FULL_SCALE)))

            low, high = min(low, float(samples.min())), max(high, float(samples.max()))
        if n_samples == 0:
            raise recording.error("empty: no samples can be decoded")
    silent = max(high, -low) <= SILENT
    constant = not silent and high - low <= SILENT
    found = {
        "silent": silent,
        "DC only": constant,
        "clipped": not constant and n_full >= CLIPPED_SHARE * n_samples,
        "shorter than its header says": n_samples < info.n_samples,
    }
    return Examination(info=info, n_samples=n_samples, notes=tuple(note for note in NOTES if found[note]))


def examine_file(file: tuple[str, Source], *, deep: bool) -> Examination:
    """Examines the recording of a (key, recording) pair, for workers: what no one foresaw refuses this one only.

    Raises:
      AudioError: as `examine`; `unexpected:` for any other exception.
    """
    try:
        return examine(file[1], deep=deep)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise AudioError(str(file[1]), 0.0, f"unexpected: {type(error).__name__}: {error}"[:200]) from error
