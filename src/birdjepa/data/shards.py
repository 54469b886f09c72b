"""Recordings inside larger files: tar shards as WebDataset lays them out, Parquet and Arrow tables with encoded audio.

Shards are read where they lie, at random, without unpacking: a tar's members by their bytes' place, an Arrow file
through the system's page cache, a Parquet file by row groups, of which the newest few are kept. Only the last makes
order matter, so the examples of such shards are shuffled shard by shard (see `order`).

A sample of a tar is a run of members that share their name up to the first dot after the last slash; one of them is
the recording, `json` gives columns by dotted names (json.speaker_id), and other small text members a column each.
"""

import abc
import collections
import copy
import dataclasses
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.audio.source import Deferred, Part, Source
from birdjepa.core.errors import AudioError, LabelError, UsageError
from birdjepa.data.tables import flatten

SHARD_SUFFIXES = (".tar", ".parquet", ".arrow")
KEPT_FILES, KEPT_GROUPS = 32, 8
"""Tables that a process keeps open, and row groups of Parquet files that it keeps."""
_TEXT_SUFFIXES = ("txt", "cls", "text", "label", "transcript")
_MOST_TEXT = 1 << 20
"""Bytes of a member that is read as text or JSON; more is no description of a recording."""


class ShardFile(abc.ABC):
    """A file that holds recordings, wherever it lies."""

    name: str
    """What messages call it."""

    @abc.abstractmethod
    def local(self) -> Path:
        """Where it lies on this machine.

        Raises:
          UserError: if it cannot be brought here.
        """

    def is_here(self) -> bool:
        """Whether it is on this machine now."""
        return True

    def prefetch(self) -> bool:
        """Begins to bring it here without waiting; whether that was needed."""
        return False

    @abc.abstractmethod
    def identity(self) -> str:
        """What tells it from another file of its name."""


@dataclasses.dataclass(frozen=True)
class LocalFile(ShardFile):
    """A shard on this machine's disks."""

    name: str

    def local(self) -> Path:
        return Path(self.name)

    def identity(self) -> str:
        """Its size."""
        try:
            return f"{Path(self.name).name} {Path(self.name).stat().st_size}"
        except OSError:
            return f"{Path(self.name).name} -1"


class Shards(abc.ABC):
    """Recordings in shards, numbered from the first of the first shard to the last of the last."""

    random_access: bool
    """Whether recordings can be read in any order at no cost."""

    def __init__(self, files: Sequence[ShardFile], shard: Int[np.ndarray, " n"]) -> None:
        self.files = files
        self.shard = shard
        """Number of the shard that holds each recording; never falls."""
        self.at_hand = all(isinstance(file, LocalFile) for file in files)
        """Whether all of them are on this machine's disks."""

    def here(self) -> "Shards":
        """The same for readers who ask only for what is on this machine now."""
        made = copy.copy(self)
        made.at_hand = True
        return made

    @abc.abstractmethod
    def source(self, place: int, name: str) -> Source:
        """What to hand to the decoder for the recording of a number."""


class TarShards(Shards):
    """Members of uncompressed tar files."""

    def __init__(
        self,
        files: Sequence[ShardFile],
        shard: Int[np.ndarray, " n"],
        offset: Int[np.ndarray, " n"],
        size: Int[np.ndarray, " n"],
    ) -> None:
        super().__init__(files, shard)
        self.random_access = self.at_hand
        self._offset, self._size = offset, size

    def source(self, place: int, name: str) -> Source:
        file = self.files[int(self.shard[place])]
        return TarMember(file, int(self._offset[place]), int(self._size[place]), name)


class TableShards(Shards):
    """Rows of Parquet or Arrow files: a column of bytes, or of structs with `bytes`, each an encoded file."""

    def __init__(self, files: Sequence[ShardFile], shard: Int[np.ndarray, " n"], column: str) -> None:
        super().__init__(files, shard)
        self.random_access = self.at_hand and all(file.name.endswith(".arrow") for file in files)
        self._column = column
        self._first = np.searchsorted(shard, np.arange(len(files)))

    def source(self, place: int, name: str) -> Source:
        shard = int(self.shard[place])
        return TableRow(self.files[shard], place - int(self._first[shard]), self._column, name)


