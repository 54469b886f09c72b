"""`birdjepa predict`: every window accounted for, the same files after any kill, label files that tools can read."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from tiny_run import COMMAND, RATE, tiny, write_songs

from birdjepa import cli
from birdjepa.audio.labels import read_labels
from birdjepa.core.errors import Interrupted
from birdjepa.data.sources import open_data
from birdjepa.models.classifier import Classifier, load_classifier
from birdjepa.models.heads import HeadConfig
from birdjepa.recipes.predict import HEADER, PredictConfig, label_names, predict

CLASSES = ("low", "high", "none of them, really")


def write_model(folder, *, is_multi_label=False):
    encoder = tiny(Path("none"), folder).encoder_config().build().initialise(5)
    classifier = Classifier(encoder, HeadConfig(), CLASSES, is_multi_label=is_multi_label)
    classifier.head.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in classifier.head.parameters():
            parameter *= 30
    return classifier.save(folder, card="", provenance={})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """A folder with a sub-folder, and two recordings that differ in their suffix only."""
    folder = tmp_path_factory.mktemp("songs")
    write_songs(folder / "a", 4)
    write_songs(folder / "b" / "c", 3)
    shutil.copy(folder / "a" / "000.wav", folder / "a" / "001.wave")
    (folder / "a" / "001.wave").rename(folder / "a" / "002.aiff")
    return folder


def rows_of(out):
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def content(out):
    """Every file of a result but the logits, whose metadata hold the command."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".parquet"
    }


