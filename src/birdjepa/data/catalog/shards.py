"""Recordings out of shards: each tar.gz, Parquet or Arrow file becomes a folder of audio files that is whole or absent.

A shard is read once from first to last, under a hidden name that becomes the folder's when the shard's end was reached
and its checksum holds. So a folder that is there needs its shard no more: the shard may be deleted, which bounds the
disk that both take, and what a kill interrupted is done again. Bytes are kept as they are, and stored under the last
part of their name: a path inside an archive is never believed.
"""

import gzip
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from birdjepa.audio.decode import AUDIO_SUFFIXES
from birdjepa.core import files
from birdjepa.core.errors import LabelError, StorageError

Unpack = Callable[[Path, Path], None]
"""Writes a shard's recordings into an empty folder; raises Damaged."""


class Damaged(Exception):
    """A shard that cannot be read to its end; the message says why."""


class Shard(NamedTuple):
    """An archive and the folder of its recordings."""

    archive: Path
    """Need not be there any more once the folder is."""
    folder: Path


def unpack_all(shards: Sequence[Shard], unpack: Unpack) -> dict[Path, str]:
    """Makes the folders that are not there yet; one line to the error stream for each, as it can take hours.

    Returns: the archives that are missing or damaged, with the reason.

    Raises:
      UsageError: if another process is at it.
      StorageError: if the disk has no room.
    """
    failed: dict[Path, str] = {}
    waiting = [shard for shard in shards if not shard.folder.is_dir()]
    if not waiting:
        return failed
    with files.alone_in(waiting[0].folder.parent, "unpacking"):
        for number, (archive, folder) in enumerate(waiting, start=1):
            if not archive.is_file():
                failed[archive] = "missing"
                continue
            _require_room(archive, folder.parent)
            print(f"birdjepa: {archive.name}: unpacking ({number} of {len(waiting)})", file=sys.stderr, flush=True)
            try:
                with files.whole_folder(folder) as temporary:
                    unpack(archive, temporary)
            except Damaged as damage:
                failed[archive] = f"damaged: {damage}"
    return failed


def recordings(root: Path, of: Iterable[Shard]) -> dict[str, str]:
    """Paths relative to root of the unpacked audio files by name, without empty ones; of two of a name, the first."""
    found: dict[str, str] = {}
    for _, folder in of:
        if folder.is_dir():
            where = folder.relative_to(root).as_posix()
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_audio(entry.name) and entry.stat().st_size:
                        found.setdefault(entry.name, f"{where}/{entry.name}")
    return found


def untar(archive: Path, folder: Path) -> None:
    """Writes the audio files of a tar.gz; other members, links and folders are left.

    Raises:
      Damaged: if the archive ends early or its checksum is wrong.
    """
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = base_name(member.name)
                content = tar.extractfile(member) if member.isfile() and _is_audio(name) else None
                if content is not None:
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
            while stream.read(1 << 20):  # up to the checksum, which stands after the tar's own end
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Damaged(str(error) or type(error).__name__) from None


def write_embedded(table: Path, folder: Path) -> None:
    """Writes the recordings that a Parquet or Arrow shard of `datasets` holds in its column `audio`; each name once.

    Raises:
      Damaged: if the shard cannot be read.
      LabelError: if it holds no audio bytes.
    """
    for batch in read_batches(table, ("audio", "filepath")):
        for row in batch:
            audio = row.get("audio")
            if not isinstance(audio, dict) or "bytes" not in audio:
                raise LabelError(str(table), 0.0, "the column 'audio' holds no bytes of recordings")
            name = base_name(row.get("filepath") or audio.get("path"))
            if audio["bytes"] and _is_audio(name) and not (folder / name).exists():
                (folder / name).write_bytes(audio["bytes"])


def read_batches(table: Path, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of a Parquet or Arrow file, a few at a time, with those of the columns that it has.

    Raises:
      Damaged: if it cannot be read.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        if table.suffix == ".parquet":
            with parquet.ParquetFile(table) as file:
                there = [name for name in columns if name in file.schema_arrow.names]
                n_rows = 16 if "audio" in there else 4096
                yield from (batch.to_pylist() for batch in file.iter_batches(batch_size=n_rows, columns=there))
        else:
            with pyarrow.memory_map(str(table)) as source:
                schema, batches = _open_arrow(source)
                there = [name for name in columns if name in schema.names]
                for batch in batches:
                    rows = batch.select(there)
                    yield from (rows.slice(start, 16).to_pylist() for start in range(0, len(rows), 16))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise Damaged(str(error).split("\n")[0]) from None


def read_schema(table: Path) -> Any:
    """The Arrow schema of a Parquet or Arrow file.

    Raises:
      Damaged: if it cannot be read.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        if table.suffix == ".parquet":
            return parquet.read_schema(table)
        with pyarrow.memory_map(str(table)) as source:
            return _open_arrow(source)[0]
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise Damaged(str(error).split("\n")[0]) from None


def base_name(path: Any) -> str:
    """The last part of a path as some other machine wrote it; empty for what is none."""
    return str(path or "").replace("\\", "/").rpartition("/")[2]


def _open_arrow(source: Any) -> tuple[Any, Iterator[Any]]:
    """Schema and batches of an Arrow file of either kind: `datasets` writes streams, other tools files."""
    import pyarrow

    if source.read(6) == b"ARROW1":
        reader = pyarrow.ipc.open_file(source)
        return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
    source.seek(0)
    stream = pyarrow.ipc.open_stream(source)
    return stream.schema, iter(stream)


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _require_room(archive: Path, folder: Path) -> None:
    size, free = archive.stat().st_size, shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(
            f"{folder}: {free:,} bytes are free, and {archive.name} needs about {size:,}; archives whose folder is "
            "there already are not read again and may be deleted"
        )
