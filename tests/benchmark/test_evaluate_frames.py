import json
import math
from pathlib import Path

import numpy as np
import pytest

from birdjepa.audio.labels import Label, read_recordings
from birdjepa.audio.logmel import fine
from birdjepa.benchmark.evaluate_frames import FrameTask, compare_frames, evaluate_frames, pool_seeds
from birdjepa.benchmark.folds import Folds
from birdjepa.benchmark.frame_embedders import LogMelFrames
from birdjepa.benchmark.frame_metrics import METRICS, UNSUPERVISED
from birdjepa.benchmark.frame_probe import FrameProbe
from birdjepa.benchmark.frames import FrameSequence, Song, annotated, classes_at
from birdjepa.benchmark.songs import embed_songs, songs_of
from birdjepa.core.errors import UsageError

NAMES = ("", "a", "b", "c")
N_SONGS = 9
FOLDS = Folds(np.arange(N_SONGS) % 3, ("one", "two", "three"), (0, 1, 2), given=True)
PROBE = FrameProbe(n_components=8, strengths=(1e-3, 1e-1), windows_s=(0.0,), least_s=(0.0, 0.01))
TASK = FrameTask(probe=PROBE, n_resamples=100)


def song(number: int) -> Song:
    """Syllables of 60 ms with gaps of 40 ms, in random order."""
    order = np.random.default_rng(number).choice(list("abc"), 12)
    order[:3] = list("abc")
    labels = [Label(0.1 * i + 0.02, 0.1 * i + 0.08, str(label)) for i, label in enumerate(order)]
    return Song(f"song{number}", 1.2, tuple(labels))


SONGS = [song(number) for number in range(N_SONGS)]


def embedded(song: Song, frame_s: float, noise: float) -> FrameSequence:
    """A vector that says the class of the frame's centre, and noise."""
    start = np.arange(round(song.duration_s / frame_s)) * frame_s
    classes = classes_at(start + frame_s / 2, annotated(song, NAMES))
    drawn = np.random.default_rng(len(song.name) + round(1000 * start[-1])).normal(size=(len(start), 8))
    vectors = np.eye(8)[classes] + noise * drawn
    return FrameSequence(vectors.astype(np.float32), start, start + frame_s)


def sequences(frame_s: float = 0.01, noise: float = 0.01) -> list[FrameSequence]:
    return [embedded(song, frame_s, noise) for song in SONGS]


def test_embeddings_that_know_all_are_perfect() -> None:
    score = evaluate_frames(SONGS, sequences(), FOLDS, TASK, seed=0)
    values = {name: estimate.value for name, estimate in score.metrics.items()}
    assert set(values) == set(METRICS)
    for name, value in values.items():
        perfect = 0.0 if name.endswith(("error", "rate")) else 1.0
        assert value == pytest.approx(perfect), name
    assert score.counts == {"n_songs": 9, "n_classes": 3, "n_segments": 108, "n_ms": 10_800}
    assert score.per_class[""] == {"seconds": pytest.approx(0.04 * 108), "frame_error": 0.0}
    assert sum(score.per_class[name]["segments"] for name in "abc") == 108
    assert score.notes == ()
    json.dumps(score.to_json(), allow_nan=False)


def test_long_frames_reach_their_oracle_and_no_more() -> None:
    score = evaluate_frames(SONGS, sequences(frame_s=0.05, noise=0.01), FOLDS, TASK, seed=0)
    metrics = score.metrics
    # [0, 50): 20 ms of silence and 30 of sound; [50, 100): 30 of sound and 20 of silence. The best is 40 % wrong.
    assert metrics["oracle_frame_error"].value == pytest.approx(0.4)
    assert metrics["frame_error"].value == pytest.approx(0.4)
    assert metrics["parsing_error"].value == pytest.approx(0.4)
    assert metrics["identity_error"].value == pytest.approx(0.0)
    assert metrics["macro_frame_error"].value == pytest.approx(1 / 4), "all of the silence, none of the sounds"
    # Neighbours of one class run together: there are fewer segments, and some of them are found nowhere.
    assert metrics["syllable_error_rate"].value > 0


def test_few_songs_are_drawn_by_the_seed_and_seeds_are_pooled() -> None:
    noisy = sequences(noise=0.6)
    few = FrameTask(n_train_songs=1, probe=PROBE, n_resamples=100)
    scores = [evaluate_frames(SONGS, noisy, FOLDS, few, seed=seed) for seed in (0, 1)]
    chosen = [[choice.songs for choice in score.choices] for score in scores]
    assert chosen[0] != chosen[1]
    assert all(len(songs) == 1 for songs in chosen[0])
    assert set(scores[0].metrics) == set(METRICS) - set(UNSUPERVISED)
    pooled = pool_seeds(scores)
    mean = sum(score.metrics["frame_error"].value for score in scores) / 2
    assert pooled.metrics["frame_error"].value == pytest.approx(mean)
    everything = evaluate_frames(SONGS, noisy, FOLDS, TASK, seed=0)
    assert everything.metrics["frame_error"].value < mean
    with pytest.raises(ValueError, match="training songs"):
        pool_seeds([scores[0], everything])


