"""Annotation.xml of BirdsongRecognition: samples of sequences to seconds of recordings, and hostile XML."""

import re

import pytest

from birdjepa.audio.labels import LabelsConfig, read_labels, read_recordings
from birdjepa.core.errors import LabelError

# The beginning of Bird0's file (doi.org/10.6084/m9.figshare.3470165), with a second recording and a second sequence.
XML = """<Sequences><NumSequence>3</NumSequence>
<Sequence><WaveFileName>0.wav</WaveFileName><Position>32000</Position><Length>43168</Length><NumNote>2</NumNote>
<Note><Position>2240</Position><Length>2688</Length><Label>0</Label></Note>
<Note><Position>8256</Position><Length>2784</Length><Label>0</Label></Note></Sequence>
<Sequence><WaveFileName>1.wav</WaveFileName><Position>0</Position><Length>6400</Length><NumNote>1</NumNote>
<Note><Position>3200</Position><Length>3200</Length><Label>a &amp; b</Label></Note></Sequence>
<Sequence><WaveFileName>0.wav</WaveFileName><Position>96000</Position><Length>3200</Length><NumNote>1</NumNote>
<Note><Position>0</Position><Length>32</Length><Label></Label></Note></Sequence>
</Sequences>
"""


def test_notes_count_from_their_sequence(tmp_path):
    path = tmp_path / "Annotation.xml"
    path.write_text(XML)
    found = read_recordings(path, LabelsConfig(sampling_rate=32_000.0))
    assert [label[:3] for label in found["0.wav"]] == [(1.07, 1.154, "0"), (1.258, 1.345, "0"), (3.0, 3.001, "")]
    assert [label[:3] for label in found["1.wav"]] == [(0.1, 0.2, "a & b")]
    with pytest.raises(LabelError, match="labels of 2 recordings"):
        read_labels(path, LabelsConfig(sampling_rate=32_000.0))


def test_each_recording_has_its_own_rate_or_is_left_out(tmp_path):
    path = tmp_path / "Annotation.xml"
    path.write_text(XML)
    asked = []

    def rate_of(name: str) -> float | None:
        asked.append(name)
        return {"0.wav": 64_000.0}.get(name)

    found = read_recordings(path, rate_of=rate_of)
    assert asked == ["0.wav", "1.wav"]
    assert list(found) == ["0.wav"]
    assert found["0.wav"][0][:2] == (0.535, 0.577)
    with pytest.raises(LabelError, match="counts in samples: say the sampling rate"):
        read_recordings(path)


def test_the_real_annotations_agree(tmp_path, shared_data):
    """The first notes of the original XML are those of our table, which came from it by another program."""
    path = tmp_path / "Annotation.xml"
    path.write_text(XML)
    (first, second, _) = read_recordings(path, LabelsConfig(sampling_rate=32_000.0))["0.wav"]
    table = read_recordings(shared_data / "birdsong_syllables" / "annotations.csv")["koumura_bird0/000.flac"]
    assert [label[:3] for label in (first, second)] == [label[:3] for label in table[:2]]


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><Sequences>&b;</Sequences>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BOMB.encode(), "declares a document type"),
        (BOMB.encode("utf-16"), "declares a document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><Sequences/>', "declares a document type"),
        (XML[:300].encode(), "damaged XML"),
        (b"", "damaged XML"),
        (b"\xff\xfe\xff", "damaged XML"),
        (b"<html></html>", "no Annotation.xml of BirdsongRecognition: its root is <html>"),
        (XML.replace("<WaveFileName>0.wav</WaveFileName>", "").encode(), "sequence 1 has no WaveFileName"),
        (XML.replace("2240", "2240.5").encode(), "sequence 1: Position '2240.5' is no number of samples"),
        (XML.replace("<Length>2784</Length>", "").encode(), "sequence 1: Length '' is no number of samples"),
        (XML.replace("96000", "-1").encode(), "sequence 3: Position '-1' is no number of samples"),
    ],
)
def test_what_is_refused_of_xml(data, reason, tmp_path):
    (tmp_path / "Annotation.xml").write_bytes(data)
    with pytest.raises(LabelError, match=re.escape(reason)) as raised:
        read_recordings(tmp_path / "Annotation.xml", LabelsConfig(sampling_rate=32_000.0))
    assert "\n" not in str(raised.value)
