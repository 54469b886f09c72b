"""Shards of the Hub on this machine: fetched when they are needed, checked, and given up again for others.

The cache is a tree of ours below HF_HOME: birdjepa/OWNER--NAME/COMMIT/files/... A shard is written beside its place
under a name of its own, compared with the size and the hash that the Hub states, synced and renamed: whatever processes
share the cache and whatever its locks do, a file that has its name is whole. Who finds another process writing the same
shard waits for it as long as that one writes; this saves downloads and decides nothing.

BIRDJEPA_CACHE_GB bounds the shards' size: those used longest ago make room, so that what is larger than the disk
streams through it. The time of a shard's last use is that of its last change.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import os
import platform
import queue
import re
import secrets
import stat
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, cast

from birdjepa.core import files
from birdjepa.core.errors import STORAGE, StorageError, UsageError, UserError
from birdjepa.data import hub_http
from birdjepa.data.hub_http import Transient
from birdjepa.data.shards import ShardFile

LIMIT = "BIRDJEPA_CACHE_GB"
JUST_USED_S = 10.0
"""A shard that was used within this time is not removed: who asked for it may be about to open it."""
ALIVE_S = 60.0
"""Who has written nothing for this long is not waited for."""
STALE_S = 600.0
"""Half-written shards that nobody has written to for this long are removed."""
AT_ONCE = 4
"""Shards that a process fetches side by side in the background."""
_POLL_S = 0.1
"""How often it is looked whether another process is done."""
_PROGRESS = 1 << 16
"""Bytes from which an attempt that failed was not in vain."""
_PART = ".part"


def cache_folder() -> Path:
    """Where data sets of the Hub are kept."""
    home = os.environ.get("HF_HOME")
    if not home:
        home = files.user_caches() / "huggingface"
    return Path(home).expanduser() / "birdjepa"


def limit_bytes() -> int:
    """Most bytes of all shards in the cache; 0 for no limit.

    Raises:
      UsageError: if the variable is no such number.
    """
    text = os.environ.get(LIMIT, "0")
    with contextlib.suppress(ValueError, OverflowError):
        if (value := float(text)) >= 0:
            return round(value * 1e9)
    raise UsageError(f"{LIMIT}={text!r}: give gigabytes of shards to keep at most, or 0 for no limit")


@dataclasses.dataclass(frozen=True)
class HubFile(ShardFile):
    """A shard of one commit of a repository."""

    name: str
    """hub:OWNER/NAME/PATH."""
    url: str
    cache: Path
    """Folder of all repositories."""
    place: str
    """Where the shard lies below it once it is here."""
    n_bytes: int
    digest: str
    """sha256:HEX of its bytes, or git:HEX, which git hashes behind a header."""

    @property
    def path(self) -> Path:
        return self.cache / self.place

    def local(self) -> Path:
        """Where it lies on this machine, fetched if need be.

        Raises:
          UserError: if it cannot be had: this ends a run, for passing over whole shards would change what it learns.
        """
        return self.path if self._touch() else _background().result(self)

    def is_here(self) -> bool:
        return self.path.exists()

    def prefetch(self) -> bool:
        if self.is_here():
            return False
        _background().begin(self)
        return True

    def identity(self) -> str:
        return f"{self.name} {self.digest}"

    def _touch(self) -> bool:
        """Notes that it is used; whether it is there."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        except OSError:
            return self.path.exists()  # in a cache that may only be read
        return True


class _Background:
    """The shards that this process fetches ahead. Its threads end with the process, whatever they are at."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.naming = threading.Lock()
        """Held by who makes room for a shard and names it: two at once would count each other as unfinished."""
        self._lock = threading.Lock()
        self._asked: dict[Path, Future[Path | None]] = {}
        self._queue: queue.SimpleQueue[tuple[HubFile, Future[Path | None]]] = queue.SimpleQueue()
        self._n_threads = 0

    def begin(self, file: HubFile) -> None:
        """Fetches a shard in a thread, if there is room for it."""
        with self._lock:
            if file.path in self._asked:
                return
            future = self._asked[file.path] = Future()
            self._queue.put((file, future))
            if self._n_threads < min(AT_ONCE, len(self._asked)):
                self._n_threads += 1
                threading.Thread(target=self._work, name="fetch", daemon=True).start()

    def result(self, file: HubFile) -> Path:
        """A shard, from the thread that is fetching it or fetched here."""
        with self._lock:
            asked = self._asked.get(file.path)
            if asked is not None and asked.cancel():
                del self._asked[file.path]  # no thread has begun
                asked = None
        found = asked.result() if asked is not None else None
        return found or cast(Path, fetch(file))

    def _work(self) -> None:
        while True:
            file, future = self._queue.get()
            if not future.set_running_or_notify_cancel():
                continue
            found = None
            try:
                found = fetch(file, only_if_room=True)
            except (UserError, OSError):
                pass  # it happens again where the shard is asked for, and can be told there
            finally:
                with self._lock:
                    del self._asked[file.path]
                future.set_result(found)


_BACKGROUND: _Background | None = None


def _background() -> _Background:
    """This process's own: threads and what they hold do not survive a fork."""
    global _BACKGROUND
    if _BACKGROUND is None or _BACKGROUND.process != os.getpid():
        _BACKGROUND = _Background()
    return _BACKGROUND


