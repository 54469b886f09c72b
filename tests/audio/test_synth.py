"""The synthesiser: pure in its numbers, labels where the sound is, and a data set that is whole or absent."""

import csv
import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio import synth, synth_air, synth_voices
from birdjepa.audio.synth import Syllable, SynthConfig, render_song, render_soundscape, write_dataset
from birdjepa.core import random
from birdjepa.core.errors import UsageError

TINY = SynthConfig(n_species=3, n_individuals=5, songs_per_individual=1, n_soundscapes=2, song_s=2.0, soundscape_s=10.0)
GOLDEN_LENGTH = 188408
GOLDEN_SAMPLES = [0.1138991, 0.1174198, 0.1207597, 0.1133568, 0.1131265]
GOLDEN_SYLLABLE = ("dusk upslur a", 0.7221)


def _digest(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _inside(syllables: list[Syllable], n_samples: int, sampling_rate: int) -> np.ndarray:
    mask = np.zeros(n_samples, dtype=bool)
    for syllable in syllables:
        mask[round(syllable.onset_s * sampling_rate) : round(syllable.offset_s * sampling_rate)] = True
    return mask


# Purity


def test_same_numbers_same_samples() -> None:
    first, second = render_song(SynthConfig(), 4, 2, 1), render_song(SynthConfig(), 4, 2, 1)
    assert _digest(first[0]) == _digest(second[0])
    assert first[1] == second[1]
    assert _digest(render_soundscape(TINY, 1)[0]) == _digest(render_soundscape(TINY, 1)[0])


def test_samples_are_the_same_as_ever() -> None:
    """Golden values of this implementation; a change that moves them raises synth.VERSION."""
    assert synth.VERSION == 1
    samples, syllables = render_song(SynthConfig(), 1, 0, 0)
    assert len(samples) == GOLDEN_LENGTH
    np.testing.assert_allclose(samples[40_000:40_005], GOLDEN_SAMPLES, atol=2e-6)
    assert (syllables[0].label, round(syllables[0].onset_s, 4)) == GOLDEN_SYLLABLE


def test_another_process_renders_the_same() -> None:
    code = (
        "import hashlib; from birdjepa.audio.synth import *;"
        "print(hashlib.sha256(render_song(SynthConfig(song_s=2.0), 2, 1, 0)[0].tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == _digest(render_song(SynthConfig(song_s=2.0), 2, 1, 0)[0])


def test_more_species_individuals_and_songs_change_no_song() -> None:
    more = dataclasses.replace(TINY, n_species=40, n_individuals=9, songs_per_individual=8, n_soundscapes=0)
    for numbers in ((0, 0, 0), (2, 4, 0)):
        small, large = render_song(TINY, *numbers), render_song(more, *numbers)
        assert _digest(small[0]) == _digest(large[0])
        assert small[1] == large[1]


@pytest.mark.parametrize("other", [(1, (0, 0, 0)), (0, (1, 0, 0)), (0, (0, 1, 0)), (0, (0, 0, 1))])
def test_each_number_matters(other: tuple[int, tuple[int, int, int]]) -> None:
    config = dataclasses.replace(TINY, songs_per_individual=2)
    seed, numbers = other
    samples = render_song(dataclasses.replace(config, seed=seed), *numbers)[0]
    assert _digest(samples) != _digest(render_song(config, 0, 0, 0)[0])


# Sound and labels


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    species=st.integers(0, 29),
    individual=st.integers(0, 3),
    song_s=st.sampled_from([2.0, 5.0]),
    sampling_rate=st.sampled_from([16_000, 22_050, 32_000, 48_000]),
)
def test_any_song(species: int, individual: int, song_s: float, sampling_rate: int) -> None:
    config = SynthConfig(n_species=30, song_s=song_s, sampling_rate=sampling_rate)
    samples, syllables = render_song(config, species, individual, 0)
    duration_s = len(samples) / sampling_rate
    assert samples.dtype == np.float32
    assert 0.6 * song_s - 0.01 <= duration_s <= 1.4 * song_s + 0.01
    assert 0.05 < np.abs(samples).max() < 0.9
    assert np.isfinite(samples).all()
    assert syllables
    for syllable in syllables:
        assert 0.0 < syllable.onset_s < syllable.offset_s < duration_s
        assert 0.0 <= syllable.low_hz < syllable.high_hz <= sampling_rate / 2
        assert syllable.species == synth_voices.species_name(species)
        assert syllable.individual == f"{syllable.species} {synth.individual_tag(individual)}"
        assert syllable.label.removeprefix(syllable.species)[1] in "abcdefgh"
    for before, after in itertools.pairwise(syllables):
        assert before.offset_s <= after.onset_s


@pytest.mark.parametrize("species", range(0, 11, 2))
def test_the_sound_is_where_the_labels_are(species: int) -> None:
    config = SynthConfig(snr_db=(50.0, 50.0))
    samples, syllables = render_song(config, species, 0, 0)
    inside = _inside(syllables, len(samples), config.sampling_rate)
    edge = np.diff(samples, prepend=0.0)  # takes the wind out
    assert np.square(edge[inside]).mean() > 5 * np.square(edge[~inside]).mean()
    before = edge[: round(syllables[0].onset_s * config.sampling_rate)]
    assert np.square(edge[inside]).mean() > 100 * np.square(before).mean()


@pytest.mark.parametrize("kind", synth_voices.KINDS)
def test_a_syllable_keeps_to_its_band(kind: str) -> None:
    rng = random.generator(0, "test", kind)
    found = [s for n in range(40) for s in synth_voices.species_voice(0, n).repertoire if s.kind == kind]
    assert len(found) >= 3
    for syllable in found:
        power = np.square(np.abs(np.fft.rfft(synth_voices.syllable_waveform(syllable, 32_000, rng))))
        hz = np.linspace(0.0, 16_000, len(power))
        low, high = synth_voices.band_hz(syllable, 32_000)
        margin = 2.0 / syllable.duration_s + 2.0 * syllable.rate_hz  # a short piece of a line is no line
        assert power[(hz >= low - margin) & (hz <= high + margin)].sum() > 0.9 * power.sum()
        assert high - low < 2.5 * syllable.centre_hz * (syllable.n_harmonics + 1)


def test_a_rise_rises_and_a_fall_falls() -> None:
    rise = next(s for n in range(40) for s in synth_voices.species_voice(0, n).repertoire if s.kind == "rise")
    time_s = np.linspace(0.0, rise.duration_s, 50)
    assert (np.diff(synth_voices.pitch_course(rise, time_s)) > 0).all()
    assert (np.diff(synth_voices.pitch_course(dataclasses.replace(rise, kind="fall"), time_s)) < 0).all()


def test_distance_takes_the_treble_and_leaves_echoes() -> None:
    rate = 32_000
    click = np.zeros(rate)
    click[0] = 1.0
    perch = synth_air.Perch(remoteness=0.0, reverberation_s=0.5, echo_s=0.05)
    arrived = {
        far: synth_air.propagate(click, dataclasses.replace(perch, remoteness=far), rate, random.generator(0, "test"))
        for far in (0.0, 1.0)
    }
    treble = {far: np.abs(np.fft.rfft(sound[:640]))[160:].mean() for far, sound in arrived.items()}  # above 8 kHz
    echoes = {far: np.square(sound[640:]).sum() / np.square(sound[:640]).sum() for far, sound in arrived.items()}
    assert treble[1.0] < 0.5 * treble[0.0]
    assert echoes[1.0] > 10 * echoes[0.0]


def test_the_background_has_unit_power_where_birds_sing() -> None:
    rate = 32_000
    steady = []
    for place in range(12):
        sound = synth_air.background(2 * rate, rate, random.generator(0, "test", place))
        power = np.square(np.abs(np.fft.rfft(sound))) * 2 / len(sound) ** 2
        hz = np.linspace(0.0, rate / 2, len(power))
        steady.append(power[(hz >= 1_000) & (hz <= 10_000)].sum())
    assert min(steady) > 0.9
    assert np.median(steady) < 1.2


def test_soundscapes_hold_several_birds_at_once() -> None:
    config = SynthConfig(soundscape_s=40.0)
    samples, syllables = render_soundscape(config, 0)
    assert len(samples) == 40 * config.sampling_rate
    assert np.abs(samples).max() < 0.9
    assert [s.onset_s for s in syllables] == sorted(s.onset_s for s in syllables)
    assert all(0 < s.onset_s < s.offset_s < 40.0 for s in syllables)
    assert 3 <= len({s.individual for s in syllables}) <= 7
    pairs = ((a, b) for i, a in enumerate(syllables) for b in syllables[i + 1 :] if a.individual != b.individual)
    assert any(b.onset_s < a.offset_s for a, b in pairs)


# Species and individuals


def test_names_are_distinct_and_do_not_depend_on_the_seed() -> None:
    names = [synth_voices.species_name(species) for species in range(1000)]
    assert len(set(names)) == 1000
    assert names[:3] == ["reed whistler", "dusk upslur", "moss downslur"]
    assert synth_voices.species_voice(5, 7).species == names[7]


def test_individuals_differ_but_share_their_species_syllables() -> None:
    for species in range(12):
        voice = synth_voices.species_voice(0, species)
        kinds = {syllable.letter: syllable.kind for syllable in voice.repertoire}
        birds = [synth_voices.individual_voice(0, species, synth.individual_tag(i)) for i in range(5)]
        assert len({bird.repertoire[0].centre_hz for bird in birds}) == 5
        for bird in birds:
            assert {s.letter: s.kind for s in bird.repertoire}.items() <= kinds.items()
            assert bird.repertoire[0].letter == "a"
            np.testing.assert_allclose(bird.transitions.sum(axis=1), 1.0)
    sizes = {len(synth_voices.individual_voice(0, s, f"i{i}").repertoire) for s in range(12) for i in range(5)}
    assert len(sizes) > 1


def test_a_song_that_does_not_fit_is_cut_to_one_note() -> None:
    voice = synth_voices.species_voice(0, 0)
    (note,) = synth_voices.plan_song(voice, 0.01, random.generator(0, "test"))
    assert note.onset_s == 0.0
    assert note.syllable.duration_s == pytest.approx(0.01)


# Configuration


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_species", 0),
        ("n_individuals", 1),
        ("songs_per_individual", 0),
        ("n_soundscapes", -1),
        ("sampling_rate", 8_000),
        ("song_s", 1.0),
        ("soundscape_s", 5.0),
        ("snr_db", (10.0, 0.0)),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(SynthConfig(), **{field: value})


def test_numbers_beyond_the_configuration_are_refused() -> None:
    with pytest.raises(ValueError, match=r"species must be in \[0, 3\)"):
        render_song(TINY, 3, 0, 0)
    with pytest.raises(ValueError, match="individual"):
        render_song(TINY, 0, -1, 0)
    with pytest.raises(ValueError, match="index"):
        render_soundscape(TINY, 2)


# The data set


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("synth") / "made" / "birds", TINY).parent


