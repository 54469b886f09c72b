"""What is said of a data set is so: counts against what was written, levels against known ones, leaks against planted
ones."""

import numpy as np
import pytest
import soundfile

from birdjepa.core import random
from birdjepa.data.loader import labels_of
from birdjepa.data.sources import open_data
from birdjepa.data.stats import StatsConfig, parts_of, quantiles, stats

RATE = 8_000
SINE_DB = 20 * np.log10(0.5 / np.sqrt(2))


def quiet(_):
    return lambda done, total: None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six recordings of 2 s: four sines of -9 dB, one that is silent, one that is clipped; and one that is no sound."""
    folder = tmp_path_factory.mktemp("data")
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    for number, samples in enumerate([sine, sine, sine, sine, 0 * sine, np.sign(sine)]):
        stereo = np.stack([samples, samples], 1) if number == 3 else samples
        soundfile.write(folder / f"{number}.wav", stereo, RATE, subtype="FLOAT")
    (folder / "6.wav").write_text("no sound")
    rows = [
        "path,label,split,group,onset_s,offset_s",
        *("0.wav,a,train,g0,0,1", "0.wav,a,train,g0,1,2", "1.wav,a,train,g1,,", "2.wav,b,train,g2,,"),
        *("3.wav,b,test,g2,,", "4.wav,c;a,test,g4,,", "5.wav,,test,g5,,", "6.wav,d,,g6,,"),
    ]
    (folder / "m.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def found(data):
    return stats(open_data(str(data / "m.csv")), StatsConfig(few=2, example_s=1.0, level_s=1.0), quiet)


def test_counts(found):
    assert (found.n_rows, found.n_recordings, found.n_headers) == (8, 7, 6)
    assert found.durations_from == "headers"
    assert found.duration_s.tolist() == [2.0] * 6
    assert found.hours == pytest.approx(14 / 3600)
    assert found.sampling_rates == {"8 kHz": 6}
    assert found.channels == {"1": 5, "2": 1}
    assert found.formats == {"WAV/FLOAT": 6}
    assert list(found.labels.items()) == [("a", 4), ("b", 2), ("c", 1), ("d", 1)]
    assert found.rare == ["c", "d"]
    assert (found.n_unlabelled, found.n_multilabel) == (1, 1)
    ((path, reason),) = found.refused
    assert path.endswith("6.wav")
    assert reason.startswith(("not audio", "header"))


def test_levels(found):
    loudness = found.loudness
    assert (loudness.n, loudness.n_silent, loudness.n_clipped) == (6, 1, 1)
    assert sorted(loudness.rms_db.tolist()) == pytest.approx([SINE_DB] * 4 + [0.0], abs=0.05)
    assert sorted(loudness.peak_db.tolist()) == pytest.approx([-6.02] * 4 + [0.0], abs=0.05)
    assert loudness.quiet == pytest.approx(1 / 6)


def test_parts_and_what_lies_on_both_sides(found):
    (part,) = found.parts
    assert part.column == "split"
    assert part.rows == {"train": 4, "test": 3, "": 1}
    assert part.groups == {"train": 3, "test": 3, "": 1}
    assert part.classes == {"train": 2, "test": 3, "": 1}
    assert part.shared == {("train", "test"): 2, ("test", "train"): 2}
    assert (part.n_crossing, part.n_crossing_rows) == (1, 2)
    assert part.crossing == (("g2", ("test", "train")),)


def test_without_a_group_a_recording_in_two_folds_leaks(data, tmp_path):
    (tmp_path / "m.csv").write_text("path,fold\nx.wav,1\nx.wav,2\ny.wav,2\n")
    source = open_data(str(tmp_path / "m.csv"))
    part = parts_of(source, labels_of(source), "fold")
    assert part.crossing == (("x.wav", ("1", "2")),)


def test_examples_show_each_class_and_where_its_segment_lies(found):
    shown = {(each.label, each.recording) for each in found.examples}
    assert {label for label, _ in shown} >= {"a", "b"}
    assert len({id(each) for each in found.examples}) == len(found.examples)
    spans = {each.recording: each.span for each in found.examples}
    assert spans["1.wav"] is None
    assert spans["0.wav"] == pytest.approx((0.0, 1.0), abs=0.01)
    loudest = next(each for each in found.examples if each.recording == "1.wav").frames.mean(0)
    hz = np.argmax(loudest) / len(loudest) * RATE / 2
    assert hz < RATE / 4


def test_a_manifest_that_tells_lengths_is_believed_and_headers_are_sampled(data):
    rows = "\n".join(f"{number}.wav,{3 + number}" for number in range(6))
    (data / "told.csv").write_text(f"path,duration_s\n{rows}\n")
    found = stats(open_data(str(data / "told.csv")), StatsConfig(n_headers=2, n_levels=1), quiet)
    assert found.durations_from == "manifest"
    assert found.duration_s.tolist() == [3, 4, 5, 6, 7, 8]
    assert (found.n_headers, found.loudness.n) == (2, 1)
    assert {each.label for each in found.examples} == {""}
    assert found.parts == ()


def test_the_same_seed_tells_the_same(data, found):
    again = stats(open_data(str(data / "m.csv")), found.config, quiet)
    assert again.to_json() == found.to_json()
    assert [each.recording for each in again.examples] == [each.recording for each in found.examples]


def test_a_long_tail_shows_common_and_rare_classes(tmp_path):
    noise = random.generator(0, "noise").standard_normal(RATE) / 10
    rows = ["path,label"]
    for number in range(30):
        soundfile.write(tmp_path / f"{number}.wav", noise, RATE)
        rows.append(f"{number}.wav,{'common' if number < 10 else number}")
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    found = stats(open_data(str(tmp_path / "m.csv")), StatsConfig(n_shown=4, n_examples=2), quiet)
    labels = [each.label for each in found.examples]
    assert labels.count("common") == 2
    assert labels[-1] == "29"
    assert len(set(labels)) == 4


def test_quantiles_of_nothing():
    assert quantiles(np.zeros(0)) == {}
    assert quantiles(np.array([1.0, 3.0]))["0.5"] == 2.0


@pytest.mark.parametrize("settings", [{"n_headers": 0}, {"level_s": 0.0}, {"example_s": 0.05}, {"few": 0}])
def test_limits(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        StatsConfig(**settings)
