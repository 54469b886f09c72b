"""Annotation.xml of the BirdsongRecognition data (Koumura and Okanoya 2016): the notes of all songs of one bird.

A sequence is a stretch of a recording, its notes count from there; all in samples of the recording. An XML file that
declares entities or a document type is refused: such a file can grow without bounds, and these have none.

Source: the files of doi.org/10.6084/m9.figshare.3470165 and birdsong-recognition-dataset's AnnotationSchema.xsd.
"""

import xml.parsers.expat
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

from birdjepa.audio.labels.label import Label, Recordings, ordered
from birdjepa.core.errors import LabelError

RateOf = Callable[[str], float | None]
"""Sampling rate in Hz of a recording by its name; None leaves that recording out."""


def read_koumura(path: Path, data: bytes, rate_of: RateOf) -> Recordings:
    """Labels by recording (WaveFileName)."""
    root = _parsed(path, data)
    if root.tag != "Sequences":
        raise LabelError(str(path), 0.0, f"no Annotation.xml of BirdsongRecognition: its root is <{root.tag[:40]}>")
    found: Recordings = {}
    rates: dict[str, float | None] = {}
    for number, sequence in enumerate(root.iter("Sequence"), start=1):
        name = (sequence.findtext("WaveFileName") or "").strip()
        if not name:
            raise LabelError(str(path), 0.0, f"sequence {number} has no WaveFileName")
        if name not in rates:
            rates[name] = rate_of(name)
        rate = rates[name]
        if rate is None:
            continue
        start = _samples(path, number, sequence, "Position")
        labels = found.setdefault(name, [])
        for note in sequence.iter("Note"):
            onset = start + _samples(path, number, note, "Position")
            offset = onset + _samples(path, number, note, "Length")
            label = Label(onset / rate, offset / rate, (note.findtext("Label") or "").strip())
            labels.append(ordered(path, f"sequence {number}", label))
    return found


def _samples(path: Path, number: int, element: Element, name: str) -> int:
    text = (element.findtext(name) or "").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise LabelError(str(path), 0.0, f"sequence {number}: {name} {text[:40]!r} is no number of samples")
    return int(text)


def _parsed(path: Path, data: bytes) -> Element:
    """The document's root. ElementTree's own parser would expand entities."""
    builder = TreeBuilder()
    parser = xml.parsers.expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise LabelError(str(path), 0.0, "it declares a document type, which an Annotation.xml has not")

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except xml.parsers.expat.ExpatError as error:
        raise LabelError(str(path), 0.0, f"damaged XML: {error}") from None