@dataclasses.dataclass(frozen=True)
class TarMember(Deferred):
    """A member of a tar."""

    file: ShardFile
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return self.name

    def fetch(self) -> Part:
        return Part(self.file.local(), self.offset, self.size, self.name)


@dataclasses.dataclass(frozen=True)
class TableRow(Deferred):
    """A row of a Parquet or Arrow file."""

    file: ShardFile
    row: int
    column: str
    name: str

    def __str__(self) -> str:
        return self.name

    def fetch(self) -> bytes:
        import pyarrow as pa

        try:
            value = _TABLES.value(self.file.local(), self.row, self.column)
        except (OSError, LabelError, KeyError, IndexError, pa.ArrowException) as error:
            raise AudioError(self.name, 0.0, f"io: {self.file.name} cannot be read: {error}"[:300]) from None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise AudioError(self.name, 0.0, f"empty: nothing in column {self.column!r} of this row")
        return bytes(data)


class _Tables:
    """The tables that this process has open, and the row groups of Parquet files that it read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[Path, Any] = collections.OrderedDict()
        self._groups: collections.OrderedDict[tuple[Path, int, str], Any] = collections.OrderedDict()

    def value(self, path: Path, row: int, column: str) -> Any:
        with self._lock:
            if path not in self._open:  # what was removed takes its room until it is closed
                for gone in [held for held in self._open if not held.exists()]:
                    del self._open[gone]
            table = _kept(self._open, path, lambda: open_table(path), KEPT_FILES)
            if not isinstance(table, _Parquet):
                return _column_of(table, column)[row].as_py()
            group = int(np.searchsorted(table.first, row, side="right")) - 1
            values = _kept(self._groups, (path, group, column), lambda: table.read(group, column), KEPT_GROUPS)
            return values[row - int(table.first[group])].as_py()


_TABLES = _Tables()


def _kept(held: collections.OrderedDict[Any, Any], key: Any, make: Callable[[], Any], most: int) -> Any:
    """What is held under a key, made if need be; the least recently used of more than `most` goes."""
    if key not in held:
        held[key] = make()
        if len(held) > most:
            held.popitem(last=False)
    held.move_to_end(key)
    return held[key]


class _Parquet:
    """A Parquet file read by row groups."""

    def __init__(self, source: Any) -> None:
        import pyarrow.parquet as parquet

        self.file = parquet.ParquetFile(source, pre_buffer=not isinstance(source, Path))
        counts = [self.file.metadata.row_group(group).num_rows for group in range(self.file.num_row_groups)]
        self.first = np.cumsum([0, *counts])

    def read(self, group: int, column: str) -> Any:
        return _column_of(self.file.read_row_group(group, columns=[column], use_threads=False), column)


def _column_of(table: Any, column: str) -> Any:
    """A column by its dotted name."""
    import pyarrow as pa

    first, *inner = column.split(".")
    values = table[first]
    for name in inner:
        number = values.type.get_field_index(name)
        values = pa.chunked_array([chunk.flatten()[number] for chunk in values.chunks], values.type.field(number).type)
    return values


def open_table(path: Any) -> Any:
    """A Parquet file (by its path, open, or what this returned before), or the table of an Arrow file (IPC file or
    stream) that stays on the disk until it is read.

    Raises:
      LabelError: if it is damaged.
    """
    import pyarrow as pa

    if isinstance(path, _Parquet | pa.Table):
        return path
    suffix = path.suffix.lower() if isinstance(path, Path) else ".parquet"
    try:
        if suffix == ".parquet":
            return _Parquet(path)
        mapped = pa.memory_map(str(path))
        try:
            return pa.ipc.open_file(mapped).read_all()
        except pa.ArrowInvalid:
            mapped.seek(0)
            return pa.ipc.open_stream(mapped).read_all()
    except (OSError, pa.ArrowException) as error:
        raise LabelError(str(path), 0.0, f"cannot be read as {suffix[1:]}: {error}") from None


class Member(NamedTuple):
    """A tar's recording and what stands beside it."""

    row: dict[str, str]
    offset: int
    size: int


