"""Arrays to PNG: indexed colour, one byte per pixel, written with zlib alone.

Axes: h rows of pixels, the top one first | w columns
"""

import base64
import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8

_STOPS = (
    (0, 0, 4), (20, 14, 54), (59, 15, 112), (100, 26, 128), (140, 41, 129), (183, 55, 121),
    (222, 73, 104), (247, 112, 92), (254, 159, 109), (254, 207, 146), (252, 253, 191),
)  # fmt: skip
"""Dark violet over red to pale yellow, ever lighter, so that it also reads in grey."""
N_COLOURS = 64
"""Shades of a picture: more than the eye tells apart, few enough to compress well."""
HIDDEN = (128, 138, 150)
"""Colour of what is not there (NaN): a grey that no shade comes near, between a light page and a dark one."""


def colour_map() -> UInt8[np.ndarray, "c 3"]:
    """The palette's colours from the lowest value to the highest."""
    stops = np.array(_STOPS, dtype=np.float64)
    at = np.linspace(0, len(stops) - 1, N_COLOURS)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def encode_png(values: Float[np.ndarray, "h w"], low: float, high: float) -> bytes:
    """A PNG in which low and below is the first colour, high and above the last, and NaN is `HIDDEN`. Equal values give
    equal bytes.
    """
    hidden = np.isnan(values)
    share = np.clip((np.where(hidden, low, values) - low) / max(high - low, 1e-12), 0.0, 1.0)
    index = np.where(hidden, N_COLOURS, np.rint(share * (N_COLOURS - 1))).astype(np.uint8)
    height, width = index.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits per pixel, palette, no interlace
    lines = np.concatenate(
        (np.zeros((height, 1), dtype=np.uint8), index), axis=1
    )  # each line begins with its filter: none
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colour_map().tobytes() + bytes(HIDDEN)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
