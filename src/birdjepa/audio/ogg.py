"""What decoders do not tell of an Ogg file: a page that is damaged or missing is skipped without a word, and a file cut
short is only shorter.

Source: RFC 3533 section 6 (the page header). Its checksum is CRC-32 with the bits of each byte the other way round than
zlib's.
"""

import struct
import zlib
from typing import NamedTuple

from birdjepa.audio.containers import Read

_HEADER = struct.Struct("<4sBBqIIIB")
_LARGEST = 27 + 255 + 255 * 255
_FIRST, _LAST = 2, 4
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def has_end(read: Read, size: int) -> bool:
    """The file's last page is whole and marked as the last one of its stream; whatever else may follow it."""
    tail = read(max(0, size - 2 * _LARGEST), 2 * _LARGEST)
    place = tail.rfind(b"OggS")
    if place < 0 or place + 27 > len(tail):
        return False
    page = _page_bytes(tail, place)
    return place + page <= len(tail) and bool(tail[place + 5] & _LAST)


class Pages(NamedTuple):
    """What a walk over all pages finds."""

    damaged: bool
    """A page up to the last whole one has a wrong checksum, or is missing."""
    chained: bool
    """Another stream begins where one has ended: decoders read the first."""


def walk(read: Read, size: int) -> Pages:
    """Looks at every page."""
    position, numbers, ended, chained = 0, dict[int, int](), False, False
    while position + 27 <= size:
        data = read(position, _LARGEST)
        if len(data) < 27 or data[:4] != b"OggS":
            return Pages(data.find(b"OggS") >= 0 or position == 0, chained)  # a tag behind the last page is no damage
        n_bytes = _page_bytes(data, 0)
        if n_bytes > len(data):
            break  # cut here, which `has_end` tells
        _, _, kind, _, stream, number, checksum, _ = _HEADER.unpack_from(data)
        due = number if kind & _FIRST else numbers.get(stream, number)
        if number != due or checksum != page_checksum(data[:n_bytes]):
            return Pages(True, chained)
        chained = chained or bool(ended and kind & _FIRST)
        ended = ended or bool(kind & _LAST)
        numbers[stream] = number + 1
        position += n_bytes
    return Pages(False, chained)


def page_checksum(page: bytes) -> int:
    """The checksum that a whole page should have."""
    mirrored = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _page_bytes(data: bytes, place: int) -> int:
    n_segments = data[place + 26]
    return 27 + n_segments + sum(data[place + 27 : place + 27 + n_segments])
