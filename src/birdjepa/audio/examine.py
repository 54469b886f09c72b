"""What can be said about one recording: its header, how much of it decodes, and what is odd about its sound."""

import dataclasses

import numpy as np

from birdjepa.audio import containers, ogg
from birdjepa.audio.recording import AudioInfo, Recording
from birdjepa.audio.source import Source
from birdjepa.core.errors import AudioError, InputError

SILENT = 1e-5
"""Amplitude (-100 dB of full scale) that nothing in a silent recording exceeds, and that DC-only recordings do not
vary by.
"""
FULL_SCALE = 0.999
CLIPPED_SHARE = 1e-3
"""Share of samples that repeat the one before them at full scale, from which a recording counts as clipped."""

NOTES = (
    "silent",
    "DC only",
    "clipped",
    "shorter than its header says",
    "no end mark",
    "damaged pages",
    "more behind its end",
)
"""`no end mark` and `damaged pages` are of Ogg: its last page is missing (most such files have been cut), and pages
inside are damaged or missing, which decoders skip. `more behind its end`: another MP3 or Ogg stream was appended, which
is not read.
"""


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
        found = _faults_of_container(recording, info, deep=deep)
        if not deep:
            is_wav = recording.container.name == "wav"  # whose claim is told where others' is trimmed
            n_samples = min(info.n_samples, recording.decoder_samples) if is_wav else info.n_samples
            return Examination(info=info, n_samples=n_samples, notes=_noted(found))
        n_samples, n_full, low, high = 0, 0, np.inf, -np.inf
        while len(samples := recording.read(1 << 16, None)):
            n_samples += len(samples)
            low, high = min(low, float(samples.min())), max(high, float(samples.max()))
            if high >= FULL_SCALE or low <= -FULL_SCALE:
                stuck = samples[1:] == samples[:-1]
                n_full += int(np.count_nonzero(stuck & (np.abs(samples[1:]) >= FULL_SCALE)))
        if n_samples == 0:
            raise recording.error("empty: no samples can be decoded")
    silent = max(high, -low) <= SILENT
    constant = not silent and high - low <= SILENT
    clipped = not constant and n_full >= CLIPPED_SHARE * n_samples
    heard = {"silent": silent, "DC only": constant, "clipped": clipped}
    found |= {note for note, there in heard.items() if there}
    if n_samples < info.n_samples:
        found.add("shorter than its header says")
    return Examination(info=info, n_samples=n_samples, notes=_noted(found))


def _faults_of_container(recording: Recording, info: AudioInfo, *, deep: bool) -> set[str]:
    """Notes that need no decoding."""
    container, read, size = recording.container, recording.read_bytes, recording.size
    found = set[str]()
    short = container.name == "wav" and recording.decoder_samples < info.n_samples
    compressed = not info.subtype.startswith(("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW"))
    if container.name in ("w64", "aiff", "au") or (container.name == "wav" and compressed):
        short = containers.ends_early(read, size, container.name)
    if short:
        found.add("shorter than its header says")
    if container.name == "mp3":
        first = read(container.offset, 256)
        frame, claimed = containers.mpeg_frame(first), containers.claimed_mpeg_bytes(first)
        if frame is not None and claimed > size - container.offset + frame.n_bytes and not deep:  # one more is counted
            found.add("shorter than its header says")
        if claimed and containers.mpeg_follows(read, container.offset + claimed, size):
            found.add("more behind its end")
    if container.name == "ogg":
        if not ogg.has_end(read, size):
            found.add("no end mark")
        if deep:
            pages = ogg.walk(read, size)
            found |= {"damaged pages"} if pages.damaged else set()
            found |= {"more behind its end"} if pages.chained else set()
    return found


def _noted(found: set[str]) -> tuple[str, ...]:
    return tuple(note for note in NOTES if note in found)


def examine_file(file: tuple[str, Source], *, deep: bool) -> Examination:
    """Examines the source of a (key, source) pair, for workers: what no one foresaw refuses this one only.

    Raises:
      AudioError: as `examine`; `unexpected:` for any other exception.
    """
    try:
        return examine(file[1], deep=deep)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise AudioError(str(file[1]), 0.0, f"unexpected: {type(error).__name__}: {error}"[:200]) from error
