"""Files as the world has them: good ones in every container, and the malformed kinds that a decoder must survive."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import soundfile

RATE = 32_000


def sound(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A sweep with noise: no two stretches are alike, so a seek to the wrong place shows."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.4 * np.sin(2 * np.pi * (500 + 400 * time) * time) + 0.05 * noise).astype(np.float32)


def encode(
    samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = "PCM_16", **settings: float | str
) -> bytes:
    """The bytes of an audio file; in blocks of 8000 frames, for libvorbis overflows its stack on long ones."""
    frames = samples if samples.ndim == 2 else samples[:, None]
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, frames.shape[1], subtype, format=kind, **settings) as writer:
        for start in range(0, len(frames), 8000):
            writer.write(frames[start : start + 8000])
    return file.getvalue()


def wav(
    *, channels: int = 1, rate: int = RATE, bits: int = 16, tag: int = 1, block: int | None = None, data: bytes
) -> bytes:
    """A WAV file with any header."""
    block = channels * bits // 8 if block is None else block
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    return riff(chunk(b"fmt ", fmt) + chunk(b"data", data))


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if size is None else size) + data + b"\0" * (len(data) % 2)


def patch(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def without_xing(mp3: bytes) -> bytes:
    """An MP3 less its first frame, which holds the count of the others."""
    from birdjepa.audio.containers import mpeg_frame

    first = mpeg_frame(mp3[:4])
    assert first is not None
    assert b"Xing" in mp3[:64] or b"Info" in mp3[:64]
    return mp3[first.n_bytes :]


def id3(size: int, claimed: int | None = None) -> bytes:
    n = size if claimed is None else claimed
    return b"ID3\x04\x00\x00" + bytes([n >> 21 & 127, n >> 14 & 127, n >> 7 & 127, n & 127]) + b"\0" * size


def malformed() -> dict[str, tuple[bytes, str]]:
    """Name -> (content, outcome): `ok`, or the kinds of reason allowed, separated by `|` (with `ok` if both do).

    The numbers are those of the reliability facts, section 2.6.
    """
    good = sound(1.0)
    pcm = (good * 32767).astype("<i2").tobytes()
    source = wav(data=pcm)
    fmt = source[12:36]
    flac = encode(good, kind="FLAC")
    ogg = encode(sound(6.0), kind="OGG", subtype="VORBIS")
    ogg_22 = encode(sound(1.0, 22_050), 22_050, kind="OGG", subtype="VORBIS")
    mp3 = encode(good, kind="MP3", subtype="MPEG_LAYER_III")
    mp3_22 = encode(sound(1.0, 22_050), 22_050, kind="MP3", subtype="MPEG_LAYER_III")
    unknown_guid = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 2 * RATE, 2, 16, 22, 16, 4) + b"\xab" * 16
    ima = struct.pack("<HHIIHHHH", 17, 1, RATE, RATE, 50_000, 4, 2, 50_000)
    opus = encode(sound(1.0, 48_000), 48_000, kind="OGG", subtype="OPUS")
    mp3_in_wav = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 16_000, 1, 0, 12, 1, 2, 576, 1, 1105)
    bad = np.array([0.1, np.nan, 0.2], np.float32)
    square = np.sign(good)
    random = np.random.default_rng(3).integers(0, 256, 40_000, dtype=np.uint8).tobytes()
    syncs = b"".join(b"\xff\xfb" + random[i : i + 50] for i in range(0, 20_000, 50))
    tar = b"a.wav".ljust(100, b"\0") + b"0000644\0" + bytes(149) + b"ustar\x0000" + bytes(247) + source
    page = b"<!DOCTYPE html>\n<html><body>404</body></html>"
    return {
        "01 no bytes": (b"", "empty"),
        "02 one byte": (source[:1], "header"),
        "02 eleven bytes": (source[:11], "header"),
        "03 header only": (wav(data=b""), "empty"),
        "04 cut in the middle": (source[: len(source) * 7 // 10], "ok"),
        "05 data size too large": (patch(source, 40, struct.pack("<I", 10 * len(pcm))), "ok"),
        "06 data size of a pipe": (patch(patch(source, 40, b"\xff" * 4), 4, b"\xff" * 4), "ok"),
        "07 data size odd": (patch(source, 40, struct.pack("<I", len(pcm) - 1)), "ok"),
        "08 RIFF size 0": (patch(source, 4, bytes(4)), "ok"),
        "08 RIFF size huge": (patch(source, 4, b"\xff\xff\xff\x7f"), "ok"),
        "09 no fmt": (riff(chunk(b"data", pcm)), "header"),
        "10 fmt after data": (riff(chunk(b"data", pcm) + fmt), "header|ok"),
        "10 two fmt": (riff(fmt + fmt + chunk(b"data", pcm)), "header|ok"),
        "10 two data": (riff(fmt + chunk(b"data", pcm) + chunk(b"data", pcm)), "header|ok"),
        "11 chunk behind": (source + chunk(b"LIST", b"INFO" + bytes(33)), "ok"),
        "12 RF64": (encode(good, kind="RF64"), "ok"),
        "12 W64": (encode(good, kind="W64"), "ok"),
        "13 no channels": (patch(source, 22, bytes(2)), "header|channels"),
        "14 1024 channels": (wav(channels=1024, data=pcm), "header|channels"),
        "14 65535 channels": (wav(channels=65_535, data=pcm), "header|channels"),
        "15 rate 0": (patch(source, 24, bytes(4)), "header|rate"),
        "16 rate 1": (patch(source, 24, struct.pack("<I", 1)), "header|rate"),
        "16 rate 4 GHz": (patch(source, 24, b"\xff" * 4), "header|rate"),
        "17 rate 35467": (wav(rate=35_467, data=pcm), "ok"),
        "17 rate 192000": (wav(rate=192_000, data=pcm), "ok"),
        "17 rate 250000": (wav(rate=250_000, data=pcm), "ok"),
        "17 rate 384000": (wav(rate=384_000, data=pcm), "ok"),
        "18 bits 0": (wav(bits=0, block=2, data=pcm), "header|unsupported"),
        "18 bits 7": (wav(bits=7, block=1, data=pcm), "header|unsupported|ok"),
        "18 bits 12": (wav(bits=12, block=2, data=pcm), "header|unsupported|ok"),
        "18 bits 64": (wav(bits=64, data=pcm), "header|unsupported|ok"),
        "18 block 3": (wav(block=3, data=pcm), "header|unsupported|ok"),
        "19 tag BEEF": (wav(tag=0xBEEF, data=pcm), "unsupported|header"),
        "19 MP3 in WAV": (riff(chunk(b"fmt ", mp3_in_wav) + chunk(b"data", mp3)), "ok|unsupported|header"),
        "20 PCM GUID": (encode(good, kind="WAVEX"), "ok"),
        "20 odd GUID": (riff(chunk(b"fmt ", unknown_guid) + chunk(b"data", pcm)), "unsupported|header"),
        "21 giant ADPCM": (riff(chunk(b"fmt ", ima) + chunk(b"data", pcm)), "header|unsupported|empty|truncated|ok"),
        "22 NaN": (encode(bad, subtype="FLOAT"), "not finite"),
        "22 infinity": (encode(np.array([0.1, -np.inf], np.float32), subtype="FLOAT"), "not finite"),
        "22 1e38": (encode(np.full(9, 1e38, np.float32), subtype="FLOAT"), "range"),
        "22 denormals": (encode(np.full(9, 1e-42, np.float32), subtype="FLOAT"), "ok"),
        "23 silence": (wav(data=bytes(2000)), "ok"),
        "24 noise at -120 dB": (encode(1e-6 * good, subtype="FLOAT"), "ok"),
        "25 half-scale DC": (encode(np.full(900, 0.5, np.float32)), "ok"),
        "25 constant 1": (encode(np.ones(900, np.float32)), "ok"),
        "26 square": (encode(square), "ok"),
        "27 anti-phase": (encode(np.stack([good, -good], 1)), "ok"),
        "27 dead channel": (encode(np.stack([good, 0 * good], 1)), "ok"),
        "28 no sample": (wav(data=b""), "empty"),
        "28 one sample": (wav(data=pcm[:2]), "ok"),
        "28 window - 1 samples": (wav(data=pcm[: 2 * 799]), "ok"),
        "28 window samples": (wav(data=pcm[: 2 * 800]), "ok"),
        "28 window + 1 samples": (wav(data=pcm[: 2 * 801]), "ok"),
        "41 FLAC cut in its header": (flac[:30], "header|unsupported"),
        "41 FLAC cut": (flac[: len(flac) // 2], "truncated"),
        "42 FLAC bit flipped": (patch(flac, len(flac) // 2, bytes([flac[len(flac) // 2] ^ 16])), "truncated|ok"),
        "43 FLAC behind ID3": (id3(128) + flac, "ok"),
        "43 FLAC behind two ID3": (id3(128) + id3(7) + flac, "ok"),
        "43 FLAC of unknown length": (patch(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4)), "ok"),
        "44 MP3 without Xing": (without_xing(mp3), "ok"),
        "45 ID3 of 256 MB": (id3(100, (1 << 28) - 1) + mp3, "header"),
        "45 MP3 behind zeros": (bytes(5000) + mp3, "ok"),
        "45 MP3 behind ID3v1": (id3(50) + b"TAG" + bytes(125) + mp3, "ok"),
        "46 MP3 of two rates": (mp3 + mp3_22, "ok"),
        "46 MP3 of two rates, no Xing": (without_xing(mp3) + without_xing(mp3_22), "ok|truncated"),
        "47 sync words": (syncs, "not audio"),
        "47 random bytes": (random, "not audio"),
        "48 Ogg cut": (ogg[:10_000], "ok"),
        "48 Ogg cut early": (ogg[:3000], "header|empty"),
        "49 chained Ogg": (ogg + ogg_22, "ok|truncated|header"),
        "49 Ogg page CRC": (patch(ogg, 6000, bytes([ogg[6000] ^ 255])), "ok|truncated"),
        "49 Opus that skips more than there is": (_skipping(opus), "header|empty"),
        "50 M4A without moov": (box(b"ftyp", b"M4A \0\0\2\0") + box(b"mdat", random), "unsupported"),
        "50 M4A cut before moov": (box(b"ftyp", b"M4A \0\0\2\0") + box(b"mdat", random)[:999], "unsupported"),
        "51 MP4 video": (box(b"ftyp", b"isom\0\0\2\0") + box(b"moov", bytes(100)), "unsupported"),
        "51 Matroska of two audio streams": (b"\x1a\x45\xdf\xa3" + bytes(100), "unsupported"),
        "52 Opus": (opus, "ok"),
        "53 web page": (page, "not audio"),
        "53 web page with BOM": (b"\xef\xbb\xbf\r\n " + page.lower(), "not audio"),
        "53 JSON": (b'{"error": "not found"}', "not audio"),
        "53 XML": (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "not audio"),
        "53 LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n", "not audio"),
        "53 Entry not found": (b"Entry not found", "not audio"),
        "54 playlist": (b"#EXTM3U\nfile:///etc/passwd\nhttp://127.0.0.1:9/x\n", "not audio"),
        "54 ffconcat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "not audio"),
        "54 SDP": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 0\r\n", "not audio"),
        "54 PLS": (b"[playlist]\nFile1=http://127.0.0.1:9/x\n", "not audio"),
        "55 gzip": (gzip.compress(source), "not audio"),
        "55 zip": (b"PK\x03\x04" + bytes(60), "not audio"),
        "55 tar": (tar, "not audio"),
        "55 bomb": (gzip.compress(gzip.compress(bytes(1 << 24))), "not audio"),
        "55 WAV and zip": (source + b"PK\x03\x04" + bytes(60), "ok"),
        "56 exotic VOC": (b"Creative Voice File\x1a\x1a\x00" + bytes(100), "unsupported"),
        "56 exotic MAT5": (encode(good, kind="MAT5"), "unsupported"),
        "56 exotic AVR": (encode(good, kind="AVR"), "unsupported"),
        "56 video": (b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(100), "unsupported"),
    }  # fmt: skip


def box(name: bytes, content: bytes) -> bytes:
    """One of an MP4's boxes."""
    return struct.pack(">I", 8 + len(content)) + name + content


