"""Label files: what is written comes back, other programs' files are read, and what is ambiguous is refused."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.labels import Label, read_labels, write_audacity, write_raven
from birdjepa.core import files
from birdjepa.core.errors import LabelError

NAN = math.nan
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
HZ = st.one_of(st.just(NAN), st.floats(0, 96_000))
SCORED = re.compile(r".* -?\d+\.\d{4}", re.DOTALL)


@st.composite
def a_label(draw: st.DrawFn) -> Label:
    onset_s = draw(st.floats(0, 1e5))
    return Label(
        onset_s=onset_s,
        offset_s=onset_s + draw(st.floats(0, 100)),
        label=draw(TEXTS.filter(lambda text: not SCORED.fullmatch(text))),
        score=draw(st.one_of(st.just(NAN), st.floats(-30, 30))),
        low_hz=draw(HZ),
        high_hz=draw(HZ),
    )


def _shown(text: str) -> str:
    return re.sub("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]", " ", text)


def _same(found: list[Label], wanted: list[Label], digits: float) -> None:
    assert [label.label for label in found] == [label.label for label in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=1e-8)
        assert one.score == pytest.approx(other.score, abs=digits, nan_ok=True)
        assert one[4:] == pytest.approx(other[4:], abs=1e-3, nan_ok=True)


# Round trips


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(a_label(), max_size=5))
def test_raven_round_trip(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("raven") / "songs.selections.txt"
    write_raven(path, labels, begin_file="a\tsong.wav", nyquist_hz=24_000.0)
    drawn = [
        label._replace(
            label=_shown(label.label),
            low_hz=0.0 if math.isnan(label.low_hz) else label.low_hz,
            high_hz=24_000.0 if math.isnan(label.high_hz) else label.high_hz,
        )
        for label in labels
    ]
    _same(read_labels(path), drawn, 1e-6)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(a_label(), max_size=5))
def test_audacity_round_trip(labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("audacity") / "songs.txt"
    write_audacity(path, labels)
    _same(read_labels(path), [label._replace(label=_shown(label.label)) for label in labels], 1e-4)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(a_label(), max_size=5))
def test_what_is_written_and_read_again_is_written_alike(labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice")
    write_audacity(folder / "once.txt", labels)
    write_audacity(folder / "twice.txt", read_labels(folder / "once.txt"))
    assert (folder / "once.txt").read_bytes() == (folder / "twice.txt").read_bytes()


# Formats as they are


def test_raven_table_is_what_raven_reads(tmp_path):
    labels = [Label(0.5, 1.25, "robin", 0.93, 1500.0, 6000.0), Label(2.0, 3.0, "wren\tsong\n")]
    write_raven(tmp_path / "a.txt", labels, begin_file="a.wav", nyquist_hz=16_000.0)
    assert (tmp_path / "a.txt").read_bytes().decode() == (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tBegin File\tAnnotation"
        "\tScore\n"
        "1\tSpectrogram 1\t1\t0.500000000\t1.250000000\t1500.000\t6000.000\ta.wav\trobin\t0.930000\n"
        "2\tSpectrogram 1\t1\t2.000000000\t3.000000000\t0.000\t16000.000\ta.wav\twren song \t\n"
    )


def test_audacity_track_is_what_audacity_reads(tmp_path):
    labels = [Label(0.5, 1.25, "robin", 0.93, 1500.0, 6000.0), Label(2.0, 2.0, "wren\tsong", high_hz=8000.0)]
    write_audacity(tmp_path / "a.txt", [*labels, Label(3.0, 4.0, "")])
    assert (tmp_path / "a.txt").read_bytes().decode() == (
        "0.500000000\t1.250000000\trobin 0.9300\n"
        "\\\t1500.000\t6000.000\n"
        "2.000000000\t2.000000000\twren song\n"
        "\\\t-1\t8000.000\n"
        "3.000000000\t4.000000000\t\n"
    )


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_audacity(path, [Label(0.0, 1.0, "old")])
    for bad in (Label(2.0, 1.0, "x"), Label(NAN, 1.0, "x"), Label(-1.0, 1.0, "x"), Label(0.0, math.inf, "x")):
        with pytest.raises(ValueError, match="need finite 0 <= onset_s <= offset_s"):
            write_audacity(path, [bad])
        with pytest.raises(ValueError, match="need finite 0 <= onset_s <= offset_s"):
            write_raven(path, [bad], begin_file="a.wav", nyquist_hz=8000.0)
    with pytest.raises(ValueError, match="nyquist_hz must be positive"):
        write_raven(path, [], begin_file="a.wav", nyquist_hz=0.0)
    assert [label.label for label in read_labels(path)] == ["old"]
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_raven_draws_each_selection_twice_and_it_counts_once(tmp_path):
    text = (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
        "1\tWaveform 1\t1\t0.5\t1.5\t\t\trobin\n"
        '1\tSpectrogram 1\t1\t0.5\t1.5\t800\t4000\trobin "red"\n'
        "2\tWaveform 1\t1\t2.0\t3.0\t\t\twren\n"
    )
    (tmp_path / "A.TXT").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    first, second = read_labels(tmp_path / "A.TXT")
    assert (first.label, first.low_hz, first.high_hz) == ('robin "red"', 800.0, 4000.0)
    assert second.label == "wren"
    assert math.isnan(second.low_hz)


def test_birdnet_tables_are_read(tmp_path):
    columns = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)")
    columns += ("Common Name", "Species Code", "Confidence", "Begin Path", "File Offset (s)")
    cells = ("1", "Spectrogram 1", "1", "0", "3.0", "0", "15000", "European Robin", "eurrob1", "0.8123", "a.wav", "0")
    (tmp_path / "a.txt").write_text("\t".join(columns) + "\n" + "\t".join(cells) + "\n")
    assert read_labels(tmp_path / "a.txt") == [Label(0.0, 3.0, "European Robin", 0.8123, 0.0, 15_000.0)]
    (tmp_path / "b.txt").write_text("0\t3.0\tErithacus rubecula, European Robin\t0.8123\n")
    (label,) = read_labels(tmp_path / "b.txt")
    assert label[:4] == (0.0, 3.0, "Erithacus rubecula, European Robin", 0.8123)


def test_a_number_that_belongs_to_a_name_stays_there(tmp_path):
    (tmp_path / "a.txt").write_text("0\t1\tcall 2\n1\t2\ttype 0.5\n")
    assert [(each.label, math.isnan(each.score)) for each in read_labels(tmp_path / "a.txt")] == [
        ("call 2", True),
        ("type 0.5", True),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".tsv"])
def test_tables_are_read(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    rows = ["Label,onset_s,offset_s,score,low_hz,note", "robin,0.5,1.5,0.25,nan,x", "wren,2,2"]
    text = "\n".join(rows).replace(",", "," if suffix.lower() == ".csv" else "\t")
    path.write_text(text, encoding="utf-8-sig")
    first, second = read_labels(path)
    assert first[:4] == (0.5, 1.5, "robin", 0.25)
    assert second[:3] == (2.0, 2.0, "wren")
    assert all(math.isnan(hz) for label in (first, second) for hz in (label.low_hz, label.high_hz))


def test_tables_that_birdjepa_writes_are_read(tmp_path):
    rows = [{"onset_s": 0.5, "offset_s": 1.5, "label": 'a "quoted", name', "path": "x.wav"}]
    files.write_csv(tmp_path / "a.csv", ["path", "onset_s", "offset_s", "label"], rows)
    assert read_labels(tmp_path / "a.csv")[0].label == 'a "quoted", name'


def test_nothing_labelled_is_no_error(tmp_path):
    (tmp_path / "a.txt").write_text("\n")
    (tmp_path / "a.csv").write_text("onset_s,offset_s,label\n")
    write_raven(tmp_path / "b.txt", [], begin_file="a.wav", nyquist_hz=8000.0)
    assert [read_labels(tmp_path / name) for name in ("a.txt", "a.csv", "b.txt")] == [[], [], []]


# Refusals

RAVEN = "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\n"
TABLE = "onset_s,offset_s,label"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "0,5\t1,5\trobin\n", "line 1: onset_s '0,5' has a decimal comma"),
        ("a.txt", "0\t1\trobin\n\\\t500,5\t900\n", "line 2: frequency '500,5' has a decimal comma"),
        ("a.txt", RAVEN + "1\t0,5\t1,5\ta.wav\n", "line 2: onset_s '0,5' has a decimal comma"),
        ("a.csv", TABLE + '\n"0,5","1,5",robin\n', "line 2: onset_s '0,5' has a decimal comma"),
        ("a.csv", TABLE + "\n0,5,1,5,robin\n", "line 2 has 5 cells, the header 3 (numbers need a decimal point"),
        ("a.csv", "onset_s;offset_s;label\n0,5;1,5;robin\n", "between commas"),
        ("a.csv", "start,end,label\n0,1,robin\n", "it has start, end, label"),
        ("a.csv", "", "it has nothing"),
        ("a.csv", TABLE + ",label\n0,1,robin,wren\n", "column 'label' twice"),
        ("a.csv", TABLE + '\n0,1,"robin\n', "cannot be read as a table"),
        ("a.csv", TABLE + ",path\n0,1,robin,a.wav\n0,1,wren,b.wav\n", "labels of 2 recordings"),
        ("a.txt", RAVEN + "1\t0\t1\ta.wav\n2\t0\t1\tb.wav\n", "labels of 2 recordings"),
        ("a.txt", RAVEN.replace("\t", ",") + "1,0,1,a.wav\n", "between tabs; it has selection,begin"),
        ("a.txt", "Begin Time (s)\tAnnotation\n0\trobin\n", "needs Begin Time (s), End Time (s) as columns"),
        ("a.txt", "robin\n", "line 1 is not start, end and label between tabs"),
        ("a.txt", "\\\t100\t200\n", "line 1 is no line of frequencies that follows a label"),
        ("a.txt", "0\t1_0\trobin\n", "line 1: offset_s '1_0' is no number"),
        ("a.txt", "0\tnan\trobin\n", "line 1: offset_s 'nan' is no number"),
        ("a.txt", "0\t\trobin\n", "line 1 has no offset_s"),
        ("a.txt", "2\t1\trobin\n", "at 2 s: line 1: onset 2 s, offset 1 s; need 0 <= onset <= offset"),
        ("a.txt", "-1\t1\trobin\n", "need 0 <= onset <= offset"),
        ("a.wav", "0\t1\trobin\n", "labels are read from"),
        ("a.tsv", "0\t1\trobin\n", "between tabs; it has 0, 1, robin"),
    ],
)
def test_what_is_refused(name, text, reason, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    with pytest.raises(LabelError, match=re.escape(reason)) as raised:
        read_labels(tmp_path / name)
    assert raised.value.path == str(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("0\t1\tr\n".encode("utf-16"))
    with pytest.raises(LabelError, match="not UTF-8"):
        read_labels(tmp_path / "a.txt")
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels(tmp_path / "absent.txt")


@settings(max_examples=200, deadline=None)
@given(text=st.text('0123456789.,;\t\n\\"abs -_x', max_size=60), head=st.sampled_from(["", RAVEN, TABLE + "\n"]))
def test_any_text_is_read_or_refused(text, head, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    for name in ("a.txt", "a.csv"):
        (folder / name).write_text(head + text, encoding="utf-8", newline="")
        try:
            labels = read_labels(folder / name)
        except LabelError:
            continue
        assert all(0 <= label.onset_s <= label.offset_s for label in labels)
