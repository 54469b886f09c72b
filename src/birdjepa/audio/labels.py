"""Label files that people's tools exchange: Raven selection tables, Audacity label tracks, CSV tables.

One file holds the labels of one recording; times count from its start in seconds, frequencies are in Hz. What such a
file cannot say is left out of it, and reads as NaN or an empty label. Nothing is guessed: a number with a decimal comma
or a table over several recordings is refused.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from birdjepa.core import files
from birdjepa.core.errors import LabelError

RAVEN_COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Begin File",
    "Annotation",
    "Score",
)
CSV_COLUMNS = ("onset_s", "offset_s", "label")
"""What a CSV table must have; score, low_hz and high_hz are read where they are."""

_TAB = "\t"
_RAVEN_LABELS = ("annotation", "species", "label", "common name", "species code")
_RAVEN_SCORES = ("score", "confidence")
_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SCORED = re.compile(r"(.*) (-?\d+\.\d{4})", re.DOTALL)
"""A score within Audacity's text is told from a label that ends in a number by its four decimals."""


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


def write_raven(path: Path | str, labels: Iterable[Label], *, begin_file: str, nyquist_hz: float) -> None:
    """Replaces path with a Raven selection table, tab-separated, one row a label in the order given.

    Raven draws boxes only: one without frequencies spans 0 to nyquist_hz, and reads back as that. begin_file is the
    recording's file name, without which Raven cannot find the sound. Tabs and line breaks in labels become spaces.
    Times keep nanoseconds, scores six decimals.

    Raises:
      ValueError: if a label's times are not finite with 0 <= onset_s <= offset_s, or nyquist_hz is not positive.
    """
    if not 0 < nyquist_hz < math.inf:
        raise ValueError(f"nyquist_hz must be positive, got {nyquist_hz}")
    rows: list[tuple[str, ...]] = [RAVEN_COLUMNS]
    for number, label in enumerate(labels, start=1):
        _check(label)
        low_hz = 0.0 if math.isnan(label.low_hz) else label.low_hz
        high_hz = nyquist_hz if math.isnan(label.high_hz) else label.high_hz
        score = "" if math.isnan(label.score) else f"{label.score:.6f}"
        where = (f"{label.onset_s:.9f}", f"{label.offset_s:.9f}", f"{low_hz:.3f}", f"{high_hz:.3f}")
        rows.append((str(number), "Spectrogram 1", "1", *where, _one_line(begin_file), _one_line(label.label), score))
    files.write_text(path, "".join("\t".join(row) + "\n" for row in rows))


def write_audacity(path: Path | str, labels: Iterable[Label]) -> None:
    """Replaces path with an Audacity label track: start, end and text between tabs, in the order given.

    A known score is the text's last word, with four decimals. Labels with a known frequency have Audacity's second line
    for it, where -1 stands for an edge that is not known. Tabs and line breaks in labels become spaces.

    Raises:
      ValueError: if a label's times are not finite with 0 <= onset_s <= offset_s.
    """
    lines = []
    for label in labels:
        _check(label)
        score = "" if math.isnan(label.score) else f" {label.score:.4f}"
        lines.append(f"{label.onset_s:.9f}\t{label.offset_s:.9f}\t{_one_line(label.label)}{score}\n")
        edges = ["-1" if math.isnan(hz) else f"{hz:.3f}" for hz in (label.low_hz, label.high_hz)]
        if edges != ["-1", "-1"]:
            lines.append("\\\t" + "\t".join(edges) + "\n")
    files.write_text(path, "".join(lines))


