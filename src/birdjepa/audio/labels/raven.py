"""Raven selection tables: boxes in time and frequency between tabs, as Raven, BirdNET and many scripts write them."""

import math
from collections.abc import Iterable
from pathlib import Path

from birdjepa.audio.labels.label import (
    Label,
    Recordings,
    by_recording,
    label_of,
    number_of,
    one_line,
    text_of,
    writable,
)
from birdjepa.audio.labels.tables import column_of, picked, rows_of
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
TOLERANCE_S = 0.01
"""By how much Begin Time less File Offset may vary within one recording: both are rounded."""

_LABELS = ("annotation", "species", "label", "common name", "species code")
_SCORES = ("score", "confidence")
_NOTHING = ("nocall", "nocall")
"""Common name and species code of the row that BirdNET-Analyzer writes where it found nothing."""


def write_raven(path: Path | str, labels: Iterable[Label], *, begin_file: str, nyquist_hz: float) -> None:
    """Replaces path with a Raven selection table, tab-separated, one row a label in the order given.

    Raven draws boxes only: one without frequencies spans 0 to nyquist_hz, and reads back as that. begin_file is the
    recording's file name, by which Raven finds the sound. Tabs and line breaks in labels become spaces. Times keep
    nanoseconds, scores six decimals.

    Raises:
      ValueError: if a label's times are not finite with 0 <= onset_s <= offset_s, or nyquist_hz is not positive.
    """
    if not 0 < nyquist_hz < math.inf:
        raise ValueError(f"nyquist_hz must be positive, got {nyquist_hz}")
    rows: list[tuple[str, ...]] = [RAVEN_COLUMNS]
    for number, label in enumerate(writable(labels), start=1):
        low_hz = 0.0 if math.isnan(label.low_hz) else label.low_hz
        high_hz = nyquist_hz if math.isnan(label.high_hz) else label.high_hz
        score = "" if math.isnan(label.score) else f"{label.score:.6f}"
        where = (f"{label.onset_s:.9f}", f"{label.offset_s:.9f}", f"{low_hz:.3f}", f"{high_hz:.3f}")
        rows.append((str(number), "Spectrogram 1", "1", *where, one_line(begin_file), one_line(label.label), score))
    files.write_text(path, "".join("\t".join(row) + "\n" for row in rows))


def read_raven(path: Path, data: bytes, column: str = "") -> Recordings:
    """Labels by recording (Begin Path, or Begin File) of a selection table; another column may hold the label.

    Begin Time counts from the start of all files that were open in Raven together, File Offset from that of the
    recording: where a table has it, that counts. Of Raven's two rows for a selection (waveform and spectrogram) only
    that of the spectrogram counts. BirdNET-Analyzer's row "nocall" says that nothing was found, and is none.
    """
    lines = enumerate(text_of(path, data).split("\n"), start=1)
    # Raven quotes nothing, so a quotation mark in a label is just that and the csv module would misread it.
    cells_of_lines = [(number, line.split("\t")) for number, line in lines if line.strip()]
    header, rows = rows_of(path, cells_of_lines, RAVEN_COLUMNS[3:5], "\t")
    columns = {
        "onset_s": "begin time (s)",
        "offset_s": "end time (s)",
        "low_hz": "low freq (hz)",
        "high_hz": "high freq (hz)",
        "label": column_of(path, header, column, _LABELS),
        "score": column_of(path, header, "", _SCORES),
    }
    drawn = {cells.get("selection") for _, cells in rows if not _is_waveform(cells)}
    shifts: dict[str, float] = {}
    found = []
    for line, cells in rows:
        if _is_waveform(cells) and cells.get("selection") in drawn:
            continue
        if (cells.get("common name"), cells.get("species code")) == _NOTHING:
            continue
        name = cells.get("begin path", "").strip() or cells.get("begin file", "").strip()
        ends_in = cells.get("end file", "").strip()
        if ends_in and cells.get("begin file", "").strip() not in ("", ends_in):
            raise LabelError(str(path), 0.0, f"line {line}: begins in {name} and ends in {ends_in}: split it in Raven")
        label = label_of(path, line, picked(cells, columns))
        if cells.get("file offset (s)", "").strip():
            label = _within_file(path, line, name, label, cells["file offset (s)"], shifts)
        found.append((line, name, label))
    recordings = by_recording(path, found)
    if len(recordings) > 1 and len(shifts) < len(recordings):
        reason = (
            f"labels of {len(recordings)} recordings without File Offset (s), and Begin Time (s) counts from the start "
            "of the first: add that measurement in Raven, or write a table for each"
        )
        raise LabelError(str(path), 0.0, reason)
    return recordings


def _is_waveform(cells: dict[str, str]) -> bool:
    """Raven has a second row for a selection, that of the view in which it has no frequencies."""
    return cells.get("view", "").lower().startswith("waveform")


def _within_file(path: Path, line: int, name: str, label: Label, offset: str, shifts: dict[str, float]) -> Label:
    """The label moved to where the file offset says that it begins.

    In a table that means it so, all labels of one recording are moved alike; scripts that write a constant are found
    by that.
    """
    onset_s = number_of(path, line, "File Offset (s)", offset)
    shift = label.onset_s - onset_s
    if onset_s < 0 or abs(shifts.setdefault(name, shift) - shift) > TOLERANCE_S:
        reason = (
            f"line {line}: File Offset (s) {onset_s:g} does not follow Begin Time (s) {label.onset_s:g} as on earlier "
            "lines: mend that column, or remove it if Begin Time counts from the recording's start"
        )
        raise LabelError(str(path), 0.0, reason)
    if shift == 0:
        return label
    return label._replace(onset_s=onset_s, offset_s=onset_s + (label.offset_s - label.onset_s))
