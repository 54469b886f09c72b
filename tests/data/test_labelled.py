"""Label files and recordings: what belongs together, what is refused, and the manifest that follows."""

import csv
import re

import pytest
from label_places import found_in, record, write

from birdjepa.core.errors import LabelError, UsageError
from birdjepa.data.labelled import Pairing, find_segments, label_files, write_segments
from birdjepa.data.sources import open_data

ROBIN = [(0.5, 1.5, "robin")]
RAVEN = "Begin Time (s)\tEnd Time (s)\tBegin File\tAnnotation\n0.5\t1.5\t{}\trobin\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.txt", "0.5\t1.5\trobin\n"),
        ("x.wav.txt", "0.5\t1.5\trobin\n"),
        ("x.csv", "onset_s,offset_s,label\n0.5,1.5,robin\n"),
        ("x.Table.1.selections.txt", RAVEN.format("x.wav")),
        ("x.selections.txt", RAVEN.format("")),
        ("x.BirdNET.selection.table.txt", RAVEN.format("/elsewhere/x.flac")),
        ("x.BirdNET.results.txt", "0.5\t1.5\trobin\t0.9\n"),
        (
            "x.BirdNET.results.csv",
            "Start (s),End (s),Scientific name,Common name,Confidence,File\n0.5,1.5,a b,robin,0.9,C:\\songs\\x.wav\n",
        ),
        ("x.TextGrid", 'File type = "ooTextFile"\n"TextGrid" 0 4 <exists> 1 "IntervalTier" "a" 0 4 1 0.5 1.5 "robin"'),
        ("Annotation.xml", "<Sequences><Sequence><WaveFileName>x.wav</WaveFileName><Position>4000</Position>"
         "<Note><Position>0</Position><Length>8000</Length><Label>robin</Label></Note></Sequence></Sequences>"),
        ("all.csv", "path,onset_s,offset_s,label\n./x.wav,0.5,1.5,robin\n"),
    ],
)  # fmt: skip
def test_names_that_tools_give(name, text, tmp_path):
    record(tmp_path / "songs", "x.wav", "y.wav")
    write(tmp_path / "labels" / name, text)
    assert found_in(tmp_path / "songs", tmp_path / "labels") == ({"x.wav": ROBIN}, [])


def test_dots_in_names_are_no_suffixes(tmp_path):
    record(tmp_path, "b_0726.7930.wav", "b_0726.7931.wav")
    write(tmp_path / "b_0726.7931.txt")
    assert found_in(tmp_path, tmp_path) == ({"b_0726.7931.wav": ROBIN}, [])


def test_folders_must_fit(tmp_path):
    record(tmp_path / "songs", "site1/x.wav", "site2/x.wav", "site3/y.wav", "z.wav")
    write(tmp_path / "labels" / "raven" / "site2" / "x.Table.1.selections.txt", RAVEN.format("x.wav"))
    write(tmp_path / "labels" / "site4" / "y.txt")
    write(tmp_path / "labels" / "x.txt")
    write(tmp_path / "labels" / "day1" / "z.txt")
    found, refused = found_in(tmp_path / "songs", tmp_path / "labels")
    assert found == {"site2/x.wav": ROBIN, "z.wav": ROBIN}
    assert refused == [
        "no recording y",
        "it may belong to site1/x.wav or site2/x.wav: put it into folders named as theirs",
    ]


def test_a_pattern_inside_a_folder_still_says_where(tmp_path):
    record(tmp_path / "songs", "site1/x.wav", "site2/x.wav")
    write(tmp_path / "labels" / "site2" / "x.txt")
    assert found_in(tmp_path / "songs", f"{tmp_path}/labels/site2/*.txt") == ({"site2/x.wav": ROBIN}, [])


def test_an_annotation_for_each_folder_of_recordings(tmp_path):
    record(tmp_path, "Bird0/Wave/0.wav", "Bird1/Wave/0.wav", "Bird1/Wave/5.wav")
    note = "<Note><Position>{}</Position><Length>8000</Length><Label>a</Label></Note></Sequence>"
    sequence = "<Sequence><WaveFileName>{}.wav</WaveFileName><Position>0</Position>" + note
    write(
        tmp_path / "Bird0" / "Annotation.xml", f"<Sequences>{sequence.format(0, 0)}{sequence.format(5, 0)}</Sequences>"
    )
    write(tmp_path / "Bird1" / "Annotation.xml", f"<Sequences>{sequence.format(0, 800)}</Sequences>")
    found, refused = found_in(tmp_path, tmp_path)
    assert found == {"Bird0/Wave/0.wav": [(0.0, 1.0, "a")], "Bird1/Wave/0.wav": [(0.1, 1.1, "a")]}
    assert refused == ["no recording 5.wav"]


