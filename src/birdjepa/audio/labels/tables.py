"""Tables of labels: plain CSV or TSV with named columns, and the reading of rows that Raven's and BirdNET's share."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from birdjepa.audio.labels.label import Label, Recordings, by_recording, label_of, one_line, shortest, text_of, writable
from birdjepa.core import files
from birdjepa.core.errors import LabelError

CSV_COLUMNS = ("onset_s", "offset_s", "label")
"""What a plain table must have; score, low_hz, high_hz (or low_khz, high_khz) and path are read where they are."""

Row = tuple[int, dict[str, str]]
"""Line and cells of a table's row, by their columns' names in lower case."""

_TAB = "\t"


def write_table(path: Path | str, labels: Iterable[Label], *, recording: str = "") -> None:
    """Replaces path with a plain CSV table: onset_s, offset_s, label, score, low_hz, high_hz in the order given, and
    the recording's path in front where it is said.

    Tabs and line breaks in labels become spaces. Times keep nanoseconds, the other numbers six decimals.

    Raises:
      ValueError: if a label's times are not finite with 0 <= onset_s <= offset_s.
    """
    rows: list[Sequence[str]] = [(("path",) if recording else ()) + Label._fields]
    for label in writable(labels):
        times = (shortest(label.onset_s), shortest(label.offset_s))
        others = (shortest(number, 6) for number in label[3:])
        rows.append(((recording,) if recording else ()) + (*times, one_line(label.label), *others))
    files.write_text(path, csv_text(rows))


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows as CSV, word for word: a label "-" or "=" must come back as it was, so nothing is quoted against
    spreadsheets as core.files.write_csv does.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_table(path: Path, data: bytes, column: str = "") -> Recordings:
    """Labels by recording (`path`) of a plain table; another column may hold the label."""
    text = text_of(path, data)
    delimiter = _TAB if _TAB in first_line(text) else ","
    header, rows = csv_rows(path, text, delimiter, (*CSV_COLUMNS[:2], column or CSV_COLUMNS[2]))
    khz = [name for name in ("low", "high") if f"{name}_khz" in header and f"{name}_hz" not in header]
    found = []
    for line, cells in rows:
        fields = {**cells, "label": cells[(column or CSV_COLUMNS[2]).lower()]}
        fields |= {f"{name}_hz": cells[f"{name}_khz"] for name in khz}
        label = label_of(path, line, fields)
        label = label._replace(**{f"{name}_hz": 1000 * getattr(label, f"{name}_hz") for name in khz})
        found.append((line, cells.get("path", ""), label))
    return by_recording(path, found)


def first_line(text: str) -> str:
    """The first line that is not empty, in lower case."""
    return text.lstrip("\n").split("\n", 1)[0].lower()


def csv_rows(path: Path, text: str, delimiter: str, needed: Sequence[str]) -> tuple[list[str], list[Row]]:
    """Header and rows of a table with quoted cells.

    Raises:
      LabelError: as `rows_of`, or if quotation marks do not pair.
    """
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise LabelError(str(path), 0.0, f"cannot be read as a table: {error}") from None
    return rows_of(path, lines, needed, delimiter)


def rows_of(
    path: Path, lines: list[tuple[int, list[str]]], needed: Sequence[str], delimiter: str
) -> tuple[list[str], list[Row]]:
    """Names of columns in lower case, and rows by them.

    Raises:
      LabelError: if a needed column is missing, one is there twice, or a row has more cells than the header.
    """
    header = [name.strip().lower() for name in lines[0][1]] if lines else []
    if not {name.lower() for name in needed} <= set(header):
        shown = ", ".join(header)[:200] or "nothing"
        between = {_TAB: "tabs", ";": "semicolons"}.get(delimiter, "commas")
        raise LabelError(
            str(path), 0.0, f"a table needs {', '.join(needed)} as columns between {between}; it has {shown}"
        )
    for name in header:
        if name and header.count(name) > 1:
            raise LabelError(str(path), 0.0, f"the header has column {name!r} twice")
    rows: list[Row] = []
    for line, cells in lines[1:]:
        if len(cells) > len(header):
            reason = f"line {line} has {len(cells)} cells, the header {len(header)}"
            hint = " (numbers need a decimal point, no comma)" if delimiter == "," else ""
            raise LabelError(str(path), 0.0, reason + hint)
        rows.append((line, dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True))))
    return header, rows


def column_of(path: Path, header: Sequence[str], wanted: str, usual: Iterable[str]) -> str:
    """The column wanted, or the first of the usual ones that is there, or "".

    Raises:
      LabelError: if the column wanted is not there.
    """
    if wanted and wanted.lower() not in header:
        raise LabelError(str(path), 0.0, f"it has no column {wanted!r}; it has {', '.join(header)[:200]}")
    return wanted.lower() or next((name for name in usual if name in header), "")


def picked(cells: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """Texts by the fields of a label, from the columns that hold them."""
    return {field: cells.get(column, "") for field, column in columns.items()}
