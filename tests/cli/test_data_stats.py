"""`birdjepa data stats`: a page and key numbers, of songs and of real recordings."""

import json

import pytest
from tiny_run import write_songs

from birdjepa import cli


def test_page_numbers_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_songs(tmp_path / "songs", 4, damaged=1)
    assert cli.main(["data", "stats", "songs"]) == 0
    shown = capsys.readouterr()
    assert "stats.html" in shown.out
    assert "WAV/PCM_16 (4)" in shown.out
    assert "1 rows or recordings could not be used" in shown.out
    assert (tmp_path / "stats.html").read_text().startswith("<!DOCTYPE html>")
    assert cli.main(["data", "stats", "songs", "--out", "deep/x.html", "--json", "--n-shown", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_recordings"], found["n_headers"], len(found["refused"])) == (5, 4, 1)
    assert (tmp_path / "deep" / "x.html").exists()


def test_real_birds_leak_nothing(shared_data, tmp_path, capsys):
    out = tmp_path / "birds.html"
    data = str(shared_data / "birds_species" / "metadata.csv")
    few = ["--n-levels", "5", "--n-headers", "5", "--n-shown", "3"]
    assert cli.main(["data", "stats", data, "--out", str(out), "--json", *few]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_recordings"], found["n_classes"]) == (465, 268)
    assert [part["n_crossing"] for part in found["parts"]] == [0, 0]
    assert found["levels"]["n_clips"] == 5


@pytest.mark.parametrize("arguments", [[], ["absent"], ["songs", "--out", "songs"], ["songs", "--few", "0"]])
def test_usage(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_songs(tmp_path / "songs", 1)
    assert cli.main(["data", "stats", *arguments]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
