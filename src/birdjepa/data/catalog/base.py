"""Public data sets: what they are, how to get them, and how what was downloaded becomes a manifest.

A data set is one file of this folder that ends in a `DATASET`. Nothing is downloaded behind the user's back: `describe`
says how to get the files, `prepare` reads the folder they are in. It holds what is there against the set's own lists
and against the counts that its makers publish, and refuses a wrong or half-extracted download by naming what is
missing; with `partial` it takes what is there and lists the rest, with `splits` it looks at some parts only.
"""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from birdjepa.core import failures, files
from birdjepa.core.errors import LabelError, UsageError
from birdjepa.core.failures import Failure

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
    missing_splits: Mapping[str, str] = MappingProxyType({})
    """The split of a missing file, where one is known; `present` fills it in."""


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
    archives: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """MD5 of the files that are downloaded, by their names, as the makers publish them."""
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
        lines += ["how to get it:", *(f"  {line}" for line in self.how_to_get.strip().split("\n"))]
        if self.archives:
            lines += ["md5sum of what is downloaded (a file of these lines goes to md5sum -c):"]
            lines += [f"  {md5}  {name}" for name, md5 in self.archives.items()]
        return "\n".join(lines)

    def only(self, splits: Sequence[str]) -> "Dataset":
        """The data set of some splits; all of them where none is named.

        Raises:
          UsageError: if there is no split of a name.
        """
        names = [split.name for split in self.splits]
        for name in splits:
            if name not in names:
                raise UsageError(f"{self.name} has no split {name!r}; it has {', '.join(names)}")
        return dataclasses.replace(
            self, splits=tuple(each for each in self.splits if not splits or each.name in splits)
        )


class Prepared(NamedTuple):
    """A manifest that was written."""

    manifest: Path
    rows: Sequence[Row]
    missing: Sequence[str]
    """Only with `partial`; also in failures.csv beside the manifest."""
    problems: Sequence[str] = ()
    """Only with `partial`: in what the rows are not the whole set."""


def prepare(
    dataset: Dataset, folder: Path, manifest: Path, *, partial: bool = False, splits: Sequence[str] = ()
) -> Prepared:
    """Writes the manifest of a download; its paths are relative to the manifest's own folder. With splits only their
    rows are taken, and nothing else needs to be there.

    Raises:
      UsageError: naming what is missing or too much, unless partial; if the folder holds nothing of the set; or if
        the manifest's name is that of a file which is no manifest.
    """
    whole, dataset = dataset, dataset.only(splits)
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: no such folder; `birdjepa data describe {dataset.name}` says how to get {dataset.name}"
        )
    _may_replace(manifest)
    reading = _of_splits(dataset.read(folder), dataset, whole)
    problems = [*_missing(reading.missing), *miscounted(dataset, reading.rows)]
    if not reading.rows:
        raise NotADownload(f"{folder}: nothing of {dataset.name} is there: {'; '.join(problems) or 'no recordings'}")
    if problems and not partial:
        raise UsageError(
            f"{folder}: not the whole of {dataset.name}: {'; '.join(problems)}; complete the download, or take "
            f"{_some_splits(dataset, reading.rows)}what is there with --partial"
        )
    where = os.path.relpath(folder.resolve(), manifest.resolve().parent)
    rows = [{**row, "path": _plain(os.path.normpath(os.path.join(where, row["path"])))} for row in reading.rows]
    header = tuple(dict.fromkeys(name for row in rows for name in row))
    files.write_csv(manifest, header, ({name: row.get(name, "") for name in header} for row in rows))
    if reading.missing:
        lacking = [Failure(path, "open", 0.0, _reason(folder / path)) for path in reading.missing]
        failures.write(manifest.parent / failures.NAME, lacking)
    return Prepared(manifest, rows, tuple(reading.missing), tuple(problems))


def classes_of(row: Row) -> list[str]:
    """Classes of a row, from its label and its labels."""
    return [name for name in f"{row.get('label', '')};{row.get('labels', '')}".split(";") if name]


