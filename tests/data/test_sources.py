"""DATA: one string to a manifest, the same from every format."""

import csv
import dataclasses
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from birdjepa.audio.synth import SynthConfig
from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data import sources
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.sources import open_data, split_weight

ROWS = [
    {"path": "a.wav", "label": "reed, great", "onset_s": 0.5, "offset_s": 2, "fold": 1, "note": "two\nlines"},
    {"path": "sub/b.flac", "label": "wren", "onset_s": None, "offset_s": None, "fold": 2, "note": 'a "b"'},
    {"path": "a.wav", "label": "", "onset_s": 3.5, "offset_s": 4.25, "fold": None, "note": "\u2028 \x0c end"},
]


def write(folder, suffix, rows=ROWS):
    """The rows as a manifest of one format."""
    path = folder / f"m{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def content(manifest):
    times = [
        [None if math.isnan(value) else float(value) for value in column]
        for column in (manifest.onset_s, manifest.offset_s, manifest.duration_s)
    ]
    return manifest.keys, times, dict(sorted(manifest.columns.items()))


@pytest.mark.parametrize("suffix", [".tsv", ".parquet", ".jsonl"])
def test_every_format_gives_the_same_manifest(tmp_path, suffix):
    found = open_data(str(write(tmp_path, suffix)))
    assert content(found) == content(open_data(str(write(tmp_path, ".csv"))))
    assert found.keys == ["a.wav", "sub/b.flac", "a.wav"]
    assert found.path(1) == tmp_path / "sub" / "b.flac"
    assert found.onset_s.tolist() == [0.5, 0.0, 3.5]
    assert found.columns["fold"] == ["1", "2", ""]
    assert found.columns["label"] == ["reed, great", "wren", ""]
    assert found.columns["note"] == ["two\nlines", 'a "b"', "\u2028 \x0c end"]
    assert found.columns["group"] == ["a.wav", "sub/b.flac", "a.wav"]


def test_a_null_column_of_whole_numbers_reads_as_whole_numbers(tmp_path):
    """pandas writes integers with gaps as floats."""
    rows = [{"path": "a.wav", "fold": 1.0, "onset_s": float("nan")}, {"path": "b.wav", "fold": float("nan")}]
    found = open_data(str(write(tmp_path, ".parquet", rows)))
    assert found.columns["fold"] == ["1", ""]
    assert found.onset_s.tolist() == [0.0, 0.0]


def test_lists_of_labels_equal_semicolons(tmp_path):
    rows = [{"path": "a.wav", "labels": ["x", "y"]}]
    for suffix in (".parquet", ".jsonl"):
        assert open_data(str(write(tmp_path, suffix, rows))).columns["labels"] == ["x;y"]
    (tmp_path / "m.csv").write_text("path,labels\na.wav,x;y\n")
    assert open_data(str(tmp_path / "m.csv")).columns["labels"] == ["x;y"]


def test_windows_files_read_the_same(tmp_path):
    (tmp_path / "m.csv").write_bytes("\ufeffpath,label\r\na.wav,wren\r\n\r\n".encode())
    found = open_data(str(tmp_path / "m.csv"))
    assert (found.keys, found.columns["label"]) == (["a.wav"], ["wren"])


def test_a_file_in_a_partition_folder_gets_no_column_from_its_path(tmp_path):
    (tmp_path / "year=2020").mkdir()
    assert "year" not in open_data(str(write(tmp_path / "year=2020", ".parquet"))).columns


def test_short_rows_are_filled_and_absent_columns_are_empty(tmp_path):
    (tmp_path / "m.csv").write_text("path,label,fold\na.wav\nb.wav,wren,2\n")
    found = open_data(str(tmp_path / "m.csv"))
    assert found.columns["label"] == ["", "wren"]
    assert found.columns["split"] == ["", ""]
    with pytest.raises(UsageError, match="no column 'split'; it has fold, group, label"):
        found.column("split")