def test_no_test_song_teaches() -> None:
    """What a song's own labels say must not reach its own predictions: the tested fold has wrong labels in training."""
    scores = []
    for label in ("a", "c"):
        changed = [
            Song(s.name, s.duration_s, tuple(x._replace(label=label) for x in s.labels)) if number % 3 == 0 else s
            for number, s in enumerate(SONGS)
        ]
        task = FrameTask(
            probe=FrameProbe(n_components=8, strengths=(1e-2,), windows_s=(0.0,), least_s=(0.0,)), n_resamples=50
        )
        holdout = Folds(np.arange(N_SONGS) % 3, ("test", "two", "three"), (0,), given=True)
        scores.append(evaluate_frames(changed, sequences(noise=0.4), holdout, task, seed=0))
    predicted = [score.song_counts.predicted_segments.tolist() for score in scores]
    assert predicted[0] == predicted[1]
    assert scores[0].choices == scores[1].choices


def test_models_are_compared_on_the_same_songs() -> None:
    better = evaluate_frames(SONGS, sequences(noise=0.3), FOLDS, TASK, seed=0)
    worse = evaluate_frames(SONGS, sequences(noise=1.0), FOLDS, TASK, seed=0)
    difference = compare_frames(better, worse)
    assert difference["frame_error"].high < 0
    assert difference["segment_f1_10ms"].low > 0
    expected = better.metrics["frame_error"].value - worse.metrics["frame_error"].value
    assert difference["frame_error"].value == pytest.approx(expected)
    fewer = evaluate_frames(
        SONGS[:8], sequences()[:8], Folds(np.arange(8) % 2, ("a", "b"), (0, 1), given=True), TASK, seed=0
    )
    with pytest.raises(ValueError, match="same songs"):
        compare_frames(better, fewer)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="6 training songs, 7 were asked for"):
        evaluate_frames(SONGS, sequences(), FOLDS, FrameTask(n_train_songs=7), seed=0)
    broken = sequences()
    broken[4].embeddings[3, 2] = math.nan
    with pytest.raises(UsageError, match="song4: embeddings that are not finite"):
        evaluate_frames(SONGS, broken, FOLDS, TASK, seed=0)
    twice = [SONGS[0], *SONGS[:-1]]
    with pytest.raises(UsageError, match="one name"):
        evaluate_frames(twice, sequences(), FOLDS, TASK, seed=0)


def test_unscored_sounds_cost_nothing_and_teach_nothing() -> None:
    """Syllables that one annotator called "?": whatever is said there, the score is that of the rest."""
    doubtful = [
        Song(s.name, s.duration_s, s.labels[:9], tuple(label._replace(label="?") for label in s.labels[9:]))
        for s in SONGS
    ]
    score = evaluate_frames(doubtful, sequences(), FOLDS, TASK, seed=0)
    assert score.metrics["frame_error"].value == 0
    assert score.metrics["syllable_error_rate"].value == 0
    assert score.counts["n_segments"] == 81
    assert score.counts["n_ms"] == 10_800 - 27 * 60


def test_a_class_that_no_training_song_has_is_told() -> None:
    strange = Song("strange", 1.2, (*SONGS[0].labels, Label(1.19, 1.2, "z")))
    score = evaluate_frames([strange, *SONGS[1:]], sequences(), FOLDS, TASK, seed=0)
    assert score.notes == ("fold one: 1 class(es) are in no training song (z)",)


def test_real_songs_beat_chance_from_one_minute(shared_data: Path) -> None:
    folder = shared_data / "birdsong_syllables"
    labels = read_recordings(folder / "annotations.csv")
    songs = songs_of(
        labels, folder, [f"katahira_bf2/{number:03d}.flac" for number in (1, 2, 3)], without=("0", "@", "\t")
    )
    assert {label.label for song in songs for label in song.labels} == set("abcdefgij")
    frames = embed_songs(LogMelFrames(fine(5.0), frames=4), folder, songs)
    folds = Folds(np.array([0, 1, 1]), ("test", "train"), (0,), given=True)
    task = FrameTask(probe=FrameProbe(n_components=32, strengths=(1e-3,), most_frames=1500), n_resamples=50)
    score = evaluate_frames(songs, frames, folds, task, seed=0)
    # A boundary costs 20 ms frames 5 ms on average, and this bird sings some 18 of them a second.
    assert score.metrics["oracle_frame_error"].value == pytest.approx(0.09, abs=0.02)
    assert score.metrics["macro_frame_error"].value < 0.45