def test_the_manifest_lists_every_recording(dataset: Path) -> None:
    rows = _rows(dataset / "metadata.csv")
    assert tuple(rows[0]) == synth.METADATA_COLUMNS
    assert len(rows) == TINY.n_recordings == 3 * 5 + 2
    assert {row["path"] for row in rows} == {str(p.relative_to(dataset)) for p in dataset.rglob("*.flac")}
    for row in rows:
        info = soundfile.info(dataset / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (32_000, 1, "PCM_16")
        assert float(row["duration_s"]) == pytest.approx(info.frames / info.samplerate, abs=1e-6)
    songs = [row for row in rows if row["kind"] == "song"]
    assert {row["label"] for row in songs} == {synth_voices.species_name(n) for n in range(3)}
    assert all(row["labels"] == "" and row["group"] == row["individual"] for row in songs)
    soundscapes = [row for row in rows if row["kind"] == "soundscape"]
    assert all(row["label"] == "" and row["individual"] == "" and row["labels"] for row in soundscapes)


def test_folds_and_splits_keep_individuals_apart(dataset: Path) -> None:
    folds, splits, species = defaultdict(set), defaultdict(set), defaultdict(set)
    for row in _rows(dataset / "metadata.csv"):
        folds[row["group"]].add(row["fold"])
        splits[row["group"]].add(row["split"])
        if row["label"]:
            species[row["fold"]].add(row["label"])
    assert all(len(found) == 1 for found in (*folds.values(), *splits.values()))
    assert {name for found in splits.values() for name in found} == {"train", "test"}
    assert set(species) == set("12345")
    assert all(len(found) == 3 for found in species.values())


def test_annotations_are_the_rendered_syllables(dataset: Path) -> None:
    rows = _rows(dataset / "annotations.csv")
    assert tuple(rows[0]) == synth.ANNOTATION_COLUMNS
    of_song = [row for row in rows if row["path"] == "songs/dusk-upslur/i03-000.flac"]
    samples, syllables = render_song(TINY, 1, 3, 0)
    assert [row["label"] for row in of_song] == [syllable.label for syllable in syllables]
    assert [float(row["onset_s"]) for row in of_song] == pytest.approx([s.onset_s for s in syllables], abs=1e-6)
    stored, _ = soundfile.read(dataset / of_song[0]["path"], dtype="float32")
    np.testing.assert_allclose(stored, samples, atol=2 / 32768)
    soundscape = next(row for row in _rows(dataset / "metadata.csv") if row["kind"] == "soundscape")
    present = {row["species"] for row in rows if row["path"] == soundscape["path"]}
    assert soundscape["labels"].split(";") == sorted(present)


def test_the_readme_says_how_it_was_made(dataset: Path) -> None:
    text = (dataset / "README.md").read_text(encoding="utf-8")
    assert "CC0" in text
    assert "birdjepa data synth birds --n-species 3 --n-individuals 5" in text
    made_with = json.loads(next(line for line in text.splitlines() if line.startswith("    {")))
    assert SynthConfig(**made_with | {"snr_db": tuple(made_with["snr_db"])}) == TINY


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, n_species=1, n_individuals=2, n_soundscapes=0)
    calls: list[tuple[int, int]] = []
    (tmp_path / "empty").mkdir()
    write_dataset(tmp_path / "empty", config, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert {row["fold"] for row in _rows(tmp_path / "empty" / "metadata.csv")} == {"1", "2"}


def test_a_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="new folder"):
        write_dataset(tmp_path, TINY)
    with pytest.raises(UsageError, match="is a file"):
        write_dataset(tmp_path / "mine.txt", TINY)
    with pytest.raises(UsageError, match="cannot be made"):
        write_dataset(tmp_path / "mine.txt" / "below", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_working_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="working folder"):
        write_dataset(Path(), TINY)
    assert tmp_path.is_dir()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "birds", TINY, progress=fail)
    assert list(tmp_path.iterdir()) == []


