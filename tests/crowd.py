"""A folder of many small recordings, some of them damaged, with the truth about each: for scans of a size that matters.

Each container comes in a few variants (rate, channels, length), encoded once and written under many names; one file in
`every` is damaged, in each way in turn.
"""

import dataclasses
import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from birdjepa.audio.containers import mpeg_frame
from birdjepa.data.scan import ScanReport

CONTAINERS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", None)}
N_VARIANTS = 12
RATES = (8_000, 16_000, 22_050, 32_000)
FOLDER_SIZE = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What a scan must say about one file."""

    key: str
    n_samples: int
    """Per channel, that are there; 0 for a file that must be refused."""
    sampling_rate: int
    damage: str = ""
    """Name of the damage; empty for a good file."""
    by_header: str = ""
    """The notes and kinds of reason that a scan of headers may give, separated by '|'."""
    by_decoding: str = ""
    """The same of a deep scan."""


@dataclasses.dataclass(frozen=True)
class _Damage:
    """How a container is damaged: the new bytes and how many samples are left, and what scans must say of it."""

    spoil: Callable[[bytes, int], tuple[bytes, int]]
    by_header: str
    by_decoding: str


def write(folder: Path, n_files: int, *, every: int = 100) -> list[Truth]:
    """Writes n_files into subfolders; returns the truth in the order of a folder's manifest (sorted by path)."""
    variants = {suffix: [_variant(suffix, number) for number in range(N_VARIANTS)] for suffix in CONTAINERS}
    truths = []
    for number in range(n_files):
        if number % FOLDER_SIZE == 0:
            (folder / f"{number // FOLDER_SIZE:04d}").mkdir(parents=True)
        damaged, turn = number % every == every - 1, number // every if number % every == every - 1 else number
        suffix = tuple(CONTAINERS)[turn % len(CONTAINERS)]
        data, n_samples, rate = variants[suffix][turn // len(CONTAINERS) % N_VARIANTS]
        key = f"{number // FOLDER_SIZE:04d}/{number:07d}.{suffix}"
        truth = Truth(key=key, n_samples=n_samples, sampling_rate=rate)
        if damaged:
            ways = {**ANY_DAMAGE, **DAMAGE[suffix]}
            name = tuple(ways)[turn // len(CONTAINERS) % len(ways)]
            way = ways[name]
            data, n_samples = way.spoil(data, n_samples)
            truth = dataclasses.replace(
                truth,
                n_samples=n_samples,
                damage=f"{suffix}: {name}",
                by_header=way.by_header,
                by_decoding=way.by_decoding,
            )
        (folder / key).write_bytes(data)
        truths.append(truth)
    return truths


def hours(truths: list[Truth]) -> float:
    """Of sound that is there."""
    return sum(truth.n_samples / truth.sampling_rate for truth in truths) / 3600


def wrong(truths: list[Truth], report: ScanReport) -> list[str]:
    """What a report says other than the truth, a line per file; in a deep one lengths of good files must be exact."""
    rows = {file.key: (";".join(file.notes), file.n_samples, file.sampling_rate) for file in report.good}
    rows |= {file.path: (file.reason.split(":")[0], 0, 0) for file in report.refused}
    lines = []
    for truth in truths:
        told, n_samples, rate = rows.get(truth.key, ("no row", 0, 0))
        allowed = truth.by_decoding if report.deep else truth.by_header
        exact = truth.damage or (n_samples, rate) == (truth.n_samples, truth.sampling_rate)
        if told not in allowed.split("|") or not exact:
            lines.append(f"{truth}: got {told!r}, {n_samples} samples at {rate} Hz")
    if [file.key for file in report.good] != [
        truth.key for truth in truths if truth.key in rows and rows[truth.key][2]
    ]:
        lines.append("rows are not in the order of the files")
    return lines


def _variant(suffix: str, number: int) -> tuple[bytes, int, int]:
    """Encoded bytes, samples per channel, and the rate."""
    rng = np.random.default_rng([number, len(suffix)])
    rate, n_channels = RATES[number % len(RATES)], 1 + number % 3 // 2
    n_samples = int(rate * rng.uniform(0.15, 0.4))
    tones = np.sin(np.outer(np.arange(n_samples), rng.uniform(0.1, 0.5, n_channels)))
    frames = 0.3 * tones + 0.05 * rng.standard_normal((n_samples, n_channels))
    file = io.BytesIO()
    container, subtype = CONTAINERS[suffix]
    soundfile.write(file, frames, rate, subtype=subtype, format=container)  # short enough for libvorbis in one piece
    return file.getvalue(), n_samples, rate


def _cut_wav(data: bytes, n_samples: int) -> tuple[bytes, int]:
    block = struct.unpack_from("<H", data, 32)[0]
    return data[: 44 + block * (n_samples // 2)], n_samples // 2


def _nan(data: bytes, n_samples: int) -> tuple[bytes, int]:
    samples = np.zeros(n_samples, np.float32)
    samples[n_samples // 2] = np.nan
    file = io.BytesIO()
    soundfile.write(file, samples, 8_000, subtype="FLOAT", format="WAV")
    return file.getvalue(), 0


def _flip(data: bytes, n_samples: int) -> tuple[bytes, int]:
    place = len(data) * 9 // 10  # behind an Ogg file's long headers
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :], n_samples


def _cut(data: bytes, n_samples: int) -> tuple[bytes, int]:
    return data[: len(data) * 9 // 10], n_samples


def _cut_mp3(data: bytes, n_samples: int) -> tuple[bytes, int]:
    """Cut after a whole frame, as a download that broke off may be; what is left depends on the decoder's delay."""
    position = 0
    for frame in _frames(data):
        if position > len(data) * 3 // 5:
            break
        position += frame
    return data[:position], n_samples


def _frames(mp3: bytes) -> Iterator[int]:
    """Sizes in bytes of an MP3's frames."""
    position = 0
    while frame := mpeg_frame(mp3[position : position + 4]):
        yield frame.n_bytes
        position += frame.n_bytes


def _fill(content: bytes) -> Callable[[bytes, int], tuple[bytes, int]]:
    return lambda *_: (content, 0)


def _patch(offset: int, new: bytes) -> Callable[[bytes, int], tuple[bytes, int]]:
    return lambda data, _: (data[:offset] + new + data[offset + len(new) :], 0)


_NOISE = np.random.default_rng(5).integers(0, 256, 3000, dtype=np.uint8).tobytes()
ANY_DAMAGE = {
    "no bytes": _Damage(_fill(b""), "empty", "empty"),
    "eleven bytes": _Damage(lambda data, _: (data[:11], 0), "header", "header"),
    "a web page": _Damage(_fill(b"<!DOCTYPE html><p>404</p>"), "not audio", "not audio"),
    "a Git LFS pointer": _Damage(_fill(b"version https://git-lfs.github.com/spec/v1\n"), "not audio", "not audio"),
    "noise": _Damage(_fill(_NOISE), "not audio", "not audio"),
    "zeros": _Damage(lambda data, _: (bytes(len(data)), 0), "not audio", "not audio"),
}
DAMAGE = {
    "wav": {
        "no channels": _Damage(_patch(22, bytes(2)), "header", "header"),
        "rate 0": _Damage(_patch(24, bytes(4)), "header", "header"),
        "no samples": _Damage(lambda data, _: (data[:40] + bytes(4), 0), "empty", "empty"),
        "cut": _Damage(_cut_wav, "shorter than its header says", "shorter than its header says"),
        "not a number": _Damage(_nan, "", "not finite"),
    },
    "flac": {
        "cut": _Damage(lambda data, _: _cut(data, 0), "", "truncated"),
        "flipped": _Damage(lambda data, _: _flip(data, 0), "", "truncated"),
        "header zeroed": _Damage(_patch(18, bytes(4)), "unsupported", "unsupported"),
    },
    "ogg": {
        "cut": _Damage(_cut, "no end mark|empty", "no end mark|empty"),
        "flipped": _Damage(_flip, "|empty", "damaged pages|empty"),
    },
    "mp3": {
        "cut": _Damage(_cut_mp3, "shorter than its header says", "shorter than its header says"),
    },
}
