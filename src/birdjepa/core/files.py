"""Files that are either whole or absent: written beside, synced, renamed.

A kill at any moment leaves the old file or the new one. `durable=False` skips the syncs where a lost file is no loss
(pictures, reports).
"""

import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from birdjepa.core.errors import UsageError


def write_bytes(path: Path | str, data: bytes, *, durable: bool = True) -> None:
    """Replaces path with data atomically; parents are made."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str, *, durable: bool = True) -> None:
    """Replaces path with UTF-8 text atomically; parents are made."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), durable=durable)


def write_json(path: Path | str, value: Any, *, durable: bool = True) -> None:
    """Replaces path with indented JSON atomically. NaN is written as null, for JSON has no NaN."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n", durable=durable)


def write_csv(
    path: Path | str, header: Sequence[str], rows: Iterable[Mapping[str, Any]], *, durable: bool = True
) -> None:
    """Replaces path with a CSV table atomically. Cells that a spreadsheet would run as a formula are quoted with ';
    plain numbers (a latitude of -34.5) are none.
    """
    with (
        replacing(path, durable=durable) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(header), extrasaction="raise")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})


@contextlib.contextmanager
def replacing(path: Path | str, *, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside path; renames it over path when the block ends well, removes it otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def create_bytes(path: Path | str, data: bytes) -> bool:
    """Makes a new durable file in a folder that is there, whole or not at all; False if the name is taken.

    Of several processes that make one name, also on several machines over a network file system, exactly one is told
    True. A name is given by a hard link, which never replaces a file.

    Raises:
      UsageError: if the file system has no hard links.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            if temporary.stat().st_nlink == 1:  # 2: made, but the server's answer was lost and the request sent again
                return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            raise UsageError(
                f"{path.parent} is on a file system without hard links, so two processes cannot be kept from writing "
                "one file: name a place on another disk"
            ) from None
        sync(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside folder that takes its name when the block ends well and is removed otherwise."""
    _claim(folder)
    folder = folder.absolute()
    temporary = folder.with_name(f".{folder.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made ({error.strerror}): name a folder that you may write to") from error
    try:
        yield temporary
        _claim(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _claim(folder: Path) -> None:
    """Makes way for a new folder: an empty one is removed, anything else is refused."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        what = "holds files already" if folder.is_dir() else "is a file"
        raise UsageError(f"{folder} {what}: name a new folder, or remove this one first")
    if folder.resolve() == Path.cwd():
        raise UsageError(f"{folder} is the working folder, which cannot be replaced: name a new folder inside it")
    try:
        folder.rmdir()
    except OSError as error:
        raise UsageError(f"{folder} cannot be replaced ({error.strerror}): name a new folder inside it") from error


@contextlib.contextmanager
def alone_in(folder: Path, doing: str) -> Iterator[None]:
    """Makes a folder and refuses a second process that does the same there; clears away what a killed one was writing.

    Raises:
      UsageError: if there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = try_lock(folder / ".lock")
    if lock is None:
        raise UsageError(f"{folder}: another process is {doing} there; wait for it")
    with lock:
        for left in folder.glob(".*.tmp"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield


def try_lock(path: Path) -> TextIO | None:
    """An open file that keeps other processes out until it is closed; None if one has it. It is the process's own:
    flock's would outlive it in its workers.
    """
    lock = path.open("w")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def user_caches(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of the user's caches."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def sync(path: Path | str) -> None:
    """Forces a file's or a folder's content to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(folder: Path) -> str:
    """Room on the disk that folder is on, for a message."""
    try:
        return f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        return "unknown"


_NUMBER = re.compile(r"[+-]\d+(\.\d+)?(e[+-]?\d+)?")


def _cell(value: Any) -> Any:
    runs = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and not _NUMBER.fullmatch(value)
    return "'" + value if runs else value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
