"""What shards hold, without their sound: read once from each, kept where asked, and joined to a manifest."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from birdjepa.core import files
from birdjepa.core.errors import STORAGE, UsageError
from birdjepa.data.manifest import ColumnConfig, Manifest, manifest_of
from birdjepa.data.shards import (
    ShardFile,
    TableShards,
    TarShards,
    audio_column,
    bytes_columns,
    open_table,
    table_rows,
    tar_members,
)
from birdjepa.data.tables import Rows

KEPT_FROM = 1000
"""Recordings of a tar from which its index is kept: walking 20,000 takes 3 s, reading what was kept 0.15 s."""


class ShardIndex(NamedTuple):
    """What one shard holds, in its order."""

    rows: list[dict[str, str]]
    """Columns of each recording; `path` is what the shard calls it."""
    offset: Int[np.ndarray, " n"]
    """First byte of each member of a tar; 0 in tables."""
    size: Int[np.ndarray, " n"]
    """Bytes of each member of a tar; 0 in tables."""


def read_tar(path: Path, audio: str) -> ShardIndex:
    """The index of a tar, by a walk over all of it.

    Raises:
      UsageError: as `tar_members`.
    """
    members = list(tar_members(path, audio))
    places = np.array([(each.offset, each.size) for each in members], dtype=np.int64).reshape(-1, 2)
    return ShardIndex([each.row for each in members], places[:, 0], places[:, 1])


def read_table(source: Any, name: str, audio: str) -> ShardIndex:
    """The index of a Parquet or Arrow file: a path, or a Parquet file as an open seekable file, of which only what is
    needed is read.

    Raises:
      LabelError: if it is damaged.
      UsageError: if it has no such column.
    """
    source = open_table(source)
    if audio_column(source, audio) is None:
        others = ", ".join(bytes_columns(source))
        hint = f"one of {others}" if others else "there is none"
        raise UsageError(
            f"{name}: has no column {audio!r} with encoded audio ({hint}); name it in columns.audio, inner fields by "
            "dots"
        )
    rows = table_rows(source, audio)
    nothing = np.zeros(len(rows), dtype=np.int64)
    return ShardIndex(rows, nothing, nothing)


def read_shard(path: Path, audio: str) -> ShardIndex:
    """The index of a shard on this machine.

    Raises:
      LabelError, UsageError: if it cannot be read.
    """
    return read_tar(path, audio) if path.suffix.lower() == ".tar" else read_table(path, str(path), audio)


def read_local(path: Path, audio: str) -> ShardIndex:
    """The index of a shard of the user's; that of a large tar, which has no table of contents, is kept in the cache as
    long as the tar has its size and its time of change.

    Raises:
      LabelError, UsageError: if it cannot be read.
    """
    if path.suffix.lower() != ".tar":
        return read_shard(path, audio)
    told = path.stat()
    described = f"{path.absolute()}\0{told.st_size}\0{told.st_mtime_ns}\0{audio}".encode("utf-8", "surrogateescape")
    place = files.user_caches() / "birdjepa" / "index" / f"{hashlib.sha256(described).hexdigest()[:24]}.parquet"
    return kept(place, functools.partial(read_shard, path, audio), least=KEPT_FROM)


def kept(place: Path, make: Callable[[], ShardIndex], *, least: int = 0) -> ShardIndex:
    """An index from where it was kept, else made and, from `least` recordings on, kept there, if that can be written
    to."""
    import pyarrow as pa

    with contextlib.suppress(FileNotFoundError, pa.ArrowException, KeyError):
        return load(place)
    index = make()
    try:
        if len(index.rows) >= least:
            save(place, index)
    except OSError as error:
        if error.errno not in STORAGE:
            raise
    return index


def save(place: Path, index: ShardIndex) -> None:
    """Writes an index as a Parquet file of text columns."""
    import pyarrow as pa
    from pyarrow import parquet

    names = dict.fromkeys(name for row in index.rows for name in row)
    columns = {f"row.{name}": pa.array([row.get(name) for row in index.rows], pa.string()) for name in names}
    table = pa.table({**columns, "offset": index.offset, "size": index.size})
    with files.replacing(place, durable=False) as temporary:
        parquet.write_table(table, temporary)


def load(place: Path) -> ShardIndex:
    """Reads an index."""
    from pyarrow import parquet

    table = parquet.ParquetFile(place).read(use_threads=False)
    names = [name for name in table.schema.names if name.startswith("row.")]
    columns = [table[name].to_pylist() for name in names]
    rows = [
        {name[4:]: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
        for cells in zip(*columns, strict=True)
    ]
    offset, size = (table[name].to_numpy().astype(np.int64) for name in ("offset", "size"))
    return ShardIndex(rows or [{} for _ in offset], offset, size)


def manifest_of_shards(
    name: str,
    root: Path,
    keys: Sequence[str],
    shards: Sequence[ShardFile],
    indexes: Iterable[ShardIndex],
    columns: ColumnConfig,
    *,
    splits: Sequence[str] | None = None,
) -> Manifest:
    """The manifest of shards of one kind, in their order.

    Args:
      keys: path of each shard below root.
      splits: split of each shard, for rows that tell none themselves.

    Raises:
      UsageError: if they are of several kinds, or hold no recordings.
    """
    kinds = {PurePosixPath(key).suffix.lower() for key in keys}
    if len(kinds) > 1:
        raise UsageError(f"{name}: shards of several kinds ({', '.join(sorted(kinds))}); give them one by one")
    rows, held = Rows(name), []
    for number, (key, index) in enumerate(zip(keys, indexes, strict=True)):
        held.append(index)
        told = {columns.split: splits[number]} if splits else {}
        last = PurePosixPath(key).name
        for place, row in enumerate(index.rows, start=1):
            where = f"{last}: {row['path']}" if kinds == {".tar"} else f"{last} row {place}"
            rows.add({**row, **({} if row.get(columns.split) else told)}, where)
    shard = np.repeat(np.arange(len(held)), [len(index.rows) for index in held]).astype(np.int64)
    if not len(shard):
        raise UsageError(f"{name}: no recordings in {len(keys)} shards (columns.audio is {columns.audio!r})")
    if kinds == {".tar"}:
        places = (np.concatenate([getattr(index, field) for index in held]) for field in ("offset", "size"))
        found = TarShards(shards, shard, *places)
    else:
        found = TableShards(shards, shard, columns.audio)
    named = Rows(name)
    named.where = rows.where
    paths = _unique(rows, keys, shard.tolist())
    named.good = [{**row, columns.path: path} for row, path in zip(rows.good, paths, strict=True)]
    return manifest_of(name, root, named, columns, shards=found, place=np.arange(len(named.good)))


def _unique(rows: Rows, keys: Sequence[str], shards: Sequence[int]) -> Iterator[str]:
    """A path for each recording: that of its shard and its own in there, told apart where it comes twice."""
    seen: set[str] = set()
    for number, (row, shard) in enumerate(zip(rows.good, shards, strict=True)):
        key = f"{keys[shard]}/{row['path']}"
        if key in seen:
            key = f"{keys[shard]}/{number}/{row['path']}"
        seen.add(key)
        yield key
