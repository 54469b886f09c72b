import numpy as np
import pytest

from birdjepa.audio.labels import Label
from birdjepa.benchmark.frame_probe import FrameProbe, Labelled, label_songs
from birdjepa.benchmark.frames import FrameSequence, Song, annotated, classes_at

NAMES = ("", "a", "b")
FRAME_S = 0.005


def song(number: int) -> Song:
    order = np.random.default_rng(number).permutation([1, 2] * 5)
    return Song(
        f"song{number}", 1.0, tuple(Label(0.1 * i + 0.02, 0.1 * i + 0.08, NAMES[c]) for i, c in enumerate(order))
    )


def frames_of(song: Song, noise: float, shift: int = 0) -> FrameSequence:
    """Vectors that say their frame's class, after so many frames, and noise."""
    start = np.arange(200) * FRAME_S
    classes = np.roll(classes_at(start + FRAME_S / 2, annotated(song, NAMES)), shift)
    drawn = np.random.default_rng(int(song.name[4:])).normal(size=(200, 6))
    return FrameSequence((np.eye(6)[classes] + noise * drawn).astype(np.float32), start, start + FRAME_S)


SONGS = [song(number) for number in range(4)]


def label(probe: FrameProbe, train: list[int], noise: float) -> tuple[Labelled, float]:
    frames = [frames_of(song, noise) for song in SONGS]
    labelled = label_songs(SONGS, frames, NAMES, train, [3], probe, seed=0)
    truth = classes_at(frames[3].centre_s, annotated(SONGS[3], NAMES))
    return labelled, float((labelled.classes[0] != truth).mean())


@pytest.mark.parametrize("train", [[0], [0, 1], [0, 1, 2]])
def test_clear_frames_are_learnt_from_any_number_of_songs(train: list[int]) -> None:
    labelled, error = label(FrameProbe(n_components=6), train, noise=0.05)
    assert error == 0.0
    assert labelled.converged
    assert labelled.smoothing.window == 1, "of equals, the least smoothing"


def test_smoothing_is_chosen_on_training_songs_and_mends_flicker() -> None:
    tuned, error = label(FrameProbe(n_components=6, windows_s=(0.0, 0.03), least_s=(0.0, 0.02)), [0, 1, 2], noise=0.4)
    _, raw_error = label(FrameProbe(n_components=6, windows_s=(0.0,), least_s=(0.0,)), [0, 1, 2], noise=0.4)
    assert tuned.smoothing.window == 7
    assert error < 0.7 * raw_error


def test_a_probe_on_a_part_of_the_frames_is_close_to_that_on_all() -> None:
    _, error = label(FrameProbe(n_components=6), [0, 1, 2], noise=0.3)
    _, fewer = label(FrameProbe(n_components=6, most_frames=150), [0, 1, 2], noise=0.3)
    assert fewer == pytest.approx(error, abs=0.05)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="strengths"):
        FrameProbe(strengths=(1.0, 0.1))
    with pytest.raises(ValueError, match="windows_s"):
        FrameProbe(windows_s=(-0.1,))
    with pytest.raises(ValueError, match="n_inner_folds"):
        FrameProbe(n_inner_folds=1)
