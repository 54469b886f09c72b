"""Files of codes (`.bjt`): one recording's packed codes with all that is needed to make sound of them again.

Layout, little-endian; docs/tokens.md has it in words and a reader of fifteen lines:

    0    4   magic 89 "BJT"
    4    4   version, uint32
    8    8   H, bytes of the header, uint64
    16   8   P, bytes of the payload, uint64
    24   H   header: a JSON object in UTF-8
    ..   P   payload: packed codes, frame by frame, of the header's dtype
    ..   32  SHA-256 of all bytes before

Reading is strict and needs NumPy alone, no torch: whoever trains a language model on codes need not install us whole.

Axes: t frames | g groups | d dimensions
"""

import dataclasses
import hashlib
import itertools
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from birdjepa.core import files
from birdjepa.core.errors import CodeError
from birdjepa.nn.packing import Packing

SUFFIX = ".bjt"
MAGIC = b"\x89BJT"
VERSION = 1
_FIXED = struct.Struct("<4sIQQ")
_DIGEST = 32
_MOST_DIMS = 2**16
"""Dimensions that a header may tell of, so that a damaged one cannot ask for all memory."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """One recording as packed codes, and how it came to them."""

    sampling_rate: int
    """Of the codec, in Hz; n_samples counts at this rate."""
    hop: int
    """Samples per frame."""
    n_samples: int
    """True length of the recording, without the padding that fills its last frame."""
    packing: Packing
    packed: Integer[np.ndarray, "t g"]
    codec: str
    """SHA-256 of the codec that made them, in hex: another one makes noise of them."""
    source: str
    """Path of the recording, as it was given."""
    chunk_frames: int = 0
    """Frames of the chunks that a long recording was encoded in; 0 where it was encoded in one piece."""
    overlap_frames: int = 0
    """Frames that neighbouring chunks share."""

    def __post_init__(self) -> None:
        for name in ("sampling_rate", "hop", "n_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not re.fullmatch("[0-9a-f]{64}", self.codec):
            raise ValueError(f"codec must be a SHA-256 of 64 hex digits, got {self.codec!r}")
        if not 0 <= self.overlap_frames < max(self.chunk_frames, 1):
            raise ValueError(
                f"need 0 <= overlap_frames < chunk_frames, or 0 and 0 for one piece; got {self.overlap_frames}, "
                f"{self.chunk_frames}"
            )
        whole = -(-self.n_samples // self.hop)
        if self.n_frames not in (whole, max(whole - 1, 1)):  # one less: encoders with the public system's padding
            raise ValueError(f"{self.n_samples} samples are {whole} frames of {self.hop}, got {self.n_frames}")
        # Taken apart once, so that packed codes that stand for none never reach a file, nor a decoder.
        self.packing.unpack(self.packed)

    @property
    def n_frames(self) -> int:
        return len(self.packed)

    @property
    def duration_s(self) -> float:
        """True length in seconds."""
        return self.n_samples / self.sampling_rate

    def indices(self) -> Int[np.ndarray, "t d"]:
        """The codes of each frame's dimensions, int64."""
        return self.packing.unpack(self.packed)


def write_codes(path: Path | str, codes: Codes) -> None:
    """Writes a file of codes, whole or not at all. The same codes make the same bytes."""
    packing = codes.packing
    header = json.dumps(
        {
            "sampling_rate": codes.sampling_rate,
            "hop": codes.hop,
            "n_samples": codes.n_samples,
            "n_frames": codes.n_frames,
            "radices": [[radix, len(list(run))] for radix, run in itertools.groupby(packing.radices)],
            "group_size": packing.group_size,
            "order": packing.order,
            "dtype": packing.dtype.name,
            "codec": codes.codec,
            "source": codes.source,
            "chunk_frames": codes.chunk_frames,
            "overlap_frames": codes.overlap_frames,
        }
    ).encode()
    payload = codes.packed.astype(packing.dtype.newbyteorder("<")).tobytes()
    data = _FIXED.pack(MAGIC, VERSION, len(header), len(payload)) + header + payload
    files.write_bytes(path, data + hashlib.sha256(data).digest())


