"""`birdjepa data scan`, `birdjepa data synth` and `birdjepa data images`."""

import csv
import json

import pytest
from tiny_run import write_songs

from birdjepa import cli


def test_scan_lists_what_is_damaged_and_exits_with_3(tmp_path, monkeypatch, capsys):
    write_songs(tmp_path / "songs", 3, damaged=1)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "scan", "songs", "--workers", "1", "--out", "found"]) == 3
    shown = capsys.readouterr()
    assert "4 files" in shown.out
    assert "003.wav: not audio" in shown.out
    assert "1 files were refused; see found/failures.csv" in shown.err
    with (tmp_path / "found" / "failures.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == "003.wav"
    assert row["reason"].startswith("not audio")
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"failures.csv", "files.csv"}


def test_scan_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    manifest = write_songs(tmp_path / "songs", 2)
    assert cli.main(["data", "scan", str(manifest), "--headers-only", "--workers", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_files"], found["n_good"], found["n_refused"]) == (2, 2, 0)
    assert found["by_sampling_rate"] == {"8000": 2}
    assert found["duration_quantiles_s"]
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


def test_synth_writes_a_manifest_that_scans_clean(tmp_path, capsys):
    few = ["--n-species", "2", "--n-individuals", "2", "--songs-per-individual", "1", "--n-soundscapes", "0"]
    folder = tmp_path / "songs"
    assert cli.main(["data", "synth", str(folder), *few, "--song-s", "2", "--sampling-rate", "16000"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder / 'metadata.csv'}\n"
    assert "4 of 4 recordings" in shown.err
    with (folder / "metadata.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert cli.main(["data", "synth", str(folder), *few]) == 2
    assert "holds files already" in capsys.readouterr().err


def test_images_writes_a_manifest_that_scans_clean(tmp_path, capsys):
    folder = tmp_path / "digits"
    assert cli.main(["data", "images", str(folder), "--n-images", "10", "--seed", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{folder / 'metadata.csv'}\n"
    assert "10 of 10 images" in shown.err
    assert cli.main(["data", "scan", str(folder / "metadata.csv"), "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_good"] == 10
    assert cli.main(["data", "images", str(folder), "--n-images", "10"]) == 2
    assert "holds files already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["look"],
        ["scan", "absent"],
        ["synth", "x", "--n-species", "0"],
        ["images", "x", "--source", "absent"],
        ["images", "x", "--n-images", "0"],
    ],
)
def test_usage(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
