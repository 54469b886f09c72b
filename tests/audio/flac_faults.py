"""FLAC files with the eleven faults of the IETF's set of faulty files, made here: headers patched, frames by hand.

Source: RFC 9639 (section 8 metadata, section 9 frames); the names of the faults are those of the IETF CELLAR group's
test files.
"""

import struct

from malformed import encode, sound

_INFO = 8
"""Where STREAMINFO's content begins: after the mark and a block's header."""


def faults() -> dict[str, bytes]:
    """The faults by number and name. All but 08 and 09 hold the second of `sound(1.0)`."""
    good = encode(sound(1.0), kind="FLAC")
    info = good[4 : _INFO + 34]
    comment = block(4, struct.pack("<I", 2) + b"me" + struct.pack("<I", 0))
    return {
        "30 FLAC 01 wrong largest block": put(good, 0, struct.pack(">HH", 16, 16)),
        "31 FLAC 02 wrong largest frame": put(good, 4, b"\0\0\1\0\0\2"),
        "32 FLAC 03 wrong bit depth": put(good, 12, bytes([good[_INFO + 12] | 1, good[_INFO + 13] & 0x0F | 0x70])),
        "33 FLAC 04 wrong channels": put(good, 12, bytes([good[_INFO + 12] & 0xF1 | 2])),
        "34 FLAC 05 wrong total": put(good, 14, struct.pack(">I", 16_000)),
        "34 FLAC 05 wrong total, larger": put(good, 14, struct.pack(">I", 64_000)),
        "35 FLAC 06 no STREAMINFO": b"fLaC" + last(comment) + frames_of(good),
        "36 FLAC 07 STREAMINFO second": b"fLaC" + comment + last(info) + frames_of(good),
        "37 FLAC 08 block of 65536": constants(65_536, 3),
        "38 FLAC 09 blocks of 1": constants(1, 5),
        "39 FLAC 10 invalid comment": b"fLaC" + first(info) + last(block(4, b"\xff" * 12)) + frames_of(good),
        "40 FLAC 11 wrong block length": b"fLaC" + first(info) + b"\x84\x00\x7f\xff" + comment[4:] + frames_of(good),
    }  # fmt: skip


def put(flac: bytes, offset: int, new: bytes) -> bytes:
    """With other bytes in STREAMINFO."""
    return flac[: _INFO + offset] + new + flac[_INFO + offset + len(new) :]


def block(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + len(content).to_bytes(3, "big") + content


def first(metadata: bytes) -> bytes:
    """Marked as a block after which more come."""
    return bytes([metadata[0] & 0x7F]) + metadata[1:]


def last(metadata: bytes) -> bytes:
    return bytes([metadata[0] | 0x80]) + metadata[1:]


def frames_of(flac: bytes) -> bytes:
    place, more = 4, True
    while more:
        more = not flac[place] & 0x80
        place += 4 + int.from_bytes(flac[place + 1 : place + 4], "big")
    return flac[place:]


def constants(n_samples: int, n_frames: int, value: int = 1000) -> bytes:
    """A mono 16-bit file at 32 kHz of frames that hold one value each, of any size up to 65 536 samples."""
    total = n_samples * n_frames
    size = n_samples if n_samples < 65_536 else 0  # STREAMINFO has no room for it
    packed = (32_000 << 44) | (15 << 36) | total
    info = struct.pack(">HH", size, size) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    frames = b""
    for number in range(n_frames):
        header = b"\xff\xf8" + bytes([0x79, 0x08, number]) + struct.pack(">H", n_samples - 1)
        header += bytes([crc(header, 8, 0x07)])
        frame = header + b"\x00" + struct.pack(">h", value)
        frames += frame + crc(frame, 16, 0x8005).to_bytes(2, "big")
    return b"fLaC" + last(block(0, info)) + frames


def crc(data: bytes, n_bits: int, polynomial: int) -> int:
    register, top, mask = 0, 1 << n_bits - 1, (1 << n_bits) - 1
    for byte in data:
        register ^= byte << n_bits - 8
        for _ in range(8):
            register = (register << 1 ^ (polynomial if register & top else 0)) & mask
    return register
