"""What a file is, told from its first bytes and never from its name.

Only containers on the allow-list reach libsndfile: WAV (RIFF, RIFX, RF64, W64), FLAC, Ogg, MP3, AIFF, CAF and AU. Its
parsers for rarer formats are where its memory errors are found, so their files are refused, by name where we know
them. Reading is by `Read(offset, n)`, which returns fewer bytes at the end of the file only; nothing here reads more
than it needs to or believes a length before comparing it with the file.
"""

import dataclasses
import re
from collections.abc import Callable

Read = Callable[[int, int], bytes]
"""read(offset, n_bytes): bytes from there, fewer only at the end of the file."""


class Refused(Exception):
    """This content is not decoded; the message is an AudioError's reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Container:
    """A recognised file."""

    name: str
    """wav, w64, flac, ogg, mp3, aiff, caf or au."""
    offset: int
    """Byte where the stream begins: after ID3 tags and padding."""
    plain: bool = True
    """At most one ID3v2 tag stands before the stream, so that libsndfile finds it by itself."""
    counted: bool = True
    """The header says how many samples follow. False for an MP3 without a Xing, Info or VBRI frame."""


AUDIO_MAGIC = (
    ("wav", re.compile(rb"(RIFF|RIFX|RF64)....WAVE", re.DOTALL)),
    ("w64", re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00")),
    ("flac", re.compile(rb"fLaC")),
    ("ogg", re.compile(rb"OggS")),
    ("aiff", re.compile(rb"FORM....AIF[FC]", re.DOTALL)),
    ("caf", re.compile(rb"caff\x00\x01")),
    ("au", re.compile(rb"\.snd|dns\.")),
)

FOREIGN_MAGIC = (
    (rb"version https://git-lfs", "not audio: a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (
        rb"#EXTM3U|\[playlist\]|ffconcat|v=0\r?\no=",
        "not audio: a playlist that names other files; give those files instead",
    ),
    (rb"<!doctype html|<html|<head|<body", "not audio: a web page, perhaps of a failed download"),
    (rb"<\?xml|<error|<svg", "not audio: an XML document, perhaps of a failed download"),
    (rb"[{\[]\s*[\"{\[\]}\d]", "not audio: a JSON document, perhaps of a failed download"),
    (rb"Entry not found|Not Found|Access Denied", "not audio: a server's error message of a failed download"),
    (
        rb"PK\x03\x04|PK\x05\x06|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd",
        "not audio: an archive; unpack it",
    ),
    (rb"%PDF|\x89PNG|\xff\xd8\xff|GIF8|II\*\x00|MM\x00\*", "not audio: a document or a picture"),
    (rb"....ftyp", "unsupported: MP4 or M4A; convert it to FLAC"),
    (rb"\x1a\x45\xdf\xa3", "unsupported: Matroska or WebM; convert it to FLAC"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "unsupported: WMA; convert it to FLAC"),
    (rb"RIFF....AVI |\x00\x00\x01[\xb0-\xbf]|FLV\x01", "unsupported: video; convert its sound to FLAC"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "unsupported: AAC in ADTS; convert it to FLAC"),
    (
        rb"#!AMR|MThd|wvpk|MAC |TTA1|Creative Voice|NIST_1A|2BIT|PVF1|FORM....(8SVX|16SV)|MATLAB 5| paf|fap |DSD "
        rb"|\xf0\x7e.\x01|\x64\xa3|\xa3\x64|ALawSound|Extended Instrument|\x01\x04",
        "unsupported: a rare sound format; convert it to WAV or FLAC",
    ),
)
_FOREIGN = tuple(
    (re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:" + magic + rb")", re.DOTALL | re.IGNORECASE), reason)
    for magic, reason in FOREIGN_MAGIC
)

MAX_JUNK = 1 << 16
"""Bytes of anything that may stand between the start of an MP3 (after tags and zeros) and its first frame."""
MAX_ZEROS = 1 << 24
MIN_SECOND = 1 << 14
"""Bytes behind an MP3's end, less than which are tags."""
CHAIN = 4
"""Frame headers in a row that must agree before bytes count as MPEG audio."""


def recognise(read: Read, size: int) -> Container:
    """Names the container of a file of `size` bytes.

    Raises:
      Refused: where the content is not on the allow-list; its message begins with a stable kind (`not audio:`,
        `unsupported:` ...).
    """
    if size == 0:
        raise Refused("empty: the file has no bytes")
    if size < 12:
        raise Refused(f"header: the file has only {size} bytes")
    start, n_tags = _after_id3(read, size)
    head = read(start, 64)
    for name, magic in AUDIO_MAGIC:
        if magic.match(head):
            if start and name != "flac":
                raise Refused(f"unsupported: {name} behind an ID3 tag; remove the tag")
            return Container(name=name, offset=start, plain=n_tags <= 1)
    for magic, reason in _FOREIGN:
        if magic.match(head):
            raise Refused(reason)
    first = _first_mpeg_frame(read, start)
    if first is None:
        raise Refused(f"not audio: no sound format that is read here (begins with {head[:8].hex(' ')})")
    return Container(
        name="mp3", offset=first, plain=first == start and n_tags <= 1, counted=_has_count(read(first, 256))
    )


