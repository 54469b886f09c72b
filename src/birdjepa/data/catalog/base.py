"""Public data sets: what they are, how to get them, and how what was downloaded becomes a manifest.

A data set is one file of this folder that ends in a `DATASET`. Nothing is downloaded behind the user's back: `describe`
says how to get the files, `prepare` reads the folder they are in. It holds what is there against the set's own lists
and against the counts that its makers publish, and refuses a wrong or half-extracted download by naming what is
missing; with `partial` it takes what is there and lists the rest.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from birdjepa.core import files
from birdjepa.core.errors import UsageError

Row = Mapping[str, str]
"""A row of the manifest: `path` relative to the download's folder, and `label`, `split`, `fold`, `group`, ... as
`data.sources.ColumnConfig` names them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A part of a data set as the literature uses it."""

    name: str
    """As in the manifest's `split` column."""
    n_rows: int | None
    """Rows of the complete split; None where its makers publish no number."""
    n_classes: int | None = None
    """Classes of its rows; None likewise, or where there are no labels."""


class Reading(NamedTuple):
    """What a download's folder holds."""

    rows: Sequence[Row]
    missing: Sequence[str]
    """Files that the set's own lists name and that are not there, or not whole; paths relative to the folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A public data set."""

    name: str
    """What the command line calls it."""
    title: str
    homepage: str
    licence: str
    citation: str
    size: str
    """Recordings, hours and GB, as far as they are published."""
    how_to_get: str
    """Commands or steps, and what the folder must hold afterwards."""
    splits: tuple[Split, ...]
    read: Callable[[Path], Reading]
    """Reads the folder of a download; raises UsageError where it does not look like this data set at all."""
    notes: tuple[str, ...] = ()
    """What a user should know before comparing numbers: overlaps, files known to be bad, conventions."""

    def describe(self) -> str:
        """The data set in lines for people."""
        lines = [f"{self.name}: {self.title}", self.homepage, f"size: {self.size}", f"licence: {self.licence}"]
        lines += [f"cite: {self.citation}", "splits: " + "; ".join(map(_told, self.splits))]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, "how to get it:", *(f"  {line}" for line in self.how_to_get.strip().split("\n"))])


class Prepared(NamedTuple):
    """A manifest that was written."""

    manifest: Path
    rows: Sequence[Row]
    missing: Sequence[str]
    """Only with `partial`; also in failures.csv beside the manifest."""


def prepare(dataset: Dataset, folder: Path, manifest: Path, *, partial: bool = False) -> Prepared:
    """Writes the manifest of a download; its paths are relative to the manifest's own folder.

    Raises:
      UsageError: naming what is missing or too much, unless partial; or if the folder holds nothing of the set.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; `birdjepa data describe {dataset.name}` says how to get {dataset.name}")
    reading = dataset.read(folder)
    problems = [*_missing(reading.missing), *_miscounted(dataset, reading.rows)]
    if not reading.rows:
        raise UsageError(f"{folder}: nothing of {dataset.name} is there: {'; '.join(problems) or 'no recordings'}")
    if problems and not partial:
        raise UsageError(
            f"{folder}: not the whole of {dataset.name}: {'; '.join(problems)}; complete the download, or take what "
            "is there with --partial"
        )
    where = Path(os.path.relpath(folder.resolve(), manifest.resolve().parent))
    rows = [{**row, "path": str(where / row["path"])} for row in reading.rows]
    header = tuple(dict.fromkeys(name for row in rows for name in row))
    files.write_csv(manifest, header, ({name: row.get(name, "") for name in header} for row in rows))
    if reading.missing:
        refused = [{"path": path, "stage": "open", "offset_s": "0", "reason": "missing"} for path in reading.missing]
        files.write_csv(manifest.parent / "failures.csv", ("path", "stage", "offset_s", "reason"), refused)
    return Prepared(manifest, rows, tuple(reading.missing))


def present(folder: Path, rows: Sequence[Row]) -> Reading:
    """Divides the rows of a list into those whose recording is there and not empty, and missing ones."""
    there = {path: _holds_something(folder / path) for path in dict.fromkeys(row["path"] for row in rows)}
    kept = [row for row in rows if there[row["path"]]]
    return Reading(kept, [path for path, found in there.items() if not found])


def require_file(folder: Path, name: str, dataset: str) -> Path:
    """A list that every download of a set has.

    Raises:
      UsageError: if it is not there.
    """
    path = folder / name
    if not path.is_file():
        raise UsageError(f"{folder}: not a download of {dataset}, for it has no {name}; see `birdjepa data describe {dataset}`")
    return path


def _holds_something(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _missing(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    return [f"{len(paths)} of the listed files are missing or empty ({', '.join(paths[:3])}{', ...' * (len(paths) > 3)})"]


def _miscounted(dataset: Dataset, rows: Sequence[Row]) -> list[str]:
    """How the rows differ in number from what the makers publish."""
    counts = Counter(row.get("split", "") for row in rows)
    problems = []
    for split in dataset.splits:
        if split.n_rows is not None and counts[split.name] != split.n_rows:
            problems.append(f"split {split.name} has {counts[split.name]:,} rows instead of {split.n_rows:,}")
        if split.n_classes is not None:
            found = {name for row in rows if row.get("split") == split.name for name in _classes(row)}
            if len(found) != split.n_classes:
                problems.append(f"split {split.name} has {len(found):,} classes instead of {split.n_classes:,}")
    unknown = sorted(counts.keys() - {split.name for split in dataset.splits})
    return problems + [f"rows of an unknown split {name!r}" for name in unknown]


def _classes(row: Row) -> list[str]:
    return [name for name in f"{row.get('label', '')};{row.get('labels', '')}".split(";") if name]


def _told(split: Split) -> str:
    rows = "rows not published" if split.n_rows is None else f"{split.n_rows:,} rows"
    return f"{split.name} ({rows}{'' if split.n_classes is None else f', {split.n_classes:,} classes'})"
