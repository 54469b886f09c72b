"""What is in a collection: every file looked at in isolated workers, one row each, good or refused with its reason.

With a `Journal` a scan that was stopped, however it was, goes on where it was. Rows come in the order of the files.
"""

import collections
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from birdjepa.audio.examine import examine_file
from birdjepa.audio.isolate import MEMORY_BYTES, IsolatedWorkers
from birdjepa.audio.source import Source
from birdjepa.core import failures
from birdjepa.core.errors import InputError, Interrupted
from birdjepa.core.failures import Failure
from birdjepa.core.files import write_csv
from birdjepa.data.scan_journal import Journal, Stamp
from birdjepa.data.shards import TableRow, TarMember

DURATION_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScannedFile:
    """A file that can be used."""

    key: str
    sampling_rate: int
    n_channels: int
    n_samples: int
    """Per channel: decoded where the scan was deep, else what the header says (of a WAV file cut short: what is there).
    """
    format: str
    subtype: str
    notes: tuple[str, ...]
    """Oddities of a recording that decodes (`examine.NOTES`)."""

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sampling_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanReport:
    """One row per scanned file, in the order they were given."""

    good: tuple[ScannedFile, ...]
    refused: tuple[Failure, ...]
    deep: bool
    """Every file was decoded to its end; otherwise only headers were read, and lengths are their claims."""

    @property
    def n_files(self) -> int:
        return len(self.good) + len(self.refused)

    @property
    def hours(self) -> float:
        return sum(file.duration_s for file in self.good) / 3600

    def by_sampling_rate(self) -> dict[int, int]:
        """Good files per sampling rate in Hz."""
        return dict(sorted(collections.Counter(file.sampling_rate for file in self.good).items()))

    def by_channels(self) -> dict[int, int]:
        """Good files per number of channels."""
        return dict(sorted(collections.Counter(file.n_channels for file in self.good).items()))

    def by_format(self) -> dict[str, int]:
        """Good files per container and codec, as in `WAV/PCM_16`."""
        return dict(sorted(collections.Counter(f"{file.format}/{file.subtype}" for file in self.good).items()))

    def by_note(self) -> dict[str, int]:
        """Good files per oddity."""
        return dict(sorted(collections.Counter(note for file in self.good for note in file.notes).items()))

    def by_reason(self) -> dict[str, int]:
        """Refused files per kind of reason (what stands before its colon), most frequent first."""
        return dict(collections.Counter(_kind(file.reason) for file in self.refused).most_common())

    def duration_quantiles_s(self) -> dict[float, float]:
        """Durations of good files at `DURATION_QUANTILES`; empty where there is none."""
        if not self.good:
            return {}
        values = np.quantile([file.duration_s for file in self.good], DURATION_QUANTILES)
        return dict(zip(DURATION_QUANTILES, values.tolist(), strict=True))

    def write(self, folder: Path | str) -> None:
        """Writes files.csv (one row per good file) and failures.csv (one per refused file) into folder."""
        good = (
            {
                "path": file.key,
                "duration_s": f"{file.duration_s:.6g}",
                "sampling_rate": file.sampling_rate,
                "channels": file.n_channels,
                "n_samples": file.n_samples,
                "format": file.format,
                "subtype": file.subtype,
                "notes": ";".join(file.notes),
            }
            for file in self.good
        )
        header = ("path", "duration_s", "sampling_rate", "channels", "n_samples", "format", "subtype", "notes")
        write_csv(Path(folder) / "files.csv", header, good)
        failures.write(Path(folder) / failures.NAME, self.refused)


RETRY_S = (0.2, 1.0)
"""Pauses after which a file is tried again that could not be read for a reason that may pass (`io:`)."""
BATCH = 128
"""Files that go to a worker together, where they take little time."""


def scan(
    files: Iterable[tuple[str, Source]],
    *,
    n_workers: int = 2,
    timeout_s: float = 300.0,
    memory_bytes: int | None = MEMORY_BYTES,
    deep: bool = True,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] = lambda n_files, n_refused: None,
    stop: Callable[[], bool] = lambda: False,
) -> ScanReport:
    """Examines (key, source) pairs in isolated workers; the report names files by their keys and does not depend on
    n_workers.

    With deep every file is decoded to its end, which finds files cut short, NaN and silence; without, only headers are
    read. Files that the journal knows and that have not changed are not opened, but for those whose trouble may have
    passed. `progress` is told the files done and refused so far after each.

    Raises:
      Interrupted: when stop() holds before all files are done.
    """
    good: list[ScannedFile] = []
    refused: list[Failure] = []
    rows = _Rows(files, journal, timeout_s)

    def stopped() -> bool:
        if journal is not None:
            journal.beat()
        return stop()

    with IsolatedWorkers(n_workers, timeout_s=timeout_s, memory_bytes=memory_bytes) as workers:
        look_deep = functools.partial(look, deep=deep)
        found = workers.map(look_deep, rows.unknown(), name=lambda file: str(file[1]), batch=BATCH, stop=stopped)
        for row in rows.merged(found):
            if isinstance(row, ScannedFile):
                good.append(row)
            else:
                refused.append(row)
            progress(len(good) + len(refused), len(refused))
    if not rows.complete:
        raise Interrupted(f"stopped after {len(good) + len(refused)} files")
    return ScanReport(good=tuple(good), refused=tuple(refused), deep=deep)


