"""What is in a collection: every file looked at in isolated workers, one row each, good or refused with its reason."""

import collections
import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from birdjepa.audio.examine import Examination, examine_file
from birdjepa.audio.isolate import MEMORY_BYTES, IsolatedWorkers
from birdjepa.audio.recording import Source
from birdjepa.core.errors import InputError
from birdjepa.core.files import write_csv

DURATION_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScannedFile:
    """A file that can be used."""

    key: str
    sampling_rate: int
    n_channels: int
    n_samples: int
    """Per channel: decoded where the scan was deep, else what the header says."""
    format: str
    subtype: str
    notes: tuple[str, ...]
    """Oddities of a recording that decodes (`examine.NOTES`)."""

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sampling_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefusedFile:
    """A file that cannot be used."""

    key: str
    stage: str
    """open, decode, or worker (it crashed, hung or exhausted the decoder)."""
    offset_s: float
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanReport:
    """One row per scanned file, in the order they were given."""

    good: tuple[ScannedFile, ...]
    refused: tuple[RefusedFile, ...]
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
        return dict(collections.Counter(file.reason.split(":")[0] for file in self.refused).most_common())

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
        refused = (
            {"path": file.key, "stage": file.stage, "offset_s": f"{file.offset_s:.6g}", "reason": file.reason}
            for file in self.refused
        )
        write_csv(Path(folder) / "failures.csv", ("path", "stage", "offset_s", "reason"), refused)


def scan(
    files: Iterable[tuple[str, Source]],
    *,
    n_workers: int = 2,
    timeout_s: float = 300.0,
    memory_bytes: int | None = MEMORY_BYTES,
    deep: bool = True,
) -> ScanReport:
    """Examines (key, recording) pairs in isolated workers; the report names files by their keys and does not depend on
    n_workers.

    With deep every file is decoded to its end, which finds files cut short, NaN and silence; without, only headers are
    read.
    """
    good: list[ScannedFile] = []
    refused: list[RefusedFile] = []
    with IsolatedWorkers(n_workers, timeout_s=timeout_s, memory_bytes=memory_bytes) as workers:
        for (key, _), result in workers.map(functools.partial(examine_file, deep=deep), files, name=_key):
            if isinstance(result, InputError):
                refused.append(_refused(key, result))
            else:
                good.append(_scanned(key, result))
    return ScanReport(good=tuple(good), refused=tuple(refused), deep=deep)


_DECODE_KINDS = ("truncated", "not finite", "range", "too short", "unexpected")
_WORKER_KINDS = ("decoder crashed", "decoder timed out", "memory")


def _key(file: tuple[str, Source]) -> str:
    return file[0]


def _scanned(key: str, examination: Examination) -> ScannedFile:
    info = examination.info
    return ScannedFile(
        key=key,
        sampling_rate=info.sampling_rate,
        n_channels=info.n_channels,
        n_samples=examination.n_samples,
        format=info.format,
        subtype=info.subtype,
        notes=examination.notes,
    )


def _refused(key: str, error: InputError) -> RefusedFile:
    kind = error.reason.split(":")[0]
    stage = "decode" if kind in _DECODE_KINDS else "worker" if kind in _WORKER_KINDS else "open"
    return RefusedFile(key=key, stage=stage, offset_s=error.offset_s, reason=error.reason)