def test_contradictions_and_doubles_are_refused(tmp_path):
    record(tmp_path, "x.wav", "y.wav", "z.wav")
    write(tmp_path / "labels" / "x.txt", RAVEN.format("y.wav"))
    write(tmp_path / "labels" / "z.txt")
    write(tmp_path / "labels" / "z.selections.txt", RAVEN.format(""))
    write(tmp_path / "labels" / "bad.txt", "0,5\t1\trobin\n")
    found, refused = found_in(tmp_path, tmp_path / "labels")
    assert found == {}
    assert [reason.split(":")[0] for reason in refused] == [
        "line 1",
        "it is named for x.wav and holds labels of y.wav",
        "2 label files for z.wav (z.selections.txt, z.txt)",
        "2 label files for z.wav (z.selections.txt, z.txt)",
    ]
    assert found_in(tmp_path, tmp_path / "labels" / "z.txt") == ({"z.wav": ROBIN}, [])
    assert found_in(tmp_path, f"{tmp_path}/lab*/*.selections.txt") == ({"z.wav": ROBIN}, [])


def test_labels_that_are_no_segments(tmp_path):
    record(tmp_path, "x.wav", "broken.wav")
    (tmp_path / "broken.wav").write_bytes(b"<html>not found</html>")
    write(tmp_path / "x.txt", "0\t1\ta\n2\t2\tb\n3\t6\tc\n4\t6\td\n")
    write(tmp_path / "broken.txt")
    found, refused = found_in(tmp_path, tmp_path)
    assert found == {"x.wav": [(0.0, 1.0, "a"), (3.0, 6.0, "c")]}
    assert refused[0].startswith("not audio")
    assert refused[1:] == ["a point ('b' of x.wav) is no segment", "it begins behind the end of x.wav (4.000 s)"]


def test_the_manifest_of_segments(tmp_path):
    record(tmp_path / "songs", "a/x.wav", "a/y.wav", "z.wav")
    manifest = write(
        tmp_path / "songs" / "metadata.csv",
        "path,label,split,group,site\na/x.wav,bird1,train,g1,north\na/y.wav,bird2,test,,\nz.wav,,,,\n",
    )
    labels = tmp_path / "labels"
    write(labels / "a" / "x.csv", 'onset_s,offset_s,label,score,low_hz\n0.5,1.5,-,0.25,800\n2,3,"a, b",,\n')
    write(labels / "a" / "y.csv", "onset_s,offset_s,label\n")
    segments = find_segments(open_data(str(manifest)), label_files(str(labels)))
    out = tmp_path / "out" / "segments.csv"
    write_segments(segments, out)
    with out.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "path": "../songs/a/x.wav",
        "onset_s": "0.5",
        "offset_s": "1.5",
        "label": "-",
        "low_hz": "800",
        "high_hz": "",
        "score": "0.25",
        "group": "g1",
        "duration_s": "4",
        "split": "train",
        "site": "north",
        "recording_label": "bird1",
    }
    assert (second["label"], second["low_hz"]) == ("a, b", "")
    read = open_data(str(out))
    assert read.path(0).resolve() == (tmp_path / "songs" / "a" / "x.wav").resolve()
    assert read.columns["group"] == ["g1", "g1"]
    assert read.onset_s.tolist() == [0.5, 2.0]
    assert read.duration_s.tolist() == [4.0, 4.0]
    assert (out.parent / "unlabelled.csv").read_text() == "path\nz.wav\n"
    assert not (out.parent / "failures.csv").exists()
    assert segments.n_segments == 2


def test_without_a_group_the_recording_is_one(tmp_path):
    record(tmp_path, "x.wav")
    write(tmp_path / "x.txt")
    out = tmp_path / "s" / "segments.csv"
    write_segments(find_segments(open_data(str(tmp_path)), label_files(str(tmp_path))), out)
    assert open_data(str(out)).columns["group"] == ["../x.wav"]


def test_which_files_are_label_files(tmp_path):
    for name in ("b.txt", "a.csv", "x.wav", ".hidden.txt", "failures.csv", "sub/c.TextGrid", ".git/d.txt", "made.csv"):
        write(tmp_path / name, "")
    found = label_files(str(tmp_path), leave_out=[tmp_path / "made.csv"])
    assert [str(file.relative) for file in found] == ["a.csv", "b.txt", "sub/c.TextGrid"]
    assert [str(file.relative) for file in label_files(f"{tmp_path}/**/*.TextGrid")] == ["sub/c.TextGrid"]
    for absent in (tmp_path / "absent", tmp_path / "*.xml"):
        with pytest.raises(UsageError, match=re.escape(f"{absent}: no label files there")):
            label_files(str(absent))


def test_a_recording_of_another_container_isfound_in(tmp_path):
    record(tmp_path, "x.flac")
    pairing = Pairing(open_data(str(tmp_path)))
    (file,) = label_files(str(write(tmp_path / "x.cbin.not.mat")))
    assert pairing.row(file) == pairing.row(file, "/d/x.wav") == 0
    with pytest.raises(LabelError, match=r"it is named for x\.flac and holds labels of y\.wav"):
        pairing.row(file, "y.wav")
