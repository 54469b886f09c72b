"""From any label file to any other: names, what recordings add, and what formats cannot say."""

from pathlib import Path

import pytest
from label_places import RATE, found_in, record, write

from birdjepa.audio.labels import LabelsConfig, read_labels, read_recordings
from birdjepa.data.convert_labels import ENDINGS, Converted, convert_labels
from birdjepa.data.labelled import Pairing, label_files
from birdjepa.data.sources import open_data

TABLE = "path,onset_s,offset_s,label,score\n/d/a/x.wav,0.5,1.5,r,0.5\n/d/a/x.wav,2,3,w,\n/d/b/x.wav,1,2,r,\n"


def _converted(source: Path, to: str, out: Path, recordings: Path | None = None, rate: float = 0.0) -> Converted:
    pairing = Pairing(open_data(str(recordings))) if recordings else None
    return convert_labels(label_files(str(source)), to, out, LabelsConfig(sampling_rate=rate), pairing)


@pytest.mark.parametrize("to", list(ENDINGS))
def test_every_format_says_what_it_can_and_is_found_again(to, tmp_path):
    songs = tmp_path / "songs"
    record(songs, "a/x.wav", "b/x.wav")
    table = write(tmp_path / "all.csv", TABLE)
    result = _converted(table, to, tmp_path / "out", songs)
    assert result.refused == ()
    assert result.n_labels == 3
    assert result.n_left_out == ({"score": 1} if to in ("textgrid", "notmat") else {})
    stem = "x.wav" if to == "notmat" else "x"
    assert sorted(path.relative_to(tmp_path / "out") for path in result.written) == [
        Path(folder, stem + ENDINGS[to]) for folder in "ab"
    ]
    wanted = {"a/x.wav": [(0.5, 1.5, "r"), (2.0, 3.0, "w")], "b/x.wav": [(1.0, 2.0, "r")]}
    assert found_in(songs, tmp_path / "out") == (wanted, [])


def test_folders_and_names_stay(tmp_path):
    write(tmp_path / "in" / "a" / "x_1.5.wav.txt")
    write(tmp_path / "in" / "y.txt", "")
    result = _converted(tmp_path / "in", "csv", tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in result.written] == ["a/x_1.5.csv", "y.csv"]
    assert read_recordings(tmp_path / "out" / "y.csv") == {}


def test_recordings_give_lengths_and_rates(tmp_path):
    record(tmp_path, "x.wav")
    write(tmp_path / "x.txt")
    _converted(tmp_path / "x.txt", "textgrid", tmp_path / "grids", tmp_path)
    assert "xmax = 4 \n" in (tmp_path / "grids" / "x.TextGrid").read_text()
    _converted(tmp_path / "x.txt", "raven", tmp_path / "raven", tmp_path)
    assert "\t0.000\t4000.000\tx.wav\trobin" in (tmp_path / "raven" / "x.Table.1.selections.txt").read_text()
    _converted(tmp_path / "x.txt", "raven", tmp_path / "rate", rate=2.0 * RATE)
    assert "\t0.000\t8000.000\t\trobin" in (tmp_path / "rate" / "x.Table.1.selections.txt").read_text()


def test_boxes_need_no_rate(tmp_path):
    write(tmp_path / "x.txt", "0\t1\trobin\n\\\t500\t900\n")
    result = _converted(tmp_path / "x.txt", "raven", tmp_path / "out")
    assert read_labels(result.written[0])[0][4:] == (500.0, 900.0)


@pytest.mark.parametrize(
    ("to", "text", "reason"),
    [
        ("raven", "0\t1\trobin\n", "Raven draws boxes"),
        ("notmat", "0\t1\trobin\n", "a .not.mat has its recording's whole name"),
        ("textgrid", "0\t2\trobin\n1\t3\twren\n", "labels overlap at 1 s"),
        ("csv", "0,5\t2\trobin\n", "line 1: onset_s '0,5' has a decimal comma"),
    ],
)
def test_what_is_refused_costs_one_file(to, text, reason, tmp_path):
    write(tmp_path / "in" / "a.txt", text)
    write(tmp_path / "in" / "b.wav.txt", "0\t1\tb\n\\\t1\t2\n")
    result = _converted(tmp_path / "in", to, tmp_path / "out")
    assert len(result.written) == (0 if to == "notmat" else 1)
    assert result.refused[0].path == str(tmp_path / "in" / "a.txt")
    assert result.refused[0].reason.startswith(reason)


def test_nothing_is_written_twice(tmp_path):
    first, second = write(tmp_path / "a" / "x.txt"), write(tmp_path / "b" / "x.txt")
    found = label_files(str(first)) + label_files(str(second))
    result = convert_labels(found, "csv", tmp_path / "out", LabelsConfig())
    assert len(result.written) == len(result.refused) == 1
    assert f"has the labels of {first}" in result.refused[0].reason
