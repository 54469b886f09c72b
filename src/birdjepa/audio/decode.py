"""Decoding: from a recording, in a file or in memory, to mono float32 samples, reading only the crop asked for.

Conventions that decide parity: samples are libsndfile's float32 (16-bit value / 32768); mono is the mean over channels;
a crop in seconds covers the native samples [round(offset * rate), round((offset + duration) * rate)); it is resampled
alone, by soxr at HQ, so that its numbers depend on nothing outside it. Everything that can be wrong with a recording is
an `AudioError` whose reason begins with one of `KINDS`.

The decoders run inside this process, and crash on some hostile files: use `isolate.IsolatedWorkers` for collections
that nobody has scanned.

Axes: s native samples | r resampled samples
"""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from jaxtyping import Float

from birdjepa.audio.recording import KINDS, AudioInfo, Recording
from birdjepa.audio.source import Source

__all__ = [
    "AUDIO_SUFFIXES",
    "KINDS",
    "AudioInfo",
    "Source",
    "clip_of",
    "probe",
    "read_clip",
    "read_samples",
    "resample",
    "resample_blocks",
    "stream_samples",
]

AUDIO_SUFFIXES = frozenset(
    (
        *(".wav", ".wave", ".wavex", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus"),
        *(".mp3", ".mp2", ".mpga", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd"),
    )
)
"""Lower-case suffixes that a folder walk takes; the content decides what a file is."""


def probe(source: Source) -> AudioInfo:
    """Reads a recording's header.

    Raises:
      AudioError: where it cannot be opened or its header makes no sense.
    """
    with Recording(source) as recording:
        return recording.info()


def read_samples(
    source: Source, start: int = 0, n_samples: int | None = None, *, channel: int | None = None
) -> tuple[Float[np.ndarray, " s"], int]:
    """Native samples [start, start + n_samples) in mono float32, and the native sampling rate in Hz.

    Fewer samples come back only at the true end of the recording; n_samples=None reads up to there.

    Raises:
      AudioError: where the recording cannot be decoded, ends before `start`, or holds NaN or infinity in this crop.
    """
    with Recording(source) as recording:
        return recording.crop(start, n_samples, channel), recording.sampling_rate


def read_clip(
    source: Source,
    sampling_rate: int,
    *,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    channel: int | None = None,
) -> Float[np.ndarray, " s"]:
    """The stretch [offset_s, offset_s + duration_s) in mono float32 at `sampling_rate`.

    Exactly round(duration_s * sampling_rate) samples where the recording is long enough; at its end fewer, in
    proportion to what is there.

    Raises:
      AudioError: as `read_samples`.
    """
    with Recording(source) as recording:
        return clip_of(recording, sampling_rate, offset_s=offset_s, duration_s=duration_s, channel=channel)


def clip_of(
    recording: Recording, sampling_rate: int, *, offset_s: float, duration_s: float | None, channel: int | None
) -> Float[np.ndarray, " s"]:
    """`read_clip` of a recording that is open already."""
    native = recording.sampling_rate
    start = round(offset_s * native)
    if duration_s is None:
        return resample(recording.crop(start, None, channel), native, sampling_rate)
    n_native = round((offset_s + duration_s) * native) - start
    samples = recording.crop(start, n_native, channel)
    n_out = round(duration_s * sampling_rate) if len(samples) == n_native else None
    return resample(samples, native, sampling_rate, n_out)


def stream_samples(source: Source, block: int, *, channel: int | None = None) -> Iterator[Float[np.ndarray, " s"]]:
    """Native mono samples from first to last in blocks of `block` (the last may be shorter), in constant memory.

    Raises:
      AudioError: as `read_samples`, when the damaged block is reached.
    """
    with Recording(source) as recording:
        while len(samples := recording.read(block, channel)):
            yield samples


def resample(
    samples: Float[np.ndarray, " s"], from_rate: int, to_rate: int, n_out: int | None = None
) -> Float[np.ndarray, " r"]:
    """Samples at another rate, by soxr's HQ recipe in one piece; unchanged where the rates are equal.

    The length is n_out, by default round(s * to_rate / from_rate): soxr's own rounding is a sample off at times, which
    is cut or filled with the last value.
    """
    n_out = (2 * len(samples) * to_rate + from_rate) // (2 * from_rate) if n_out is None else n_out
    if from_rate != to_rate and len(samples):
        samples = soxr.resample(samples, from_rate, to_rate, quality="HQ")
    if len(samples) < n_out:
        samples = np.pad(samples, (0, n_out - len(samples)), mode="edge" if len(samples) else "constant")
    return np.ascontiguousarray(samples[:n_out], dtype=np.float32)


def resample_blocks(
    blocks: Iterable[Float[np.ndarray, " _"]], from_rate: int, to_rate: int
) -> Iterator[Float[np.ndarray, " _"]]:
    """What `resample` makes of all blocks in one piece, bit for bit, as they come and in constant memory.

    At least one sample, where there was any.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    n_in, n_out, last = 0, 0, np.zeros(1, dtype=np.float32)
    for block in blocks:
        n_in += len(block)
        made = stream.resample_chunk(block)
        if len(made):
            n_out, last = n_out + len(made), made[-1:]
            yield made
    rest = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    n_rest = max((2 * n_in * to_rate + from_rate) // (2 * from_rate), min(n_in, 1)) - n_out
    if len(rest) < n_rest:
        filling = rest[-1:] if len(rest) else last
        rest = np.concatenate((rest, filling.repeat(n_rest - len(rest))))
    if n_rest > 0:
        yield np.ascontiguousarray(rest[:n_rest])