def read_codes(path: Path | str) -> Codes:
    """Reads a file of codes.

    Raises:
      CodeError: if there is none, or it is no file of codes, of another version, cut short, damaged, or impossible.
    """
    try:
        with Path(path).open("rb") as file:
            fixed = file.read(_FIXED.size)
            n_header, n_payload = _sizes(fixed)
            body = file.read()
    except OSError as error:
        raise CodeError(str(path), 0.0, f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise CodeError(str(path), 0.0, str(error)) from None
    there, told = len(body), n_header + n_payload + _DIGEST
    if there != told:
        what = "cut short" if there < told else "followed by something else"
        reason = f"is {what}: it has {_FIXED.size + there} bytes and should have {_FIXED.size + told}"
        raise CodeError(str(path), 0.0, f"{reason}; make it again")
    if hashlib.sha256(fixed + body[:-_DIGEST]).digest() != body[-_DIGEST:]:
        raise CodeError(str(path), 0.0, "is damaged: its hash does not fit its content; make it again")
    try:
        return _codes(_header(body[:n_header]), body[n_header : n_header + n_payload])
    except ValueError as error:
        raise CodeError(str(path), 0.0, f"has an impossible header: {error}") from None


def _sizes(fixed: bytes) -> tuple[int, int]:
    """Bytes of header and payload, from the first bytes of a file."""
    if fixed[: len(MAGIC)] != MAGIC:
        raise ValueError("is no file of codes: `birdjepa tokenize` writes them")
    if len(fixed) < _FIXED.size:
        raise ValueError(f"is cut short: it has {len(fixed)} bytes; make it again")
    _, version, n_header, n_payload = _FIXED.unpack(fixed)
    if version != VERSION:
        raise ValueError(f"has version {version} of the format, and this birdjepa reads version {VERSION}")
    return n_header, n_payload


_KINDS: dict[str, type] = {
    "sampling_rate": int,
    "hop": int,
    "n_samples": int,
    "n_frames": int,
    "radices": list,
    "group_size": int,
    "order": str,
    "dtype": str,
    "codec": str,
    "source": str,
    "chunk_frames": int,
    "overlap_frames": int,
}


def _header(data: bytes) -> dict[str, Any]:
    """The header's fields: exactly those of this version, each of its type."""
    try:
        header = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(header, dict) or set(header) != set(_KINDS):
        raise ValueError(f"its fields must be {', '.join(_KINDS)}")
    for name, kind in _KINDS.items():
        if type(header[name]) is not kind:  # not isinstance, for which True is a number
            raise ValueError(f"{name} must be {kind.__name__}, got {header[name]!r:.40}")
    return header


def _codes(header: dict[str, Any], payload: bytes) -> Codes:
    if header["order"] not in ("little", "big"):
        raise ValueError(f"order must be little or big, got {header['order']!r:.20}")
    packing = Packing(
        radices=_radices(header.pop("radices")), group_size=header.pop("group_size"), order=header.pop("order")
    )
    dtype, n_frames = header.pop("dtype"), header.pop("n_frames")
    if dtype != packing.dtype.name:
        raise ValueError(f"these groups are {packing.dtype.name}, got dtype {dtype!r:.20}")
    if n_frames < 1 or len(payload) != n_frames * packing.n_groups * packing.dtype.itemsize:
        raise ValueError(f"{len(payload)} bytes are not {n_frames} frames of {packing.n_groups} {dtype}")
    packed = np.frombuffer(payload, packing.dtype.newbyteorder("<")).astype(packing.dtype)
    return Codes(packing=packing, packed=packed.reshape(n_frames, packing.n_groups), **header)


def _radices(runs: list[Any]) -> tuple[int, ...]:
    """Radices from runs of [radix, how often]."""
    for run in runs:
        if not isinstance(run, list) or len(run) != 2 or any(type(each) is not int or each < 1 for each in run):
            raise ValueError(f"radices must be pairs of a radix and how often it comes, got {run!r:.40}")
    if not 0 < (total := sum(often for _, often in runs)) <= _MOST_DIMS:
        raise ValueError(f"radices must be of 1 to {_MOST_DIMS} dimensions, got {total}")
    return tuple(radix for radix, often in runs for _ in range(often))
