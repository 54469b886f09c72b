"""Tables of text: CSV, TSV, JSONL and Parquet files to rows, the same from every format.

Cells become text: empty where there is nothing (null, NaN), whole numbers without a point, lists joined by ';', fields
inside others by dotted names.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from birdjepa.core.errors import LabelError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


class Rows:
    """Rows on their way into a manifest, and those that make no sense."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.good: list[Mapping[str, str]] = []
        self.where: list[str] = []
        self.bad: list[LabelError] = []

    def add(self, row: Mapping[str, str], where: str) -> None:
        """A row; where ("line 7") is for messages."""
        self.good.append(row)
        self.where.append(where)

    def refuse(self, where: str, reason: str) -> None:
        """Leaves a row out."""
        self.bad.append(LabelError(f"{self.name}, {where}", 0.0, reason))


def read_table(path: Path, name: str) -> Rows:
    """Rows of a table.

    Raises:
      LabelError: if the file as a whole cannot be read.
    """
    rows = Rows(name)
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as parquet

            for number, row in enumerate(parquet.ParquetFile(path).read().to_pylist(), start=1):
                rows.add(flatten(row), f"row {number}")
        elif suffix == ".jsonl":
            _read_jsonl(path, rows)
        else:
            text = path.read_text(encoding="utf-8-sig")
            _read_csv(text, "\t" if suffix == ".tsv" else ",", path, rows)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise LabelError(str(path), 0.0, f"cannot be read as {suffix[1:]}: {error}") from None
    return rows


def flatten(row: Mapping[str, Any]) -> dict[str, str]:
    """Cells as text by dotted names; bytes are left out."""
    return dict(_flattened(row, ""))


def text_of(value: Any) -> str:
    """A cell as text."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ";".join(map(text_of, value))
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    return str(value)


def _flattened(row: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{before}{name}.")
        elif not isinstance(value, bytes | bytearray):
            yield f"{before}{name}", text_of(value)


def _read_jsonl(path: Path, rows: Rows) -> None:
    """Lines that are no objects are refused one by one: one half-written line must not cost the others."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                if not isinstance(row, dict):
                    rows.refuse(f"line {number}", f"a {type(row).__name__}, not an object")
                    continue
                rows.add(flatten(row), f"line {number}")
            except (ValueError, RecursionError) as error:
                rows.refuse(f"line {number}", f"no JSON object: {error}")


def _read_csv(text: str, delimiter: str, path: Path, rows: Rows) -> None:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = next(reader, [])
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise LabelError(str(path), 0.0, f"the header has column {twice!r} twice")
    number = 0
    for cells in reader:
        if not cells:
            continue
        number += 1
        if len(cells) > len(header):
            rows.refuse(f"line {reader.line_num}", f"{len(cells)} cells, the header has {len(header)}")
        else:
            rows.add(dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True)), f"row {number}")
