"""DATA: one string to a manifest, the table of recordings or labelled segments that everything else reads.

DATA is a folder (searched recursively), a CSV/TSV/Parquet/JSONL manifest with a `path` column relative to the
manifest, or `synth`, the embedded data set. Nothing is decoded here. Rows keep the order of the manifest; a folder's
are sorted by path. All four formats give the same manifest: cells become text, empty where there is nothing (null,
NaN), whole numbers without a point.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.audio.synth import SynthConfig, write_dataset
from birdjepa.core.errors import LabelError, UsageError

SYNTH = "synth"
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnConfig:
    """Names of a manifest's columns. A column that a manifest does not have reads as empty."""

    path: str = "path"
    label: str = "label"
    labels: str = "labels"
    """Several labels of one row, separated by ';'."""
    onset_s: str = "onset_s"
    offset_s: str = "offset_s"
    split: str = "split"
    fold: str = "fold"
    group: str = "group"
    """What must not be on both sides of a split: the recording, the bird, the site. Falls back to split_group, then to
    the path."""
    duration_s: str = "duration_s"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Recordings or segments of one source, a row each; all columns are as long as `paths`."""

    name: str
    """DATA as the user gave it."""
    root: Path
    """What `keys` are relative to."""
    keys: list[str]
    """Path of each row as the manifest spells it."""
    onset_s: Float[np.ndarray, " n"]
    """Start of the labelled stretch in seconds; 0 for a whole recording."""
    offset_s: Float[np.ndarray, " n"]
    """End of the labelled stretch; NaN for a whole recording."""
    duration_s: Float[np.ndarray, " n"]
    """Length of the recording as the manifest claims it; NaN where it does not."""
    columns: dict[str, list[str]]
    """Every other column as text, and `label`, `labels`, `split`, `fold`, `group` under these names."""

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, row: int) -> Path:
        return self.root / self.keys[row]

    def column(self, name: str) -> list[str]:
        """A column of text.

        Raises:
          UsageError: if the manifest has no such column, or nothing in it.
        """
        if not any(self.columns.get(name, [])):
            there = ", ".join(sorted(column for column, values in self.columns.items() if any(values)))
            raise UsageError(f"{self.name} has no column {name!r}; it has {there or 'only paths'}")
        return self.columns[name]

    def select(self, rows: Sequence[int] | np.ndarray) -> "Manifest":
        """The manifest of some rows, in the order given."""
        index = [int(row) for row in rows]
        return dataclasses.replace(
            self,
            keys=[self.keys[row] for row in index],
            onset_s=self.onset_s[index],
            offset_s=self.offset_s[index],
            duration_s=self.duration_s[index],
            columns={name: [values[row] for row in index] for name, values in self.columns.items()},
        )

    def recordings(self) -> "Manifest":
        """One row per recording: segments of the same path are merged into the whole recording."""
        first = list({key: row for row, key in reversed(list(enumerate(self.keys)))}.values())
        chosen = self.select(sorted(first))
        whole = np.full(len(chosen), np.nan)
        return dataclasses.replace(chosen, onset_s=np.zeros(len(chosen)), offset_s=whole)

    def fingerprint(self) -> str:
        """Hash of what the rows say and of each file's size: which data a result was made from. 16 hex digits."""
        digest = hashlib.sha256()
        for row, key in enumerate(self.keys):
            try:
                size = self.path(row).stat().st_size
            except OSError:
                size = -1
            times = (self.onset_s[row], self.offset_s[row], self.duration_s[row])
            labels = (self.columns["label"][row], self.columns["labels"][row])
            digest.update("\0".join(map(str, (key, *times, *labels, size))).encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()[:16]


def open_data(data: str, columns: ColumnConfig | None = None) -> Manifest:
    """The manifest of DATA.

    Raises:
      UsageError: if there is nothing there, or no audio in it.
      LabelError: naming the manifest and the row that cannot be read.
    """
    columns = columns or ColumnConfig()
    if data == SYNTH:
        return _read_table(synth_folder() / "metadata.csv", data, columns)
    path = Path(data).expanduser()
    if path.is_dir():
        return _from_folder(path, data)
    if not path.exists():
        raise UsageError(f"{data}: not found; DATA is a folder, a manifest ({', '.join(TABLE_SUFFIXES)}), or {SYNTH!r}")
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return _manifest(data, path.parent, [path.name], [{}], columns)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise UsageError(f"{data}: not a folder, a recording, or a manifest ({', '.join(TABLE_SUFFIXES)})")
    return _read_table(path, data, columns)


def split_weight(data: str) -> tuple[str, float]:
    """DATA and its weight in a mixture: "songs/@2" counts twice as much as "songs/".

    Raises:
      UsageError: if the weight is not positive.
    """
    name, _, weight = data.rpartition("@")
    try:
        value = float(weight)
    except ValueError:
        return data, 1.0
    if not name or not 0 < value < float("inf"):
        raise UsageError(f"{data}: the weight after @ must be a positive number")
    return name, value


def synth_folder() -> Path:
    """Where the embedded data set lies on this machine; synthesised on first use."""
    config = SynthConfig()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "birdjepa"
    described = json.dumps(dataclasses.asdict(config), sort_keys=True)
    folder = cache / f"synth-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    if not (folder / "metadata.csv").exists():
        write_dataset(folder, config)
    return folder


def _from_folder(folder: Path, name: str) -> Manifest:
    keys = sorted(str(path.relative_to(folder)) for path in _walk(folder))
    if not keys:
        raise UsageError(f"{name}: no audio files ({', '.join(sorted(AUDIO_SUFFIXES))}) in this folder")
    return _manifest(name, folder, keys, [{} for _ in keys], ColumnConfig())


def _walk(folder: Path) -> Iterator[Path]:
    """Audio files below a folder by their suffix; hidden files and folders are left out."""
    for where, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(where) / name


def _read_table(path: Path, name: str, columns: ColumnConfig) -> Manifest:
    rows = [{key: _text(value) for key, value in row.items()} for row in _table_rows(path)]
    if not rows:
        raise UsageError(f"{name}: the manifest has no rows")
    if columns.path not in rows[0]:
        raise UsageError(f"{name}: the manifest has no column {columns.path!r}; it has {', '.join(rows[0])}")
    keys = [row.get(columns.path, "") for row in rows]
    for number, key in enumerate(keys):
        if not key or "\0" in key:
            raise LabelError(str(path), 0.0, f"row {number + 1} has no path")
    return _manifest(name, path.parent, keys, rows, columns)


def _table_rows(path: Path) -> Iterable[Mapping[str, Any]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as parquet

            return parquet.ParquetFile(path).read().to_pylist()
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".jsonl":
            return [_json_row(line, number) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        return _parse_csv(text, "\t" if suffix == ".tsv" else ",", path)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise LabelError(str(path), 0.0, f"cannot be read as {suffix[1:]}: {error}") from None


def _json_row(line: str, number: int) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"line {number} holds a {type(row).__name__}, not an object")
    return row


def _parse_csv(text: str, delimiter: str, path: Path) -> list[dict[str, str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = next(reader, [])
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise LabelError(str(path), 0.0, f"the header has column {twice!r} twice")
    rows = []
    for cells in reader:
        if len(cells) > len(header):
            raise LabelError(str(path), 0.0, f"line {reader.line_num} has {len(cells)} cells, the header {len(header)}")
        if cells:
            rows.append(dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True)))
    return rows


def _manifest(
    name: str, root: Path, keys: list[str], rows: Sequence[Mapping[str, str]], columns: ColumnConfig
) -> Manifest:
    def numbers(column: str, absent: float) -> np.ndarray:
        return np.array([_number(row.get(column, ""), absent, name, i, column) for i, row in enumerate(rows)])

    named = {
        "label": [row.get(columns.label, "") for row in rows],
        "labels": [row.get(columns.labels, "") or row.get(columns.label, "") for row in rows],
        "split": [row.get(columns.split, "") for row in rows],
        "fold": [row.get(columns.fold, "") for row in rows],
        "group": [
            row.get(columns.group, "") or row.get("split_group", "") or key for row, key in zip(rows, keys, strict=True)
        ],
    }
    unnamed = dict.fromkeys(column for row in rows for column in row if column not in named)
    others = {column: [row.get(column, "") for row in rows] for column in unnamed}
    onset_s, offset_s = numbers(columns.onset_s, 0.0), numbers(columns.offset_s, np.nan)
    for i in np.flatnonzero(~(np.isnan(offset_s) | (offset_s > onset_s)) | (onset_s < 0)):
        times = f"onset_s={onset_s[i]:g}, offset_s={offset_s[i]:g}"
        raise LabelError(name, 0.0, f"row {i + 1}: {times}; need 0 <= onset < offset")
    return Manifest(
        name=name,
        root=root,
        keys=keys,
        onset_s=onset_s,
        offset_s=offset_s,
        duration_s=numbers(columns.duration_s, np.nan),
        columns={**others, **named},
    )


def _number(text: str, absent: float, name: str, row: int, column: str) -> float:
    if not text or text.lower() == "nan":
        return absent
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value) or value < 0:
        raise LabelError(name, 0.0, f"row {row + 1}: {column}={text!r} is no time in seconds (with a decimal point)")
    return value


def _text(value: Any) -> str:
    """A cell as text: lists ';'-joined, nulls and NaN empty, whole numbers without a point, as CSV files spell them."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ";".join(map(_text, value))
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    return str(value)