def _skipping(opus: bytes) -> bytes:
    """Says that its first 65 535 samples are not to be heard; the page's checksum is right."""
    from birdjepa.audio.ogg import page_checksum

    second = opus.index(b"OggS", 4)
    page = patch(opus[:second], opus.index(b"OpusHead") + 10, b"\xff\xff")
    return patch(page, 22, struct.pack("<I", page_checksum(page))) + opus[second:]


MUTATED = {
    "WAV 16 bit": ("WAV", "PCM_16", {}),
    "WAV 24 bit": ("WAV", "PCM_24", {}),
    "WAV float": ("WAV", "FLOAT", {}),
    "WAV IMA ADPCM": ("WAV", "IMA_ADPCM", {}),
    "WAV MS ADPCM": ("WAV", "MS_ADPCM", {}),
    "WAV mu-law": ("WAV", "ULAW", {}),
    "RF64": ("RF64", "PCM_24", {}),
    "W64": ("W64", "PCM_16", {}),
    "FLAC 16 bit": ("FLAC", "PCM_16", {}),
    "FLAC 24 bit": ("FLAC", "PCM_24", {}),
    "Ogg Vorbis": ("OGG", "VORBIS", {}),
    "Ogg Opus": ("OGG", "OPUS", {}),
    "MP3": ("MP3", "MPEG_LAYER_III", {}),
    "MP3, low rate": ("MP3", "MPEG_LAYER_III", {"compression_level": 0.99, "bitrate_mode": "CONSTANT"}),
    "MP3 without Xing": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "VARIABLE"}),
    "AIFF": ("AIFF", "PCM_16", {}),
    "AIFF float": ("AIFF", "FLOAT", {}),
    "CAF": ("CAF", "PCM_16", {}),
    "CAF ALAC": ("CAF", "ALAC_16", {}),
    "AU": ("AU", "PCM_16", {}),
    "AU mu-law": ("AU", "ULAW", {}),
}