def tar_members(path: Path, audio: str) -> Iterator[Member]:
    """Recordings of a tar in its order; audio is their suffix where several would do, as in mp3.

    Raises:
      UsageError: if it is compressed, or no tar.
    """
    suffixes = {f".{audio.lower()}"} if f".{audio.lower()}" in AUDIO_SUFFIXES else AUDIO_SUFFIXES
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            held: list[tarfile.TarInfo] = []
            for info in archive:
                if not info.isreg() or Path(info.name).name.startswith("."):
                    continue
                if held and _sample(held[0].name) != _sample(info.name):
                    yield from _recordings(held, file, suffixes)
                    held = []
                held.append(info)
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - it would keep them all
            yield from _recordings(held, file, suffixes)
    except tarfile.ReadError as error:
        raise UsageError(
            f"{path}: cannot be read as an uncompressed tar ({error}); gunzip it if it is compressed: sound gains "
            "nothing by it, and what is compressed cannot be read at random"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def _sample(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.split('.', 1)[0]}"


def _recordings(members: list[tarfile.TarInfo], file: Any, suffixes: Any) -> Iterator[Member]:
    """Each recording of one sample, with the columns of the sample."""
    heard = [info for info in members if Path(info.name).suffix.lower() in suffixes]
    if not heard:
        return
    row: dict[str, str] = {}
    for info in members:
        kind = info.name.rpartition("/")[2].partition(".")[2].lower()
        last = kind.rpartition(".")[2]
        if info.size > _MOST_TEXT or (last != "json" and last not in _TEXT_SUFFIXES):
            continue
        file.seek(info.offset_data)
        data = file.read(info.size)
        try:
            row |= flatten({kind: json.loads(data)}) if last == "json" else {kind: data.decode("utf-8-sig").strip()}
        except (ValueError, RecursionError):
            row[kind] = ""
    for info in heard:
        yield Member({**row, "path": info.name}, info.offset_data, info.size)


def audio_column(source: Any, wanted: str) -> str | None:
    """The column of a Parquet or Arrow file that holds encoded audio: the wanted one, by its dotted name; None where
    that holds none."""
    import pyarrow as pa

    schema = _schema(source)
    first, *inner = wanted.split(".")
    if first not in schema.names:
        return None
    kind = schema.field(first).type
    for part in inner:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return wanted if _holds_bytes(kind) else None


def bytes_columns(source: Any) -> list[str]:
    """Columns that may hold encoded audio."""
    return [field.name for field in _schema(source) if _holds_bytes(field.type)]


def _schema(source: Any) -> Any:
    table = open_table(source)
    return table.file.schema_arrow if isinstance(table, _Parquet) else table.schema


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return _is_bytes(kind)


def table_rows(source: Any, column: str) -> list[dict[str, str]]:
    """A shard's rows without their audio; each is named by its audio's `path`, or by its number."""
    import pyarrow as pa

    table = open_table(source)
    if isinstance(table, _Parquet):
        leaves = [table.file.schema.column(i) for i in range(len(table.file.schema))]
        names = [leaf.path for leaf in leaves if leaf.physical_type != "BYTE_ARRAY" or leaf.logical_type.type != "NONE"]
        described = table.file.read(columns=sorted(set(names)), use_threads=False)
    else:
        described = table
    n_rows = described.num_rows if described.num_columns else int(table.first[-1])
    keep = [
        name for name, kind in zip(described.schema.names, described.schema.types, strict=True) if not _is_bytes(kind)
    ]
    plain = described.select(keep)
    rows: list[dict[str, str]] = []
    for batch_first in range(0, n_rows, 1000):
        batch = plain.slice(batch_first, 1000)
        if not isinstance(table, _Parquet):
            batch = pa.table({name: _without_bytes(batch[name].combine_chunks()) for name in batch.schema.names})
        cells = batch.to_pylist() if batch.num_columns else [{}] * min(1000, n_rows - batch_first)
        for number, row in enumerate(cells, start=batch_first):
            flat = flatten(row)
            inner = flat.pop(f"{column}.path", "")
            flat.setdefault("path", Path(inner).name or f"{number}")
            rows.append(flat)
    return rows


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _without_bytes(values: Any) -> Any:
    """A column of structs without their bytes."""
    import pyarrow as pa

    if not pa.types.is_struct(values.type):
        return values
    names = [field.name for field in values.type if not _is_bytes(field.type)]
    return (
        pa.StructArray.from_arrays(
            [_without_bytes(values.field(name)) for name in names], names=names, mask=values.is_null()
        )
        if names
        else pa.nulls(len(values))
    )
