"""Finished work on disk: parts beside the output, and the table that they become.

`out.parts/` holds `key.json`, which says what the parts are parts of, and `part-00000.parquet` and so on. A part is
whole or absent; it says where in the collection it begins and ends, so the parts form a chain, and work goes on at its
end. The last step joins them inside the folder, renames the table to `out`, and removes the folder. A kill at any
moment leaves a chain that can be continued or a finished table.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from birdjepa.core import config as configs
from birdjepa.core import files
from birdjepa.core.errors import UsageError
from birdjepa.data.manifest import Manifest

METADATA = b"birdjepa"
"""Key of the table's metadata (JSON) in the Parquet schema."""
COLUMNS = ("label", "labels", "split", "fold", "group")
"""Columns of a manifest that the table takes over, where there is anything in them."""
_GROUP_ROWS = 16_384


class Cursor(NamedTuple):
    """Where work goes on: the manifest row, and the first piece of it."""

    row: int
    piece: int


class Refusal(NamedTuple):
    """A manifest row without embeddings: at which stage (label, decode, embed), where, and why."""

    row: int
    stage: str
    offset_s: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of finished work, [begin, end) of the collection."""

    begin: Cursor
    end: Cursor
    rows: Int[np.ndarray, " n"]
    """Manifest row of each embedding."""
    start_s: Float[np.ndarray, " n"]
    end_s: Float[np.ndarray, " n"]
    embeddings: np.ndarray
    """(n, e) in the type of the output."""
    refused: list[Refusal]


class PartSummary(NamedTuple):
    """A finished part, without its embeddings."""

    end: Cursor
    n_rows: int
    refused: list[Refusal]


class PartStore:
    """The parts of one output. `identity` is JSON that decides every number of it."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.out, self.identity = out, identity
        self.folder = out.with_name(f"{out.name}.parts")

    def finished(self) -> dict[str, Any] | None:
        """The metadata of the output if it is there and was made from the same identity.

        Raises:
          UsageError: if there is something else in its place.
        """
        if not self.out.exists():
            return None
        metadata = read_metadata(self.out)
        self._compare(metadata.get("identity"), self.out)
        if (self.folder / "key.json").exists():  # killed between the rename and the removal
            self.open()
            shutil.rmtree(self.folder)
        return metadata

    def open(self) -> list[PartSummary]:
        """The parts finished by earlier runs, in order; leftovers of a kill are removed.

        Raises:
          UsageError: if they belong to another output.
        """
        key = self.folder / "key.json"
        if key.exists():
            self._compare(json.loads(key.read_text(encoding="utf-8")), self.folder)
        elif self.folder.is_dir() and any(self.folder.glob("part-*")):
            raise UsageError(f"{self.folder}: has parts but no key.json; delete it or choose another --out")
        else:
            files.write_json(key, self.identity)
        done: list[PartSummary] = []
        while (summary := self._summary(len(done), done[-1].end if done else Cursor(0, 0))) is not None:
            done.append(summary)
        kept = {self._path(index) for index in range(len(done))}
        for pattern in ("part-*", "joined.parquet", "failures.csv", ".*.tmp"):
            for path in set(self.folder.glob(pattern)) - kept:
                path.unlink()
        return done

    def write(self, index: int, part: Part) -> PartSummary:
        """Puts a part on disk, whole."""
        metadata = {"begin": part.begin, "end": part.end, "refused": part.refused}
        columns = {
            "row": pa.array(part.rows, pa.int64()),
            "start_s": pa.array(part.start_s, pa.float64()),
            "end_s": pa.array(part.end_s, pa.float64()),
            "embedding": _fixed_size_lists(part.embeddings),
        }
        table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(metadata).encode()})
        with files.replacing(self._path(index)) as temporary:
            pq.write_table(table, temporary, compression="none", use_dictionary=False)
        return PartSummary(part.end, len(part.rows), part.refused)

    def merge(self, done: Sequence[PartSummary], manifest: Manifest, metadata: dict[str, Any]) -> int:
        """Joins the parts to the output, leaving out what belongs to refused rows; returns how many rows it has."""
        refused = np.array([refusal.row for refusal in first_refusals(done)], dtype=np.int64)
        joined = self.folder / "joined.parquet"
        n_rows = 0
        with files.replacing(joined) as temporary:
            schema = self._schema(manifest, {**metadata, "identity": self.identity})
            texts: Any = [field.name for field in schema if field.type == pa.string()]
            with pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=texts) as writer:
                for table in self._tables(len(done)):
                    table = table.filter(pa.array(~np.isin(table["row"].to_numpy(), refused)))
                    n_rows += len(table)
                    writer.write_table(_with_columns(table, manifest, schema))
        joined.replace(self.out)
        files.sync(self.out.parent)
        shutil.rmtree(self.folder)
        return n_rows

    def _schema(self, manifest: Manifest, metadata: dict[str, Any]) -> pa.Schema:
        embedding = pq.read_schema(self._path(0)).field("embedding")
        fields = [("path", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]
        fields += [(name, pa.string()) for name in COLUMNS if any(manifest.columns.get(name, []))]
        return pa.schema([*fields, embedding], {METADATA: json.dumps(metadata).encode()})

    def _tables(self, n_parts: int) -> Iterator[pa.Table]:
        """The parts, joined to tables of a size that is good to read."""
        held: list[pa.Table] = []
        for index in range(n_parts):
            held.append(pq.ParquetFile(self._path(index)).read().replace_schema_metadata())
            if sum(map(len, held)) >= _GROUP_ROWS or index == n_parts - 1:
                yield pa.concat_tables(held)
                held.clear()

    def _summary(self, index: int, begin: Cursor) -> PartSummary | None:
        """What a part's metadata says; None if it is not there, or does not begin where the chain has come to."""
        try:
            file = pq.read_metadata(self._path(index))
        except (OSError, pa.ArrowInvalid):
            return None
        described = json.loads((file.metadata or {})[METADATA])
        if Cursor(*described["begin"]) != begin:
            return None
        refused = [Refusal(*refusal) for refusal in described["refused"]]
        return PartSummary(Cursor(*described["end"]), file.num_rows, refused)

    def _path(self, index: int) -> Path:
        return self.folder / f"part-{index:05d}.parquet"

    def _compare(self, found: Any, where: Path) -> None:
        if found != self.identity:
            differing = configs.difference(found or {}, self.identity) or ["it was not made by birdjepa embed"]
            shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
            raise UsageError(f"{where}: belongs to something else ({shown}); choose another --out or delete it")


def first_refusals(done: Sequence[PartSummary]) -> list[Refusal]:
    """One refusal for each refused row, in the manifest's order."""
    found: dict[int, Refusal] = {}
    for refusal in (refusal for part in done for refusal in part.refused):
        found.setdefault(refusal.row, refusal)
    return [found[row] for row in sorted(found)]


def read_metadata(path: Path) -> dict[str, Any]:
    """What an embedding table says of its origin: encoder, cuts, pooling, data, versions.

    Raises:
      UsageError: if it is not such a table.
    """
    try:
        return json.loads((pq.read_schema(path).metadata or {})[METADATA])
    except (OSError, ValueError, KeyError):
        raise UsageError(f"{path}: is not a table of embeddings; choose another --out or delete it") from None


def _with_columns(table: pa.Table, manifest: Manifest, schema: pa.Schema) -> pa.Table:
    """The table with what the manifest says of each row, in the schema's order."""
    rows = table["row"].to_pylist()
    columns: dict[str, Any] = {"path": [utf8(manifest.keys[row]) for row in rows]}
    columns |= {name: table[name] for name in ("start_s", "end_s", "embedding")}
    columns |= {name: [utf8(manifest.columns[name][row]) for row in rows] for name in COLUMNS if name in schema.names}
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def utf8(text: str) -> str:
    """Text as Parquet can hold it: bytes of a file name that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _fixed_size_lists(embeddings: np.ndarray) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(embeddings).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
