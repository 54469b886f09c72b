"""What all label files say, whoever wrote them: a stretch of a recording and its name. And the checks that they share.

Times count from the start of the recording in seconds, frequencies are in Hz. What a file does not say reads as NaN or
as an empty label.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from birdjepa.core.errors import LabelError

_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Label(NamedTuple):
    """A labelled stretch [onset_s, offset_s) of a recording, or a point where both are equal."""

    onset_s: float
    offset_s: float
    label: str
    score: float = math.nan
    """Whoever labelled it was so sure; NaN where no score is known."""
    low_hz: float = math.nan
    """Lower edge of the label's box; NaN where it is not known."""
    high_hz: float = math.nan


Recordings = dict[str, list[Label]]
"""Labels by recording, named as the file spells it; "" where the file does not say."""


def text_of(path: Path, data: bytes) -> str:
    """A file's text with "\\n" between lines, without a byte order mark.

    Raises:
      LabelError: if it is not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError(str(path), 0.0, "not UTF-8 text: save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def label_of(path: Path, line: int, cells: Mapping[str, str]) -> Label:
    """A label from texts by the names of its fields; the line is for the message.

    Raises:
      LabelError: naming the line, if a time is missing or a number is none, or times are not 0 <= onset <= offset.
    """
    numbers = {field: cells.get(field, "") for field in Label._fields if field != "label"}
    for field in ("onset_s", "offset_s"):
        if not numbers[field].strip():
            raise LabelError(str(path), 0.0, f"line {line} has no {field}")
    values = {
        field: number_of(path, line, field, text) if text.strip() else math.nan for field, text in numbers.items()
    }
    label = Label(label=cells.get("label", ""), **values)
    return ordered(path, f"line {line}", label)


def ordered(path: Path, where: str, label: Label) -> Label:
    """The label itself.

    Raises:
      LabelError: naming the place, if its times are not finite with 0 <= onset <= offset.
    """
    if not 0 <= label.onset_s <= label.offset_s < math.inf:
        times = f"onset {label.onset_s:g} s, offset {label.offset_s:g} s"
        at_s = label.onset_s if 0 < label.onset_s < math.inf else 0.0
        raise LabelError(str(path), at_s, f"{where}: {times}; need 0 <= onset <= offset")
    return label


def number_of(path: Path, line: int, name: str, text: str) -> float:
    """A number with a decimal point; "nan" only where it may be unknown.

    Raises:
      LabelError: naming the line, if it is anything else.
    """
    text = text.strip()
    if name in ("score", "low_hz", "high_hz") and text.lower() == "nan":
        return math.nan
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        wanted = "has a decimal comma: write a decimal point" if "," in text else "is no number"
        raise LabelError(str(path), 0.0, f"line {line}: {name} {text!r} {wanted}")
    return value


def by_recording(path: Path, named: Iterable[tuple[int, str, Label]]) -> Recordings:
    """Labels grouped by their recordings' names, from (line, name, label).

    Raises:
      LabelError: if some are named and others not.
    """
    found: Recordings = {}
    lines: dict[str, int] = {}
    for line, name, label in named:
        lines.setdefault(name, line)
        found.setdefault(name, []).append(label)
    if "" in found and len(found) > 1:
        raise LabelError(str(path), 0.0, f"line {lines['']} does not say its recording, others do")
    return found


def writable(labels: Iterable[Label]) -> list[Label]:
    """The labels as a list.

    Raises:
      ValueError: if times are not finite with 0 <= onset_s <= offset_s.
    """
    found = list(labels)
    for label in found:
        if not 0 <= label.onset_s <= label.offset_s < math.inf:
            raise ValueError(f"need finite 0 <= onset_s <= offset_s, got {label.onset_s} and {label.offset_s}")
    return found


def one_line(text: str) -> str:
    """The text with spaces for tabs and line breaks."""
    return _BREAKS.sub(" ", text)


def shortest(number: float, digits: int = 9) -> str:
    """A number without trailing zeros, to so many decimals; empty for NaN."""
    if math.isnan(number):
        return ""
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