# Cost and difficulty


def test_faster_than_real_time() -> None:
    """At least 30 times on one core; the best of three, for the machine may be busy."""
    rates = []
    for song in range(3):
        start = time.process_time()
        samples, _ = render_song(SynthConfig(), 3, 0, song)
        rates.append(len(samples) / 32_000 / (time.process_time() - start))
    assert max(rates) > 30


@pytest.mark.slow
def test_mean_spectra_are_a_weak_floor() -> None:
    """Species must be told by shape, order and rhythm: statistics of the log spectrum beat chance, and not by much."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    config = SynthConfig()
    features, species, folds = [], [], []
    for number in np.ndindex(config.n_species, config.n_individuals, config.songs_per_individual):
        level_db = _log_spectrogram(render_song(config, *number)[0])
        features.append(np.concatenate([level_db.mean(axis=0), level_db.std(axis=0)]))
        species.append(number[0])
        folds.append(number[1])
    x, y, fold = np.array(features), np.array(species), np.array(folds)
    right = 0
    for held_out in range(config.n_folds):
        test = fold == held_out
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(x[~test], y[~test])
        right += int((model.predict(x[test]) == y[test]).sum())
    assert 0.25 < right / len(y) < 0.6


def _log_spectrogram(samples: np.ndarray) -> np.ndarray:
    """Frames by 128 bands of equal width on a scale that is linear below and logarithmic above 1 kHz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::320] * np.hanning(1024)
    power = np.square(np.abs(np.fft.rfft(frames)))
    hz = np.fft.rfftfreq(1024, 1 / 32_000)
    scale = np.where(hz < 1_000, hz / 1_000, 1 + np.log(np.maximum(hz, 1_000) / 1_000))
    centres = np.linspace(scale[2], scale[-1], 128)
    pooling = np.maximum(0.0, 1 - np.abs(scale[:, None] - centres) / 0.045)
    return 10 * np.log10(power @ pooling + 1e-9)
