"""Content is told from its bytes: MPEG frame headers, chunk walks and magic numbers."""

import pytest
from malformed import chunk, encode, id3, riff, sound, wav, without_xing

from birdjepa.audio.containers import Read, Refused, claimed_wav_samples, count_mpeg_samples, mpeg_frame, recognise


def reader(data: bytes) -> Read:
    return lambda offset, n_bytes: data[offset : offset + n_bytes]


@pytest.mark.parametrize(
    ("header", "n_bytes", "n_samples"),
    [
        ("fffb9000", 417, 1152),  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz
        ("fffb9200", 418, 1152),  # with padding
        ("fffb1400", 96, 1152),  # 32 kbit/s, 48 kHz
        ("fff388c4", 288, 576),  # MPEG-2 layer III, 64 kbit/s, 16 kHz
        ("ffe318c4", 72, 576),  # MPEG-2.5 layer III, 8 kbit/s, 8 kHz
        ("fffd8400", 384, 1152),  # MPEG-1 layer II, 128 kbit/s, 48 kHz
        ("ffff4400", 128, 384),  # MPEG-1 layer I, 128 kbit/s, 48 kHz
    ],
)
def test_mpeg_frame(header: str, n_bytes: int, n_samples: int) -> None:
    frame = mpeg_frame(bytes.fromhex(header))
    assert frame is not None
    assert (frame.n_bytes, frame.n_samples) == (n_bytes, n_samples)


@pytest.mark.parametrize("header", ["fffb", "00fb9000", "fff19000", "fffbf000", "fffb0000", "fffb9c00", "ffeb9000"])
def test_no_mpeg_frame(header: str) -> None:
    """Too short, no sync, layer 0 (AAC), bit rate 15, free format, rate 3, reserved version."""
    assert mpeg_frame(bytes.fromhex(header)) is None


def test_counting_survives_junk_between_frames() -> None:
    mp3 = without_xing(encode(sound(2.0, 44_100), 44_100, "MP3", "MPEG_LAYER_III"))
    whole = count_mpeg_samples(reader(mp3), 0)
    assert 0 <= whole - 88_200 < 3 * 1152
    place = 0
    for _ in range(10):
        following = mpeg_frame(mp3[place : place + 4])
        assert following is not None
        place += following.n_bytes
    assert count_mpeg_samples(reader(mp3[:place] + b"junk" * 50 + mp3[place:]), 0) == whole
    assert count_mpeg_samples(reader(mp3[:place]), 0) == 10 * 1152


def test_mp3_behind_tags_and_padding() -> None:
    mp3 = encode(sound(0.5), kind="MP3", subtype="MPEG_LAYER_III")
    for before in (b"", id3(300), id3(300) + id3(10), bytes(900_000), id3(9) + b"TAG" + bytes(125), b"junk" * 9000):
        container = recognise(reader(before + mp3), len(before + mp3))
        assert (container.name, container.offset, container.counted) == ("mp3", len(before), True)
        assert container.plain == (before in (b"", id3(300)))
    bare = without_xing(mp3)
    assert not recognise(reader(bare), len(bare)).counted


def test_wav_claims() -> None:
    def claim(data: bytes) -> int | None:
        return claimed_wav_samples(reader(data), len(data))

    good = wav(data=bytes(3200), channels=2)
    assert claim(good) == 800
    assert claim(good[:200]) == 800
    assert claim(encode(sound(0.5), kind="RF64")) == 16_000
    fmt = good[12:36]
    assert claim(riff(chunk(b"JUNK", bytes(33)) + fmt + chunk(b"data", bytes(40)))) == 10
    for piped in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFF0000):
        assert claim(riff(fmt + chunk(b"data", bytes(40), piped))) is None
    assert claim(riff(fmt)) is None
    assert claim(riff(chunk(b"LIST", b"", 0xFFFFFFF0) + fmt)) is None
    assert claim(encode(sound(0.5), subtype="IMA_ADPCM")) is None


def test_leading_space_does_not_hide_a_page() -> None:
    page = b"\xef\xbb\xbf\n\n <!DocType HTML>" + bytes(100)
    with pytest.raises(Refused, match="not audio: a web page"):
        recognise(reader(page), len(page))