@dataclasses.dataclass(frozen=True)
class MpegFrame:
    """One MPEG audio frame's header."""

    kind: tuple[int, int, int]
    """Version bits, layer bits, sampling-rate bits: the same in every frame of a stream."""
    n_bytes: int
    n_samples: int


_KBPS = {  # (MPEG-1?, layer): bit rate by index 1-14
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def mpeg_frame(header: bytes) -> MpegFrame | None:
    """Reads a 4-byte frame header; None where these bytes are none (or free-format, which is not read).

    Source: ISO/IEC 11172-3 section 2.4.1.3 and ISO/IEC 13818-3 section 2.4.2.3 (MPEG-2.5: the usual extension with
    version bits 00).
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer, bit_rate, rate = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3), header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or bit_rate in (0, 15) or rate == 3:
        return None
    mpeg1 = version == 3
    hertz = (44_100, 48_000, 32_000)[rate] >> (0 if mpeg1 else 1 if version == 2 else 2)
    bits_per_second = 1000 * _KBPS[mpeg1, layer][bit_rate - 1]
    padding = header[2] >> 1 & 1
    n_samples = 384 if layer == 1 else 1152 if layer == 2 or mpeg1 else 576
    n_bytes = (
        4 * (12 * bits_per_second // hertz + padding)
        if layer == 1
        else n_samples // 8 * bits_per_second // hertz + padding
    )
    return MpegFrame((version, layer, rate), n_bytes, n_samples)


def count_mpeg_samples(read: Read, first: int) -> int:
    """Samples in the MPEG frames from byte `first` on, by walking their headers; junk between frames is skipped as a
    decoder would.
    """
    total, position, frame = 0, first, mpeg_frame(read(first, 4))
    buffer, base = b"", first
    while frame is not None:
        total += frame.n_samples
        position += frame.n_bytes
        if position + 4 > base + len(buffer):
            buffer, base = read(position, 1 << 18), position
        found = mpeg_frame(buffer[position - base : position - base + 4])
        if found is None or found.kind != frame.kind:
            again = _find_chain(read, position)
            if again is None:
                break
            position += again
            buffer, base = read(position, 1 << 18), position
            found = mpeg_frame(buffer[:4])
        frame = found
    return total


def claimed_wav_samples(read: Read, size: int) -> int | None:
    """Samples per channel that a RIFF or RF64 header claims, whatever the file holds; None for no usable claim.

    libsndfile quietly trims the claim to the file, so a copy cut short would go unnoticed. Writers into a pipe leave 0
    or nearly 2 or 4 GiB as the data size: that is no claim.
    """
    order = "big" if read(0, 4) == b"RIFX" else "little"
    position, block, long_data = 12, 0, 0
    for _ in range(64):
        header = read(position, 36)
        if len(header) < 8:
            return None
        name, length = header[:4], int.from_bytes(header[4:8], order)
        if name == b"ds64":
            long_data = int.from_bytes(header[16:24], order)
        elif name == b"fmt ":
            tag, channels, bits = (int.from_bytes(header[a : a + 2], order) for a in (8, 10, 22))
            block = channels * ((bits + 7) // 8) if tag in (1, 3, 6, 7, 0xFFFE) else 0
        elif name == b"data":
            length = long_data if long_data and length == 0xFFFFFFFF else length
            piped = length == 0 or (length >= 0x7FFF0000 and position + 8 + length > size)
            return None if piped or not block else length // block
        position += 8 + length + length % 2
    return None


def ends_early(read: Read, size: int, name: str) -> bool:
    """The part of a WAV, W64, AIFF or AU file that holds the sound claims to end behind the file's end.

    What writers into a pipe leave is no claim, as in `claimed_wav_samples`.
    """
    if name == "au":
        head = read(0, 12)
        order = "big" if head[:1] == b"." else "little"
        begin, length = int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
        return 0 < length < 0x7FFF0000 and begin + length > size
    order = "big" if name == "aiff" or read(0, 4) == b"RIFX" else "little"
    position, n_name, n_size, padding = (40, 16, 8, 8) if name == "w64" else (12, 4, 4, 2)
    for _ in range(64):
        header = read(position, n_name + n_size)
        if len(header) < n_name + n_size:
            return False
        length = int.from_bytes(header[n_name:], order) - (len(header) if name == "w64" else 0)
        position += len(header) + max(0, length)
        if header[:4] in (b"data", b"SSND"):
            return position > size and (name == "w64" or length < 0x7FFF0000)
        position += -length % padding
    return False


def claimed_mpeg_bytes(first_frame: bytes) -> int:
    """Bytes from the first frame on that a Xing or Info header claims; 0 for no claim."""
    for mark in (b"Xing", b"Info"):
        place = first_frame.find(mark, 0, 64)
        if place > 0:
            flags = first_frame[place + 7]
            field = place + 8 + 4 * (flags & 1)
            return int.from_bytes(first_frame[field : field + 4], "big") if flags & 2 else 0
    return 0


def flac_blocks_agree(read: Read, offset: int) -> bool:
    """The sizes of blocks that a FLAC stream's header tells are that of its first frame: what seeking relies on, for
    frames of one size have numbers and no times. True where frames have times.

    Source: RFC 9639 sections 8.2 and 9.1.
    """
    streaminfo, position = read(offset + 8, 18), offset + 4
    for _ in range(1024):
        header = read(position, 4)
        if len(header) < 4:
            return False
        position += 4 + int.from_bytes(header[1:4], "big")
        if header[0] & 0x80:
            break
    frame = read(position, 8)
    if len(frame) < 8 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return False
    if frame[1] & 1:
        return True
    code, extra = frame[2] >> 4, frame[5:7]
    sizes = (0, 192, 576, 1152, 2304, 4608, extra[0] + 1, int.from_bytes(extra, "big") + 1)
    size = sizes[code] if code < 8 else 256 << (code - 8)
    lowest, highest = int.from_bytes(streaminfo[:2], "big"), int.from_bytes(streaminfo[2:4], "big")
    total = int.from_bytes(streaminfo[13:18], "big") & 0xFFFFFFFFF
    return frame[4] == 0 and (lowest == highest == size or 0 < total <= min(size, highest))


def mpeg_follows(read: Read, place: int, size: int) -> bool:
    """Another MPEG stream stands at or behind byte `place`, where the first one has ended."""
    if size - place < MIN_SECOND:
        return False
    try:
        return recognise(lambda offset, n_bytes: read(place + offset, n_bytes), size - place).name == "mp3"
    except Refused:
        return False


def _after_id3(read: Read, size: int) -> tuple[int, int]:
    """Byte after the ID3v2 tags that the file begins with, and how many there are."""
    position = 0
    for n_tags in range(16):
        tag = read(position, 10)
        if len(tag) < 10 or tag[:3] != b"ID3" or tag[3] == 0xFF or any(byte & 0x80 for byte in tag[6:10]):
            return position, n_tags
        length = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        position += 10 + length + (10 if tag[5] & 0x10 else 0)
        if position >= size:
            raise Refused(f"header: an ID3 tag claims {length} bytes, the file has {size}")
    return position, 16


def _first_mpeg_frame(read: Read, start: int) -> int | None:
    """Byte of the first frame of an MPEG stream at or after start, past ID3v1 tags, zero padding and at most MAX_JUNK
    bytes of junk.
    """
    position = start
    while position - start < MAX_ZEROS:
        block = read(position, MAX_JUNK)
        if block[:3] == b"TAG":
            position += 128
        elif block[:1] == b"\0":
            position += len(block) - len(block.lstrip(b"\0"))
        else:
            found = _find_chain(read, position)
            return None if found is None else position + found
    return None


def _find_chain(read: Read, position: int) -> int | None:
    """Bytes from position to the first of CHAIN agreeing MPEG frames in a row; fewer will do where they reach the
    file's end.
    """
    data = read(position, MAX_JUNK + 8192)
    at_end = len(data) < MAX_JUNK + 8192
    for match in re.finditer(rb"\xff(?=[\xe2-\xff])", data[:MAX_JUNK]):
        place, n_frames = match.start(), 0
        frame = first = mpeg_frame(data[place : place + 4])
        while frame is not None and first is not None and frame.kind == first.kind and n_frames < CHAIN:
            n_frames += 1
            place += frame.n_bytes
            frame = mpeg_frame(data[place : place + 4])
        if n_frames == CHAIN or (at_end and (place == len(data) or (n_frames >= 2 and place > len(data)))):
            return match.start()
    return None


def _has_count(first_frame: bytes) -> bool:
    """The first frame of the stream is a Xing, Info or VBRI header that counts the frames."""
    for mark in (b"Xing", b"Info"):
        place = first_frame.find(mark, 0, 64)
        if place > 0:
            return bool(first_frame[place + 7] & 1)
    return first_frame[36:40] == b"VBRI"
