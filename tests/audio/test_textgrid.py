"""Praat's TextGrids: both text forms in both encodings, intervals and points, and what a tier cannot say."""

import codecs
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.audio.labels import Label, LabelsConfig, read_labels, read_tiers, write_textgrid
from birdjepa.core.errors import LabelError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 
xmax = 2.3 
tiers? <exists> 
size = 3 
item []: 
    item [1]:
        class = "IntervalTier" 
        name = "Mary" 
        xmin = 0 
        xmax = 2.3 
        intervals: size = 3 
        intervals [1]:
            xmin = 0 
            xmax = 0.7427342752056899 
            text = "" 
        intervals [2]:
            xmin = 0.7427342752056899 
            xmax = 1.5 
            text = "say ""ah"" 3 = <x> ! no comment" 
        intervals [3]:
            xmin = 1.5 
            xmax = 2.3 
            text = "ż" 
    item [2]:
        class = "IntervalTier" 
        name = "John" 
        xmin = 0 
        xmax = 2.3 
        intervals: size = 1 
        intervals [1]:
            xmin = 0 
            xmax = 2.3 
            text = "" 
    item [3]:
        class = "TextTier" 
        name = "bell" 
        xmin = 0 
        xmax = 2.3 
        points: size = 2 
        points [1]:
            number = 0.9 
            mark = "ding" 
        points [2]:
            number = 1.3 
            mark = "dong" 
"""  # noqa: W291 - as Praat 6 writes it; its manual, "TextGrid file formats", has the same grid
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2.3
<exists>
3
"IntervalTier"
"Mary"
0
2.3
3
0
0.7427342752056899
""
0.7427342752056899
1.5
"say ""ah"" 3 = <x> ! no comment"
1.5
2.3
"ż"
"IntervalTier"
"John"
0
2.3
1
0
2.3
""
"TextTier"
"bell"
0
2.3
2
0.9
"ding"
1.3
"dong"
"""
FREE = (
    '"ooTextFile short" "TextGrid" ! a comment with "quotes" and 3 numbers\n0 1 <exists> 1 "TextTier" "a" 0 1 1 0.5 "x"'
)


@pytest.mark.parametrize("text", [LONG, SHORT, LONG.replace("\n", "\r\n")], ids=["long", "short", "crlf"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    ],
    ids=["utf-8", "bom", "utf-16-be", "utf-16-le"],
)
def test_praats_text_files(text, encode, tmp_path):
    path = tmp_path / "x.TextGrid"
    path.write_bytes(encode(text))
    mary, john, bell = read_tiers(path, path.read_bytes())
    assert [tier.name for tier in (mary, john, bell)] == ["Mary", "John", "bell"]
    assert [label[:3] for label in mary.labels] == [
        (0.7427342752056899, 1.5, 'say "ah" 3 = <x> ! no comment'),
        (1.5, 2.3, "ż"),
    ]
    assert john.labels == []
    assert [label[:3] for label in read_labels(path, LabelsConfig(tier="bell"))] == [
        (0.9, 0.9, "ding"),
        (1.3, 1.3, "dong"),
    ]
    assert read_labels(path, LabelsConfig(tier="John")) == []
    with pytest.raises(LabelError, match="2 tiers hold labels: name one of 'Mary', 'John', 'bell'"):
        read_labels(path)
    with pytest.raises(LabelError, match="it has no tier 'mary'; it has 'Mary'"):
        read_labels(path, LabelsConfig(tier="mary"))


def test_the_only_tier_with_labels_needs_no_name_and_layout_is_free(tmp_path):
    (tmp_path / "x.txt").write_text(FREE)
    assert [label[:3] for label in read_labels(tmp_path / "x.txt")] == [(0.5, 0.5, "x")]
    (tmp_path / "y.TextGrid").write_text('File type = "ooTextFile"\nObject class = "TextGrid"\n0\n1\n<absent>\n')
    assert read_labels(tmp_path / "y.TextGrid") == []


