"""BirdNET's tables of all generations, and Raven tables over several recordings."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.labels import Label, LabelsConfig, read_labels, read_recordings, write_birdnet, write_table
from birdjepa.core.errors import LabelError

NAN = math.nan
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12)


@st.composite
def a_label(draw: st.DrawFn) -> Label:
    onset_s = draw(st.floats(0, 1e5))
    return Label(
        onset_s,
        onset_s + draw(st.floats(0, 100)),
        draw(NAMES),
        draw(st.one_of(st.just(NAN), st.floats(0, 1))),
        *(draw(st.one_of(st.just(NAN), st.floats(0, 96_000))) for _ in range(2)),
    )


def _same(found: list[Label], wanted: list[Label], digits: float) -> None:
    assert [label.label for label in found] == [label.label for label in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=1e-8)
        assert one[3:] == pytest.approx(other[3:], abs=digits, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(a_label(), max_size=5))
def test_birdnet_round_trip(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("birdnet") / "x.BirdNET.results.csv"
    write_birdnet(path, labels, recording="a, b.wav")
    found = read_recordings(path)
    assert list(found) == (["a, b.wav"] if labels else [])
    _same(read_labels(path), [label._replace(low_hz=NAN, high_hz=NAN) for label in labels], 1e-4)


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(a_label(), max_size=5), recording=st.sampled_from(["", "x/y.wav"]))
def test_plain_table_round_trip(labels, recording, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "x.csv"
    write_table(path, labels, recording=recording)
    assert list(read_recordings(path)) == ([recording] if labels else [])
    _same(read_labels(path), labels, 1e-6)


def test_labels_are_not_quoted_against_spreadsheets(tmp_path):
    write_table(tmp_path / "x.csv", [Label(0.0, 0.5, "-"), Label(0.5, 1.0, "=b"), Label(1.0, 2.0, "@")])
    assert (tmp_path / "x.csv").read_text() == (
        "onset_s,offset_s,label,score,low_hz,high_hz\n0,0.5,-,,,\n0.5,1,=b,,,\n1,2,@,,,\n"
    )
    assert [label.label for label in read_labels(tmp_path / "x.csv")] == ["-", "=b", "@"]


def test_a_table_in_kilohertz(tmp_path):
    (tmp_path / "x.csv").write_text("onset_s,offset_s,low_khz,high_khz,label\n0,1,1.5,,robin\n")
    (label,) = read_labels(tmp_path / "x.csv")
    assert label.low_hz == 1500.0
    assert math.isnan(label.high_hz)


def test_what_birdnet_analyzer_writes_is_what_we_write(tmp_path):
    """Source: birdnet_analyzer/analyze/utils.py, CSV_HEADER and generate_csv."""
    write_birdnet(tmp_path / "x.csv", [Label(0.0, 3.0, "European Robin", 0.81234)], recording="/data/x.wav")
    assert (tmp_path / "x.csv").read_text() == (
        "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
        "0,3,European Robin,European Robin,0.8123,/data/x.wav\n"
    )


ANALYZER = (
    "Start (s),End (s),Scientific name,Common name,Confidence,File,lat,lon\n"
    "0.0,3.0,Erithacus rubecula,European Robin,0.8123,/data/a.wav,52.1,13.4\n"
    "3.0,6.0,Turdus merula,Common Blackbird,0.5000,/data/b.wav,52.1,13.4\n"
)
WITHOUT_FILE = "Start (s),End (s),Scientific name,Common name,Confidence\n0,3,Turdus merula,Common Blackbird,0.5\n"
LITE = "Start (s);End (s);Scientific name;Common name;Confidence\n0.0;3.0;Turdus merula;Common Blackbird;0.5\n"
FOR_R = (
    "filepath,start,end,scientific_name,common_name,confidence,lat,lon,week,overlap,sensitivity,min_conf,species_list,"
    "model\n/data/a.wav,0.0,3.0,Turdus merula,Common Blackbird,0.5000,52.1,13.4,-1,0.0,1.0,0.10,,BirdNET\n"
)


def test_several_recordings_of_one_birdnet_table(tmp_path):
    path = tmp_path / "BirdNET_CombinedTable.csv"
    path.write_text(ANALYZER)
    found = read_recordings(path)
    assert {name: labels[0].label for name, labels in found.items()} == {
        "/data/a.wav": "European Robin",
        "/data/b.wav": "Common Blackbird",
    }
    scientific = read_recordings(path, LabelsConfig(column="Scientific name"))
    assert scientific["/data/a.wav"][0][:4] == (0.0, 3.0, "Erithacus rubecula", 0.8123)
    with pytest.raises(LabelError, match="labels of 2 recordings in one table"):
        read_labels(path)
    with pytest.raises(LabelError, match="it has no column 'Species'; it has start"):
        read_recordings(path, LabelsConfig(column="Species"))


@pytest.mark.parametrize(
    ("text", "name"), [(WITHOUT_FILE, ""), (LITE, ""), (FOR_R, "/data/a.wav")], ids=["2023", "lite", "r"]
)
def test_older_spellings(text, name, tmp_path):
    """Source: BirdNET-Lite's analyze.py (writeResultsToFile); BirdNET-Analyzer's RTABLE_HEADER."""
    (tmp_path / "x.csv").write_text(text)
    ((found, (label,)),) = read_recordings(tmp_path / "x.csv").items()
    assert (found, label[:4]) == (name, (0.0, 3.0, "Common Blackbird", 0.5))


TABLE = (
    "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tCommon Name\tSpecies Code"
    "\tConfidence\tBegin Path\tFile Offset (s)\n"
)


def test_a_combined_selection_table_counts_from_each_recording(tmp_path):
    """BirdNET-Analyzer and Raven count Begin Time on through the recordings; File Offset starts anew in each."""
    rows = [("0.0", "3.0", "robin", "a.wav", "0.0"), ("6.0", "9.0", "wren", "a.wav", "6.0")]
    rows += [("63.0", "66.0", "crow", "b.wav", "3.0"), ("70.5", "73.5", "wren", "b.wav", "10.5")]
    lines = [
        f"{number}\tSpectrogram 1\t1\t{start}\t{end}\t0\t15000\t{label}\tcode\t0.9\t/d/{path}\t{offset}\n"
        for number, (start, end, label, path, offset) in enumerate(rows, start=1)
    ]
    path = tmp_path / "BirdNET_SelectionTable.txt"
    path.write_text(TABLE + "".join(lines))
    found = read_recordings(path)
    assert [label[:3] for label in found["/d/a.wav"]] == [(0.0, 3.0, "robin"), (6.0, 9.0, "wren")]
    assert [label[:3] for label in found["/d/b.wav"]] == [(3.0, 6.0, "crow"), (10.5, 13.5, "wren")]
    path.write_text(TABLE + "".join(lines).replace("\t10.5\n", "\t0\n"))
    with pytest.raises(LabelError, match=re.escape("line 5: File Offset (s) 0 does not follow Begin Time (s) 70.5")):
        read_recordings(path)
    without = (TABLE + "".join(lines)).replace("File Offset (s)", "note")
    path.write_text(without)
    with pytest.raises(LabelError, match=r"labels of 2 recordings without File Offset \(s\)"):
        read_recordings(path)


def test_birdnets_row_for_nothing_is_no_label(tmp_path):
    (tmp_path / "x.txt").write_text(TABLE + "1\tSpectrogram 1\t1\t0\t3\t0\t15000\tnocall\tnocall\t1.0\t/d/a.wav\t0\n")
    assert read_labels(tmp_path / "x.txt") == []


def test_a_selection_over_two_recordings_is_refused(tmp_path):
    header = "Begin Time (s)\tEnd Time (s)\tBegin File\tEnd File\tAnnotation\n"
    (tmp_path / "x.txt").write_text(header + "1\t2\ta.wav\ta.wav\trobin\n59\t61\ta.wav\tb.wav\twren\n")
    with pytest.raises(LabelError, match=re.escape("line 3: begins in a.wav and ends in b.wav")):
        read_labels(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LITE.replace("0.0;3.0", "0,0;3,0"), "line 2: onset_s '0,0' has a decimal comma"),
        (WITHOUT_FILE.replace("Confidence", "Score"), "a table needs Start (s), End (s)"),
        (ANALYZER.replace("/data/b.wav", ""), "line 3 does not say its recording, others do"),
        (WITHOUT_FILE.replace("Turdus merula", "Turdus, merula"), "line 2 has 6 cells, the header 5"),
        (WITHOUT_FILE.replace("0,3,", "3,0,"), "line 2: onset 3 s, offset 0 s"),
    ],
)
def test_what_is_refused_of_birdnets(text, reason, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(LabelError, match=re.escape(reason)) as raised:
        read_recordings(tmp_path / "x.csv")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "n_recordings", "n_labels", "n_boxes"), [("birdsong_syllables", 86, 4944, 0), ("soundscapes", 11, 70, 52)]
)
def test_real_tables(name, n_recordings, n_labels, n_boxes, shared_data):
    found = read_recordings(shared_data / name / "annotations.csv")
    labels = [label for each in found.values() for label in each]
    assert (len(found), len(labels)) == (n_recordings, n_labels)
    assert sum(1_000 < label.low_hz < label.high_hz < 24_000 for label in labels) == n_boxes