def present(folder: Path, rows: Sequence[Row]) -> Reading:
    """Divides the rows of a list into those whose recording is there and not empty, and missing ones."""
    there = {path: _holds_something(os.path.join(folder, path)) for path in dict.fromkeys(row["path"] for row in rows)}
    kept = [row for row in rows if there[row["path"]]]
    missing = {row["path"]: row.get("split", "") for row in rows if not there[row["path"]]}
    return Reading(kept, list(missing), missing)


def require_file(folder: Path, name: str, dataset: str) -> Path:
    """A list that every download of a set has.

    Raises:
      UsageError: if it is not there.
    """
    path = folder / name
    if not path.is_file():
        raise not_a_download(folder, name, dataset)
    return path


class NotADownload(UsageError):
    """A folder holds nothing of a data set."""


def not_a_download(folder: Path, name: str, dataset: str) -> NotADownload:
    """Says that a folder has not what every download has, and where that is if it is one folder further down."""
    below = next(iter(sorted(folder.glob(f"*/{name}"))), None)
    deeper = folder / below.relative_to(folder).parts[0] if below else None
    advice = f"did you mean {deeper}?" if deeper else f"see `birdjepa data describe {dataset}`"
    return NotADownload(f"{folder}: not a download of {dataset}, for it has no {name}; {advice}")


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV list with a header.

    Raises:
      LabelError: naming the line, if one of the columns is not there or empty: another file, or one cut short.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = []
            for row in reader:
                if absent := [name for name in columns if not row.get(name)]:
                    what = f"line {reader.line_num} has no {' and no '.join(absent)}"
                    raise LabelError(str(path), 0.0, f"{what}: not the published list, or cut short")
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise LabelError(str(path), 0.0, f"cannot be read as csv: {error}") from None
    return rows


def _holds_something(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def _reason(path: Path) -> str:
    return "empty" if path.exists() else "missing"


def _plain(path: str) -> str:
    """A path that no spreadsheet takes for a formula: names that start with "-" are common among YouTube's."""
    return f"./{path}" if path[:1] in "=+-@" else path


def _may_replace(manifest: Path) -> None:
    """Refuses to write over what is no manifest, such as one of the download's own lists."""
    if not manifest.exists():
        return
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        header = []
    if "path" not in header:
        raise UsageError(f"{manifest} exists and is no manifest, so it is left alone; name another file")


def _of_splits(reading: Reading, dataset: Dataset, whole: Dataset) -> Reading:
    """What belongs to the splits that are asked for."""
    if dataset.splits == whole.splits:
        return reading
    names = {split.name for split in dataset.splits}
    missing = [path for path in reading.missing if reading.missing_splits.get(path, "") in {*names, ""}]
    rows = [row for row in reading.rows if row.get("split") in names]
    return Reading(rows, missing, reading.missing_splits)


def _some_splits(dataset: Dataset, rows: Sequence[Row]) -> str:
    """Advice for a download of some splits only."""
    found = {row.get("split") for row in rows}
    names = [split.name for split in dataset.splits if split.name in found]
    whole = not names or len(names) == len(dataset.splits)
    return "" if whole else f"only the splits that you have with --splits {' '.join(names)}, or "


def _missing(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    return [
        f"{len(paths)} of the listed files are missing or empty ({', '.join(paths[:3])}{', ...' * (len(paths) > 3)})"
    ]


def miscounted(dataset: Dataset, rows: Sequence[Row]) -> list[str]:
    """How the rows differ in number from what the makers publish."""
    counts = Counter(row.get("split", "") for row in rows)
    problems = []
    for split in dataset.splits:
        if split.n_rows is not None and counts[split.name] != split.n_rows:
            problems.append(f"split {split.name} has {counts[split.name]:,} rows instead of {split.n_rows:,}")
        if split.n_classes is not None:
            found = {name for row in rows if row.get("split") == split.name for name in classes_of(row)}
            if len(found) != split.n_classes:
                problems.append(f"split {split.name} has {len(found):,} classes instead of {split.n_classes:,}")
    unknown = sorted(counts.keys() - {split.name for split in dataset.splits})
    return problems + [f"rows of an unknown split {name!r}" for name in unknown]


def _told(split: Split) -> str:
    rows = "rows not published" if split.n_rows is None else f"{split.n_rows:,} rows"
    return f"{split.name} ({rows}{'' if split.n_classes is None else f', {split.n_classes:,} classes'})"
