"""`birdjepa data scan DATA`: what is there, what is damaged, with a journal that survives any death of the scan."""

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import soundfile
import tyro
from rich.console import Console
from rich.table import Table

from birdjepa import __version__
from birdjepa.cli import tell
from birdjepa.cli.arguments import parse
from birdjepa.core import failures
from birdjepa.core.errors import EXIT_DONE, EXIT_PARTIAL, Interrupted, UsageError
from birdjepa.data.manifest import ColumnConfig
from birdjepa.data.scan import ScanReport, scan
from birdjepa.data.scan_journal import Journal
from birdjepa.data.sources import open_data
from birdjepa.train.signals import StopSignal

N_SHOWN = 20
"""Refused files that are shown; failures.csv has them all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScanArguments:
    data: tyro.conf.Positional[str]
    """A folder, a manifest, shards, hub:OWNER/NAME, or synth."""
    out: Path | None = None
    """Folder for files.csv and failures.csv; without it they are written here, and only if a file was refused."""
    workers: int = 2
    """Processes that decode; a file that crashes or hangs one costs one row."""
    timeout_s: float = 300.0
    """Longest time for one file in seconds."""
    headers_only: bool = False
    """Read headers only: fast, but damage inside a file goes unseen."""
    json: bool = False
    """Print one JSON object instead of a table."""
    columns: ColumnConfig = ColumnConfig()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {self.workers}")
        if not self.timeout_s > 0:
            raise ValueError(f"--timeout-s must be more than 0 seconds, got {self.timeout_s}")


def run(argv: Sequence[str]) -> int:
    with StopSignal() as signal:
        return _run(argv, signal)


def _run(argv: Sequence[str], signal: StopSignal) -> int:
    told = "Decodes every file and tells what is there and what is damaged. Stopped, it goes on when run again."
    arguments = parse(ScanArguments, argv, prog="birdjepa data scan", description=told)
    manifest = open_data(arguments.data, arguments.columns).recordings()
    folder = arguments.out or Path()
    with contextlib.ExitStack() as stack:
        journal = open_journal(arguments)
        if journal is not None:
            stack.enter_context(journal)
            if journal.n_known:
                tell(f"going on with {journal.path}, which knows {journal.n_known} files")
        progress = stack.enter_context(Progress(len(manifest)))
        try:
            found = scan(
                ((key, manifest.fetched_source(row)) for row, key in enumerate(manifest.keys)),
                n_workers=arguments.workers,
                timeout_s=arguments.timeout_s,
                deep=not arguments.headers_only,
                journal=journal,
                progress=progress,
                stop=signal.stop,
            )
        except Interrupted:
            name = signal.received.name if signal.received else "a signal"
            n_done = max(progress.n_done, journal.n_known if journal is not None else 0)
            told = f"stopped by {name} after {n_done} of {len(manifest)} files"
            raise Interrupted(told if journal is None else f"{told}: go on by running it again") from None
        found = dataclasses.replace(found, refused=(*failures.left_out(manifest.refused), *found.refused))
        if arguments.out is not None or found.refused:
            found.write(folder)
        if journal is not None:
            journal.remove()
    if arguments.json:
        print(json.dumps(summary(found)))
    else:
        show(arguments.data, found)
    if found.refused:
        tell(f"{len(found.refused)} files were refused; see {folder / failures.NAME}")
        return EXIT_PARTIAL
    return EXIT_DONE


def open_journal(arguments: ScanArguments) -> Journal | None:
    """The journal of this scan, beside its output; None where none can be written and no --out was asked for."""
    data = arguments.data if arguments.data == "synth" else str(Path(arguments.data).expanduser().absolute())
    described = {
        "scan": data,
        "deep": not arguments.headers_only,
        "birdjepa": __version__,
        "libsndfile": soundfile.__libsndfile_version__,
    }
    asked = f"{data}\0{arguments.headers_only}\0{arguments.columns.path}\0{arguments.columns.audio}"
    name = hashlib.sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    path = (arguments.out or Path()) / f".scan-{name}.journal"
    try:
        return Journal(path, described)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--out {arguments.out} is no folder: name another one") from None
    except OSError as error:
        if arguments.out is not None:
            raise
        tell(f"this scan cannot be resumed if it is stopped: no journal can be written here ({error.strerror})")
        return None


class Progress:
    """Files done, a second, and the time left: one line that is overwritten in a terminal, elsewhere one a minute."""

    def __init__(self, n_files: int) -> None:
        self._n_files = n_files
        self._terminal = sys.stderr.isatty()
        self._began = self._spoke = time.monotonic()
        self._first: int | None = None
        self._length = 0
        self.n_done = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._length:
            sys.stderr.write("\r" + " " * self._length + "\r")
            sys.stderr.flush()

    def __call__(self, n_done: int, n_refused: int) -> None:
        self.n_done = n_done
        now = time.monotonic()
        if self._first is None and now > self._began + 0.3:  # what the journal knew came in no time
            self._first, self._began = n_done, now
        if now - self._spoke < (0.5 if self._terminal else 60):
            return
        self._spoke = now
        rate = (n_done - (self._first or 0)) / max(now - self._began, 0.01)
        left = f", {_clock((self._n_files - n_done) / rate)} left" if rate else ""
        line = f"{n_done} of {self._n_files} files, {n_refused} refused, {rate:.0f} files/s{left}"
        if not self._terminal:
            tell(line)
            return
        sys.stderr.write("\r" + line.ljust(self._length))
        sys.stderr.flush()
        self._length = len(line)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes}:{rest:02d} min"


def summary(found: ScanReport) -> dict[str, object]:
    """The scan as one JSON object."""
    return {
        "n_files": found.n_files,
        "n_good": len(found.good),
        "n_refused": len(found.refused),
        "hours": found.hours,
        "by_sampling_rate": found.by_sampling_rate(),
        "by_channels": found.by_channels(),
        "by_format": found.by_format(),
        "by_note": found.by_note(),
        "by_reason": found.by_reason(),
        "duration_quantiles_s": found.duration_quantiles_s(),
        "refused": [{"path": each.path, "stage": each.stage, "reason": each.reason} for each in found.refused],
    }


def show(name: str, found: ScanReport) -> None:
    """The scan as a table for people."""
    title = f"{printable(name)}: {found.n_files} files, {found.hours:.2f} hours"
    table = Table(title=title, show_header=False)
    quantiles = ", ".join(f"{share:.0%}: {seconds:.1f}" for share, seconds in found.duration_quantiles_s().items())
    for title, counts in (
        ("sampling rates (Hz)", found.by_sampling_rate()),
        ("channels", found.by_channels()),
        ("formats", found.by_format()),
        ("worth knowing", found.by_note()),
        ("refused", found.by_reason()),
    ):
        if counts:
            table.add_row(title, "\n".join(f"{value}: {count}" for value, count in counts.items()))
    table.add_row("duration quantiles (s)", quantiles)
    console = Console()
    console.print(table)
    for each in found.refused[:N_SHOWN]:
        line = printable(f"refused {each.path}: {each.reason}")
        console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if len(found.refused) > N_SHOWN:
        console.print(f"and {len(found.refused) - N_SHOWN} more in failures.csv")


def printable(name: str) -> str:
    """A file's name in one line that does nothing to a terminal: whatever cannot be shown is escaped as in Python."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
