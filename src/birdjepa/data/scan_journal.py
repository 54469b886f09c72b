"""What a scan has found so far, on disk, so that the same scan goes on after any death.

One JSON line per file: its key, its size and time of change, then what was found. Lines are appended in blocks of one
write; a line that a kill or a lost disk cut or spoilt is left out when the journal is read, and its file examined
again. The first line says which scan this is: after a change of the decoder nothing is taken over.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from birdjepa.core.errors import StorageError, UsageError
from birdjepa.core.files import free_bytes

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""

_BLOCK_S = 1.0
_BLOCK_ROWS = 1000


class Journal:
    """An open journal, locked against a second scan; use it in a `with` block.

    Args:
      path: the file; made if it is not there.
      described: what must be the same for its rows to be taken over.

    Raises:
      UsageError: if another process is writing it.
      OSError: if it cannot be made or read.
    """

    def __init__(self, path: Path, described: Mapping[str, Any]) -> None:
        self.path = path
        self._lines: dict[str, bytes] = {}
        self._waiting: list[bytes] = []
        self._written = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            header = json.dumps(dict(described), sort_keys=True).encode() + b"\n"
            if not self._read(header):
                os.ftruncate(self._descriptor, 0)
                self._write(header)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, StorageError):
            self.flush()
        os.close(self._descriptor)

    @property
    def n_known(self) -> int:
        """Files known from earlier runs."""
        return len(self._lines)

    def get(self, key: str, stamp: Stamp) -> list[Any] | None:
        """What an earlier run found in this file, if it has not changed since."""
        line = self._lines.get(key)
        if line is None:
            return None
        _, size, changed, found = json.loads(line)
        return found if (size, changed) == stamp else None

    def add(self, key: str, stamp: Stamp, found: Sequence[Any]) -> None:
        """Notes what was found."""
        self._waiting.append(json.dumps([key, *stamp, found], separators=(",", ":")).encode() + b"\n")
        if len(self._waiting) >= _BLOCK_ROWS:
            self.flush()

    def beat(self) -> None:
        """Appends what waits, if the last time was a second ago: to be called every now and then."""
        if self._waiting and time.monotonic() - self._written > _BLOCK_S:
            self.flush()

    def flush(self) -> None:
        """Appends what waits.

        Raises:
          StorageError: if the disk is full or fails.
        """
        block, self._waiting, self._written = b"".join(self._waiting), [], time.monotonic()
        self._write(block)

    def remove(self) -> None:
        """Deletes the file: the scan is complete."""
        self.path.unlink(missing_ok=True)

    def _write(self, block: bytes) -> None:
        try:
            while block:
                block = block[os.write(self._descriptor, block) :]
        except OSError as error:
            room = f"{free_bytes(self.path.parent)} bytes are free"
            raise StorageError(f"{self.path} cannot be written ({error.strerror}; {room})") from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UsageError(f"another scan is writing {self.path}: wait for it, or give another --out") from None
            # a file system without locks: one scan at a time is then up to the user

    def _read(self, header: bytes) -> bool:
        """Reads the rows of earlier runs; False if there is none of this scan."""
        with open(self._descriptor, "rb", closefd=False) as file:
            if file.readline() != header:
                return False
            end = file.tell()
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                with contextlib.suppress(ValueError, TypeError):
                    key, _, _, _ = json.loads(line)
                    self._lines[key] = line
        os.ftruncate(self._descriptor, end)  # without half a line
        return True
