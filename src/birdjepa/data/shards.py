"""Recordings inside larger files: tar shards as WebDataset lays them out, Parquet and Arrow tables with encoded audio.

Shards are read where they lie, at random, without unpacking: a tar's members by their bytes' place, an Arrow file
through the system's page cache, a Parquet file by row groups, of which the newest few are kept. Only the last makes
order matter, so the examples of such shards are shuffled shard by shard (see `order`).

A sample of a tar is a run of members that share their name up to the first dot after the last slash; one of them is
the recording, `json` gives columns by dotted names (json.speaker_id), and other small text members a column each.
"""

import abc
import collections
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.audio.recording import InMemory, Part, Source
from birdjepa.core.errors import AudioError, LabelError, UsageError
from birdjepa.data.tables import Rows, flatten

SHARD_SUFFIXES = (".tar", ".parquet", ".arrow")
KEPT_GROUPS = 4
"""Row groups of Parquet shards that a process keeps."""
_TEXT_SUFFIXES = ("txt", "cls", "text", "label", "transcript")
_MOST_TEXT = 1 << 20
"""Bytes of a member that is read as text or JSON; more is no description of a recording."""


class ShardFiles:
    """Shards on this machine's disks."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.names = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return Path(self.names[shard])

    def identities(self) -> list[str]:
        """What tells each shard from another of its name: its size."""
        return [f"{Path(name).name} {_size(Path(name))}" for name in self.names]


class Shards(abc.ABC):
    """Recordings in shards, numbered from the first of the first shard to the last of the last."""

    random_access: bool
    """Whether recordings can be read in any order at no cost."""

    def __init__(self, files: ShardFiles, shard: Int[np.ndarray, " n"]) -> None:
        self.files = files
        self.shard = shard
        """Number of the shard that holds each recording; never falls."""

    @abc.abstractmethod
    def source(self, place: int, name: str) -> Source:
        """What to hand to the decoder for the recording of a number.

        Raises:
          AudioError: if the shard cannot be read.
        """

    def identities(self) -> list[str]:
        """What tells the shards from others of their names."""
        return self.files.identities()


class TarShards(Shards):
    """Members of uncompressed tar files."""

    random_access = True

    def __init__(
        self,
        files: ShardFiles,
        shard: Int[np.ndarray, " n"],
        offset: Int[np.ndarray, " n"],
        size: Int[np.ndarray, " n"],
    ) -> None:
        super().__init__(files, shard)
        self._offset, self._size = offset, size

    def source(self, place: int, name: str) -> Source:
        path = self.files.path(int(self.shard[place]))
        return Part(path, int(self._offset[place]), int(self._size[place]), Path(name).name)


class TableShards(Shards):
    """Rows of Parquet or Arrow files: a column of bytes, or of structs with `bytes`, each an encoded file."""

    def __init__(self, files: ShardFiles, shard: Int[np.ndarray, " n"], column: str) -> None:
        super().__init__(files, shard)
        self.column = column
        self.random_access = all(name.endswith(".arrow") for name in files.names)
        self._first = np.searchsorted(shard, np.arange(len(files)))
        self._open: dict[int, Any] = {}
        self._groups: collections.OrderedDict[tuple[int, int], Any] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Open files and what was read stay in their process."""
        return {**self.__dict__, "_open": {}, "_groups": collections.OrderedDict()}

    def source(self, place: int, name: str) -> Source:
        import pyarrow as pa

        shard = int(self.shard[place])
        try:
            value = self._value(shard, place - int(self._first[shard]))
        except (OSError, LabelError, KeyError, pa.ArrowException) as error:
            raise AudioError(name, 0.0, f"io: {self.files.names[shard]} cannot be read: {error}"[:300]) from None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise AudioError(name, 0.0, f"empty: nothing in column {self.column!r} of this row")
        return InMemory(bytes(data), name)

    def _value(self, shard: int, row: int) -> Any:
        if self._open.get(shard) is None:
            self._open = {shard: _open_table(self.files.path(shard)), **dict(list(self._open.items())[:KEPT_GROUPS])}
        table = self._open[shard]
        if not isinstance(table, _Parquet):
            return table[self.column][row].as_py()
        group = int(np.searchsorted(table.first, row, side="right")) - 1
        key = (shard, group)
        if key not in self._groups:
            self._groups[key] = table.read(group, self.column)
            while len(self._groups) > KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key][row - int(table.first[group])].as_py()


class _Parquet:
    """A Parquet file read by row groups."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        self.file = parquet.ParquetFile(path)
        counts = [self.file.metadata.row_group(group).num_rows for group in range(self.file.num_row_groups)]
        self.first = np.cumsum([0, *counts])

    def read(self, group: int, column: str) -> Any:
        name = column.split(".")[0]
        values = self.file.read_row_group(group, columns=[column], use_threads=False)[name]
        for part in column.split(".")[1:]:
            import pyarrow.compute as compute

            values = compute.struct_field(values, part)
        return values


def _open_table(path: Path) -> Any:
    """A Parquet file, or the table of an Arrow file (IPC file or stream) that stays on the disk until it is read.

    Raises:
      LabelError: if it is damaged.
    """
    import pyarrow as pa

    suffix = path.suffix.lower()
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
                archive.members = []  # tarfile would keep them all
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


def audio_column(path: Path, wanted: str) -> str | None:
    """The column of a Parquet or Arrow file that holds encoded audio: the wanted one, by its dotted name; None where
    that holds none."""
    import pyarrow as pa

    table = _open_table(path)
    schema = table.file.schema_arrow if isinstance(table, _Parquet) else table.schema
    first, *inner = wanted.split(".")
    if first not in schema.names:
        return None
    kind = schema.field(first).type
    for part in inner:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return wanted if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else None


def table_rows(path: Path, column: str, rows: Rows) -> int:
    """Adds a shard's rows, without their audio, to others; each is named by its audio's `path`, or by its number.

    Returns how many they are.
    """
    import pyarrow as pa

    table = _open_table(path)
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
    for batch_first in range(0, n_rows, 1000):
        batch = plain.slice(batch_first, 1000)
        if not isinstance(table, _Parquet):
            batch = pa.table({name: _without_bytes(batch[name].combine_chunks()) for name in batch.schema.names})
        cells = batch.to_pylist() if batch.num_columns else [{}] * min(1000, n_rows - batch_first)
        for number, row in enumerate(cells, start=batch_first):
            flat = flatten(row)
            inner = flat.pop(f"{column}.path", "")
            flat.setdefault("path", Path(inner).name or f"{number}")
            rows.add(flat, f"{path.name} row {number + 1}")
    return n_rows


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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