def look(file: tuple[str, Source], *, deep: bool) -> tuple[Stamp | None, list[Any]]:
    """Examines a (key, source) pair in a worker: the file's stamp before it was opened, and the row as a list."""
    stamp = _stamp(file[1])
    for pause in (*RETRY_S, None):
        try:
            examined = examine_file(file, deep=deep)
        except InputError as error:
            if pause is not None and _kind(error.reason) == "io":
                time.sleep(pause)
                continue
            return stamp, [error.offset_s, error.reason]
        info = examined.info
        cells = [info.sampling_rate, info.n_channels, examined.n_samples, info.format, info.subtype]
        return stamp, [*cells, list(examined.notes)]
    raise AssertionError


_DECODE_KINDS = ("truncated", "not finite", "range", "too short", "unexpected")
_WORKER_KINDS = ("decoder crashed", "decoder timed out", "memory")
_PASSING_KINDS = ("io", "missing", "permission")
"""Not taken from a journal: a look at such a file is cheap, and it may be well by now."""


class _Rows:
    """Rows in the order of the files: from the journal where it knows a file, from workers for the others."""

    def __init__(self, files: Iterable[tuple[str, Source]], journal: Journal | None, timeout_s: float) -> None:
        self._files = files
        self._journal = journal
        self._timed_out = f"decoder timed out: more than {timeout_s:g} s"
        self._waiting: collections.deque[tuple[str, Stamp] | None] = collections.deque()
        """What was drawn and not yielded: known files, and None for one that a worker has."""
        self.complete = False

    def unknown(self) -> Iterator[tuple[str, Source]]:
        """Draws files, and yields those that must be examined."""
        for key, source in self._files:
            stamp = None if self._journal is None else _stamp(source)
            if stamp is not None and self._known(key, stamp):
                self._waiting.append((key, stamp))
            else:
                self._waiting.append(None)
                yield key, str(source) if isinstance(source, Path) else source  # paths are slow to send
        self.complete = True

    def merged(self, found: Iterable[tuple[tuple[str, Source], Any]]) -> Iterator[ScannedFile | Failure]:
        """All rows, those that workers have found also into the journal."""
        for (key, source), result in found:
            yield from self._take_known()
            self._waiting.popleft()
            stamp, cells = result if isinstance(result, tuple) else (_stamp(source), [result.offset_s, result.reason])
            if self._journal is not None and stamp is not None:
                self._journal.add(key, stamp, cells)
            yield _row(key, cells)
        yield from self._take_known()
        self.complete = self.complete and not self._waiting

    def _take_known(self) -> Iterator[ScannedFile | Failure]:
        while self._waiting and (known := self._waiting[0]) is not None:
            self._waiting.popleft()
            assert self._journal is not None
            cells = self._journal.get(*known)
            assert cells is not None
            yield _row(known[0], cells)

    def _known(self, key: str, stamp: Stamp) -> bool:
        assert self._journal is not None
        cells = self._journal.get(key, stamp)
        if cells is None:
            return False
        reason = cells[1] if len(cells) == 2 else ""
        stale = _kind(reason) == "decoder timed out" and reason != self._timed_out
        return not stale and _kind(reason) not in _PASSING_KINDS


def _stamp(source: Source) -> Stamp | None:
    """Size and time of change of a file, or of the shard that holds a recording; None where nothing can be looked
    at.
    """
    if isinstance(source, TarMember | TableRow):
        source = source.file.name
    if not isinstance(source, str | Path):
        return None
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _row(key: str, cells: list[Any]) -> ScannedFile | Failure:
    if len(cells) == 2:
        offset_s, reason = cells
        kind = _kind(reason)
        stage = "decode" if kind in _DECODE_KINDS else "worker" if kind in _WORKER_KINDS else "open"
        return Failure(key, stage, offset_s, reason)
    sampling_rate, n_channels, n_samples, form, subtype, notes = cells
    return ScannedFile(
        key=key,
        sampling_rate=sampling_rate,
        n_channels=n_channels,
        n_samples=n_samples,
        format=sys.intern(form),
        subtype=sys.intern(subtype),
        notes=tuple(notes),
    )


def _kind(reason: str) -> str:
    return reason.split(":")[0]
