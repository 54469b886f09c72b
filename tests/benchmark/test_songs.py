from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdjepa.audio.labels import Label
from birdjepa.audio.logmel import fine
from birdjepa.benchmark.frame_embedders import LogMelFrames
from birdjepa.benchmark.songs import embed_songs, songs_of
from birdjepa.core.errors import LabelError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, rate in ((1, 16_000), (2, 44_100)):
        noise = np.random.default_rng(number).normal(size=rate // 2) * 0.1
        soundfile.write(tmp_path / f"{number}.wav", noise, rate)
    return tmp_path


def test_marks_that_are_no_syllables_are_unscored_and_rounding_is_cut(folder: Path) -> None:
    labels = {"1.wav": [Label(0.1, 0.2, "a"), Label(0.2, 0.3, "@"), Label(0.4, 0.505, "b")], "2.wav": []}
    (song,) = songs_of(labels, folder, ["1.wav"], without=("@",))
    assert song.duration_s == 0.5
    assert [(label.label, label.offset_s) for label in song.labels] == [("a", 0.2), ("b", 0.5)]
    assert [(label.onset_s, label.offset_s) for label in song.unscored] == [(0.2, 0.3)]


def test_any_rate_is_read_at_that_of_the_embedder(folder: Path) -> None:
    labels = {name: [Label(0.1, 0.2, "a")] for name in ("1.wav", "2.wav")}
    embedded = embed_songs(LogMelFrames(fine(5.0)), folder, songs_of(labels, folder, ["1.wav", "2.wav"]))
    assert [len(sequence) for sequence in embedded] == [100, 100]


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"3\.wav: no annotation"):
        songs_of({}, folder, ["3.wav"])
    with pytest.raises(UsageError, match="no annotation"):
        songs_of({"1.wav": [Label(0.1, 0.2, "@")]}, folder, ["1.wav"], without=("@",))
    with pytest.raises(LabelError, match=r"ends at 99 s, the recording at 0\.5 s"):
        songs_of({"1.wav": [Label(0.1, 99.0, "a")]}, folder, ["1.wav"])