def fetch(file: HubFile, *, only_if_room: bool = False) -> Path | None:
    """Brings a shard into the cache; None if there is no room and it need not come at any price.

    Raises:
      UserError: if it cannot be had, or not be written.
    """
    if hub_http.is_offline() and not file.path.exists():
        raise UsageError(f"{file.name}: is not in {file.cache}, and HF_HUB_OFFLINE forbids to fetch it")
    folder = file.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not file.path.exists():
            if _others(file.path):
                time.sleep(_POLL_S)
            elif not _take_turn(file, only_if_room=only_if_room):
                return None
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        raise StorageError(
            f"{error.filename or file.cache}: {error.strerror}, with {files.free_bytes(file.cache)} bytes free there; "
            f"set HF_HOME to a folder on a larger disk, or {LIMIT} to fewer gigabytes"
        ) from error
    return file.path


def make_room(cache: Path) -> bool:
    """Removes the shards used longest ago until all, with those that are being written, are within the limit; whether
    they are."""
    limit, now = limit_bytes(), time.time()
    found = []
    for path in cache.glob("*/*/files/**/*"):
        with contextlib.suppress(OSError):
            held = path.stat()
            if stat.S_ISREG(held.st_mode):
                found.append((held.st_mtime, held.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        is_part = path.suffix == _PART
        if (
            now - used > STALE_S or _is_orphan(path)
            if is_part
            else limit and total > limit and now - used > JUST_USED_S
        ):
            path.unlink(missing_ok=True)
            total -= size
    return not limit or total <= limit


def _others(path: Path) -> list[Path]:
    """Half-written files of a shard that are being written, the oldest first."""
    found = []
    for part in sorted(path.parent.glob(f".{glob.escape(path.name)}.*{_PART}")):
        with contextlib.suppress(OSError):
            if _is_orphan(part):
                part.unlink()
            elif time.time() - part.stat().st_mtime < ALIVE_S:
                found.append(part)
    return found


def _is_orphan(part: Path) -> bool:
    """Whether the process that wrote it is known to have ended. A mistake costs a download."""
    node, _, process = part.name.split(".")[-2].rpartition("-")
    if node != _node():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        pass
    return False


def _node() -> str:
    """This machine's name, as part of a file's."""
    return re.sub(r"[^\w-]", "_", platform.node())


def _take_turn(file: HubFile, *, only_if_room: bool) -> bool:
    """Downloads a shard, unless another process turns out to have begun before; False if there is no room."""
    path = file.path
    begun = f"{time.time_ns():020}-{secrets.token_hex(4)}"
    part = path.with_name(f".{path.name}.{begun}.{_node()}-{os.getpid()}{_PART}")
    try:
        with part.open("xb", buffering=0) as target:
            target.truncate(file.n_bytes)  # so that all see how much room it will take
            if _others(path)[:1] not in ([], [part]):
                return True
            if not make_room(file.cache) and only_if_room:
                return False
            download = _Download(file, target)
            hub_http.persist(file.name, download.attempt, rest=functools.partial(_rest, part))
            os.fsync(target.fileno())
        with _background().naming:
            make_room(file.cache)  # again: what others were writing could not be removed then, and may be whole by now
            with contextlib.suppress(FileNotFoundError):  # taken for abandoned: while this process was stopped, say
                part.replace(path)
                files.sync(path.parent)
        return True
    finally:
        part.unlink(missing_ok=True)


def _rest(part: Path, seconds: float) -> None:
    """Waits, and shows the others that it is still there."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, ALIVE_S / 10))
        with contextlib.suppress(OSError):
            os.utime(part)


class _Download:
    """A shard on its way into a file; an attempt goes on where the last one ended."""

    def __init__(self, file: HubFile, target: BinaryIO) -> None:
        self._file, self._target = file, target
        self._restart()

    def _restart(self) -> None:
        self._target.seek(0)
        self._n_bytes = 0
        if self._file.digest.startswith("sha256:"):
            self._hash = hashlib.sha256()
        else:
            self._hash = hashlib.sha1(f"blob {self._file.n_bytes}\0".encode(), usedforsecurity=False)

    def attempt(self) -> None:
        """Fetches what is missing.

        Raises:
          Transient: if it did not come, or is not what the Hub says it is.
        """
        file, before = self._file, self._n_bytes
        try:
            with hub_http.opened(file.url, file.name, first=before) as answer:
                if before and not answer.headers.get("content-range", "").startswith(f"bytes {before}-"):
                    self._restart()
                told = answer.headers.get("content-length", "")
                if told.isdecimal() and int(told) != file.n_bytes - self._n_bytes:
                    raise Transient(f"{told} bytes offered where {file.n_bytes - self._n_bytes} are to come")
                for piece in hub_http.body(answer):
                    self._n_bytes += len(piece)
                    if self._n_bytes > file.n_bytes:
                        break
                    self._target.write(piece)
                    self._hash.update(piece)
        except Transient as error:
            error.progressed = self._n_bytes - before >= _PROGRESS
            raise
        if self._n_bytes < file.n_bytes:
            short = f"{self._n_bytes} of {file.n_bytes} bytes came"
            raise Transient(short, progressed=self._n_bytes - before >= _PROGRESS)
        if self._n_bytes > file.n_bytes or self._hash.hexdigest() != file.digest.partition(":")[2]:
            self._restart()
            raise Transient("what came is not what the Hub says it is, by its size or its hash")