def test_what_is_written_is_what_praat_writes(tmp_path):
    labels = [Label(0.5, 1.25, 'a "b"'), Label(1.25, 2.0, "c\td")]
    write_textgrid(tmp_path / "x.TextGrid", labels, duration_s=2.3, tier="song")
    assert (tmp_path / "x.TextGrid").read_text() == (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = 2.3 \ntiers? <exists> \nsize = 1 \n'
        'item []: \n    item [1]:\n        class = "IntervalTier" \n        name = "song" \n        xmin = 0 \n'
        "        xmax = 2.3 \n        intervals: size = 4 \n"
        '        intervals [1]:\n            xmin = 0 \n            xmax = 0.5 \n            text = "" \n'
        '        intervals [2]:\n            xmin = 0.5 \n            xmax = 1.25 \n            text = "a ""b""" \n'
        '        intervals [3]:\n            xmin = 1.25 \n            xmax = 2 \n            text = "c d" \n'
        '        intervals [4]:\n            xmin = 2 \n            xmax = 2.3 \n            text = "" \n'
    )


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=9).filter(
    lambda text: text.strip()
)
STEPS = st.integers(0, 10**9).map(lambda count: count / 10**6)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.tuples(STEPS, STEPS.filter(bool), TEXTS), max_size=6),
    duration_s=STEPS,
    tier=TEXTS,
    points=st.booleans(),
)
def test_textgrid_round_trip(steps, duration_s, tier, points, tmp_path_factory):
    path = tmp_path_factory.mktemp("textgrid") / "x.TextGrid"
    labels, at_s = [], 0.0
    for gap_s, length_s, text in steps:
        onset_s = at_s + gap_s
        at_s = onset_s + length_s
        labels.append(Label(onset_s, onset_s if points else at_s, text))
    write_textgrid(path, labels, duration_s=duration_s, tier=tier)
    found = read_labels(path, LabelsConfig(tier=tier))
    assert [label.label for label in found] == [label.label for label in labels]
    assert [each for label in found for each in label[:2]] == pytest.approx(
        [each for label in labels for each in label[:2]], abs=1e-8
    )


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([Label(0.0, 2.0, "a"), Label(1.0, 3.0, "b")], "labels overlap at 1 s"),
        ([Label(0.0, 2.0, "a"), Label(3.0, 3.0, "b")], "a point at 3 s"),
        ([Label(0.0, 2.0, " ")], "the label at 0 s has no text"),
        ([Label(2.0, 1.0, "a")], "need finite 0 <= onset_s <= offset_s"),
    ],
)
def test_what_a_tier_cannot_say(labels, reason, tmp_path):
    with pytest.raises(ValueError, match=re.escape(reason)):
        write_textgrid(tmp_path / "x.TextGrid", labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: the file ends where a file type is expected"),
        (SHORT.replace("TextGrid", "PitchTier"), "this is no TextGrid as text"),
        (LONG.replace("xmax = 1.5 ", "xmax = 1,5 "), "line 22: 'say \"ah\" 3 = <x> ! no comment' stands where a time"),
        (
            SHORT.replace('"IntervalTier"\n"John"', '"Interval"\n"John"'),
            "line 23: a tier is an IntervalTier or a TextTier",
        ),
        (LONG[: LONG.rindex("mark")], "the file ends where a label is expected"),
        (LONG[: LONG.index("points [2]")], "the file ends where a time is expected"),
        (SHORT.replace('\n1.5\n"say', '\n0.1\n"say'), "onset 0.742734 s, offset 0.1 s"),
        (LONG.replace("size = 3 \nitem", "size = 2.5 \nitem"), "line 7: 2.5 is no number of tiers"),
        (LONG.replace("number = 0.9", "number = -0.9"), "onset -0.9 s"),
    ],
)
def test_what_is_refused_of_a_textgrid(text, reason, tmp_path):
    (tmp_path / "x.TextGrid").write_text(text)
    with pytest.raises(LabelError, match=re.escape(reason)) as raised:
        read_labels(tmp_path / "x.TextGrid", LabelsConfig(tier="Mary"))
    assert "\n" not in str(raised.value)


def test_other_bytes_are_refused(tmp_path):
    path = tmp_path / "x.TextGrid"
    for data in (b"ooBinaryFile\x08TextGrid\0\0", codecs.BOM_UTF16_BE + b"\xd8\x00\0", b"\xff\x00", b"\x80abc"):
        path.write_bytes(data)
        with pytest.raises(LabelError):
            read_labels(path)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, len(SHORT)), middle=st.text('0123456789."<>! \nx', max_size=8), skip=st.integers(0, 40))
def test_a_damaged_textgrid_is_read_or_refused(cut, middle, skip, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.TextGrid"
    path.write_text(SHORT[:cut] + middle + SHORT[cut + skip :])
    try:
        labels = read_labels(path, LabelsConfig(tier="Mary"))
    except LabelError:
        return
    assert all(0 <= label.onset_s <= label.offset_s for label in labels)
