"""`birdjepa data labels` and `birdjepa data segments`."""

import csv
import json

import pytest
from tiny_run import write_songs

from birdjepa import cli
from birdjepa.audio.labels import read_labels
from birdjepa.data.sources import open_data


@pytest.fixture
def songs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_songs(tmp_path / "songs", 3)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "000.txt").write_text("0\t0.3\ta\n0.3\t0.6\tb\n")
    (tmp_path / "labels" / "001.txt").write_text("0.1\t0.5\tb\n")
    return tmp_path


def test_segments_of_label_files_are_data(songs, capsys):
    assert cli.main(["data", "segments", "songs/metadata.csv", "--labels", "labels", "--out", "out/segments.csv"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "out/segments.csv\n"
    assert "3 segments; 2 recordings have a label file" in shown.err
    assert "1 recordings have none: 002.wav (unlabelled.csv)" in shown.err
    manifest = open_data("out/segments.csv")
    assert manifest.column("label") == ["a", "b", "b"]
    assert manifest.column("recording_label") == ["low", "low", "high"]
    assert cli.main(["data", "scan", "out/segments.csv", "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_good"] == 2


def test_what_is_refused_is_listed_and_exits_with_3(songs, capsys):
    (songs / "labels" / "absent.txt").write_text("0\t1\ta\n")
    command = ["data", "segments", "songs", "--labels", "labels", "--out", "labels/segments.csv", "--json"]
    assert cli.main(command) == 3
    shown = capsys.readouterr()
    assert json.loads(shown.out)["n_refused"] == 1
    assert "refused labels/absent.txt: no recording absent" in shown.err
    with (songs / "labels" / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["stage"]) == ("labels/absent.txt", "labels")
    (songs / "labels" / "absent.txt").unlink()
    assert cli.main(command) == 0, "its own files of an earlier run are no label files"
    assert (songs / "labels" / "failures.csv").read_text().count("\n") == 1


def test_there_and_back(songs, capsys):
    assert cli.main(["data", "labels", "labels", "--to", "notmat", "--out", "mats", "--recordings", "songs"]) == 0
    assert cli.main(["data", "labels", "mats/*.mat", "--to", "audacity", "--out", "back", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out.splitlines()[-1])["n_labels"] == 3
    for name in ("000.txt", "001.txt"):
        there, back = (read_labels(songs / folder / name) for folder in ("labels", "back"))
        assert [label[:3] for label in back] == [label[:3] for label in there]


def test_what_a_format_cannot_say_is_told(songs, capsys):
    (songs / "labels" / "000.txt").write_text("0\t0.3\ta 0.5000\n")
    (songs / "labels" / "002.txt").write_text("0\t2\ta\n1\t3\tb\n")
    assert cli.main(["data", "labels", "labels", "--to", "textgrid", "--out", "grids"]) == 3
    shown = capsys.readouterr().err
    assert "left out, for textgrid has no place for it: 1 score" in shown
    assert "refused labels/002.txt: labels overlap at 1 s" in shown
    assert "1 were refused; see grids/failures.csv" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["labels", "--to", "csv", "--out", "o"], "label files"),
        (["labels", "absent", "--to", "csv", "--out", "o"], "absent: no label files there"),
        (["labels", "labels", "--to", "koumura", "--out", "o"], "koumura"),
        (
            ["labels", "labels", "--to", "csv", "--out", "o", "--sampling-rate", "-1"],
            "sampling_rate must be 0 or",
        ),
        (["segments", "songs", "--labels", "labels", "--out", "o"], "the manifest of segments is a .csv file"),
        (["segments", "songs", "--labels", "labels", "--out", "songs/000.wav/o.csv"], "songs/000.wav is a file"),
        (["labels", "labels", "--to", "csv", "--out", "songs/000.wav"], "songs/000.wav is a file"),
        (["segments", "absent", "--labels", "labels", "--out", "o.csv"], "absent: not found"),
        (["segments", "songs", "--labels", "absent", "--out", "o.csv"], "absent: no label files there"),
    ],
)
def test_usage_of_labels(arguments, told, songs, capsys):
    assert cli.main(["data", *arguments]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1
    assert sorted(path.name for path in songs.iterdir()) == ["labels", "songs"]


def test_labels_of_other_recordings_are_told_at_once(songs, capsys):
    (songs / "labels" / "000.txt").rename(songs / "labels" / "a.txt")
    (songs / "labels" / "001.txt").unlink()
    assert cli.main(["data", "segments", "songs", "--labels", "labels", "--out", "out/segments.csv"]) == 2
    assert "none of 1 label files for 3 recordings could be used" in capsys.readouterr().err
    assert [path.name for path in (songs / "out").iterdir()] == ["failures.csv"]