@pytest.fixture(scope="module")
def done(model, songs, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    assert cli.main(["predict", str(model), str(songs), "--out", str(out)]) == 0
    return out


def test_every_window_is_listed_with_its_best_class(done, model, songs):
    rows = rows_of(done)
    assert tuple(rows[0]) == HEADER
    classifier = load_classifier(model)
    for key in ("a/000.wav", "b/c/002.wav"):
        samples, rate = soundfile.read(songs / key, dtype="float32")
        out = classifier.predict(samples, sampling_rate=rate)
        best = [row for row in rows if row["path"] == key]
        firsts = {row["start_s"]: row for row in reversed(best)}
        assert [float(start) for start in reversed(firsts)] == pytest.approx(out.start_s.tolist())
        for row, probability in zip(reversed(firsts.values()), out.probability, strict=True):
            assert row["label"] == CLASSES[int(probability.argmax())]
            assert float(row["score"]) == pytest.approx(float(probability.max()), abs=1e-5)


def test_label_files_mirror_the_folder_and_can_be_read(done, songs):
    recordings = {path.relative_to(songs) for path in songs.rglob("*") if path.suffix in (".wav", ".aiff")}
    stems = {
        str(path if path.stem == "002" and path.parent.name == "a" else path.with_suffix("")) for path in recordings
    }
    for folder, suffix in (("raven", ".Table.1.selections.txt"), ("audacity", ".txt")):
        there = {str(path.relative_to(done / folder)) for path in (done / folder).rglob("*.txt")}
        assert there == {stem + suffix for stem in stems}
    rows = [row for row in rows_of(done) if row["path"] == "b/c/001.wav" and float(row["score"]) >= 0.5]
    assert rows
    for path in (done / "raven" / "b/c/001.Table.1.selections.txt", done / "audacity" / "b/c/001.txt"):
        labels = read_labels(path)
        assert [label.label for label in labels] == [row["label"] for row in rows]
        assert [label.onset_s for label in labels] == pytest.approx([float(row["start_s"]) for row in rows])
        assert [label.score for label in labels] == pytest.approx([float(row["score"]) for row in rows], abs=1e-4)
    raven = (done / "raven" / "b/c/001.Table.1.selections.txt").read_text()
    assert "\t001.wav\t" in raven
    assert f"\t{RATE / 2:.3f}\t" in raven


def test_other_thresholds_need_no_more_work(done, model, songs, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    made = (out / "logits.parquet").stat().st_mtime_ns
    arguments = ["predict", str(model), str(songs), "--out", str(out), "--threshold", "1.0", "--json"]
    assert cli.main([*arguments, "--least-score", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (out / "logits.parquet").stat().st_mtime_ns == made
    rows = rows_of(out)
    assert len(rows) == found["n_windows"] * len(CLASSES)
    assert {row["label"] for row in rows} == set(CLASSES)
    assert found["n_found"] == {}
    assert read_labels(out / "audacity" / "b/c/001.txt") == []  # not those of the threshold before
    assert cli.main([*arguments, "--top-k", "0"]) == 0
    assert rows_of(out) == []


def test_several_classes_of_a_window_may_be_over(songs, tmp_path):
    classifier = load_classifier(write_model(tmp_path / "model", is_multi_label=True))
    config = PredictConfig(threshold=0.3, top_k=0)
    predict(classifier, open_data(str(songs / "b")), tmp_path / "out", config)
    rows = rows_of(tmp_path / "out")
    windows = pq.read_table(tmp_path / "out" / "logits.parquet")
    over = 1 / (1 + np.exp(-np.array(windows["embedding"].to_pylist()))) >= 0.3
    assert len(rows) == over.sum()
    assert over.sum(1).max() > 1


def test_windows_overlap_on_request(model, songs, tmp_path, capsys):
    arguments = ["predict", str(model), str(songs / "b"), "--out", str(tmp_path / "out")]
    assert cli.main([*arguments, "--clip-s", "0.4", "--hop-s", "0.2", "--threshold", "1"]) == 0
    starts = [float(row["start_s"]) for row in rows_of(tmp_path / "out") if row["path"] == "c/000.wav"]
    assert starts == pytest.approx(np.arange(len(starts)) * 0.2)
    assert len(starts) > 2
    assert cli.main([*arguments, "--hop-s", "3"]) == 2
    assert "hop_s must be in (0, clip_s=1.0] seconds, got 3" in capsys.readouterr().err


def test_segments_are_scored_inside_their_bounds(model, songs, tmp_path):
    manifest = tmp_path / "m.csv"
    rows = [("000", 0.1, 0.4), ("001", 0.2, 0.6), ("000", 0.0, 0.2)]
    lines = [f"{songs / 'a' / name}.wav,{onset},{offset}" for name, onset, offset in rows]
    manifest.write_text("\n".join(["path,onset_s,offset_s", *lines]) + "\n")
    predict(load_classifier(model), open_data(str(manifest)), tmp_path / "out", PredictConfig())
    found = {(Path(row["path"]).stem, float(row["start_s"]), float(row["end_s"])) for row in rows_of(tmp_path / "out")}
    assert found == set(rows)
    assert len(list((tmp_path / "out" / "raven").rglob("*.txt"))) == 2


def test_damaged_files_are_refused_and_the_rest_is_scored(model, tmp_path, capsys):
    write_songs(tmp_path / "songs", 3, damaged=2)
    out = tmp_path / "out"
    assert cli.main(["predict", str(model), str(tmp_path / "songs"), "--out", str(out)]) == 3
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert "3 of 5 recordings or segments scored" in shown.err
    with (out / "failures.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["003.wav", "004.wav"]
    assert {row["path"] for row in rows_of(out)} == {"000.wav", "001.wav", "002.wav"}
    assert len(list((out / "audacity").iterdir())) == 3


def test_a_stop_keeps_what_is_done_and_the_same_command_goes_on(done, model, songs, tmp_path):
    classifier, manifest = load_classifier(model), open_data(str(songs))
    config = dataclasses.replace(PredictConfig(), batch_size=2)
    asked = iter(range(10**9))
    with pytest.raises(Interrupted, match="run the same command again"):
        predict(classifier, manifest, tmp_path / "out", config, stop=lambda: next(asked) >= 2)
    assert not (tmp_path / "out" / "scores.csv").exists()
    predict(classifier, manifest, tmp_path / "out", config)
    assert content(tmp_path / "out").keys() == content(done).keys()


def test_kill_9_at_random_moments_changes_nothing(model, tmp_path):
    songs = tmp_path / "songs"
    write_songs(songs, 60, damaged=1)
    arguments = [str(model), str(songs), "--batch-size", "4", "--threshold", "0.4"]
    assert cli.main(["predict", *arguments, "--out", str(tmp_path / "whole")]) == 3
    for number in range(3):
        child = subprocess.Popen(
            [*COMMAND, "predict", *arguments, "--out", str(tmp_path / "cut")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < end and not (tmp_path / "cut").exists():
            time.sleep(0.002)
        time.sleep(0.05 * number)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert cli.main(["predict", *arguments, "--out", str(tmp_path / "cut")]) == 3
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_another_model_is_refused_in_the_same_folder(done, songs, tmp_path, capsys):
    other = write_model(tmp_path / "model", is_multi_label=True)
    assert cli.main(["predict", str(other), str(songs), "--out", str(done)]) == 2
    shown = capsys.readouterr().err
    assert "belongs to something else (activation" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent", "SONGS"], "head.json: missing; give the folder of a fine-tuned classifier"),
        (["MODEL", "absent"], "absent: not found"),
        (["MODEL", "SONGS", "--threshold", "2"], "threshold and least_score must be probabilities"),
        (["MODEL", "SONGS", "--tresh", "2"], "Unrecognized options: --tresh"),
        (["MODEL"], "Missing from birdjepa predict"),
    ],
)
def test_usage_errors_are_one_line_and_leave_nothing(arguments, told, model, songs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"MODEL": str(model), "SONGS": str(songs)}
    assert cli.main(["predict", *(given.get(argument, argument) for argument in arguments)]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_label_file_leads_out_of_the_folder():
    keys = ["a/x.wav", "a/x.mp3", "../a/x.wav", "/etc/passwd.wav", "..", "b/y.wav", "b/y.wav"]
    names = label_names(keys)
    assert set(names) == set(keys)
    assert len(set(names.values())) == len(names)
    assert not any(path.is_absolute() or ".." in path.parts for path in names.values())
    assert names["b/y.wav"] == Path("b/y")
    assert (names["a/x.wav"], names["a/x.mp3"]) == (Path("a/x.wav"), Path("a/x.mp3"))
