"""What decoders do not tell of an Ogg file: a page that is damaged or missing is skipped without a word, and a file cut
short is only shorter.

Source: RFC 3533 section 6 (the page header). Its checksum is CRC-32 with the bits of each byte the other way round than
zlib's.
"""

import struct
import zlib

from birdjepa.audio.containers import Read

_HEADER = struct.Struct("<4sBBqIIIB")
_LARGEST = 27 + 255 + 255 * 255
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def has_end(read: Read, size: int) -> bool:
    """The file's last page is whole and marked as the last one of its stream; whatever else may follow it."""
    tail = read(max(0, size - 2 * _LARGEST), 2 * _LARGEST)
    place = tail.rfind(b"OggS")
    if place < 0 or place + 27 > len(tail):
        return False
    page = _page_bytes(tail, place)
    return place + page <= len(tail) and bool(tail[place + 5] & _LAST)


def all_pages_whole(read: Read, size: int) -> bool:
    """No page up to the file's last whole one has a wrong checksum, and none is missing between them."""
    position, numbers = 0, dict[int, int]()
    while position + 27 <= size:
        data = read(position, _LARGEST)
        if len(data) < 27 or data[:4] != b"OggS":
            return data.find(b"OggS") < 0 and position > 0  # a tag behind the last page is no damage
        n_bytes = _page_bytes(data, 0)
        if n_bytes > len(data):
            return True  # cut here, which `has_end` tells
        _, _, kind, _, stream, number, checksum, _ = _HEADER.unpack_from(data)
        if checksum != _checksum(data[:22] + bytes(4) + data[26:n_bytes]):
            return False
        if not kind & _FIRST and number != numbers.get(stream, number - 1) + 1:
            return False
        numbers[stream] = number
        position += n_bytes
    return True


def _page_bytes(data: bytes, place: int) -> int:
    n_segments = data[place + 26]
    return 27 + n_segments + sum(data[place + 27 : place + 27 + n_segments])


def _checksum(page: bytes) -> int:
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
