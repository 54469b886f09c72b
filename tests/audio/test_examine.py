"""Oddities of recordings that decode."""

from pathlib import Path

import numpy as np
import pytest
from malformed import encode, sound, without_xing

from birdjepa.audio.examine import examine, examine_file
from birdjepa.core.errors import AudioError

GOOD = sound(2.0)
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
    "MP3 without Xing": (without_xing(encode(GOOD, kind="MP3", subtype="MPEG_LAYER_III")), ()),
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
    assert examine(data, deep=False).notes == ()


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