def test_columns_can_have_other_names(tmp_path):
    (tmp_path / "m.csv").write_text("file,species,begin,end,site\na.wav,wren,1,2,s1\n")
    names = ColumnConfig(path="file", label="species", onset_s="begin", offset_s="end", group="site")
    found = open_data(str(tmp_path / "m.csv"), names)
    assert (found.keys, found.columns["label"], found.columns["group"]) == (["a.wav"], ["wren"], ["s1"])
    assert (found.onset_s[0], found.offset_s[0]) == (1.0, 2.0)


def test_the_group_falls_back_to_split_group(tmp_path):
    (tmp_path / "m.csv").write_text("path,split_group\na.wav,g\nb.wav,\n")
    assert open_data(str(tmp_path / "m.csv")).columns["group"] == ["g", "b.wav"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,onset_s\na.wav,1,5\n", "line 2: 3 cells, the header has 2"),
        ('path,onset_s\n"a\nb.wav",1\nc.wav,1,5\n', "line 4: 3 cells"),
        ("path,onset_s\na.wav,x\n", "row 1: onset_s='x' is no time"),
        ("path,onset_s\na.wav,-1\n", "row 1: onset_s='-1' is no time"),
        ("path,offset_s\na.wav,inf\n", "row 1: offset_s='inf' is no time"),
        ("path,duration_s\na.wav,1e999\n", "row 1: duration_s='1e999' is no time"),
        ("path,onset_s,offset_s\na.wav,2,1\n", "row 1: onset_s=2, offset_s=1; need 0 <= onset < offset"),
        ("path,onset_s,offset_s\na.wav,2,2\n", "need 0 <= onset < offset"),
        ("path,label\n,x\n", "row 1: no path"),
        ("path,label,label\na.wav,x,y\n", "column 'label' twice"),
        ('path,label\na.wav,"never closed\nb.wav,x\n', "cannot be read as csv"),
        (f'path,label\na.wav,{"x" * 200_000}\n', "cannot be read as csv"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path, text, told):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(LabelError, match=told):
        open_data(str(tmp_path / "m.csv"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("m.csv", b"", "the manifest has no rows"),
        ("m.csv", b"path\n", "the manifest has no rows"),
        ("m.csv", b"file\na.wav\n", "no column 'path'; it has file"),
        ("m.txt", b"path\n", "is not a folder, a recording, a manifest"),
        ("m.csv", b"path\n\xff\xfe.wav\n", "cannot be read as csv"),
        ("m.jsonl", b"{", "line 1: no JSON object"),
        ("m.jsonl", b"[1]\n", "line 1: a list"),
        ("m.jsonl", b"[" * 100_000, "line 1: no JSON object"),
        ("m.parquet", b"PAR1 not really PAR1", "cannot be read as parquet"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((LabelError, UsageError), match=told):
        open_data(str(tmp_path / name))


def test_folders_are_walked_sorted_and_without_hidden_files(tmp_path):
    for name in ("b.WAV", "a/z.flac", "a/notes.txt", ".hidden/c.wav", "._b.wav", "é.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = open_data(str(tmp_path))
    assert found.keys == ["a/z.flac", "b.WAV", "é.mp3"]
    assert np.isnan(found.duration_s).all()
    assert found.columns["group"] == found.keys
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no audio files"):
        open_data(str(tmp_path / "empty"))
    assert open_data(str(tmp_path / "b.WAV")).keys == ["b.WAV"]
    with pytest.raises(UsageError, match="not found; DATA is a folder"):
        open_data(str(tmp_path / "absent"))


def test_segments_become_recordings(tmp_path):
    whole = open_data(str(write(tmp_path, ".csv"))).recordings()
    assert whole.keys == ["a.wav", "sub/b.flac"]
    assert whole.columns["label"] == ["reed, great", "wren"]
    assert whole.onset_s.tolist() == [0.0, 0.0]
    assert np.isnan(whole.offset_s).all()


def test_select_keeps_the_order_given(tmp_path):
    found = open_data(str(write(tmp_path, ".csv"))).select(np.array([2, 0]))
    assert found.onset_s.tolist() == [3.5, 0.5]
    assert found.columns["label"] == ["", "reed, great"]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("songs", ("songs", 1.0)),
        ("songs/@2", ("songs/", 2.0)),
        ("a@b.csv", ("a@b.csv", 1.0)),
        ("a@b.csv@0.5", ("a@b.csv", 0.5)),
        ("me@home", ("me@home", 1.0)),
    ],
)
def test_weights(data, expected):
    assert split_weight(data) == expected


@pytest.mark.parametrize("data", ["a@0", "a@-1", "a@inf", "a@nan", "@2"])
def test_bad_weights_are_refused(data):
    with pytest.raises(UsageError, match="positive number"):
        split_weight(data)


def test_the_fingerprint_sees_what_matters(tmp_path):
    path = write(tmp_path, ".csv")
    (tmp_path / "a.wav").write_bytes(b"1")
    seen = {open_data(str(path)).fingerprint()}
    (tmp_path / "a.wav").write_bytes(b"12")
    seen.add(open_data(str(path)).fingerprint())
    for change in ({"label": "x"}, {"offset_s": 2.5}, {"onset_s": 0.25}, {"path": "c.wav"}, {"duration_s": 3}):
        seen.add(
            open_data(str(write(tmp_path, ".csv", [{**ROWS[0], "duration_s": "", **change}, *ROWS[1:]]))).fingerprint()
        )
    assert len(seen) == 7
    assert open_data(str(path)).fingerprint() == open_data(str(path)).fingerprint()


def test_synth_is_made_once_and_found_again(tmp_path, monkeypatch):
    config = SynthConfig(
        n_species=2, n_individuals=2, songs_per_individual=1, n_soundscapes=0, sampling_rate=16_000, song_s=2.0
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sources, "SynthConfig", lambda: config)
    found = open_data("synth")
    assert len(found) == 4
    assert len(set(found.column("label"))) == 2
    assert found.root.is_relative_to(tmp_path / "birdjepa")
    monkeypatch.setattr(sources, "write_dataset", None)
    assert open_data("synth").fingerprint() == found.fingerprint()
    other = dataclasses.replace(config, seed=1)
    monkeypatch.setattr(sources, "SynthConfig", lambda: other)
    with pytest.raises(TypeError):
        open_data("synth")


def test_every_shared_manifest_opens(shared_data):
    manifests = sorted(shared_data.glob("*/metadata.csv"))
    assert manifests
    for path in manifests:
        found = open_data(str(path))
        assert len(found) > 0
        assert found.path(0).exists(), path


@pytest.mark.parametrize("share", [0.01, 0.0])
def test_a_few_rows_that_make_no_sense_are_left_out_and_listed(tmp_path, share):
    """300 lines of JSON, three of them broken: a half-written line, a list, a time that is none."""
    lines = [json.dumps({"path": f"{n}.wav", "duration": 2.5, "speaker": f"s{n % 5}", "age": 3}) for n in range(297)]
    lines[40:40] = ['{"path": "x.wav", "dur', "[1, 2]", json.dumps({"path": "y.wav", "onset_s": "soon"})]
    (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n")
    columns = ColumnConfig(duration_s="duration", group="speaker", max_malformed=share)
    if not share:
        with pytest.raises(LabelError, match=r"line 41: no JSON object.*and 2 more of 300 rows"):
            open_data(str(tmp_path / "m.jsonl"), columns)
        return
    found = open_data(str(tmp_path / "m.jsonl"), columns)
    assert len(found) == 297
    assert found.duration_s.tolist() == [2.5] * 297
    assert found.columns["group"][:6] == ["s0", "s1", "s2", "s3", "s4", "s0"]
    assert found.columns["age"] == ["3"] * 297
    assert [each.path.rpartition(", ")[2] for each in found.refused] == ["line 41", "line 42", "line 43"]
    assert "no time" in found.refused[2].reason
    assert found.select([0]).refused == found.refused


SPEECH = [
    {"wav_path": "a.wav", "duration": 1.5, "speaker": "ada"},
    {"path": "sub/b.flac", "duration": 2, "duration_s": 3, "speaker": "bob", "group": "flock"},
    {"path": "c.wav", "wav_path": "c.wav", "speaker": "bob", "split_group": "site"},
]


def test_manifests_of_speech_need_no_flags(tmp_path):
    found = open_data(str(write(tmp_path, ".jsonl", SPEECH)))
    assert found.keys == ["a.wav", "sub/b.flac", "c.wav"]
    assert found.duration_s[:2].tolist() == [1.5, 3.0]
    assert math.isnan(found.duration_s[2])
    assert found.columns["group"] == ["ada", "flock", "site"]
    assert found.columns["speaker"] == ["ada", "bob", "bob"]


def test_a_column_that_the_user_names_wins(tmp_path):
    row = {"path": "b.wav", "wav_path": "a.wav", "duration": 9, "length_ms": 1500, "speaker": "ada", "site": "x"}
    named = ColumnConfig(path="wav_path", duration_s="length_ms", group="site")
    found = open_data(str(write(tmp_path, ".jsonl", [row])), named)
    assert (found.keys, found.duration_s.tolist(), found.columns["group"]) == (["a.wav"], [1.5], ["x"])
    unnamed = [{"path": "a.wav", "duration": 1500, "speaker": "ada"}]
    found = open_data(str(write(tmp_path, ".jsonl", unnamed)), ColumnConfig(duration_s="length_ms", group="site"))
    assert math.isnan(found.duration_s[0])
    assert found.columns["group"] == ["a.wav"]


def test_two_different_paths_of_one_row_are_an_error(tmp_path):
    with pytest.raises(LabelError, match=r"m.jsonl, line 2.*path is 'x.wav' and wav_path 'y.wav': name the right one"):
        open_data(str(write(tmp_path, ".jsonl", [SPEECH[0], {"path": "x.wav", "wav_path": "y.wav"}])))


def test_a_table_of_another_kind_needs_its_own_names(tmp_path):
    with pytest.raises(UsageError, match="no column 'path'; it has wav_path"):
        open_data(str(write(tmp_path, ".csv", SPEECH[:1])))


def test_a_folder_of_jsonl_manifests_is_all_of_them(tmp_path):
    for name in ("one", "deep/two"):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name, ".jsonl", SPEECH[:2])
    (tmp_path / "top.jsonl").write_text('{"path": "./x.wav"}\n{"wav_path": "/far/y.wav"}\n')
    (tmp_path / "README.md").write_text("not a table")
    found = open_data(str(tmp_path))
    assert found.keys == [f"{n}/{k}" for n in ("deep/two", "one") for k in ("a.wav", "sub/b.flac")] + [
        "./x.wav",
        "/far/y.wav",
    ]
    assert found.path(1) == tmp_path / "deep" / "two" / "sub" / "b.flac"
    assert found.path(5).as_posix() == "/far/y.wav"
    assert found.columns["group"][:2] == ["ada", "flock"]
    (tmp_path / "one" / "bad.jsonl").write_text("{}\nnonsense\n")
    with pytest.raises(UsageError, match=r"one/bad.jsonl: the manifest has no column 'path'"):
        open_data(str(tmp_path))
    (tmp_path / "one" / "bad.jsonl").write_text('{"path": "x.wav"}\nnonsense\n')
    with pytest.raises(LabelError, match=r"one/bad.jsonl, line 2.*no JSON object"):
        open_data(str(tmp_path))
    (tmp_path / "one" / "bad.jsonl").rename(tmp_path / "one" / "bad.csv")
    with pytest.raises(UsageError, match=r"only .jsonl manifests are read by folder; name .*bad.csv itself"):
        open_data(str(tmp_path))


def test_a_folder_with_sound_stays_a_folder_of_sound(tmp_path):
    write(tmp_path, ".jsonl", SPEECH)
    (tmp_path / "z.wav").write_bytes(b"")
    assert open_data(str(tmp_path)).keys == ["z.wav"]
