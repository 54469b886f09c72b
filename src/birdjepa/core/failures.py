"""failures.csv: the inputs that a job left out and why, the same table from every job."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from birdjepa.core import files
from birdjepa.core.errors import InputError

NAME = "failures.csv"


class Failure(NamedTuple):
    """One input that was left out."""

    path: str
    stage: str
    """list (a row of a manifest), fetch, open, decode, label, embed, labels (a label file), recording (one to be
    labelled), or worker (it crashed, hung or exhausted the decoder)."""
    offset_s: float
    """Where in the recording, in seconds."""
    reason: str
    """Begins with a stable word up to a colon, where recordings are the matter."""


def left_out(rows: Iterable[InputError]) -> list[Failure]:
    """Failures of the rows that a manifest does not take."""
    return [Failure(row.path, "list", row.offset_s, row.reason) for row in rows]


def write(path: Path, failures: Iterable[Failure]) -> None:
    """Replaces path with the table."""
    rows = ({**each._asdict(), "offset_s": f"{each.offset_s:.6g}"} for each in failures)
    files.write_csv(path, Failure._fields, rows)


def read(path: Path) -> list[Failure]:
    """Rows of such a table; none where there is no file. Cells that are missing or no numbers read as empty or 0."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [_failure(row) for row in csv.DictReader(file)]


def _failure(row: dict[str, str | None]) -> Failure:
    try:
        offset_s = float(row.get("offset_s") or 0)
    except ValueError:
        offset_s = 0.0
    return Failure(row.get("path") or "", row.get("stage") or "", offset_s, row.get("reason") or "")
