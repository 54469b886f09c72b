"""Oddities of recordings that decode."""

from pathlib import Path

import numpy as np
import pytest
from malformed import encode, patch, sound, without_xing

from birdjepa.audio import containers
from birdjepa.audio.examine import examine, examine_file
from birdjepa.core.errors import AudioError

GOOD = sound(2.0)
MP3 = encode(GOOD, kind="MP3", subtype="MPEG_LAYER_III")
LONG_MP3 = encode(sound(6.0), kind="MP3", subtype="MPEG_LAYER_III")
OGG = encode(sound(4.0), kind="OGG", subtype="VORBIS")
MIDDLE = OGG.index(b"OggS", len(OGG) // 2)
"""Where a page begins, not the last one."""
CUT = (
    ("W64", "W64", "PCM_16"),
    ("AIFF", "AIFF", "PCM_24"),
    ("AU", "AU", "ULAW"),
    ("RF64", "RF64", "PCM_16"),
    ("IMA ADPCM", "WAV", "IMA_ADPCM"),
    ("MS ADPCM", "WAV", "MS_ADPCM"),
)
NOTED = {
    "good": (encode(GOOD), ()),
    "full-scale sine": (encode(np.sin(np.arange(64_000) / 9).astype(np.float32)), ()),
    "silent": (encode(np.zeros(900, np.float32)), ("silent",)),
    "noise at -120 dB": (encode(GOOD * 2e-6, subtype="FLOAT"), ("silent",)),
    "quiet": (encode(GOOD * 1e-3, subtype="PCM_24"), ()),
    "constant": (encode(np.full(900, 0.5, np.float32)), ("DC only",)),
    "constant at full scale": (encode(np.ones(900, np.float32)), ("DC only",)),
    "clipped": (encode(np.clip(9 * GOOD, -1, 1)), ("clipped",)),
    "anti-phase": (encode(np.stack([GOOD, -GOOD], 1), subtype="FLOAT"), ("silent",)),
    "cut": (encode(GOOD)[:60_000], ("shorter than its header says",)),
    "silent and cut": (encode(0 * GOOD)[:60_000], ("silent", "shorter than its header says")),
    "MP3 cut": (MP3[: len(MP3) // 2], ("shorter than its header says",)),
    **{
        f"{name} cut": (whole[: len(whole) * 2 // 3], ("shorter than its header says",))
        for name, whole in {name: encode(GOOD, kind=kind, subtype=subtype) for name, kind, subtype in CUT}.items()
    },
    **{f"{name} whole": (encode(GOOD, kind=kind, subtype=subtype), ()) for name, kind, subtype in CUT},
    "AU of a pipe": (patch(encode(GOOD, kind="AU"), 8, b"\xff" * 4)[:60_000], ()),
    "MP3 and another": (LONG_MP3 + LONG_MP3, ("more behind its end",)),
    "MP3 and a long tag": (LONG_MP3 + b"APETAGEX" + bytes(30_000), ()),
    "Ogg": (OGG, ()),
    "Ogg with a tag behind": (OGG + b"TAG" + bytes(125), ()),
    "Ogg of two streams": (OGG + OGG, ("more behind its end",)),
    "Ogg cut": (OGG[: len(OGG) // 2], ("no end mark",)),
    "Ogg cut between pages": (OGG[: OGG.rindex(b"OggS")], ("no end mark",)),
    "Ogg flipped": (
        patch(OGG, len(OGG) // 2, bytes([OGG[len(OGG) // 2] ^ 1])),
        ("shorter than its header says", "damaged pages"),
    ),
    "Ogg less a page": (
        OGG[:MIDDLE] + OGG[OGG.index(b"OggS", MIDDLE + 4) :],
        ("shorter than its header says", "damaged pages"),
    ),
    "MP3 without Xing": (without_xing(MP3), ()),
}


@pytest.mark.parametrize("name", NOTED)
def test_notes(name: str) -> None:
    data, notes = NOTED[name]
    found = examine(data, deep=True)
    assert found.notes == notes
    if name == "cut":
        assert found.n_samples == (60_000 - 44) // 2
        assert found.info.n_samples == 64_000
        assert found.duration_s == found.n_samples / 32_000
    by_header = examine(data, deep=False).notes
    told = {"no end mark"} if "Ogg" in name else {"shorter than its header says", "more behind its end"}
    assert by_header == tuple(note for note in notes if note in told)


def test_sizes_that_no_system_call_takes(tmp_path: Path) -> None:
    """A mutant found this one: a chunk of 2^63 bytes before the sound."""
    w64 = encode(GOOD, kind="W64")
    path = tmp_path / "a.w64"
    path.write_bytes(patch(w64, 56, b"\xff" * 7 + b"\x7f"))
    with pytest.raises(AudioError, match="header:"):
        examine(path, deep=True)
    assert not containers.ends_early(lambda offset, n: w64[offset : offset + n], len(w64), "w64")


def test_only_deep_finds_damage() -> None:
    flac = encode(GOOD, kind="FLAC")
    cut = flac[: len(flac) // 2]
    assert examine(cut, deep=False).n_samples == 64_000
    with pytest.raises(AudioError, match="truncated:"):
        examine(cut, deep=True)


def test_nobody_foresaw_this(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*_: object, **__: object) -> None:
        raise TypeError("odd")

    monkeypatch.setattr("birdjepa.audio.examine.Recording", surprise)
    with pytest.raises(AudioError, match="unexpected: TypeError: odd"):
        examine_file(("key", Path("a.wav")), deep=True)
