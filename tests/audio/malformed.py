"""Files as the world has them: good ones in every container, and the malformed kinds that a decoder must survive."""

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
    samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str = "PCM_16", **settings: float | str
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
    bad = np.array([0.1, np.nan, 0.2], np.float32)
    square = np.sign(good)
    random = np.random.default_rng(3).integers(0, 256, 40_000, dtype=np.uint8).tobytes()
    syncs = b"".join(b"\xff\xfb" + random[i : i + 50] for i in range(0, 20_000, 50))
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
        "13 no channels": (patch(source, 22, bytes(2)), "header|channels"),
        "14 1024 channels": (wav(channels=1024, data=pcm), "header|channels"),
        "14 65535 channels": (wav(channels=65_535, data=pcm), "header|channels"),
        "15 rate 0": (patch(source, 24, bytes(4)), "header|rate"),
        "16 rate 1": (patch(source, 24, struct.pack("<I", 1)), "header|rate"),
        "16 rate 4 GHz": (patch(source, 24, b"\xff" * 4), "header|rate"),
        "17 rate 35467": (wav(rate=35_467, data=pcm), "ok"),
        "17 rate 384000": (wav(rate=384_000, data=pcm), "ok"),
        "18 bits 0": (wav(bits=0, block=2, data=pcm), "header|unsupported"),
        "18 bits 7": (wav(bits=7, block=1, data=pcm), "header|unsupported|ok"),
        "18 bits 12": (wav(bits=12, block=2, data=pcm), "header|unsupported|ok"),
        "18 bits 64": (wav(bits=64, data=pcm), "header|unsupported|ok"),
        "18 block 3": (wav(block=3, data=pcm), "header|unsupported|ok"),
        "19 tag BEEF": (wav(tag=0xBEEF, data=pcm), "unsupported|header"),
        "20 odd GUID": (riff(chunk(b"fmt ", unknown_guid) + chunk(b"data", pcm)), "unsupported|header"),
        "21 giant ADPCM": (riff(chunk(b"fmt ", ima) + chunk(b"data", pcm)), "header|unsupported|empty|truncated|ok"),
        "22 NaN": (encode(bad, subtype="FLOAT"), "not finite"),
        "22 infinity": (encode(np.array([0.1, -np.inf], np.float32), subtype="FLOAT"), "not finite"),
        "22 1e38": (encode(np.full(9, 1e38, np.float32), subtype="FLOAT"), "range"),
        "22 denormals": (encode(np.full(9, 1e-42, np.float32), subtype="FLOAT"), "ok"),
        "23 silence": (wav(data=bytes(2000)), "ok"),
        "25 constant": (encode(np.full(900, 0.5, np.float32)), "ok"),
        "26 square": (encode(square), "ok"),
        "27 anti-phase": (encode(np.stack([good, -good], 1)), "ok"),
        "28 one sample": (wav(data=pcm[:2]), "ok"),
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
        "50 MP4": (b"\0\0\0\x20ftypM4A " + bytes(100), "unsupported"),
        "52 Opus": (encode(sound(1.0, 48_000), 48_000, kind="OGG", subtype="OPUS"), "ok"),
        "53 web page": (page, "not audio"),
        "53 web page with BOM": (b"\xef\xbb\xbf\r\n " + page.lower(), "not audio"),
        "53 JSON": (b'{"error": "not found"}', "not audio"),
        "53 XML": (b"<?xml version='1.0'?><Error>NoSuchKey</Error>", "not audio"),
        "53 LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n", "not audio"),
        "53 Entry not found": (b"Entry not found", "not audio"),
        "54 playlist": (b"#EXTM3U\nfile:///etc/passwd\nhttp://127.0.0.1:9/x\n", "not audio"),
        "54 ffconcat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "not audio"),
        "55 gzip": (b"\x1f\x8b\x08\x00" + bytes(60), "not audio"),
        "55 zip": (b"PK\x03\x04" + bytes(60), "not audio"),
        "55 WAV and zip": (source + b"PK\x03\x04" + bytes(60), "ok"),
        "56 exotic VOC": (b"Creative Voice File\x1a\x1a\x00" + bytes(100), "unsupported"),
        "56 exotic MAT5": (encode(good, kind="MAT5"), "unsupported"),
        "56 exotic AVR": (encode(good, kind="AVR"), "unsupported"),
        "56 video": (b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(100), "unsupported"),
    }  # fmt: skip


def mutants(n: int, seed: int) -> list[bytes]:
    """Small good files with bytes flipped, inserted, removed or cut, differently in each."""
    rng = np.random.default_rng(seed)
    short = sound(0.3)
    stereo = np.stack([short, short[::-1]], 1)
    kinds = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("RF64", "PCM_24")]
    kinds += [("W64", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
    kinds += [("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("CAF", "ALAC_16"), ("AU", "ULAW")]
    seeds = [
        encode(sounds, 48_000 if subtype == "OPUS" else RATE, kind, subtype)
        for kind, subtype in kinds
        for sounds in (short, stereo)
    ]
    return [_mutant(bytearray(seeds[i % len(seeds)]), rng) for i in range(n)]


def _mutant(data: bytearray, rng: np.random.Generator) -> bytes:
    for _ in range(rng.integers(1, 12)):
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
