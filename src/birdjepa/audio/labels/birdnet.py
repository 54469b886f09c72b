"""BirdNET's result tables, of all its generations; its selection tables and label tracks are Raven's and Audacity's.

BirdNET-Analyzer writes commas and since 2024 the recording in a last column, BirdNET-Lite wrote semicolons, and the
table for R had names of its own. The label is the common name; `column` takes another, such as "Scientific name".

Source: BirdNET-Analyzer, birdnet_analyzer/analyze/utils.py (CSV_HEADER, RTABLE_HEADER of version 1.5); BirdNET-Lite,
analyze.py (writeResultsToFile).
"""

import math
from collections.abc import Iterable
from pathlib import Path

from birdjepa.audio.labels.label import Label, Recordings, by_recording, label_of, one_line, shortest, text_of, writable
from birdjepa.audio.labels.tables import column_of, csv_rows, csv_text, first_line, picked
from birdjepa.core import files

BIRDNET_COLUMNS = ("Start (s)", "End (s)", "Scientific name", "Common name", "Confidence", "File")
R_COLUMNS = ("filepath", "start", "end", "scientific_name", "common_name", "confidence")


def write_birdnet(path: Path | str, labels: Iterable[Label], *, recording: str) -> None:
    """Replaces path with a result table of BirdNET-Analyzer. The label stands for both names, as for BirdNET's own
    classes that have one name; a score that is not known is left empty.

    Tabs and line breaks in labels become spaces. Times keep nanoseconds, scores four decimals.

    Raises:
      ValueError: if a label's times are not finite with 0 <= onset_s <= offset_s.
    """
    rows: list[tuple[str, ...]] = [BIRDNET_COLUMNS]
    for label in writable(labels):
        name = one_line(label.label)
        score = "" if math.isnan(label.score) else f"{label.score:.4f}"
        rows.append((shortest(label.onset_s), shortest(label.offset_s), name, name, score, recording))
    files.write_text(path, csv_text(rows))


def read_birdnet(path: Path, data: bytes, column: str = "") -> Recordings:
    """Labels by recording (File, or filepath) of a result table; another column may hold the label."""
    text = text_of(path, data)
    first = first_line(text)
    for_r = "scientific_name" in first
    needed = R_COLUMNS if for_r else BIRDNET_COLUMNS[:5]
    # BirdNET quotes nothing, but what a spreadsheet saved has quotation marks, and no name begins with one.
    header, rows = csv_rows(path, text, ";" if ";" in first else ",", needed)
    names = ("common_name",) if for_r else ("common name",)
    columns = {
        "onset_s": "start" if for_r else "start (s)",
        "offset_s": "end" if for_r else "end (s)",
        "label": column_of(path, header, column, names),
        "score": "confidence",
    }
    recording = "filepath" if for_r else "file"
    found = [
        (line, cells.get(recording, "").strip(), label_of(path, line, picked(cells, columns))) for line, cells in rows
    ]
    return by_recording(path, found)