def mutants(n: int, seed: int) -> list[tuple[str, bytes]]:
    """Small good files of each container in turn (its name, the bytes), with bytes flipped, inserted, removed or cut,
    differently in each.
    """
    rng = np.random.default_rng(seed)
    seeds = []
    for number, n_channels in enumerate((1, 2)):
        for name, (kind, subtype, settings) in MUTATED.items():
            rate = 48_000 if subtype == "OPUS" else 16_000 if "low" in name else RATE
            short = sound(0.3 + number, rate)
            frames = np.stack([short, short[::-1]][:n_channels], 1)
            data = encode(frames, rate, kind, subtype, **settings)
            seeds.append((name, without_xing(data) if "without" in name else data))
    return [(name, _mutant(bytearray(data), rng)) for name, data in (seeds[i % len(seeds)] for i in range(n))]


def _mutant(data: bytearray, rng: np.random.Generator) -> bytes:
    for _ in range(1 if rng.random() < 0.5 else rng.integers(2, 12)):  # what survives once, and what is full of damage
        limit = len(data) if rng.random() < 0.5 else min(len(data), 200)  # half of the damage to headers
        place = int(rng.integers(0, max(1, limit)))
        match rng.integers(0, 5):
            case 0:
                data[place : place + 1] = bytes([rng.integers(0, 256)])
            case 1:
                data[place : place + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80"]
                )
            case 2:
                data[place:place] = rng.integers(0, 256, rng.integers(1, 40), dtype=np.uint8).tobytes()
            case 3:
                del data[place : place + int(rng.integers(1, 40))]
            case _:
                if rng.random() < 0.2:
                    del data[max(place, 12) :]
    return bytes(data)


def write_all(folder: Path) -> list[tuple[str, Path, str]]:
    """All of `malformed` as files: (name, path, outcome)."""
    rows = []
    for name, (content, outcome) in malformed().items():
        path = folder / f"{name}.wav"
        path.write_bytes(content)
        rows.append((name, path, outcome))
    return rows
