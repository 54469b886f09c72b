"""DATA: one string to a manifest, the table of recordings or labelled segments that everything else reads.

| DATA | what it is |
|---|---|
| a folder | its recordings, searched recursively; or, where it has none, its shards; or else its .jsonl manifests |
| a table (.csv, .tsv, .jsonl, .parquet) | a manifest with a `path` column relative to itself |
| shards (.tar; .parquet, .arrow with encoded audio), also train-*.tar or train-{000..127}.tar | what they hold |
| hub:OWNER/NAME[:CONFIG][:SPLIT][#REVISION] | a data set of the Hugging Face Hub |
| synth | the embedded data set |

Nothing is decoded here. Rows keep the order of the manifest or the shards; a folder's are sorted by path.
"""

import dataclasses
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.audio.synth import SynthConfig, write_dataset
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.data import hub
from birdjepa.data.index import manifest_of_shards, read_local
from birdjepa.data.manifest import ColumnConfig, Manifest, manifest_of
from birdjepa.data.shards import SHARD_SUFFIXES, LocalFile, audio_column
from birdjepa.data.tables import TABLE_SUFFIXES, Rows, read_table

SYNTH = "synth"
ALSO = {"path": "wav_path", "duration_s": "duration", "group": "speaker"}
"""Columns by the names that .jsonl manifests of speech have for them, read there where nothing stands under ours."""
_FORMS = (
    f"a folder, a recording, a manifest ({', '.join(TABLE_SUFFIXES)}), shards ({', '.join(SHARD_SUFFIXES)}), "
    f"hub:OWNER/NAME, or {SYNTH!r}"
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def open_data(data: str, columns: ColumnConfig | None = None) -> Manifest:
    """The manifest of DATA.

    Raises:
      UsageError: if there is nothing there, or no audio in it.
      LabelError: naming the manifest and the row that cannot be read.
    """
    columns = columns or ColumnConfig()
    if data == SYNTH:
        return _from_table(synth_folder() / "metadata.csv", data, columns)
    if data.startswith(hub.PREFIX):
        return hub.open_hub(data, columns)
    path = Path(data).expanduser()
    if path.is_dir():
        return _from_folder(path, data, columns)
    if not path.exists():
        return _from_pattern(data, columns)
    suffix = path.suffix.lower()
    if suffix in AUDIO_SUFFIXES:
        return manifest_of(data, path.parent, _rows_of(data, [path.name], columns), columns)
    if suffix in SHARD_SUFFIXES and (suffix != ".parquet" or audio_column(path, columns.audio)):
        return from_shards([path], data, columns)
    if suffix not in TABLE_SUFFIXES:
        raise UsageError(f"{data}: is not {_FORMS}")
    return _from_table(path, data, columns)


def pinned(data: str) -> str:
    """DATA that stays what it is now: the revision of a Hub data set becomes its commit, the weight stays.

    Raises:
      UserError: if the Hub does not tell the commit.
    """
    if not data.startswith(hub.PREFIX):
        return data
    name, _ = split_weight(data)
    return hub.pinned(name) + data[len(name) :]


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
    described = json.dumps(dataclasses.asdict(config), sort_keys=True)
    folder = files.user_caches() / "birdjepa" / f"synth-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    if not (folder / "metadata.csv").exists():
        write_dataset(folder, config)
    return folder


def from_shards(paths: Sequence[Path], name: str, columns: ColumnConfig) -> Manifest:
    """The manifest of shards of one kind on this machine, in their order.

    Raises:
      UsageError: if they are of several kinds, cannot be read, or hold no recordings.
    """
    root = Path(os.path.commonpath([path.parent for path in paths]))
    keys = [path.relative_to(root).as_posix() for path in paths]
    indexes = (read_local(path, columns.audio) for path in paths)
    return manifest_of_shards(name, root, keys, [LocalFile(str(path)) for path in paths], indexes, columns)


def _from_folder(folder: Path, name: str, columns: ColumnConfig) -> Manifest:
    keys = sorted(str(path.relative_to(folder)) for path in _walk(folder, AUDIO_SUFFIXES))
    if keys:
        return manifest_of(name, folder, _rows_of(name, keys, columns), columns)
    shards = sorted(_walk(folder, SHARD_SUFFIXES))
    if shards:
        return from_shards(shards, name, columns)
    tables = sorted(_walk(folder, TABLE_SUFFIXES))
    if not tables:
        raise UsageError(
            f"{name}: no audio files ({', '.join(sorted(AUDIO_SUFFIXES))}), no shards and no manifests in this folder"
        )
    others = [path for path in tables if path.suffix.lower() != ".jsonl"]
    if others:
        raise UsageError(f"{name}: only .jsonl manifests are read by folder; name {others[0]} itself")
    return _from_tables(folder, tables, name, columns)


def _from_pattern(data: str, columns: ColumnConfig) -> Manifest:
    """Shards named by a pattern of the shell or a range as WebDataset writes it."""
    paths = sorted({Path(found) for each in _expanded(data) for found in glob.glob(os.path.expanduser(each))})
    if not paths:
        raise UsageError(f"{data}: not found; DATA is {_FORMS}")
    if _RANGE.search(data) and len(paths) < len(_expanded(data)):
        missing = next(each for each in _expanded(data) if not glob.glob(os.path.expanduser(each)))
        raise UsageError(f"{data}: {len(paths)} of {len(_expanded(data))} shards are there; {missing} is not")
    if any(path.suffix.lower() not in SHARD_SUFFIXES for path in paths):
        raise UsageError(f"{data}: a pattern stands for shards ({', '.join(SHARD_SUFFIXES)}); it matches {paths[0]}")
    return from_shards(paths, data, columns)


def _expanded(pattern: str) -> list[str]:
    """train-{00..03}.tar as four patterns."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    return [
        each
        for number in numbers
        for each in _expanded(f"{pattern[: found.start()]}{number:0{len(first)}}{pattern[found.end() :]}")
    ]


def _walk(folder: Path, suffixes: Sequence[str] | frozenset[str]) -> Iterator[Path]:
    """Files below a folder by their suffix; hidden files and folders are left out."""
    for where, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield Path(where) / name


def _rows_of(name: str, keys: Sequence[str], columns: ColumnConfig) -> Rows:
    rows = Rows(name)
    for key in keys:
        rows.add({columns.path: key}, key)
    return rows


def _from_tables(folder: Path, paths: Sequence[Path], name: str, columns: ColumnConfig) -> Manifest:
    """The manifests of a folder as one, file after file, with paths relative to each of them."""
    whole = Rows(name)
    for path in paths:
        inside = path.relative_to(folder)
        rows = _rows_of_table(path, f"{name}: {inside}", columns)
        for row, where in zip(rows.good, rows.where, strict=True):
            key = row.get(columns.path, "")
            moved = {columns.path: str(inside.parent / key)} if key and inside.parent.name else {}
            whole.add({**row, **moved}, f"{inside} {where}")
        whole.bad += rows.bad
    return manifest_of(name, folder, whole, columns)


def _from_table(path: Path, name: str, columns: ColumnConfig) -> Manifest:
    return manifest_of(name, path.parent, _rows_of_table(path, name, columns), columns)


def _rows_of_table(path: Path, name: str, columns: ColumnConfig) -> Rows:
    """Rows of a manifest.

    Raises:
      UsageError: if it has no rows, or no column of paths.
    """
    rows = read_table(path, name)
    if path.suffix.lower() == ".jsonl":
        rows = _with_other_names(rows, columns)
    if not rows.good and not rows.bad:
        raise UsageError(f"{name}: the manifest has no rows")
    if rows.good and columns.path not in rows.good[0]:
        hint = "; for sound inside the file name its column in columns.audio" if path.suffix == ".parquet" else ""
        there = ", ".join(rows.good[0])
        raise UsageError(f"{name}: the manifest has no column {columns.path!r}; it has {there}{hint}")
    return rows


def _with_other_names(rows: Rows, columns: ColumnConfig) -> Rows:
    """Rows in which the columns of ALSO stand under our names; a column that the user has named is left alone."""
    ours = [name for name in ALSO if getattr(columns, name) == name]
    named = Rows(rows.name)
    named.bad = rows.bad
    for row, where in zip(rows.good, rows.where, strict=True):
        path, other = row.get("path"), row.get(ALSO["path"])
        if "path" in ours and path and other and path != other:
            named.refuse(where, f"path is {path!r} and {ALSO['path']} {other!r}: name the right one in columns.path")
            continue
        also = {name: row[ALSO[name]] for name in ours if not row.get(name) and row.get(ALSO[name])}
        if row.get("split_group"):
            also.pop("group", None)
        named.add({**row, **also}, where)
    return named
