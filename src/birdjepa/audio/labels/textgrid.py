"""Praat's TextGrids: tiers of intervals that follow each other without gaps, and tiers of points.

Praat reads its text files freely: only texts in quotation marks (doubled inside), numbers that stand alone and words
such as <exists> count; all else, line breaks and indentation too, is for people, and "!" begins a comment. So the
long and the short form are read alike.

Source: Praat's manual, "TextGrid file formats" (fon/manual_programming.cpp of Praat's source).
"""

import codecs
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from birdjepa.audio.labels.label import Label, Recordings, one_line, ordered, shortest, text_of, writable
from birdjepa.core import files
from birdjepa.core.errors import LabelError

INTERVALS, POINTS = "IntervalTier", "TextTier"

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(<[^<>\s]*>)|![^\n]*|([^\s"]+)')
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Tier(NamedTuple):
    """A tier with its labels; intervals without a text are gaps, and none."""

    name: str
    labels: list[Label]


def write_textgrid(path: Path | str, labels: Iterable[Label], *, duration_s: float = 0.0, tier: str = "labels") -> None:
    """Replaces path with a TextGrid in the long form, of one tier in the order of time: of intervals, with empty ones
    between labels, or of points where all labels are points.

    duration_s is the recording's; without it, or where a label goes on behind it, the grid ends with the last label.
    Praat has no place for scores and frequencies. Tabs and line breaks in labels become spaces. Times keep nanoseconds.

    Raises:
      ValueError: if a tier cannot say it: labels overlap, have no text, or are points and intervals; and if times are
        not finite with 0 <= onset_s <= offset_s.
    """
    rounded = [
        label._replace(onset_s=round(label.onset_s, 9), offset_s=round(label.offset_s, 9), label=one_line(label.label))
        for label in writable(labels)
    ]
    found = sorted(rounded, key=lambda label: (label.onset_s, label.offset_s))
    points = [label for label in found if label.onset_s == label.offset_s]
    if points and len(points) < len(found):
        raise ValueError(f"a tier holds intervals or points, these are both (a point at {points[0].onset_s:g} s)")
    for label in found:
        if not label.label.strip():
            raise ValueError(f"the label at {label.onset_s:g} s has no text, which is a gap in a TextGrid")
    end_s = max([duration_s, *(label.offset_s for label in found)])
    kind = POINTS if points else INTERVALS
    body = _points(found) if points else _intervals(found, end_s)
    bounds = ["xmin = 0 ", f"xmax = {shortest(end_s)} "]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", *bounds, "tiers? <exists> ", "size = 1 "]
    lines += ["item []: ", "    item [1]:"]
    lines += [" " * 8 + line for line in (f'class = "{kind}" ', f"name = {_quoted(tier)} ", *bounds, *body)]
    files.write_text(path, "\n".join(lines) + "\n")


def _intervals(labels: Sequence[Label], end_s: float) -> list[str]:
    filled: list[tuple[float, float, str]] = []
    at_s = 0.0
    for label in labels:
        if label.onset_s < at_s:
            raise ValueError(f"labels overlap at {label.onset_s:g} s, which a tier of a TextGrid cannot say")
        if label.onset_s > at_s:
            filled.append((at_s, label.onset_s, ""))
        filled.append((label.onset_s, label.offset_s, label.label))
        at_s = label.offset_s
    if end_s > at_s:
        filled.append((at_s, end_s, ""))
    lines = [f"intervals: size = {len(filled)} "]
    for number, (onset_s, offset_s, text) in enumerate(filled, start=1):
        lines.append(f"intervals [{number}]:")
        inside = (f"xmin = {shortest(onset_s)} ", f"xmax = {shortest(offset_s)} ", f"text = {_quoted(text)} ")
        lines += ["    " + line for line in inside]
    return lines


def _points(labels: Sequence[Label]) -> list[str]:
    lines = [f"points: size = {len(labels)} "]
    for number, label in enumerate(labels, start=1):
        lines += [
            f"points [{number}]:",
            f"    number = {shortest(label.onset_s)} ",
            f"    mark = {_quoted(label.label)} ",
        ]
    return lines


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def read_textgrid(path: Path, data: bytes, tier: str = "") -> Recordings:
    """Labels of one tier: that named, or the only one that holds any. A TextGrid does not say its recording."""
    tiers = read_tiers(path, data)
    names = ", ".join(repr(each.name) for each in tiers) or "none"
    chosen = [each for each in tiers if (each.name == tier if tier else each.labels)]
    if len(chosen) > 1:
        raise LabelError(str(path), 0.0, f"{len(chosen)} tiers hold labels: name one of {names} (--tier)")
    if tier and not chosen:
        raise LabelError(str(path), 0.0, f"it has no tier {tier!r}; it has {names}")
    return {"": chosen[0].labels if chosen else []}


def read_tiers(path: Path, data: bytes) -> list[Tier]:
    """All tiers of a TextGrid in its order, from UTF-8 or UTF-16 text in the long or the short form.

    Raises:
      LabelError: naming the line where something else stands than a TextGrid has there.
    """
    tokens = _Tokens(path, _decoded(path, data))
    if not tokens.text("a file type").startswith("ooTextFile") or tokens.text("an object class") != "TextGrid":
        raise tokens.error("this is no TextGrid as text: save it in Praat with 'Save as text file...'")
    tokens.number("the start of the grid")
    tokens.number("the end of the grid")
    if tokens.flag() != "<exists>":
        return []
    return [_tier(tokens) for _ in range(tokens.count("tiers"))]


def _tier(tokens: "_Tokens") -> Tier:
    kind, name = tokens.text("the class of a tier"), tokens.text("the name of a tier")
    if kind not in (INTERVALS, POINTS):
        raise tokens.error(f"a tier is an {INTERVALS} or a {POINTS}, not {kind!r}")
    tokens.number("the start of a tier")
    tokens.number("the end of a tier")
    labels = []
    for _ in range(tokens.count("intervals or points")):
        onset_s = tokens.number("a time")
        offset_s = tokens.number("a time") if kind == INTERVALS else onset_s
        text = tokens.text("a label")
        if text.strip():
            labels.append(ordered(tokens.path, f"line {tokens.line}", Label(onset_s, offset_s, text)))
    return Tier(name, labels)


class _Tokens:
    """What counts of a text, one after the other."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.line = path, 1
        self._found = self._scan(text)

    def _scan(self, text: str) -> Iterator[tuple[str, str]]:
        at = 0
        for match in _TOKEN.finditer(text):
            self.line += text.count("\n", at, match.start())
            at = match.start()
            quoted, flag, word = match.groups()
            if quoted is not None:
                yield "text", quoted.replace('""', '"')
            elif flag is not None:
                yield "flag", flag
            elif word is not None and _NUMBER.fullmatch(word):
                yield "number", word

    def _next(self, kind: str, what: str) -> str:
        found, value = next(self._found, ("end", ""))
        if found == "end":
            raise self.error(f"the file ends where {what} is expected")
        if found != kind:
            raise self.error(f"{value[:40]!r} stands where {what} is expected (numbers need a decimal point)")
        return value

    def text(self, what: str) -> str:
        return self._next("text", what)

    def flag(self) -> str:
        return self._next("flag", "<exists>")

    def number(self, what: str) -> float:
        value = float(self._next("number", what))
        if not math.isfinite(value):
            raise self.error(f"{what} is too large")
        return value

    def count(self, what: str) -> int:
        value = self.number(f"the number of {what}")
        if value < 0 or value != int(value):
            raise self.error(f"{value:g} is no number of {what}")
        return int(value)

    def error(self, reason: str) -> LabelError:
        return LabelError(str(self.path), 0.0, f"line {self.line}: {reason}")


def _decoded(path: Path, data: bytes) -> str:
    """Text in UTF-16 with a byte order mark, which Praat writes where a label is not ASCII, or UTF-8."""
    if not data.startswith((codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE)):
        return text_of(path, data)
    try:
        return data.decode("utf-16").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise LabelError(str(path), 0.0, "damaged: begins as UTF-16 text and does not go on so") from None