def read_labels(path: Path | str) -> list[Label]:
    """Labels of one recording, in the file's order. The content tells the format: a header with "Begin Time (s)" is
    Raven's, one with onset_s is a table (.csv, or .tsv between tabs), and a .txt without either is Audacity's.

    A UTF-8 byte order mark is passed over, and names of columns are read in any case. Of Raven's two rows for a
    selection (waveform and spectrogram) only that of the spectrogram counts. Audacity's text is taken as label and
    score where it ends in a number with four decimals, as write_audacity and BirdNET put it.

    Raises:
      LabelError: naming the line, if the file is none of these, a number is none (or has a decimal comma), times are
        not 0 <= onset <= offset, or the table holds labels of several recordings.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".tsv", ".csv"):
        raise LabelError(str(path), 0.0, "labels are read from .txt (Raven, Audacity), .tsv and .csv files")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError(str(path), 0.0, "not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise LabelError(str(path), 0.0, f"cannot be read: {error.strerror}") from None
    first = text.lstrip("\n").split("\n", 1)[0].lower()
    header = {cell.strip() for cell in re.split("[\t,;]", first)}
    if "begin time (s)" in header:
        return _read_raven(path, text)
    if suffix == ".txt" and "onset_s" not in header:
        return _read_audacity(path, text)
    return _read_csv(path, text, _TAB if _TAB in first else ",")


Row = tuple[int, dict[str, str]]
"""Line and cells of a table's row, by their columns' names in lower case."""


def _read_raven(path: Path, text: str) -> list[Label]:
    lines = enumerate(text.split("\n"), start=1)
    # Raven quotes nothing, so a quotation mark in a label is just that and the csv module would misread it.
    cells_of_lines = [(number, line.split(_TAB)) for number, line in lines if line.strip()]
    header, rows = _table(path, cells_of_lines, RAVEN_COLUMNS[3:5], _TAB)
    _check_one_recording(path, rows, ("begin file", "begin path"))
    columns = {"onset_s": "begin time (s)", "offset_s": "end time (s)"}
    columns |= {"low_hz": "low freq (hz)", "high_hz": "high freq (hz)"}
    columns |= {"label": next((name for name in _RAVEN_LABELS if name in header), "")}
    columns |= {"score": next((name for name in _RAVEN_SCORES if name in header), "")}
    drawn = {cells.get("selection") for _, cells in rows if not _is_waveform(cells)}
    return [
        _label(path, line, {field: cells.get(column, "") for field, column in columns.items()})
        for line, cells in rows
        if not _is_waveform(cells) or cells.get("selection") not in drawn
    ]


def _read_csv(path: Path, text: str, delimiter: str) -> list[Label]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise LabelError(str(path), 0.0, f"cannot be read as a table: {error}") from None
    _, rows = _table(path, lines, CSV_COLUMNS, delimiter)
    _check_one_recording(path, rows, ("path",))
    return [_label(path, line, cells) for line, cells in rows]


def _table(
    path: Path, lines: Sequence[tuple[int, list[str]]], needed: Sequence[str], delimiter: str
) -> tuple[list[str], list[Row]]:
    """Names of a table's columns in lower case, and its rows; cells that a row lacks are empty."""
    header = [name.strip().lower() for name in lines[0][1]] if lines else []
    for name in header:
        if name and header.count(name) > 1:
            raise LabelError(str(path), 0.0, f"the header has column {name!r} twice")
    if any(name.lower() not in header for name in needed):
        between = "tabs" if delimiter == _TAB else "commas"
        there = ", ".join(header) or "nothing"
        needs = f"{', '.join(needed)} as columns, between {between}"
        raise LabelError(str(path), 0.0, f"a table of labels needs {needs}; it has {there}")
    rows: list[Row] = []
    for line, cells in lines[1:]:
        if len(cells) > len(header):
            reason = f"line {line} has {len(cells)} cells, the header {len(header)}"
            hint = " (numbers need a decimal point, no comma)" if delimiter == "," else ""
            raise LabelError(str(path), 0.0, reason + hint)
        rows.append((line, dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True))))
    return header, rows


def _is_waveform(cells: dict[str, str]) -> bool:
    """Raven has a second row for a selection, that of the view in which it has no frequencies."""
    return cells.get("view", "").lower().startswith("waveform")


def _check_one_recording(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    for column in columns:
        names = {cells[column] for _, cells in rows if cells.get(column)}
        if len(names) > 1:
            raise LabelError(str(path), 0.0, f"labels of {len(names)} recordings in one table: write one for each")


def _read_audacity(path: Path, text: str) -> list[Label]:
    labels: list[Label] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.split("\t")
        if cells[0] == "\\":
            if len(cells) != 3 or not labels:
                raise LabelError(str(path), 0.0, f"line {number} is no line of frequencies that follows a label")
            low_hz, high_hz = (_number(path, number, "frequency", cell) for cell in cells[1:])
            labels[-1] = labels[-1]._replace(low_hz=_edge(low_hz), high_hz=_edge(high_hz))
            continue
        if not 2 <= len(cells) <= 4:
            raise LabelError(str(path), 0.0, f"line {number} is not start, end and label between tabs")
        onset, offset, label, score = cells + [""] * (4 - len(cells))
        scored = _SCORED.fullmatch(label)
        if scored and not score:
            label, score = scored.groups()
        labels.append(_label(path, number, {"onset_s": onset, "offset_s": offset, "label": label, "score": score}))
    return labels


def _edge(hz: float) -> float:
    """Audacity writes -1 for a frequency that is not known."""
    return math.nan if hz < 0 else hz


def _label(path: Path, line: int, cells: dict[str, str]) -> Label:
    numbers = {field: cells.get(field, "") for field in Label._fields if field != "label"}
    for field in ("onset_s", "offset_s"):
        if not numbers[field].strip():
            raise LabelError(str(path), 0.0, f"line {line} has no {field}")
    values = {field: _number(path, line, field, text) if text.strip() else math.nan for field, text in numbers.items()}
    label = Label(label=cells.get("label", ""), **values)
    if not 0 <= label.onset_s <= label.offset_s:
        times = f"onset {label.onset_s:g} s, offset {label.offset_s:g} s"
        raise LabelError(str(path), max(0.0, label.onset_s), f"line {line}: {times}; need 0 <= onset <= offset")
    return label


def _number(path: Path, line: int, name: str, text: str) -> float:
    text = text.strip()
    if name in ("score", "low_hz", "high_hz") and text.lower() == "nan":
        return math.nan
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        wanted = "has a decimal comma: write a decimal point" if "," in text else "is no number"
        raise LabelError(str(path), 0.0, f"line {line}: {name} {text!r} {wanted}")
    return value


def _check(label: Label) -> None:
    if not 0 <= label.onset_s <= label.offset_s < math.inf:
        raise ValueError(f"need finite 0 <= onset_s <= offset_s, got {label.onset_s} and {label.offset_s}")


def _one_line(text: str) -> str:
    return _BREAKS.sub(" ", text)
